"""Reading speed: our tiles beside openslide-python, tiatoolbox and libjpeg-turbo alone.

Run: ``python benchmarks/reading.py`` (about six minutes; writes docs/benchmarks). ``--quick``
takes a small slide and one round, and writes nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
from limit import decoder
from numpy.typing import NDArray
from tables import ROOT, measured_on, write_report

REAL = ROOT.parent / "shared" / "data" / "slides" / "aperio" / "CMU-1-Small-Region.svs"
SIDE_PX, QUICK_PX = 8192, 1024
ROUNDS, PASSES = 2, 3
SHIFT_PX = 100
LIMIT, OURS, OURS_SHIFTED = "libjpeg-turbo", "microtome", "microtome, shifted"
OPENSLIDE = "openslide-python"
LEAST_OF_LIMIT, LEAST_OVER_OPENSLIDE = 0.8, 2.0

ABOUT = (
    "Written by `benchmarks/reading.py`. All of level 0 as RGB arrays, tile by tile; each reader "
    "in a process of its own, one thread, in turns. Processor time, median of {passes} passes "
    "after one to warm up; opening the file is in it, except for the first line: libjpeg-turbo "
    "(through simplejpeg) on the same bytes in memory. Only pixels of the image count, in every "
    "line. Windows are the file's own tiles; *shifted* ones lie "
    f"{SHIFT_PX} px off, so that each touches four. Memory is what the process grew by at "
    "most in the first pass, sampled every 3 ms; what libraries take on import is not in it."
)

Box = tuple[int, int, int, int]
Read = Callable[[], int]
"""Reads the whole of level 0 by tiles; returns how many pixels it was given."""


def tiles_of(height: int, width: int, tall: int, wide: int) -> Iterator[Box]:
    """The file's own tiles, cut to the image, row by row: (y, x, height, width)."""
    for y in range(0, height, tall):
        for x in range(0, width, wide):
            yield y, x, min(tall, height - y), min(wide, width - x)


def shifted(boxes: list[Box], height: int, width: int) -> list[Box]:
    """The same windows moved off the file's tiles, those that still lie in the image."""
    moved = [(y + SHIFT_PX, x + SHIFT_PX, h, w) for y, x, h, w in boxes]
    return [(y, x, h, w) for y, x, h, w in moved if y + h <= height and x + w <= width]


def boxes_of(path: Path) -> tuple[list[Box], list[Box]]:
    """Aligned and shifted windows of a slide."""
    from microtome.engine.slides import open_slide

    with open_slide(path) as slide:
        height, width = slide.info.height_px, slide.info.width_px
        tile = slide.info.levels[0].tile_px
        assert tile is not None
    aligned = list(tiles_of(height, width, *tile))
    return aligned, shifted(aligned, height, width)


def with_libjpeg(path: Path, boxes: list[Box]) -> Read:
    """libjpeg-turbo on the tiles' bytes, which are in memory as whole JPEG files."""
    decode = decoder(path)
    pixels = sum(h * w for _, _, h, w in boxes)

    def read() -> int:
        decode()
        return pixels

    return read


def with_microtome(path: Path, boxes: list[Box]) -> Read:
    """Our reader, opened anew for each pass."""
    from microtome.engine.slides import open_slide

    def read() -> int:
        with open_slide(path) as slide:
            return sum(area(slide.read(0, *box)) for box in boxes)

    return read


def with_tifffile(path: Path, boxes: list[Box]) -> Read:
    """tifffile's own loop over decoded tiles, which imagecodecs decodes; the file's tiles only."""
    import tifffile

    pixels = sum(h * w for _, _, h, w in boxes)

    def read() -> int:
        with tifffile.TiffFile(path) as tif:
            for tile, _, _ in tif.pages.first.segments(maxworkers=1):
                assert tile is not None
        return pixels

    return read


def with_openslide(path: Path, boxes: list[Box]) -> Read:
    """openslide-python, and its RGBA picture as the RGB array that everybody wants."""
    import openslide

    def read() -> int:
        with openslide.OpenSlide(path) as slide:
            return sum(
                area(np.asarray(slide.read_region((x, y), 0, (w, h)).convert("RGB")))
                for y, x, h, w in boxes
            )

    return read


def with_tiatoolbox(path: Path, boxes: list[Box]) -> Read:
    """The reader that tiatoolbox picks, asked for baseline pixels."""
    from tiatoolbox.wsicore.wsireader import WSIReader

    def read() -> int:
        slide = WSIReader.open(path)
        return sum(
            area(slide.read_rect((x, y), (w, h), resolution=1.0, units="baseline"))
            for y, x, h, w in boxes
        )

    return read


