"""Slides whose own JPEG tiles are kept: the plan, and the writing of it by many at once.

Every level that the file has is kept: a chunk is a tile of the file, a shard holds up to
``shard_px`` of them along each axis. A tile that was never written is no chunk, and reads as white.

Where the coarsest of them is still larger than ``overview_px``, coarser levels are *folded*: each
pixel the mean of 4 × 4 of the level below, as scanners do it, encoded anew as JPEG 4:4:4. A fourth,
not a half: halves would add a third of the pixels, and half of the bytes, to what is kept.

A *batch* is some shards of one stage: stage 0 is all that is kept, each further stage one folded
level, made from the level below it, which by then is whole.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from .jpeg import FILL, Jpeg, Pixels
from .pyramid import CellRecord, halve
from .shards import Index, ShardedArray, ShardWriter, is_whole
from .stored_slides import read_pixels

Tile = Callable[[int, int, int], bytes | None]
"""Gives the tile of a (level, row, column) as a JPEG stream, or None where there is none."""

FOLD = 4
_CHUNK_PX = 256
_FOLDED_SHARD_PX = 1024
_LEAST_BATCH_PX, _MOST_BATCH_PX = 2**28, 2**30


@dataclass(frozen=True)
class KeptLevel:
    """A level of the file.

    Attributes
    ----------
    height_px, width_px
        Its size.
    tile_px
        (height, width) of its tiles.
    downsample
        (y, x) level-0 pixels per pixel.
    codec
        What its tiles are like.
    """

    height_px: int
    width_px: int
    tile_px: tuple[int, int]
    downsample: tuple[float, float]
    codec: Jpeg


@dataclass(frozen=True)
class Batch:
    """One task's part: shards of one stage, as (level, index)."""

    stage: int
    shards: tuple[tuple[int, Index], ...]


