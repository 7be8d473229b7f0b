"""Shapes in a mask: gaps closed, specks dropped, holes filled; sizes in pixels of the mask."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Value = TypeVar("Value", bound=np.generic)

_BAND_PX = 2**20
"""Pixels that are handled at once, where what is made of them is many times as large."""

SMALLEST_UM2 = 20_000.0
"""Smaller pieces of tissue are dropped, smaller holes filled: a square of 140 µm."""


def closed(mask: Mask, radius_px: float) -> Mask:
    """Close gaps that a disk of this radius does not fit into."""
    import cv2

    return _truth(cv2.morphologyEx(mask.view(np.uint8), cv2.MORPH_CLOSE, disk(radius_px)))


def opened(mask: Mask, radius_px: float) -> Mask:
    """Keep only where a disk of this radius fits in."""
    import cv2

    return _truth(cv2.morphologyEx(mask.view(np.uint8), cv2.MORPH_OPEN, disk(radius_px)))


def dilated(mask: Mask, radius_px: float) -> Mask:
    """Add a margin."""
    import cv2

    return _truth(cv2.dilate(mask.view(np.uint8), disk(radius_px)))


def _truth(ones: Any) -> Mask:
    """What OpenCV made of the zeros and ones of a mask, as a mask: the same bytes."""
    return np.asarray(ones, np.uint8).view(np.bool_)


def disk(radius_px: float) -> NDArray[np.uint8]:
    """A disk as structuring element: uint8 [2r + 1, 2r + 1]."""
    import cv2

    side = 2 * round(radius_px) + 1
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)), np.uint8)


def without_specks(mask: Mask, least_px: float) -> Mask:
    """Drop connected pieces that are smaller than ``least_px`` pixels."""

    def kept(part: Mask) -> Mask:
        numbers, areas = pieces(part)
        found = looked_up(areas >= least_px, numbers)
        found &= part
        return found

    return by_bands(kept, mask, reach_px=math.ceil(least_px))


def without_holes(mask: Mask, least_px: float) -> Mask:
    """Fill enclosed holes that are smaller than ``least_px`` pixels."""

    def filled(part: Mask) -> Mask:
        numbers, areas = pieces(~part)
        small = areas < least_px
        # What ends at the edge of the mask is not enclosed; at that of a band it is not small.
        for edge in (numbers[0], numbers[-1], numbers[:, 0], numbers[:, -1]):
            small[edge] = False
        found = looked_up(small, numbers)
        found |= part
        return found

    return by_bands(filled, mask, reach_px=math.ceil(least_px))


def pieces(mask: Mask) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Connected pieces (8 neighbours), 0 where the mask is false, and their areas in pixels."""
    import cv2

    found = cv2.connectedComponentsWithStats(mask.view(np.uint8), connectivity=8)
    areas = np.asarray(found[2], np.int64)[:, cv2.CC_STAT_AREA]
    return np.asarray(found[1], np.int32), areas


def window(box: Sequence[int], shape: tuple[int, ...], margin_px: float) -> tuple[slice, slice]:
    """Rows and columns of a box (x, y, width, height, as OpenCV has it) and what is around."""
    x, y, width, height = box
    more = round(margin_px) + 1
    rows = slice(max(0, y - more), min(shape[0], y + height + more))
    return rows, slice(max(0, x - more), min(shape[1], x + width + more))


def bands(shape: tuple[int, ...], unit_px: int = 1, least_rows: int = 0) -> Iterator[slice]:
    """Rows of a picture, a bounded number of pixels at a time; multiples of ``unit_px`` rows."""
    rows = max(_BAND_PX // max(1, shape[1]), least_rows)
    step = unit_px * max(1, rows // unit_px)
    return (slice(top, top + step) for top in range(0, shape[0], step))


def by_bands(
    work: Callable[..., NDArray[Value]],
    *planes: NDArray[Any],
    reach_px: int = 0,
    unit_px: int = 1,
) -> NDArray[Value]:
    """``work(*planes)`` of pictures [h, w, …], a band of rows at a time.

    Parameters
    ----------
    work
        Gives a plane [h, w] of what it is given: of each pixel, what lies within ``reach_px``
        rows of it and no more.
    unit_px
        What it is given begins at a multiple of this.
    """
    out: NDArray[Value] | None = None
    for rows, seen, own in overlapping(planes[0], reach_px, unit_px):
        found = work(*(plane[seen] for plane in planes))
        if out is None:
            out = np.empty(planes[0].shape[:2], found.dtype)
        out[rows] = found[own]
    assert out is not None
    return out


def overlapping(
    plane: NDArray[Any], reach_px: int, unit_px: int = 1
) -> Iterator[tuple[slice, slice, slice]]:
    """Bands of a picture: their rows, the rows that are seen for it, and which of those they are.

    See :func:`by_bands`.
    """
    reach_px += -reach_px % unit_px
    for rows in bands(plane.shape, unit_px, least_rows=2 * reach_px):
        low = max(0, rows.start - reach_px)
        own = slice(rows.start - low, min(rows.stop, len(plane)) - low)
        yield rows, slice(low, rows.stop + reach_px), own


def looked_up(table: NDArray[Value], numbers: NDArray[np.integer[Any]]) -> NDArray[Value]:
    """``table[numbers]`` for numbers [h, w], without making indices of all of them at once."""
    found = np.empty(numbers.shape, table.dtype)
    for rows in bands(numbers.shape):
        found[rows] = table[numbers[rows]]
    return found


def counts(
    numbers: NDArray[np.integer[Any]], length: int, where: Mask | None = None
) -> NDArray[np.int64]:
    """How often 0 … ``length`` - 1 occur among numbers [h, w], or among those of a mask."""
    total = np.zeros(length, np.int64)
    for rows in bands(numbers.shape):
        part = numbers[rows].ravel() if where is None else numbers[rows][where[rows]]
        total += np.bincount(part, minlength=length)
    return total