READERS: dict[str, tuple[Callable[[Path, list[Box]], Read], bool]] = {
    LIMIT: (with_libjpeg, False),
    OURS: (with_microtome, False),
    "tifffile": (with_tifffile, False),
    OPENSLIDE: (with_openslide, False),
    "tiatoolbox": (with_tiatoolbox, False),
    OURS_SHIFTED: (with_microtome, True),
    "openslide-python, shifted": (with_openslide, True),
    "tiatoolbox, shifted": (with_tiatoolbox, True),
}


def area(pixels: NDArray[np.uint8]) -> int:
    """Pixels of an array [h, w, 3]."""
    return pixels.shape[0] * pixels.shape[1]


def measure(name: str, path: Path) -> None:
    """One reader in a process of its own: print its speed in each pass, and its memory."""
    make, is_shifted = READERS[name]
    read = make(path, boxes_of(path)[is_shifted])
    grown_mib = memory_of(read)
    speeds = []
    for _ in range(PASSES):
        start = time.process_time()
        pixels = read()
        speeds.append(pixels / 1e6 / (time.process_time() - start))
    print(json.dumps({"speeds": speeds, "grown_mib": grown_mib}))


def memory_of(read: Read) -> float:
    """MiB that the process grows by at most during a pass, looked at every few milliseconds."""
    process, over = psutil.Process(), threading.Event()
    before = process.memory_info().rss
    seen = [before]

    def watch() -> None:
        while not over.wait(0.003):
            seen.append(process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    read()
    over.set()
    watcher.join()
    return (max(seen) - before) / 2**20


def compare(path: Path, rounds: int) -> dict[str, tuple[float, float]]:
    """Median MPix per processor second and MiB of memory of every reader, taken in turns."""
    found: dict[str, list[dict[str, list[float] | float]]] = {name: [] for name in READERS}
    for _ in range(rounds):
        for name in READERS:
            said = subprocess.run(
                [sys.executable, __file__, "--one", name, str(path)],
                env={**os.environ, "OMP_NUM_THREADS": "1", "OPENCV_FOR_THREADS_NUM": "1"},
                check=True, capture_output=True, text=True,
            )  # fmt: skip
            found[name].append(json.loads(said.stdout.splitlines()[-1]))
    return {
        name: (
            statistics.median(speed for run in runs for speed in run["speeds"]),
            max(run["grown_mib"] for run in runs),
        )
        for name, runs in found.items()
    }


def table(results: dict[str, tuple[float, float]]) -> list[str]:
    """The rows, and what came of the bars."""
    limit, ours = results[LIMIT][0], results[OURS][0]
    rows = ["| reader | MPix per CPU second | of the limit | memory (MiB) |", "|---|---|---|---|"]
    for name, (speed, grown) in results.items():
        rows.append(f"| {name} | {speed:.0f} | {speed / limit:.0%} | {grown:.0f} |")
    of_limit, times = ours / limit, ours / results[OPENSLIDE][0]
    verdict = (
        f"Aligned tiles reach {of_limit:.0%} of the limit (bar: {LEAST_OF_LIMIT:.0%}, "
        f"{_met(of_limit >= LEAST_OF_LIMIT)}) and {times:.1f} times openslide-python (bar: "
        f"{LEAST_OVER_OPENSLIDE:.0f}, {_met(times >= LEAST_OVER_OPENSLIDE)})."
    )
    return [*rows, "", verdict]


def _met(is_met: bool) -> str:
    return "met" if is_met else "**not met**"


def synthetic(folder: Path, side_px: int) -> Path:
    """A pyramidal JPEG TIFF with tissue on most of it."""
    from microtome.engine.synthetic import plan_slide, write_slide

    path = folder / "synthetic.tif"
    write_slide(path, plan_slide(0, height_px=side_px, width_px=side_px, tissue_fraction=0.7))
    return path


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--one", nargs=2, metavar=("READER", "FILE"))
    parser.add_argument("--quick", action="store_true")
    asked = parser.parse_args()
    if asked.one:
        measure(asked.one[0], Path(asked.one[1]))
        return
    side_px, rounds = (QUICK_PX, 1) if asked.quick else (SIDE_PX, ROUNDS)
    lines = ["# Reading speed", "", ABOUT.format(passes=rounds * PASSES)]
    with tempfile.TemporaryDirectory() as folder:
        slides = [
            (f"Synthetic slide, {side_px} × {side_px} px, JPEG 4:2:0, tiles of 256 px",
             synthetic(Path(folder), side_px)),
        ]  # fmt: skip
        if REAL.is_file():
            slides.append(("CMU-1-Small-Region.svs, 2220 × 2967 px, tiles of 240 px", REAL))
        for title, path in slides:
            lines += ["", f"## {title}", "", *table(compare(path, rounds))]
            print("\n".join(lines[-14:]), flush=True)
    packages = ("simplejpeg", "tifffile", "imagecodecs", "openslide-python", "tiatoolbox")
    lines += ["", measured_on(*packages)]
    if not asked.quick:
        write_report("reading.md", lines)


if __name__ == "__main__":
    main()
