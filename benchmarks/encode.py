"""The encoding pipeline: beside its encoder alone, beside other readers, and its memory.

Run: ``python benchmarks/encode.py`` (eight minutes on two idle cores; writes docs/benchmarks).
``--keep FOLDER`` keeps each section as it ends: a run that was stopped goes on from there;
``--quick`` takes small slides and one round, and writes nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from large_slide import write_large_slide
from tables import kept, measured_on, table, verdict, write_report
from tile_readers import (
    BATCH,
    CORES,
    MPP,
    NONE,
    OPENSLIDE,
    OURS,
    PATCHES,
    READERS,
    TILE_PX,
    Picked,
    grid_of,
)

DEEP, LIGHT = "timm:resnet18", "stain-texture"
OF_CEILING, OVER_OPENSLIDE, MORE_MEMORY = 0.95, 2.0, 1.10


@dataclass(frozen=True)
class Size:
    """How much is measured: sides of slides in px, and rounds."""

    deep_px: int
    reading_px: int
    memory_px: tuple[int, int]
    rounds: int


FULL = Size(deep_px=10240, reading_px=6144, memory_px=(8192, 65536), rounds=2)
QUICK = Size(deep_px=2048, reading_px=2048, memory_px=(4096, 8192), rounds=1)

CEILING_ABOUT = (
    "Tiles per second of wall clock. *Alone*: the encoder on batches of {batch} tiles that lie in "
    "memory. *Pipeline*: the file opened, tissue found, tiles decoded, quality measured, encoded, "
    "and the bag written. In turns, in one process, after a small slide to warm up; median of "
    "{rounds} rounds, untrained {deep}, fp32, {tiles} tiles of {tile} px of a slide of "
    "{side} × {side} px. The last column is the same share of processor time; threads that wait "
    "for each other count in it."
)
READING_ABOUT = (
    "The same {tiles} tiles of {tile} px of a slide of {side} × {side} px (JPEG, tiles of 256 px, "
    "so that most tiles lie across four of the file's) as batches of {batch}, RGB. Each in a "
    "process of its own with {cores} threads or workers, in turns; median of {rounds} passes after "
    "one to warm up, workers kept alive between passes. Tiles per second of wall clock, and in "
    "brackets milliseconds of processor time a tile, of all processes. The extractor of "
    "tiatoolbox has no workers. {none} is an encoder that costs nothing (it takes every 28th "
    "pixel). Encoders run in the main process for a DataLoader, as in CLAM and TRIDENT; "
    "{light} runs in the reading threads of microtome, which measures the quality of tiles too."
)
READING_LIMIT = (
    "With {light}, nearly all of the time is the encoder's own, on both sides; what is gained is "
    "that it runs on every core: on {cores} cores it cannot come to more than {cores} times."
)
STAGES_ABOUT = (
    "Milliseconds of processor time a tile, one thread, best of three: what the pipeline does with "
    "the tiles of the slide above."
)
MEMORY_ABOUT = (
    "Largest resident memory of the process `microtome encode SLIDE --out BAGS`, what its "
    "libraries take included, with the default encoder; and of one that only finds the tissue."
)
MEMORY_COLUMNS = ["slide (px)", "tiles", "`microtome encode` (MiB)", "tissue alone (MiB)"]


def slide_of(folder: Path, side_px: int) -> Path:
    """A large slide of a side; made once."""
    path = folder / f"slide-{side_px}.tif"
    return path if path.is_file() else write_large_slide(path, side_px)


class Timed:
    """Seconds of wall clock, and of the processor in this process and those it started."""

    wall_s = cpu_s = 0.0

    def __enter__(self) -> Timed:
        self._from = time.perf_counter(), _cpu_s()
        return self

    def __exit__(self, *_: object) -> None:
        self.wall_s = time.perf_counter() - self._from[0]
        self.cpu_s = _cpu_s() - self._from[1]


def _cpu_s() -> float:
    me = psutil.Process()
    times = [process.cpu_times() for process in (me, *me.children(recursive=True))]
    return sum(spent.user + spent.system for spent in times)


def ceiling(path: Path, rounds: int) -> dict[str, Any]:
    """Tiles per second of the whole pipeline and of its encoder alone, in turns."""
    from microtome.engine.slides import open_slide
    from microtome.engine.synthetic import plan_slide, write_slide
    from microtome.engine.tiles import read_tiles
    from microtome.storage.bags import read_bag
    from microtome.tasks.encode import EncodeOptions, encode_slide
    from microtome.tasks.slide_list import SlideItem

    options = EncodeOptions(encoder=DEEP)
    encoder = options.load()
    rates: dict[str, list[float]] = {"alone": [], "pipeline": [], "cpu": []}
    with tempfile.TemporaryDirectory() as out, open_slide(path) as slide:
        batch = next(read_tiles(slide, grid_of(path), batch=BATCH))[1]
        encoder.encode(batch)
        # What is imported on first use belongs to no slide.
        small = Path(out) / "small.tif"
        write_slide(small, plan_slide(0, height_px=1024, width_px=1024, tissue_fraction=0.7))
        encode_slide(SlideItem("small", small), out=Path(out), options=options)
        for turn in range(rounds):
            item = SlideItem(f"s{turn}", path)
            with Timed() as pipeline:
                encode_slide(item, out=Path(out), options=options)
            tiles = len(read_bag(Path(out) / f"{item.id}.bag.zarr"))
            with Timed() as alone:
                for at in range(0, tiles, BATCH):
                    encoder.encode(batch[: tiles - at])
            rates["pipeline"].append(tiles / pipeline.wall_s)
            rates["alone"].append(tiles / alone.wall_s)
            rates["cpu"].append(alone.cpu_s / pipeline.cpu_s)
    return {"tiles": tiles, **{name: statistics.median(v) for name, v in rates.items()}}


def reading(name: str, path: Path, rounds: int) -> dict[str, Any]:
    """Tiles per second of a reader, alone and with the encoders, and processor ms a tile."""
    from microtome.tasks.encoders import load_encoder

    grid = grid_of(path)
    read = READERS[name](path, grid)

    def theirs(encoder: Any) -> None:
        fitted = None
        for tiles in read():
            fitted = fitted or encoder.for_slide(tiles)
            fitted.encode(tiles)

    def ours(encoder: Any) -> None:
        from microtome.engine.slides import open_slide
        from microtome.tasks.encode import encode

        with open_slide(path) as slide:
            encode(slide, grid, encoder, readers=CORES)

    def alone() -> None:
        for _ in read():
            pass

    work = ours if name == OURS else theirs
    result: dict[str, Any] = {"tiles": len(grid), "read": _rate(alone, len(grid), rounds)}
    if name != PATCHES:
        result[NONE] = _rate(partial(work, Picked()), len(grid), rounds)
        light = load_encoder(LIGHT, tile_px=TILE_PX)
        result[LIGHT] = _rate(partial(work, light), len(grid), rounds)
    return result


def _rate(work: Callable[[], None], tiles: int, rounds: int) -> tuple[float, float]:
    """Tiles per second of wall clock, and milliseconds of processor time a tile."""
    work()
    rates, costs = [], []
    for _ in range(rounds):
        with Timed() as timed:
            work()
        rates.append(tiles / timed.wall_s)
        costs.append(1e3 * timed.cpu_s / tiles)
    return statistics.median(rates), statistics.median(costs)


def stages(path: Path) -> dict[str, float]:
    """Processor milliseconds a tile of each stage."""
    import cv2

    from microtome.engine.quality import tile_quality
    from microtome.engine.slides import open_slide
    from microtome.engine.slides.base import NativeTiled
    from microtome.storage.bags import write_bag
    from microtome.tasks.encode import EncodeOptions, encode, tissue_tiles
    from microtome.tasks.encoders import load_encoder
    from microtome.tasks.tile_reader import TileReader

    cv2.setNumThreads(1)
    grid, light = grid_of(path), load_encoder(LIGHT, tile_px=TILE_PX)
    with open_slide(path) as slide, tempfile.TemporaryDirectory() as folder:
        assert isinstance(slide, NativeTiled)
        level = slide.info.levels[0]
        assert level.tile_px is not None
        rows, columns = (-(-size // side) for size, side in zip(
            (level.height_px, level.width_px), level.tile_px, strict=True
        ))  # fmt: skip
        places = [(row, column) for row in range(rows) for column in range(columns)]
        read = TileReader(slide, grid, 0).batches(lambda tiles: (tiles, {}))
        tiles = np.concatenate([batch.tiles for batch in read])
        fitted, bag = light.for_slide(tiles[:64]), encode(slide, grid, Picked())
        works: dict[str, Callable[[], object]] = {
            "the file's own tiles decoded": lambda: [slide.native_tile(0, *p) for p in places],
            "tiles read, decoding included": lambda: [
                batch.indices
                for batch in TileReader(slide, grid, 0).batches(lambda tiles: (tiles, {}))
            ],
            "quality measured": lambda: tile_quality(tiles),
            f"features of {LIGHT}": lambda: fitted.encode(tiles),
            "tissue found": lambda: tissue_tiles(
                slide, "a", tile_px=TILE_PX, mpp=MPP, options=EncodeOptions()
            ),
            "the bag written": lambda: write_bag(
                Path(folder) / "a.bag.zarr", bag, key="", overwrite=True
            ),
        }
        return {name: 1e3 * _least_cpu_s(work) / len(grid) for name, work in works.items()}


def _least_cpu_s(work: Callable[[], object]) -> float:
    spent = []
    for _ in range(3):
        start = time.process_time()
        work()
        spent.append(time.process_time() - start)
    return min(spent)


def find_only(path: Path) -> None:
    """Find the tissue of a slide, and nothing else."""
    from microtome.engine.slides import open_slide
    from microtome.engine.tissue import find_tissue

    with open_slide(path) as slide:
        find_tissue(slide)


def peak_mib(*command: object) -> float:
    """The most memory that a command's process ever held."""
    words = [sys.executable, *map(str, command)]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, words)
    return used.ru_maxrss / 1024


