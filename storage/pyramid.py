"""Slides at rest: OME-Zarr 0.5 pyramids of sharded arrays c, y, x, written by many at once.

Who writes what
---------------
A *cell* is a square of ``block_px`` of a level; one task makes it. It reads its pixels once, by
shards, and folds them up in memory: each level is the rounded mean of 2 × 2 pixels of the one
below it (fewer at an odd edge). The shards of a level are as wide as ``shard_px`` or, where that
is less, as the cell's own part of the level, so that every shard lies in exactly one cell and no
two tasks ever write one file. Blocks of 4096 and chunks of 256 give five levels, with shards of
2048, 2048, 1024, 512 and 256. Above those, the next *stage* does the same again, from the last
level of the stage below, which by then is whole: a slide of 100,000 px has two stages.

A shard that is there and sound is left alone, so that an interrupted run is resumed by running it
again. Metadata are written at the end.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from . import ngff04
from .codecs import Blosc, ChunkCodec, Zstd
from .ome_xml import OmeImage
from .shards import ShardedArray, ShardWriter, encoded_chunks, is_whole
from .stored_slides import (
    KIND,
    SUFFIX,
    Pixels,
    StoredSlide,
    open_stored_slide,
    read_pixels,
    write_slide_metadata,
)

__all__ = [
    "KIND",
    "SUFFIX",
    "Cell",
    "CellRecord",
    "Pyramid",
    "StoredSlide",
    "halve",
    "halved_pixels",
    "open_stored_slide",
    "sum_records",
    "write_cell",
    "write_pyramid_metadata",
]  # fmt: skip

_PART_PX = 1024
"""What is halved at once: its source is as large as the largest shard that is read of a slide."""

Source = Callable[[int, int, int, int], Pixels]
"""Reads (y, x, height, width) of a level as uint8 [height, width, 3]."""


@dataclass(frozen=True)
class Cell:
    """One task's part of a pyramid: a block of the first level of a stage, and all above it."""

    stage: int
    row: int
    column: int


@dataclass(frozen=True)
class CellRecord:
    """What a task did; all that travels back.

    Attributes
    ----------
    stage
        Of the cell.
    pixels
        How many pixels of the cell's first level it stands for.
    written, kept
        Shards that were made, and that were there already.
    bytes_written
        Length of those that were made.
    """

    stage: int
    pixels: int
    written: int
    kept: int
    bytes_written: int


def sum_records(records: Sequence[CellRecord]) -> CellRecord:
    """One record of several cells of a stage."""
    counts = (
        sum(getattr(record, name) for record in records)
        for name in ("pixels", "written", "kept", "bytes_written")
    )
    return CellRecord(records[0].stage, *counts)


