"""The encoding pipeline: beside its encoder alone, beside other readers, and its memory.

Run: ``python benchmarks/encode.py`` (about five minutes on two cores; writes docs/benchmarks).
``--quick`` takes small slides and one round, and writes nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from large_slide import write_large_slide
from numpy.typing import NDArray
from tables import measured_on, table, verdict, write_report

if TYPE_CHECKING:
    from microtome.engine.grid import TileGrid

Tiles = NDArray[np.uint8]
DEEP, LIGHT = "timm:resnet18", "stain-texture"
TILE_PX, MPP, BATCH = 224, 0.5, 64
CORES = len(os.sched_getaffinity(0))
OF_CEILING, OVER_OPENSLIDE, MORE_MEMORY = 0.95, 2.0, 1.10
OURS, OPENSLIDE = "microtome", "openslide-python + DataLoader"
PATCHES, DATASET = "tiatoolbox, patch extractor", "tiatoolbox, WSIPatchDataset + DataLoader"


@dataclass(frozen=True)
class Size:
    """How much is measured: sides of slides in px, and rounds."""

    deep_px: int
    reading_px: int
    memory_px: tuple[int, int]
    rounds: int


FULL = Size(deep_px=10240, reading_px=6144, memory_px=(8192, 65536), rounds=2)
QUICK = Size(deep_px=2048, reading_px=2048, memory_px=(4096, 16384), rounds=1)

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
    "so that most tiles lie across four of the file's) as batches of {batch}, RGB. Wall clock, "
    "each in a process of its own with {cores} threads or workers, in turns; median of {rounds} "
    "passes after one to warm up, workers kept alive between passes. The extractor of tiatoolbox "
    "has no workers. The last column is with {light} behind it: in the main process for the "
    "DataLoader, as in CLAM and TRIDENT; in the reading threads, and with the quality of tiles, "
    "for microtome."
)
MEMORY_ABOUT = (
    "Largest resident memory of a process, what its libraries take included. *Tiles*: "
    "`microtome.encode` of all tiles of a slide, which lie across the file's, by an encoder that "
    "picks 64 pixels (192 features). It holds the bag's features; the column after it is less "
    "them. *Tissue*: finding the tissue, which comes before."
)


class Picked:
    """An encoder that costs nothing, for the memory of all the rest: every 28th pixel."""

    name, version, licence = "picked", "1", "Apache-2.0"
    tile_px, mpp, dim, sample_tiles = TILE_PX, MPP, 192, 0
    feature_names: tuple[str, ...] = ()

    def for_slide(self, tiles: Tiles) -> Picked:
        """Itself."""
        return self

    def encode(self, tiles: Tiles) -> NDArray[np.float32]:
        """float32 [b, 192]."""
        return tiles[:, ::28, ::28].reshape(len(tiles), -1).astype(np.float32)


def slide_of(folder: Path, side_px: int) -> Path:
    """A large slide of a side; made once."""
    path = folder / f"slide-{side_px}.tif"
    return path if path.is_file() else write_large_slide(path, side_px)


def grid_of(path: Path) -> TileGrid:
    """All tiles of a slide."""
    from microtome.engine.grid import TileGrid
    from microtome.engine.slides import open_slide

    with open_slide(path) as slide:
        return TileGrid.over(slide.info, tile_px=TILE_PX, mpp=MPP)


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


class Timed:
    """Seconds of wall clock and of processor that a block takes."""

    wall_s = cpu_s = 0.0

    def __enter__(self) -> Timed:
        self._from = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.wall_s = time.perf_counter() - self._from[0]
        self.cpu_s = time.process_time() - self._from[1]


Read = Callable[[], Iterator[Tiles]]
"""Gives every tile of a slide once, in batches, each time it is called."""


def with_microtome(path: Path, grid: TileGrid) -> Read:
    """Our reader, opened anew for each pass."""
    from microtome.engine.slides import open_slide
    from microtome.tasks.tile_reader import TileReader

    def read() -> Iterator[Tiles]:
        with open_slide(path) as slide:
            reader = TileReader(slide, grid, 0, readers=CORES)
            for batch in reader.batches(lambda tiles: (tiles, {})):
                yield batch.tiles

    return read


class Regions:
    """A dataset as CLAM and TRIDENT have it: OpenSlide, opened by each worker for itself."""

    def __init__(self, path: Path, grid: TileGrid) -> None:
        self._path, self._coords, self._slide = path, grid.coords_px, None

    def __len__(self) -> int:
        return len(self._coords)

    def __getitem__(self, index: int) -> Tiles:
        import openslide

        if self._slide is None:
            self._slide = openslide.OpenSlide(self._path)
        y, x = self._coords[index].tolist()
        return np.array(self._slide.read_region((x, y), 0, (TILE_PX, TILE_PX)).convert("RGB"))


def with_openslide(path: Path, grid: TileGrid) -> Read:
    """openslide-python in the workers of a DataLoader."""
    return _loaded(Regions(path, grid), lambda batch: batch.numpy())


def with_dataset(path: Path, grid: TileGrid) -> Read:
    """tiatoolbox's dataset of patches, which its engines read, in the workers of a DataLoader."""
    from tiatoolbox.models.dataset import WSIPatchDataset

    patches = WSIPatchDataset(
        path, patch_input_shape=(TILE_PX, TILE_PX), stride_shape=(TILE_PX, TILE_PX),
        resolution=MPP, units="mpp", auto_get_mask=False,
    )  # fmt: skip
    return _loaded(patches, lambda batch: batch["image"].numpy())


