"""Pixels of a grid's tiles, and the whole slide at a glance."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..storage.errors import BadResolution
from .grid import TOLERANCE, Edge, TileGrid, without_mpp
from .slides.base import Bounds, ChannelSlide, Level, Pixels, Slide, SlideInfo

if TYPE_CHECKING:
    from scipy import sparse

_WHITE = 255
_BLOCK_PX = 1024
"""About this many level pixels a side are held at once while an overview is made."""


def read_tiles(
    slide: Slide, grid: TileGrid, *, batch: int = 64
) -> Iterator[tuple[NDArray[np.intp], Pixels]]:
    """Read all tiles of a grid, a batch at a time, in grid order.

    Yields
    ------
    indices : intp [b]
        Which tiles of the grid these are.
    tiles : uint8 [b, tile_px, tile_px, 3]
        RGB; each batch is an array of its own.

    Raises
    ------
    UnreadableFile
        A tile's pixels cannot be decoded.
    """
    for start in range(0, len(grid), batch):
        indices = np.arange(start, min(start + batch, len(grid)), dtype=np.intp)
        yield indices, np.stack([read_tile(slide, grid, int(index)) for index in indices])


def read_tile(slide: Slide, grid: TileGrid, index: int) -> Pixels:
    """Read one tile as the encoder sees it.

    A level that has the requested resolution (within 0.5 %) is read as it is, from its pixel
    nearest to the tile's corner. A finer one is resampled with a triangle filter as wide as the
    reduction (antialiased), over the tile's exact, sub-pixel footprint; the filter sees the
    neighbouring pixels, so that tiles fit together without seams.

    Returns
    -------
    uint8 [tile_px, tile_px, 3]
        RGB; with ``edge="pad"``, white beyond the edge of the slide and nowhere else.
    """
    rows, columns = _spans(slide.info, grid, index)
    region = slide.read(
        grid.level, rows.low, columns.low, rows.high - rows.low, columns.high - columns.low
    )
    if rows.beyond or columns.beyond:
        padding = ((0, rows.beyond), (0, columns.beyond), (0, 0))
        region = np.pad(region, padding, constant_values=_WHITE)
    if not grid.is_rescaled:
        return region
    box = (columns.start, rows.start, columns.stop, rows.stop)
    size = (grid.tile_px, grid.tile_px)
    return np.array(Image.fromarray(region).resize(size, Image.Resampling.BILINEAR, box=box))


def level_box(info: SlideInfo, grid: TileGrid, index: int) -> Bounds:
    """The rectangle of ``grid.level`` that :func:`read_tile` reads, in pixels of that level."""
    rows, columns = _spans(info, grid, index)
    return Bounds(rows.low, columns.low, rows.high - rows.low, columns.high - columns.low)


@dataclass(frozen=True)
class _Span:
    """One axis of a tile: level pixels ``low`` … ``high`` are read, ``beyond`` more are white.

    ``start`` … ``stop`` is the tile's footprint in the pixels of what was read.
    """

    low: int
    high: int
    beyond: int
    start: float
    stop: float


def _spans(info: SlideInfo, grid: TileGrid, index: int) -> tuple[_Span, _Span]:
    level = info.levels[grid.level]
    y, x = grid.coords_px[index].tolist()
    return (
        _span(y / grid.downsample[0], grid.box_px[0], grid.tile_px, level.height_px, grid.edge),
        _span(x / grid.downsample[1], grid.box_px[1], grid.tile_px, level.width_px, grid.edge),
    )


def _span(start: float, box: float, tile_px: int, size: int, edge: Edge) -> _Span:
    if box == tile_px:
        low = min(round(start), size - 1 if edge == "pad" else size - tile_px)
        high = min(low + tile_px, size)
        return _Span(low, high, low + tile_px - high, 0.0, float(tile_px))
    margin = math.ceil(box / tile_px) + 1
    stop = start + box
    low, high = max(0, math.floor(start) - margin), min(size, math.ceil(stop) + margin)
    beyond = max(0, math.ceil(stop) - high) if edge == "pad" else 0
    return _Span(low, high, beyond, start - low, min(stop - low, float(high - low + beyond)))


def read_overview(
    slide: Slide, *, max_px: int | None = None, mpp: float | None = None
) -> tuple[Pixels, tuple[float, float]]:
    """Read the whole slide at low resolution, area-averaged, in bounded memory.

    Every pixel is the mean of the part of the slide that it covers, fractions of pixels counted.
    The coarsest level that is at least as fine as the result is read, block by block.

    Parameters
    ----------
    max_px
        Longer side of the result; never more than the slide has.
    mpp
        Micrometres per pixel of the result, in place of ``max_px``.

    Returns
    -------
    image : uint8 [h, w, 3]
        RGB.
    downsample : (float, float)
        (y, x) level-0 pixels per pixel of the result, as they came out.

    Raises
    ------
    NoResolution, BadResolution
        ``mpp`` is asked for, and the slide has none or is coarser.
    """
    image, downsample = _averaged(slide.info, 3, slide.read, max_px, mpp, dtype=np.uint8)
    return image, downsample


def read_channel_overview(
    slide: ChannelSlide, *, max_px: int | None = None, mpp: float | None = None
) -> tuple[NDArray[np.float32], tuple[float, float]]:
    """Read all channels of the whole slide at low resolution, as :func:`read_overview` does.

    Returns
    -------
    values : float32 [c, h, w]
        Means of the file's own values, in the order of ``info.channels``.
    downsample : (float, float)
        (y, x) level-0 pixels per pixel of the result, as they came out.

    Raises
    ------
    NoResolution, BadResolution
        ``mpp`` is asked for, and the slide has none or is coarser.
    """

    def read(*box: int) -> NDArray[Any]:
        return slide.read_channels(*box).transpose(1, 2, 0)

    n = len(slide.info.channels) or 3
    values, downsample = _averaged(slide.info, n, read, max_px, mpp, dtype=np.float32)
    return np.ascontiguousarray(values.transpose(2, 0, 1)), downsample


def _averaged(
    info: SlideInfo,
    n_channels: int,
    read: Callable[[int, int, int, int, int], NDArray[Any]],
    max_px: int | None,
    mpp: float | None,
    *,
    dtype: type[np.uint8 | np.float32],
) -> tuple[NDArray[Any], tuple[float, float]]:
    (height, width), at, downsample = overview_layout(info, max_px=max_px, mpp=mpp)
    level = info.levels[at]
    image = np.empty((height, width, n_channels), dtype)
    tall, wide = _block_px(level)
    begun = np.zeros((0, width, n_channels), np.float32)
    for y in range(0, level.height_px, tall):
        end = min(y + tall, level.height_px)
        rows = _area_weights(y, end, level.height_px, height)
        band = np.zeros((rows.last - rows.first, width, n_channels), np.float32)
        band[: len(begun)] = begun
        for x in range(0, level.width_px, wide):
            columns = _area_weights(x, min(x + wide, level.width_px), level.width_px, width)
            block = read(at, y, x, rows.weights.shape[1], columns.weights.shape[1])
            target = band[:, columns.first : columns.last]
            target += _reduce(block, rows.weights, columns.weights)
        # A row that the next blocks reach into as well is not done yet.
        done = end * height // level.height_px - rows.first
        begun = band[done:].copy()
        if dtype is np.uint8:
            np.rint(band, out=band)
        image[rows.first : rows.first + done] = band[:done]
        del band, target
    return image, downsample


def overview_layout(
    info: SlideInfo, *, max_px: int | None = None, mpp: float | None = None
) -> tuple[tuple[int, int], int, tuple[float, float]]:
    """What :func:`read_overview` would give: (height, width), the level read, and downsample."""
    height, width = _overview_size(info, max_px, mpp)
    at = max(
        i
        for i, level in enumerate(info.levels)
        if level.height_px >= height and level.width_px >= width
    )
    level = info.levels[at]
    downsample = (
        level.downsample_y * level.height_px / height,
        level.downsample_x * level.width_px / width,
    )
    return (height, width), at, downsample


def _overview_size(info: SlideInfo, max_px: int | None, mpp: float | None) -> tuple[int, int]:
    if (max_px is None) == (mpp is None):
        raise ValueError("read_overview needs either max_px or mpp")
    shape = (info.height_px, info.width_px)
    scale = (
        _scale_for(info, mpp) if mpp is not None else (min(1.0, (max_px or 1) / max(shape)),) * 2
    )
    sizes = [max(1, min(side, round(side * s))) for side, s in zip(shape, scale, strict=True)]
    return sizes[0], sizes[1]


def _scale_for(info: SlideInfo, mpp: float) -> tuple[float, float]:
    if info.mpp is None:
        raise without_mpp(info)
    scale = (info.mpp[0] / mpp, info.mpp[1] / mpp)
    if max(scale) > 1 + TOLERANCE:
        raise BadResolution(
            f"the slide has {max(info.mpp):.4g} µm/px, coarser than the {mpp:.4g} asked for",
            where=info.path,
            remedy="Ask for a coarser resolution; a slide is never enlarged",
        )
    return scale


def _block_px(level: Level) -> tuple[int, int]:
    """Blocks of whole tiles; of whole rows where the file is in strips: each is decoded once."""
    if level.tile_px is None:
        rows = _BLOCK_PX * _BLOCK_PX // level.width_px
        return min(level.height_px, max(1, rows)), level.width_px
    tall, wide = (side * max(1, round(_BLOCK_PX / side)) for side in level.tile_px)
    return tall, wide


@dataclass(frozen=True)
class _Weights:
    """How input pixels go into output pixels ``first`` … ``last``: sparse [out, in]."""

    first: int
    last: int
    weights: sparse.csr_array


def _area_weights(low: int, high: int, n_in: int, n_out: int) -> _Weights:
    """Share of each output pixel that inputs ``low`` … ``high`` of ``n_in`` cover; n_out <= n_in.

    In units of 1 / n_in of an output pixel all borders are whole numbers, so shares are exact.
    """
    from scipy import sparse

    inputs = np.arange(low, high, dtype=np.int64)
    begin = inputs * n_out
    output = begin // n_in
    here = np.minimum((output + 1) * n_in - begin, n_out)
    first, last = int(output[0]), min(int(output[-1]) + 2, n_out)
    following = np.minimum(output + 1, n_out - 1)
    weights = sparse.coo_array(
        (
            np.concatenate([here, n_out - here]).astype(np.float32) / n_in,
            (np.concatenate([output, following]) - first, np.tile(inputs - low, 2)),
        ),
        shape=(last - first, high - low),
    )
    return _Weights(first, last, weights.tocsr())


def _reduce(
    block: NDArray[Any], rows: sparse.csr_array, columns: sparse.csr_array
) -> NDArray[np.float32]:
    height, width, n_channels = block.shape
    tall = rows @ block.reshape(height, width * n_channels).astype(np.float32)
    across = tall.reshape(-1, width, n_channels).transpose(1, 0, 2).reshape(width, -1)
    reduced = (columns @ across).reshape(columns.shape[0], rows.shape[0], n_channels)
    averaged: NDArray[np.float32] = reduced.transpose(1, 0, 2)
    return averaged
