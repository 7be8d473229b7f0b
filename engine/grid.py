"""Which tiles, where on level 0, read from which level with which rescale: pure geometry."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..storage.errors import BadGeometry, BadResolution, NoResolution
from .slides.base import Bounds, Level, SlideInfo

Edge = Literal["drop", "keep", "pad"]

TOLERANCE = 0.005
"""A level within this fraction of the requested resolution is read as it is."""


@dataclass(frozen=True)
class TileGrid:
    """A lattice of square tiles at an exact resolution.

    Attributes
    ----------
    tile_px
        Side of a tile as the encoder sees it, in pixels at ``mpp``.
    stride_px
        Step between tiles, in the same pixels.
    mpp
        Requested micrometres per tile pixel.
    level
        Level that tiles are read from: the coarsest that is at least as fine as ``mpp``.
    footprint_px
        (y, x) extent of a tile in level-0 pixels; within 0.5 % of ``tile_px * mpp`` micrometres.
    box_px
        (y, x) extent of a tile in the pixels of ``level``. Equal to ``tile_px`` where the level is
        read as it is; otherwise the box is rescaled to ``tile_px`` with antialiasing.
    coords_px
        int64 [n, 2]: (y, x) of the top left corners in level-0 pixels of the whole image, in grid
        order (row by row).
    downsample
        (y, x) level-0 pixels per pixel of ``level``.
    edge
        ``drop``: only tiles of the lattice that lie wholly on the slide. ``keep``: a last row and
        column are added where pixels were left over, moved inwards until they lie on the slide:
        they overlap their neighbours. ``pad``: tiles at the right and lower edge are kept and
        filled with white beyond it. No tile is ever short.
    """

    tile_px: int
    stride_px: int
    mpp: float
    level: int
    footprint_px: tuple[float, float]
    box_px: tuple[float, float]
    downsample: tuple[float, float]
    coords_px: NDArray[np.int64]
    edge: Edge

    def __len__(self) -> int:
        return len(self.coords_px)

    @property
    def is_rescaled(self) -> bool:
        """Whether tiles are resampled on the way from the level to the encoder."""
        return self.box_px != (float(self.tile_px), float(self.tile_px))

    def select(self, keep: NDArray[np.bool_]) -> TileGrid:
        """The same grid with only the tiles for which ``keep`` [n] is true."""
        return replace(self, coords_px=self.coords_px[keep])

    @classmethod
    def over(
        cls,
        info: SlideInfo,
        *,
        tile_px: int,
        mpp: float,
        stride_px: int | None = None,
        edge: Edge = "drop",
        within_bounds: bool = True,
    ) -> TileGrid:
        """Lay a grid over a slide.

        Parameters
        ----------
        info
            Geometry and resolution of the slide.
        tile_px, mpp, stride_px, edge
            See the class. ``stride_px`` is ``tile_px`` by default: no overlap, no gap.
        within_bounds
            Start at, and stay inside, the scanned area where the slide states one.

        Raises
        ------
        NoResolution
            The slide has no mpp.
        BadResolution
            The slide is coarser than ``mpp``: it would have to be enlarged. Or the only pixel size
            that it states cannot be true.
        BadGeometry
            Sizes that are not positive.
        """
        if info.mpp is None:
            raise without_mpp(info)
        stride = tile_px if stride_px is None else stride_px
        if tile_px < 1 or stride < 1 or not 0 < mpp < math.inf:
            raise BadGeometry("tile size, stride and mpp must be positive", where=info.path)
        level = _level_for(info, mpp)
        chosen = info.levels[level]
        downsample = (chosen.downsample_y, chosen.downsample_x)
        box = tuple(
            _box(tile_px, mpp, mpp_0 * d) for mpp_0, d in zip(info.mpp, downsample, strict=True)
        )
        footprint = (box[0] * downsample[0], box[1] * downsample[1])
        area = covered(info, chosen, within_bounds=within_bounds)
        rows = _positions(area.height_px, footprint[0], stride / tile_px, edge) + area.y_px
        columns = _positions(area.width_px, footprint[1], stride / tile_px, edge) + area.x_px
        y, x = np.meshgrid(rows, columns, indexing="ij")
        return cls(
            tile_px=tile_px,
            stride_px=stride,
            mpp=mpp,
            level=level,
            footprint_px=footprint,
            box_px=(box[0], box[1]),
            downsample=downsample,
            coords_px=np.stack([y.ravel(), x.ravel()], axis=1).astype(np.int64),
            edge=edge,
        )


def covered(info: SlideInfo, level: Level, *, within_bounds: bool = True) -> Bounds:
    """The part of level 0 to lay tiles over; a level may lack the last rows and columns of it."""
    height = min(info.height_px, math.floor(level.height_px * level.downsample_y + 1e-6))
    width = min(info.width_px, math.floor(level.width_px * level.downsample_x + 1e-6))
    if not within_bounds or info.bounds is None:
        return Bounds(0, 0, height, width)
    y, x = info.bounds.y_px, info.bounds.x_px
    return Bounds(
        y,
        x,
        max(0, min(y + info.bounds.height_px, height) - y),
        max(0, min(x + info.bounds.width_px, width) - x),
    )


def without_mpp(info: SlideInfo) -> BadResolution | NoResolution:
    """The error for a slide whose pixel size is unknown: not stated, or not to be believed."""
    remedy = "Pass --slide-mpp with the scanner's value, or a column mpp in the cohort table"
    if info.mpp_refused:
        return BadResolution("; ".join(info.mpp_refused), where=info.path, remedy=remedy)
    return NoResolution(
        "the file does not say how large its pixels are", where=info.path, remedy=remedy
    )


def _level_for(info: SlideInfo, mpp: float) -> int:
    assert info.mpp is not None
    fine_enough = [
        i for i, level in enumerate(info.levels) if _mpp(info, level) <= mpp * (1 + TOLERANCE)
    ]
    if not fine_enough:
        raise BadResolution(
            f"the slide has {max(info.mpp):.4g} µm/px, coarser than the {mpp:.4g} asked for",
            where=info.path,
            remedy="Ask for a coarser --mpp; a slide is never enlarged",
        )
    return max(fine_enough, key=lambda i: _mpp(info, info.levels[i]))


def _mpp(info: SlideInfo, level: Level) -> float:
    assert info.mpp is not None
    return max(info.mpp[0] * level.downsample_y, info.mpp[1] * level.downsample_x)


def _box(tile_px: int, mpp: float, mpp_level: float) -> float:
    exact = tile_px * mpp / mpp_level
    return float(tile_px) if abs(exact / tile_px - 1) <= TOLERANCE else exact


def _positions(extent_px: int, footprint_px: float, step: float, edge: Edge) -> NDArray[np.int64]:
    """Whole-pixel starts, each within a pixel of k * stride: rounding never adds up."""
    stride = footprint_px * step
    if edge == "pad":
        count = max(1, math.ceil((extent_px - footprint_px) / stride - 1e-9) + 1)
        starts = _rounded(count, stride)
        return starts[starts < extent_px]
    last = math.floor(extent_px - footprint_px + 1e-9)
    if last < 0:
        return np.empty(0, np.int64)
    count = math.floor((extent_px - footprint_px) / stride + 1e-9) + 1
    starts = np.minimum(_rounded(count, stride), last)
    return np.append(starts, last) if edge == "keep" and starts[-1] < last else starts


def _rounded(count: int, stride: float) -> NDArray[np.int64]:
    starts: NDArray[np.int64] = np.rint(np.arange(count) * stride).astype(np.int64)
    return starts


def tissue_fraction(
    grid: TileGrid, mask: NDArray[np.bool_], slide_px: tuple[int, int]
) -> NDArray[np.float32]:
    """Fraction of each tile that a mask covers.

    Parameters
    ----------
    mask
        bool [h, w] over the whole of level 0, at any resolution.
    slide_px
        (height, width) of level 0.

    Returns
    -------
    float32 [n]
        0 … 1, by the mask's pixels that the tile touches.
    """
    (top, bottom), (left, right) = (
        _span(
            grid.coords_px[:, axis],
            grid.footprint_px[axis],
            mask.shape[axis] / slide_px[axis],
            mask.shape[axis],
        )
        for axis in (0, 1)
    )
    inside = np.empty(len(grid), np.int64)
    # Row by row of the grid, so that no sums over the whole mask are held.
    for here in _alike(top * (len(mask) + 1) + bottom):
        first = here[0]
        summed = np.zeros(mask.shape[1] + 1, np.int64)
        np.cumsum(mask[top[first] : bottom[first]].sum(0), out=summed[1:])
        inside[here] = summed[right[here]] - summed[left[here]]
    return (inside / ((bottom - top) * (right - left))).astype(np.float32)


def _alike(values: NDArray[np.int64]) -> list[NDArray[np.intp]]:
    """Where each value that occurs is found."""
    order = np.argsort(values, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(values[order])) + 1) if len(order) else []


def overlaps(grid: TileGrid, parts: Iterable[Bounds]) -> NDArray[np.bool_]:
    """Which tiles touch any of some rectangles, given in level-0 pixels: bool [n]."""
    touched = np.zeros(len(grid), np.bool_)
    low = grid.coords_px
    high = low + np.asarray(grid.footprint_px)
    for part in parts:
        start = np.array((part.y_px, part.x_px))
        stop = start + np.array((part.height_px, part.width_px))
        touched |= ((low < stop) & (high > start)).all(axis=1)
    return touched


def _span(
    start_px: NDArray[np.int64], extent_px: float, scale: float, limit: int
) -> Sequence[NDArray[np.int64]]:
    low = np.clip(np.floor(start_px * scale).astype(np.int64), 0, limit - 1)
    high = np.clip(np.ceil((start_px + extent_px) * scale).astype(np.int64), low + 1, limit)
    return low, high