def _loaded(dataset: Any, tiles_of: Callable[[Any], Tiles]) -> Read:
    from torch.utils.data import DataLoader

    loader = DataLoader(dataset, BATCH, num_workers=CORES, persistent_workers=True)

    def read() -> Iterator[Tiles]:
        for batch in loader:
            yield tiles_of(batch)

    return read


def with_patches(path: Path, grid: TileGrid) -> Read:
    """tiatoolbox's extractor of patches, iterated as its manual does."""
    from tiatoolbox.tools.patchextraction import SlidingWindowPatchExtractor

    extractor = SlidingWindowPatchExtractor(
        path, patch_size=(TILE_PX, TILE_PX), resolution=MPP, units="mpp", within_bound=True
    )

    def read() -> Iterator[Tiles]:
        for index in range(len(extractor)):
            yield extractor[index][None]

    return read


READERS: dict[str, Callable[[Path, TileGrid], Read]] = {
    OURS: with_microtome,
    OPENSLIDE: with_openslide,
    DATASET: with_dataset,
    PATCHES: with_patches,
}


def reading(name: str, path: Path, rounds: int) -> dict[str, Any]:
    """Tiles per second of a reader, alone and with the light encoder."""
    from microtome.tasks.encoders import load_encoder

    grid = grid_of(path)
    read = READERS[name](path, grid)
    encoder = load_encoder(LIGHT, tile_px=TILE_PX)

    def encode_theirs() -> int:
        fitted, count = None, 0
        for tiles in read():
            fitted = fitted or encoder.for_slide(tiles)
            count += len(fitted.encode(tiles))
        return count

    def encode_ours() -> int:
        from microtome.engine.slides import open_slide
        from microtome.tasks.encode import encode

        with open_slide(path) as slide:
            return len(encode(slide, grid, encoder, readers=CORES))

    def alone() -> int:
        return sum(len(tiles) for tiles in read())

    light = encode_ours if name == OURS else encode_theirs
    result: dict[str, Any] = {"tiles": len(grid), "read": _rate(alone, rounds)}
    if name in (OURS, OPENSLIDE):
        result["light"] = _rate(light, rounds)
    return result


def _rate(work: Callable[[], int], rounds: int) -> float:
    work()
    rates = []
    for _ in range(rounds):
        start = time.perf_counter()
        tiles = work()
        rates.append(tiles / (time.perf_counter() - start))
    return statistics.median(rates)


def memory(path: Path, what: str) -> dict[str, Any]:
    """Encode the tiles of a slide, or find its tissue; the most memory that was ever held."""
    from microtome.engine.slides import open_slide
    from microtome.engine.tissue import find_tissue
    from microtome.tasks.encode import encode

    tiles = 0
    with open_slide(path) as slide:
        if what == "tissue":
            find_tissue(slide)
        else:
            tiles = len(encode(slide, grid_of(path), Picked()))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"tiles": tiles, "peak_mib": peak}