@dataclass(frozen=True)
class Archive:
    """The plan of an archive: pure geometry.

    Attributes
    ----------
    kept
        The levels of the file, finest first.
    shard_px
        Shards of kept tiles are as many tiles wide as fit in this.
    overview_px
        Levels are folded until both sides of the last one fit in this.
    quality
        Of the folded levels, which are encoded anew.
    """

    kept: tuple[KeptLevel, ...]
    shard_px: int = 8192
    overview_px: int = 1024
    quality: int = 90

    @cached_property
    def arrays(self) -> tuple[ShardedArray, ...]:
        """Layout of every level, finest first: those of the file, then the folded ones."""
        arrays = [self._kept_array(level) for level in self.kept]
        while max(arrays[-1].shape[1:]) > self.overview_px:
            height, width = (-(-n // FOLD) for n in arrays[-1].shape[1:])
            shard = (3, _FOLDED_SHARD_PX, _FOLDED_SHARD_PX)
            chunk = (3, _CHUNK_PX, _CHUNK_PX)
            arrays.append(_array((3, height, width), shard, chunk, Jpeg(self.quality)))
        return tuple(arrays)

    def _kept_array(self, level: KeptLevel) -> ShardedArray:
        sizes = (level.height_px, level.width_px)
        tiles = [
            min(max(1, self.shard_px // tile), -(-size // tile))
            for size, tile in zip(sizes, level.tile_px, strict=True)
        ]
        shard = (3, tiles[0] * level.tile_px[0], tiles[1] * level.tile_px[1])
        return _array((3, *sizes), shard, (3, *level.tile_px), level.codec)

    @property
    def downsamples(self) -> tuple[tuple[float, float], ...]:
        """(y, x) level-0 pixels per pixel of every level, as the file has them."""
        last_y, last_x = self.kept[-1].downsample
        times = (FOLD ** (n + 1) for n in range(len(self.arrays) - len(self.kept)))
        folded = ((last_y * n, last_x * n) for n in times)
        return (*(level.downsample for level in self.kept), *folded)

    @property
    def stages(self) -> int:
        """One for all that is kept, and one for each folded level."""
        return 1 + len(self.arrays) - len(self.kept)

    def batches(self, stage: int, jobs: int) -> list[Batch]:
        """The tasks of a stage; those of one stage may run in any order, or at once.

        What is written does not depend on ``jobs``: they only say how finely to share the work.
        """
        kept = len(self.kept)
        levels = range(kept) if stage == 0 else [kept + stage - 1]
        pixels = sum(self.arrays[n].shape[1] * self.arrays[n].shape[2] for n in levels)
        # Reading and folding a pixel costs some thirty times what copying its bytes does.
        cost = 1 if stage == 0 else 2 * FOLD**2
        most = min(max(_LEAST_BATCH_PX, pixels * cost // (8 * jobs)), _MOST_BATCH_PX)
        batches: list[Batch] = []
        waiting: list[tuple[int, Index]] = []
        size = 0
        for level in levels:
            for index in self.arrays[level].indices():
                waiting.append((level, index))
                size += _pixels(self.arrays[level], index) * cost
                if size >= most:
                    batches.append(Batch(stage, tuple(waiting)))
                    waiting, size = [], 0
        return [*batches, Batch(stage, tuple(waiting))] if waiting else batches

    def about(self) -> list[dict[str, Any]]:
        """Of every level, whether it is the file's own, and how it was made if it is not."""
        return [
            {"kept": True, "downsample": list(downsample)}
            if level < len(self.kept)
            else {
                "kept": False,
                "downsample": list(downsample),
                "folded_from": level - 1,
                "method": f"mean of {FOLD} × {FOLD} pixels",
                "jpeg_quality": self.quality,
            }
            for level, downsample in enumerate(self.downsamples)
        ]


def _array(
    shape: tuple[int, ...], shard: tuple[int, ...], chunk: tuple[int, ...], codec: Jpeg
) -> ShardedArray:
    names = ("c", "y", "x")
    return ShardedArray(shape, np.dtype(np.uint8), shard, chunk, names, codec, FILL)


def _pixels(array: ShardedArray, index: Index) -> int:
    _, rows, columns = array.box(index)
    return int((rows.stop - rows.start) * (columns.stop - columns.start))


def write_batch(plan: Archive, batch: Batch, folder: Path, tile: Tile) -> CellRecord:
    """Make the shards of a batch that are not there yet.

    Parameters
    ----------
    folder
        Of the image.
    tile
        Gives the file's tiles; used in stage 0 only.

    Raises
    ------
    BadProduct
        A shard of the level below is missing or damaged.
    DamagedChunk
        A tile of it cannot be decoded.
    """
    missing = [
        (level, index)
        for level, index in batch.shards
        if not is_whole(plan.arrays[level], folder / str(level), index)
    ]
    with ShardWriter() as writer:
        for level, index in missing:
            chunks = chunks_of(plan, level, index, folder, tile)
            writer.write(plan.arrays[level], folder / str(level), index, chunks)
    return CellRecord(
        stage=batch.stage,
        pixels=sum(_pixels(plan.arrays[n], index) for n, index in batch.shards if n == 0),
        written=len(missing),
        kept=len(batch.shards) - len(missing),
        bytes_written=writer.bytes_written,
    )


def chunks_of(
    plan: Archive, level: int, index: Index, folder: Path, tile: Tile
) -> Iterator[bytes | None]:
    """What a shard holds, chunk by chunk: the file's tiles, or the level below, folded.

    Raises
    ------
    BadProduct
        A shard of the level below is missing or damaged.
    DamagedChunk
        A tile of it cannot be decoded.
    """
    if level < len(plan.kept):
        return _kept_chunks(plan.arrays[level], level, index, tile)
    return _folded_chunks(plan, level, index, folder)


def _places(array: ShardedArray, index: Index) -> Iterator[tuple[int, int]]:
    """(row, column) among all tiles of the level, of every chunk of a shard, in C order."""
    _, tall, wide = array.chunks
    rows = range(index[1] * tall, (index[1] + 1) * tall)
    columns = range(index[2] * wide, (index[2] + 1) * wide)
    return itertools.product(rows, columns)


def _kept_chunks(
    array: ShardedArray, level: int, index: Index, tile: Tile
) -> Iterator[bytes | None]:
    for row, column in _places(array, index):
        inside = row * array.chunk[1] < array.shape[1] and column * array.chunk[2] < array.shape[2]
        yield tile(level, row, column) if inside else None


def _folded_chunks(plan: Archive, level: int, index: Index, folder: Path) -> Iterator[bytes | None]:
    array, below = plan.arrays[level], plan.arrays[level - 1]
    box = array.box(index)[1:]
    rows, columns = (
        slice(FOLD * part.start, min(FOLD * part.stop, size), 1)
        for part, size in zip(box, below.shape[1:], strict=True)
    )
    pixels = halve(halve(read_pixels(below, folder / str(level - 1), rows, columns)))
    for row, column in itertools.product(*map(range, array.chunks[1:])):
        part = pixels[row * _CHUNK_PX :, column * _CHUNK_PX :][:_CHUNK_PX, :_CHUNK_PX]
        yield _encoded(array, part) if part.size else None


def _encoded(array: ShardedArray, pixels: Pixels) -> bytes | None:
    if (pixels == FILL).all():
        return None
    # Beyond the edge its own colours go on: a jump to white would ring into the image.
    beyond = [(0, side - n) for side, n in zip(array.chunk[1:], pixels.shape[:2], strict=True)]
    whole = np.pad(pixels, (*beyond, (0, 0)), mode="edge")
    return array.codec.encode(whole.transpose(2, 0, 1))
