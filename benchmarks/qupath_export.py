"""A million tiles to QuPath: time, memory, size; beside what one would write oneself.

Run: ``python benchmarks/qupath_export.py`` (some minutes; ``--quick`` for a tenth of the tiles,
which writes no page). Every way runs in a process of its own, which is timed whole and whose peak
memory the kernel tells, and writes the same tiles with the same four measurements. Each file is
then held to the rules of QuPath's importer by ``microtome heatmap check``'s own code.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from tables import measured_on, table, verdict, write_report

TILE_PX = 256
BAR_S, BAR_MB = 60.0, 200.0

_TILES = """
import sys, json, gzip
from pathlib import Path
import numpy as np
n, path = int(sys.argv[1]), Path(sys.argv[2])
i, columns = np.arange(n), int(n ** 0.5)
coords = np.stack([i // columns * 256, i % columns * 256], axis=1)
side = 256 * (columns + 1)
rng = np.random.default_rng(0)
names = ("score", "score rank", "attention", "attention rank")
values = {name: rng.random(n, dtype=np.float32) for name in names}
"""

_FEATURES = """
def feature(k):
    y, x = (int(v) for v in coords[k])
    ring = [[x, y], [x + 256, y], [x + 256, y + 256], [x, y + 256], [x, y]]
    return {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]},
            "properties": {"objectType": "tile",
                           "measurements": {m: float(v[k]) for m, v in values.items()}}}
document = {"type": "FeatureCollection", "features": [feature(k) for k in range(n)]}
"""

WAYS = {
    "microtome, .geojson.gz": """
from microtome.storage.qupath import Frame, Tiles, write_tiles
tiles = Tiles(coords, (256.0, 256.0), values)
write_tiles(path, tiles, Frame((side, side)), slide="s", kind="k", at_most=None)
""",
    "microtome, .geojson": """
from microtome.storage.qupath import Frame, Tiles, write_tiles
tiles = Tiles(coords, (256.0, 256.0), values)
write_tiles(path, tiles, Frame((side, side)), slide="s", kind="k", at_most=None)
""",
    "json.dump, .geojson.gz": _FEATURES + """
with gzip.open(path, "wt", compresslevel=6) as file:
    json.dump(document, file)
""",
    "json.dump, .geojson": _FEATURES + """
with path.open("w") as file:
    json.dump(document, file)
""",
    "geopandas, .geojson": """
import geopandas, shapely
y, x = coords.T
boxes = shapely.box(x, y, x + 256, y + 256)
frame = geopandas.GeoDataFrame({"objectType": "tile", **values}, geometry=boxes)
frame.to_file(path, driver="GeoJSON")
""",
}  # fmt: skip

_TELL_PEAK = """
print(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
"""


@dataclass(frozen=True)
class Run:
    """How one way went."""

    seconds: float
    peak_mb: float
    file_mb: float
    refused: str


def run(name: str, tiles: int, folder: Path) -> Run | None:
    """None where a package that a peer needs is not installed."""
    suffix = name.rsplit(", ", 1)[1]
    path = folder / f"tiles{suffix}"
    started = time.perf_counter()
    ended = subprocess.run(
        [sys.executable, "-c", _TILES + WAYS[name] + _TELL_PEAK, str(tiles), str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.perf_counter() - started
    if ended.returncode:
        print(f"{name}: {ended.stderr.strip().splitlines()[-1]}", file=sys.stderr)
        return None
    size = path.stat().st_size / 1e6
    return Run(seconds, int(ended.stdout) * 1024 / 1e6, size, refusals(path, tiles))


def refusals(path: Path, tiles: int) -> str:
    """What QuPath's importer would say, of a file that can be held in memory."""
    if tiles > 100_000:
        return "–"
    from microtome.storage.qupath_check import check_geojson

    found = {(problem.rule, problem.effect) for problem in check_geojson(path)}
    return ", ".join(f"{rule} ({effect})" for rule, effect in sorted(found)) or "nothing"


def report(runs: dict[str, Run | None], checked: dict[str, Run | None], tiles: int) -> list[str]:
    ours = runs["microtome, .geojson.gz"]
    assert ours is not None
    rows = []
    for name, one in runs.items():
        small = checked[name]
        if one is not None and small is not None:
            figures = [f"{one.seconds:.1f}", f"{one.peak_mb:,.0f}", f"{one.file_mb:,.0f}"]
            rows.append([name, *figures, small.refused])
    return [
        "# Tiles to QuPath",
        "",
        f"Written by `benchmarks/qupath_export.py`: {tiles:,} tiles with four measurements each.",
        measured_on("numpy", "shapely"),
        "",
        "Seconds and peak memory are those of the whole process, Python's start included. The last",
        "column is what the importer of some version of QuPath refuses, loses or alters of a file",
        "of 20,000 such tiles, by `microtome heatmap check`.",
        "",
        *table(["", "s", "peak MB", "file MB", "not imported as written"], rows),
        "",
        verdict(f"{tiles:,} tiles, gzipped, seconds", ours.seconds, -BAR_S, unit=" s"),
        verdict(f"{tiles:,} tiles, gzipped, peak memory", ours.peak_mb, -BAR_MB, unit=" MB"),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="A tenth of the tiles, no page.")
    quick = parser.parse_args().quick
    tiles = 100_000 if quick else 1_000_000
    with tempfile.TemporaryDirectory() as folder:
        runs = {name: run(name, tiles, Path(folder)) for name in WAYS}
        checked = {name: run(name, 20_000, Path(folder)) for name in WAYS}
    lines = report(runs, checked, tiles)
    print("\n".join(lines))
    if not quick:
        write_report("qupath_export.md", lines)


if __name__ == "__main__":
    main()
