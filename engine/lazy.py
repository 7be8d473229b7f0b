"""Levels of slides as Dask arrays, for users' own scripts."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .handles import SlideHandles
from .slides import Level, open_slide
from .slides.base import ChannelSlide

if TYPE_CHECKING:
    import dask.array as da

_CHUNK_PX = 2048


def level_array(path: str | Path, level: int = 0, *, chunk_px: int | None = None) -> da.Array:
    """A level of a slide as a lazy array, in blocks of whole tiles of the file.

    Nothing is read before ``compute``; each block opens the slide in the process that reads it,
    which keeps a few slides open.

    Parameters
    ----------
    path
        A slide, or an OME-Zarr.
    level
        0 is the finest.
    chunk_px
        Side of a block; rounded to whole tiles. About 2048 by default.

    Returns
    -------
    dask.array.Array
        uint8 [h, w, 3] of a slide in colours; [c, h, w] in its own type of one with channels.

    Raises
    ------
    MissingFile, EmptyFile, TruncatedFile, UnreadableFile
        What is wrong with the file.
    IndexError
        There is no such level.

    Examples
    --------
    >>> image = level_array("case-17.svs", level=1)  # doctest: +SKIP
    >>> image.mean(axis=(0, 1)).compute()  # doctest: +SKIP
    array([221.3, 187.9, 214.6])
    """
    import dask.array as da

    path = Path(path)
    with open_slide(path) as slide:
        info = slide.info
    if not 0 <= level < len(info.levels):
        raise IndexError(f"{path}: no level {level}; there are {len(info.levels)}")
    rows, columns = _blocks(info.levels[level], chunk_px or _CHUNK_PX)
    chunks: tuple[tuple[int, ...], ...] = (rows, columns, (3,))
    if info.channels:
        chunks = ((len(info.channels),), rows, columns)
    array: da.Array = da.map_blocks(
        _read_block,
        chunks=chunks,
        dtype=np.dtype(info.dtype) if info.channels else np.dtype(np.uint8),
        meta=np.empty((0, 0, 0), info.dtype if info.channels else np.uint8),
        path=path,
        level=level,
        axis=1 if info.channels else 0,
    )
    return array


def _blocks(level: Level, chunk_px: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    tall, wide = level.tile_px or (1, 1)
    return (
        _cut(level.height_px, tall * max(1, round(chunk_px / tall))),
        _cut(level.width_px, wide * max(1, round(chunk_px / wide))),
    )


def _cut(length: int, step: int) -> tuple[int, ...]:
    return tuple(min(step, length - start) for start in range(0, length, step))


def _read_block(
    *, path: Path, level: int, axis: int, block_info: dict[Any, Any] | None = None
) -> NDArray[Any]:
    assert block_info is not None
    location = block_info[None]["array-location"]
    (top, bottom), (left, right) = location[axis : axis + 2]
    slide = _handles().get(path)
    box = (level, top, left, bottom - top, right - left)
    if slide.info.channels:
        assert isinstance(slide, ChannelSlide)
        return slide.read_channels(*box)
    return slide.read(*box)


@cache
def _handles() -> SlideHandles:
    """This process's open slides."""
    return SlideHandles()
