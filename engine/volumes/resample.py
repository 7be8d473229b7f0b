"""Slices at uneven depths, or shifted against each other, onto a regular right-angled grid.

Linear interpolation: within a slice where it is shifted by part of a pixel, and where the grid
falls between two slices, from pixel to pixel of these, along the shear. What no slice reaches is
NaN. An affine function of the coordinates comes out as it is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from .base import Box, Volume, Voxels

Array = NDArray[np.float64]

SAME_PLACE_MM = 0.01
"""Slices closer than this along their normal lie at one position."""

_COINCIDE_MM = 0.001
"""A plane of the grid that is no farther from a slice has its values as they are."""

_MOST_MADE = 8
"""No more slices are made of one."""


@dataclass(frozen=True)
class Regrid:
    """Where the slices are, and the grid that they are brought onto.

    Attributes
    ----------
    depth_mm
        float64 [z]: of each slice along their normal, ascending from 0.
    shift_px
        float64 [z, 2]: (row, column) of each slice's first pixel on the pixels of the grid.
    grid_depth_mm
        float64 [k]: of the grid's planes.
    size_px
        (rows, columns) of the grid.
    origin_px
        (row, column) of the grid's first pixel, counted in pixels of the first slice.
    """

    depth_mm: Array
    shift_px: Array
    grid_depth_mm: Array
    size_px: tuple[int, int]
    origin_px: tuple[int, int]

    @property
    def step_mm(self) -> float:
        """Distance between the grid's planes."""
        return float(self.grid_depth_mm[-1] / (len(self.grid_depth_mm) - 1))

    def sources(self, plane: int) -> tuple[int, int, float]:
        """Slices below and above a plane of the grid, and the weight of the one above."""
        depth = self.grid_depth_mm[plane]
        nearest = int(np.argmin(np.abs(self.depth_mm - depth)))
        if abs(self.depth_mm[nearest] - depth) <= _COINCIDE_MM:
            return nearest, nearest, 0.0
        above = int(np.searchsorted(self.depth_mm, depth))
        below = above - 1
        gap = self.depth_mm[above] - self.depth_mm[below]
        return below, above, float((depth - self.depth_mm[below]) / gap)

    @property
    def made(self) -> tuple[int, ...]:
        """Planes of the grid that lie on no slice, counted from 1."""
        return tuple(k + 1 for k in range(len(self.grid_depth_mm)) if self.sources(k)[2] > 0)


def plan_regrid(
    depth_mm: Array, shift_px: Array, size_px: tuple[int, int], *, even: bool
) -> Regrid | None:
    """Lay a grid over slices: the finest distance between two of them, from the first to the last.

    Parameters
    ----------
    depth_mm
        float64 [z], ascending from 0.
    shift_px
        float64 [z, 2]: (row, column) by which each slice is shifted against the first.
    size_px
        (rows, columns) of a slice.
    even
        The depths are regular already (up to rounding) and are kept.

    Returns
    -------
    Regrid or None
        None where most of the grid would be made up: some slices lie far closer than the others.
    """
    low = np.floor(shift_px.min(axis=0) + 1e-6)
    high = np.ceil(shift_px.max(axis=0) - 1e-6)
    rows, columns = (int(n) for n in size_px + high - low)
    grid = depth_mm
    if not even:
        count = round(float(depth_mm[-1] / np.diff(depth_mm).min())) + 1
        if count > _MOST_MADE * len(depth_mm):
            return None
        grid = np.linspace(0, depth_mm[-1], count)
    origin = int(low[0]), int(low[1])
    return Regrid(depth_mm, shift_px - low, grid, (rows, columns), origin)


def regridded(volume: Volume, regrid: Regrid) -> Volume:
    """Bring a volume of slices onto a grid; true values in float32, as lazy as before.

    Parameters
    ----------
    volume
        Its ``data`` are [t,] slice, row, column; its affine is the grid's already.
    """
    voxels = volume.data
    shape = (*voxels.shape[:-3], len(regrid.grid_depth_mm), *regrid.size_px)

    def read_box(box: Box) -> NDArray[np.float32]:
        *outer, planes, rows, columns = box

        @lru_cache(maxsize=2)
        def slice_at(time: int | None, at: int) -> Array:
            when = () if time is None else (slice(time, time + 1, 1),)
            whole = tuple(slice(0, n, 1) for n in voxels.shape[-2:])
            read = voxels.read_box((*when, slice(at, at + 1, 1), *whole))
            return read.reshape(voxels.shape[-2:]).astype(np.float64)

        def plane_at(time: int | None, plane: int) -> Array:
            # Pixel by pixel along the shear, as the slices were taken: nothing at their edges is
            # lost.
            below, above, weight = regrid.sources(plane)
            found, shift = slice_at(time, below), regrid.shift_px[below]
            if weight:
                found = (1 - weight) * found + weight * slice_at(time, above)
                shift = (1 - weight) * shift + weight * regrid.shift_px[above]
            return shift_plane(found, shift, regrid.size_px)[rows, columns]

        out = np.empty([part.stop - part.start for part in box], np.float32)
        times = range(outer[0].start, outer[0].stop) if outer else [None]
        for i, time in enumerate(times):
            target = out[i] if outer else out
            for j, plane in enumerate(range(planes.start, planes.stop)):
                target[j] = plane_at(time, plane)
        return out

    return replace(
        volume,
        stored=Voxels(shape, np.dtype(np.float32), read_box),
        slope=np.array(1.0),
        intercept=np.array(0.0),
    )


def shift_plane(plane: Array, shift_px: Array, size_px: tuple[int, int]) -> Array:
    """A plane whose first pixel lies at (row, column) of another's pixels, read at those.

    Parameters
    ----------
    plane
        float64 [h, w].
    shift_px
        float64 [2]; whole numbers leave values as they are.
    size_px
        (rows, columns) of the result; NaN where the plane does not reach.
    """
    if not shift_px.any() and plane.shape == size_px:
        return plane
    rows = _along(plane, float(shift_px[0]), size_px[0])
    return _along(rows.T, float(shift_px[1]), size_px[1]).T


def _along(plane: Array, shift: float, size: int) -> Array:
    """Interpolate along the first axis at 0, 1, … of the target."""
    last = len(plane) - 1
    at = np.arange(size) - shift
    at = np.where(np.abs(at - np.round(at)) < 1e-6, np.round(at), at)
    below = np.clip(np.floor(at).astype(int), 0, last)
    above = np.minimum(below + 1, last)
    weight = (at - below)[:, None]
    found: Array = np.where(
        weight > 0, (1 - weight) * plane[below] + weight * plane[above], plane[below]
    )
    found[(at < 0) | (at > last)] = np.nan
    return found