def in_process(*arguments: object) -> dict[str, Any]:
    """Run a part of this file in a process of its own, and return what it printed."""
    said = subprocess.run(
        [sys.executable, __file__, "--part", *map(str, arguments)],
        check=True, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    found: dict[str, Any] = json.loads(said.stdout.splitlines()[-1])
    return found


def part(what: str, *arguments: str) -> dict[str, Any]:
    """What :func:`in_process` asks for."""
    if what == "ceiling":
        return ceiling(Path(arguments[0]), int(arguments[1]))
    if what == "memory":
        return memory(Path(arguments[0]), arguments[1])
    return reading(what, Path(arguments[0]), int(arguments[1]))


def ceiling_lines(folder: Path, size: Size) -> list[str]:
    """The first table."""
    found = in_process("ceiling", slide_of(folder, size.deep_px), size.rounds)
    about = CEILING_ABOUT.format(
        batch=BATCH, rounds=size.rounds, deep=DEEP, tiles=found["tiles"], tile=TILE_PX,
        side=size.deep_px,
    )  # fmt: skip
    share = found["pipeline"] / found["alone"]
    row = [
        f"{found['alone']:.1f}",
        f"{found['pipeline']:.1f}",
        f"{share:.1%}",
        f"{found['cpu']:.1%}",
    ]
    bar = verdict("whole pipeline, of its encoder alone", 100 * share, 100 * OF_CEILING, unit=" %")
    return [about, "", *table(["alone", "pipeline", "share", "of processor time"], [row]), "", bar]


def reading_lines(folder: Path, size: Size) -> list[str]:
    """The second table."""
    path = slide_of(folder, size.reading_px)
    found = {name: in_process(name, path, size.rounds) for name in READERS}
    about = READING_ABOUT.format(
        batch=BATCH, rounds=size.rounds, tiles=found[OURS]["tiles"], tile=TILE_PX,
        side=size.reading_px, cores=CORES, light=LIGHT,
    )  # fmt: skip
    rows = [
        [name, f"{one['read']:,.0f}", f"{one['light']:,.0f}" if "light" in one else ""]
        for name, one in found.items()
    ]
    ours, theirs = found[OURS], found[OPENSLIDE]
    return [
        about,
        "",
        *table(["reader", "tiles/s", f"tiles/s with {LIGHT}"], rows),
        "",
        verdict(f"reading, times {OPENSLIDE}", ours["read"] / theirs["read"], OVER_OPENSLIDE),
        verdict(f"with {LIGHT}, times the same", ours["light"] / theirs["light"], OVER_OPENSLIDE),
    ]


def memory_lines(folder: Path, size: Size) -> list[str]:
    """The third table."""
    rows, less, tissue = [], [], []
    for side in size.memory_px:
        found = in_process("memory", slide_of(folder, side), "tiles")
        less.append(found["peak_mib"] - found["tiles"] * Picked.dim * 4 / 2**20)
        tissue.append(in_process("memory", slide_of(folder, side), "tissue")["peak_mib"])
        rows.append([
            f"{side:,} × {side:,}", f"{found['tiles']:,}", f"{found['peak_mib']:.0f}",
            f"{less[-1]:.0f}", f"{tissue[-1]:.0f}",
        ])  # fmt: skip
    header = ["slide (px)", "tiles", "tiles (MiB)", "less the features", "tissue (MiB)"]
    return [
        MEMORY_ABOUT,
        "",
        *table(header, rows),
        "",
        verdict("tiles less the features, times the smallest", less[-1] / less[0], -MORE_MEMORY),
        verdict("tissue, times the smallest", tissue[-1] / tissue[0], -MORE_MEMORY),
    ]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--part", nargs="+")
    parser.add_argument("--quick", action="store_true")
    asked = parser.parse_args()
    if asked.part:
        print(json.dumps(part(*asked.part)))
        return
    size = QUICK if asked.quick else FULL
    load = os.getloadavg()[0]
    sections = {
        "The whole pipeline beside its encoder": ceiling_lines,
        "Reading": reading_lines,
        "Memory": memory_lines,
    }
    lines = ["# Encoding", "", "Written by `benchmarks/encode.py`."]
    with tempfile.TemporaryDirectory() as folder:
        for title, of in sections.items():
            lines += ["", f"## {title}", "", *of(Path(folder), size)]
            print("\n".join(lines[-12:]), flush=True)
    lines += ["", measured_on("torch", "timm", "openslide-python", "tiatoolbox")]
    lines += ["", f"Other work on the machine when it began: a load of {load:.1f}. No GPU."]
    if not asked.quick:
        write_report("encode.md", lines)


if __name__ == "__main__":
    main()