@dataclass(frozen=True)
class Pyramid:
    """The plan of a pyramid: pure geometry.

    Attributes
    ----------
    height_px, width_px
        Size of level 0.
    chunk_px, shard_px, block_px
        Side of an inner chunk, of the largest shard, and of a cell: each a power of two times the
        one before.
    profile
        ``compatible``: OME-Zarr 0.5, sharded. ``ngff04``: OME-Zarr 0.4, a file for each chunk of
        each colour (:mod:`~microtome.storage.ngff04`).
    codec
        How pixels are encoded; those of ``ngff04`` by Blosc.
    """

    height_px: int
    width_px: int
    chunk_px: int = 256
    shard_px: int = 2048
    block_px: int = 4096
    profile: str = "compatible"
    codec: ChunkCodec = field(default_factory=Zstd)

    def __post_init__(self) -> None:
        if min(self.height_px, self.width_px, self.chunk_px) < 1:
            raise ValueError("an image has at least one pixel")
        for small, large in ((self.chunk_px, self.shard_px), (self.shard_px, self.block_px)):
            if large % small or (large // small).bit_count() != 1:
                raise ValueError(f"{large} is not {small} times a power of two")

    @cached_property
    def sizes_px(self) -> tuple[tuple[int, int], ...]:
        """(height, width) of every level, halved (rounding up) until one chunk holds it."""
        sizes = [(self.height_px, self.width_px)]
        while max(sizes[-1]) > self.chunk_px:
            height, width = sizes[-1]
            sizes.append((-(-height // 2), -(-width // 2)))
        return tuple(sizes)

    @property
    def levels_per_stage(self) -> int:
        """How many levels one cell makes."""
        return (self.block_px // self.chunk_px).bit_length()

    @property
    def stages(self) -> int:
        """How many times the whole image is gone over, each time 1024 times smaller or so."""
        return -(-len(self.sizes_px) // self.levels_per_stage)

    def array(self, level: int) -> ShardedArray:
        """Layout of a level."""
        if self.profile == "ngff04":
            assert isinstance(self.codec, Blosc)
            return ngff04.chunked((3, *self.sizes_px[level]), self.chunk_px, self.codec)
        part_px = self.block_px >> (level % self.levels_per_stage)
        shard_px = min(self.shard_px, part_px)
        return ShardedArray(
            shape=(3, *self.sizes_px[level]),
            dtype=np.dtype(np.uint8),
            shard=(3, shard_px, shard_px),
            chunk=(3, self.chunk_px, self.chunk_px),
            names=("c", "y", "x"),
            codec=self.codec,
        )

    def folder(self, image: Path, level: int) -> Path:
        """Where a level lies in the folder of an image."""
        return (image / ngff04.IMAGE if self.profile == "ngff04" else image) / str(level)

    @property
    def arrays(self) -> tuple[ShardedArray, ...]:
        """Layout of every level, finest first."""
        return tuple(self.array(level) for level in range(len(self.sizes_px)))

    def cells(self, stage: int) -> list[Cell]:
        """The tasks of a stage; those of one stage may run in any order, or at once."""
        height, width = self.sizes_px[stage * self.levels_per_stage]
        rows, columns = -(-height // self.block_px), -(-width // self.block_px)
        return [Cell(stage, r, c) for r, c in itertools.product(range(rows), range(columns))]

    def shards(self, cell: Cell) -> Iterator[tuple[int, tuple[int, int, int]]]:
        """(level, shard index) of every shard of a cell."""
        first = cell.stage * self.levels_per_stage
        for level in range(first, min(first + self.levels_per_stage, len(self.sizes_px))):
            array = self.array(level)
            per_cell = (self.block_px >> (level - first)) // array.shard[1]
            places = (range(array.grid[0]), range(per_cell), range(per_cell))
            for channel, row, column in itertools.product(*places):
                index = (channel, cell.row * per_cell + row, cell.column * per_cell + column)
                if index[1] < array.grid[1] and index[2] < array.grid[2]:
                    yield level, index


def halve(pixels: Pixels) -> Pixels:
    """Mean of 2 × 2 pixels, rounded half up; of those that are there at an odd edge.

    Parameters
    ----------
    pixels
        uint8 [h, w, 3].

    Returns
    -------
    uint8 [ceil(h / 2), ceil(w / 2), 3]
    """
    import cv2

    height, width = pixels.shape[:2]
    if height % 2 or width % 2:
        pixels = np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    size = (pixels.shape[1] // 2, pixels.shape[0] // 2)
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)


def write_cell(plan: Pyramid, cell: Cell, folder: Path, source: Source) -> CellRecord:
    """Make the shards of a cell that are not there yet.

    Parameters
    ----------
    folder
        Of the image.
    source
        Reads level 0; used by the cells of stage 0 only.

    Raises
    ------
    BadProduct
        A shard of the stage below is missing or damaged.
    """
    shards = list(plan.shards(cell))
    missing = {
        (level, index)
        for level, index in shards
        if not is_whole(plan.array(level), plan.folder(folder, level), index)
    }
    with ShardWriter() as writer:
        if missing:
            _Folder(plan, cell, folder, source, missing=missing, writer=writer).fold()
    first = plan.array(cell.stage * plan.levels_per_stage)
    y, x = cell.row * plan.block_px, cell.column * plan.block_px
    height, width = (
        min(plan.block_px, n - a) for n, a in zip(first.shape[1:], (y, x), strict=True)
    )
    return CellRecord(
        stage=cell.stage,
        pixels=height * width,
        written=len(missing),
        kept=len(shards) - len(missing),
        bytes_written=writer.bytes_written,
    )


class _Folder:
    """Folds a cell up, depth first: one shard of each level is in memory at a time."""

    def __init__(
        self,
        plan: Pyramid,
        cell: Cell,
        folder: Path,
        source: Source,
        *,
        missing: set[tuple[int, tuple[int, int, int]]],
        writer: ShardWriter,
    ) -> None:
        self._plan, self._cell, self._folder = plan, cell, folder
        self._first = cell.stage * plan.levels_per_stage
        self._source = source if cell.stage == 0 else self._halved_source
        self._missing = missing
        self._writer = writer

    def fold(self) -> None:
        """Make the top of the cell, and thereby all below it."""
        last = min(self._first + self._plan.levels_per_stage, len(self._plan.sizes_px)) - 1
        part_px = self._plan.block_px >> (last - self._first)
        y, x = self._cell.row * part_px, self._cell.column * part_px
        for top, left in self._shard_corners(last, y, x, part_px):
            self._make(last, top, left)

    def _make(self, level: int, y: int, x: int) -> Pixels:
        """Pixels of the shard whose corner is given; written if it was missing."""
        array = self._plan.array(level)
        side = array.shard[1]
        height, width = (min(side, n - a) for n, a in zip(array.shape[1:], (y, x), strict=True))
        if level == self._first:
            pixels = self._source(y, x, height, width)
        else:
            pixels = np.empty((height, width, 3), np.uint8)
            for top, left in self._shard_corners(level - 1, 2 * y, 2 * x, 2 * side):
                part = halve(self._make(level - 1, top, left))
                there = (slice(top // 2 - y, None), slice(left // 2 - x, None))
                pixels[there][: part.shape[0], : part.shape[1]] = part
        folder, channels_first = self._plan.folder(self._folder, level), pixels.transpose(2, 0, 1)
        for channel in range(array.grid[0]):
            index = (channel, y // side, x // side)
            if (level, index) in self._missing:
                values = channels_first[array.box(index)[0]]
                self._writer.write(array, folder, index, encoded_chunks(array, values))
        return pixels

    def _shard_corners(self, level: int, y: int, x: int, part_px: int) -> Iterator[tuple[int, int]]:
        array = self._plan.array(level)
        rows = range(y, min(y + part_px, array.shape[1]), array.shard[1])
        columns = range(x, min(x + part_px, array.shape[2]), array.shard[2])
        return itertools.product(rows, columns)

    def _halved_source(self, y: int, x: int, height: int, width: int) -> Pixels:
        return halved_pixels(self._plan, self._first, self._folder, (y, x, height, width))


def halved_pixels(
    plan: Pyramid, level: int, folder: Path, box: tuple[int, int, int, int]
) -> Pixels:
    """A rectangle (y, x, height, width) of a level, made from the stored level below it.

    Raises
    ------
    BadProduct
        A shard of the level below is missing or damaged.
    """
    y, x, height, width = box
    out = np.empty((height, width, 3), np.uint8)
    for top, left in itertools.product(range(0, height, _PART_PX), range(0, width, _PART_PX)):
        part = out[top : top + _PART_PX, left : left + _PART_PX]
        part[:] = _halved_part(plan, level, folder, (y + top, x + left, *part.shape[:2]))
    return out


def _halved_part(plan: Pyramid, level: int, folder: Path, box: tuple[int, int, int, int]) -> Pixels:
    below, (y, x, height, width) = level - 1, box
    full_height, full_width = plan.sizes_px[below]
    rows = slice(2 * y, min(2 * (y + height), full_height), 1)
    columns = slice(2 * x, min(2 * (x + width), full_width), 1)
    return halve(read_pixels(plan.array(below), plan.folder(folder, below), rows, columns))


def write_pyramid_metadata(
    plan: Pyramid,
    folder: Path,
    *,
    name: str,
    mpp: tuple[float, float] | None,
    about: Mapping[str, Any],
    further: Sequence[ngff04.Series] = (),
) -> None:
    """Write the metadata of the image and of its levels; the last thing before the commit.

    Parameters
    ----------
    mpp
        (y, x) micrometres per level-0 pixel, or None.
    about
        Goes into the group's attribute ``microtome``.
    further
        Of ``ngff04``: what lies in the container beside the slide.
    """
    downsamples = [(float(2**level),) * 2 for level in range(len(plan.arrays))]
    if plan.profile == "ngff04":
        power = about.get("objective_power")
        described = OmeImage(name, plan.height_px, plan.width_px, mpp, power)
        slide = ngff04.Series(described, plan.arrays, downsamples)
        ngff04.write_container(folder, [slide, *further], about)
        return
    write_slide_metadata(
        folder, plan.arrays, downsamples, name=name, mpp=mpp, about=about, method="area average"
    )
