"""How long the viewer takes for a tile of a gigapixel slide out of the stores.

Run: ``python benchmarks/view.py`` (two minutes; ``--quick`` for a slide of 60 megapixels, which
writes no page). The slide repeats one painted square, so that every pixel is textured JPEG; it is
ingested in two profiles. Tiles are asked for over the socket, one connection each, at random
places of every level: what a user waits for who jumps about.
"""

from __future__ import annotations

import argparse
import http.client
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from large_slide import write_large_slide
from tables import measured_on, table, verdict, write_report

PROFILES = ("archive", "compatible")
TILES = 400
BAR_MS = 100.0


def ingested(slide: Path, folder: Path, profile: str) -> Path:
    from microtome.engine.ingest import ingest_slide
    from microtome.engine.schedule import Skipped

    made = ingest_slide(slide, folder, name=profile, profile=profile, jobs=1)
    assert not isinstance(made, Skipped)
    return made.path


def waits_ms(place: Path, tiles: int) -> dict[str, Sequence[float]]:
    """Milliseconds of each tile: at full resolution, and at all levels alike."""
    from microtome.view import open_library, serve
    from microtome.view.library import open_shown

    library = open_library([place])
    zoom = open_shown(library.shown[0]).zoom
    rng = np.random.default_rng(0)
    found: dict[str, Sequence[float]] = {}
    with serve(library) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        _ask(server.server_port, "/slides/0.json")
        for name, levels in (
            ("full resolution", [zoom.last]),
            ("all levels", list(range(zoom.last - 7, zoom.last + 1))),
        ):
            waited = []
            for _ in range(tiles):
                level = int(rng.choice(levels))
                height, width = zoom.shape(level)
                row = int(rng.integers(-(-height // zoom.tile_px)))
                column = int(rng.integers(-(-width // zoom.tile_px)))
                waited.append(_ask(server.server_port, f"/tiles/0/0/{level}/{column}_{row}"))
            found[name] = waited
        server.shutdown()
    return found


def _ask(port: int, address: str) -> float:
    started = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("GET", address)
    answer = connection.getresponse()
    answer.read()
    connection.close()
    assert answer.status == 200, address
    return 1000 * (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="A small slide, no page.")
    quick = parser.parse_args().quick
    side = 8192 if quick else 32_768
    rows, bars = [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        slide = write_large_slide(folder / "large.tif", side)
        for profile in PROFILES:
            place = ingested(slide, folder / profile, profile)
            for where, waited in waits_ms(place, 40 if quick else TILES).items():
                middle, most = np.percentile(waited, [50, 95])
                rows.append([profile, where, f"{middle:.1f}", f"{most:.1f}"])
                bars.append(verdict(f"{profile}, {where}, 95 %", float(most), -BAR_MS, unit=" ms"))
    lines = [
        "# Tiles of the viewer",
        "",
        f"Written by `benchmarks/view.py`: an OME-Zarr of {side:,} x {side:,} px",
        f"({side * side / 1e9:.2f} gigapixels), tiles of 512 px at random places.",
        measured_on("numpy", "opencv-python-headless"),
        "",
        *table(["profile", "where", "median ms", "95 % ms"], rows),
        "",
        *bars,
    ]
    print("\n".join(lines))
    if not quick:
        write_report("view.md", lines)


if __name__ == "__main__":
    main()