def in_process(*arguments: object) -> dict[str, Any]:
    """Run a part of this file in a process of its own, and return what it printed."""
    said = subprocess.run(
        [sys.executable, __file__, "--part", *map(str, arguments)],
        check=True, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    found: dict[str, Any] = json.loads(said.stdout.splitlines()[-1])
    return found


def part(what: str, path: str, rounds: str = "1") -> dict[str, Any] | None:
    """What :func:`in_process` asks for."""
    if what == "ceiling":
        return ceiling(Path(path), int(rounds))
    if what == "stages":
        return stages(Path(path))
    return find_only(Path(path)) if what == "tissue" else reading(what, Path(path), int(rounds))


def ceiling_lines(folder: Path, size: Size) -> list[str]:
    """The first table."""
    found = in_process("ceiling", slide_of(folder, size.deep_px), size.rounds)
    about = CEILING_ABOUT.format(
        batch=BATCH, rounds=size.rounds, deep=DEEP, tiles=found["tiles"], tile=TILE_PX,
        side=size.deep_px,
    )  # fmt: skip
    share = found["pipeline"] / found["alone"]
    rates = (f"{found[name]:.1f}" for name in ("alone", "pipeline"))
    shown = (*rates, f"{share:.1%}", f"{found['cpu']:.1%}")
    bar = verdict("whole pipeline, of its encoder alone", 100 * share, 100 * OF_CEILING, unit=" %")
    return [
        about,
        "",
        *table(["alone", "pipeline", "share", "of processor time"], [shown]),
        "",
        bar,
    ]


def reading_lines(folder: Path, size: Size) -> list[str]:
    """The second table."""
    path = slide_of(folder, size.reading_px)
    found = {name: in_process(name, path, size.rounds) for name in READERS}
    about = READING_ABOUT.format(
        batch=BATCH, rounds=size.rounds, tiles=found[OURS]["tiles"], tile=TILE_PX,
        side=size.reading_px, cores=CORES, none=f"*{NONE}*", light=LIGHT,
    )  # fmt: skip
    columns = ["read", NONE, LIGHT]
    rows = [
        [name, *(f"{one[c][0]:,.0f} ({one[c][1]:.2f})" if c in one else "" for c in columns)]
        for name, one in found.items()
    ]
    bars = [
        verdict(f"{what}, times {OPENSLIDE}", found[OURS][c][0] / found[OPENSLIDE][c][0],
                OVER_OPENSLIDE)
        for c, what in zip(columns, ("reading alone", f"with {NONE}", f"with {LIGHT}"), strict=True)
    ]  # fmt: skip
    costs = {c: found[OPENSLIDE][c][1] / found[OURS][c][1] for c in columns}
    said = ", ".join(f"{cost:.2f} ({c})" for c, cost in costs.items())
    return [
        about,
        "",
        *table(["reader", "alone", *(f"with {c}" for c in columns[1:])], rows),
        "",
        *bars,
        f"- processor time of {OPENSLIDE}, times ours: {said}",
        "",
        READING_LIMIT.format(light=LIGHT, cores=CORES),
    ]


def stages_lines(folder: Path, size: Size) -> list[str]:
    """The third table."""
    found = in_process("stages", slide_of(folder, size.reading_px))
    rows = [[name, f"{cost:.3f}"] for name, cost in found.items()]
    return [STAGES_ABOUT, "", *table(["stage", "ms a tile"], rows)]


def memory_lines(folder: Path, size: Size) -> list[str]:
    """The fourth table."""
    rows, peaks = [], []
    for side in size.memory_px:
        path, out = slide_of(folder, side), folder / f"bags-{side}"
        peaks.append(peak_mib("-m", "microtome", "encode", path, "--out", out))
        (record,) = json.loads((out / f"{path.stem}.bag.zarr" / "zarr.json").read_text())[
            "attributes"
        ].values()
        tissue = peak_mib(__file__, "--part", "tissue", path)
        shown = f"{record['instances']:,}", f"{peaks[-1]:.0f}", f"{tissue:.0f}"
        rows.append([f"{side:,} × {side:,}", *shown])
    bar = verdict("the command, times the smaller slide", peaks[-1] / peaks[0], -MORE_MEMORY)
    return [MEMORY_ABOUT, "", *table(MEMORY_COLUMNS, rows), "", bar]


SECTIONS: dict[str, Callable[[Path, Size], list[str]]] = {
    "The whole pipeline beside its encoder": ceiling_lines,
    "Reading": reading_lines,
    "Where processor time goes": stages_lines,
    "Memory": memory_lines,
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--part", nargs="+")
    parser.add_argument("--keep", type=Path, help="folder for the sections that are done")
    parser.add_argument("--quick", action="store_true")
    asked = parser.parse_args()
    if asked.part:
        print(json.dumps(part(*asked.part)))
        return
    size = QUICK if asked.quick else FULL
    lines = ["# Encoding", "", "Written by `benchmarks/encode.py`."]
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        keep = asked.keep or place / "kept"
        keep.mkdir(parents=True, exist_ok=True)
        load = kept(keep / "load.json", lambda: os.getloadavg()[0])
        for title, of in SECTIONS.items():
            lines += ["", f"## {title}", ""]
            lines += kept(keep / f"{of.__name__}.json", partial(of, place, size))
            print("\n".join(lines[-12:]), flush=True)
    lines += ["", measured_on("torch", "timm", "openslide-python", "tiatoolbox")]
    lines += ["", f"Other work on the machine when it began: a load of {load:.1f}. No GPU."]
    if not asked.quick:
        write_report("encode.md", lines)


if __name__ == "__main__":
    main()
