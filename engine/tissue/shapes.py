"""Shapes in a mask: gaps closed, specks dropped, holes filled; sizes in pixels of the mask."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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

    return np.asarray(cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_CLOSE, disk(radius_px)) > 0)


def opened(mask: Mask, radius_px: float) -> Mask:
    """Keep only where a disk of this radius fits in."""
    import cv2

    return np.asarray(cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, disk(radius_px)) > 0)


def dilated(mask: Mask, radius_px: float) -> Mask:
    """Add a margin."""
    import cv2

    return np.asarray(cv2.dilate(mask.astype(np.uint8), disk(radius_px)) > 0)


def disk(radius_px: float) -> NDArray[np.uint8]:
    """A disk as structuring element: uint8 [2r + 1, 2r + 1]."""
    import cv2

    side = 2 * round(radius_px) + 1
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)), np.uint8)


def without_specks(mask: Mask, least_px: float) -> Mask:
    """Drop connected pieces that are smaller than ``least_px`` pixels."""
    numbers, areas = pieces(mask)
    return mask & looked_up(areas >= least_px, numbers)


def without_holes(mask: Mask, least_px: float) -> Mask:
    """Fill enclosed holes that are smaller than ``least_px`` pixels."""
    numbers, areas = pieces(~mask)
    enclosed = areas < least_px
    for edge in (numbers[0], numbers[-1], numbers[:, 0], numbers[:, -1]):
        enclosed[edge] = False
    return mask | looked_up(enclosed, numbers)


def pieces(mask: Mask) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Connected pieces (8 neighbours), 0 where the mask is false, and their areas in pixels."""
    import cv2

    found = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    areas = np.asarray(found[2], np.int64)[:, cv2.CC_STAT_AREA]
    return np.asarray(found[1], np.int32), areas


def window(box: Sequence[int], shape: tuple[int, ...], margin_px: float) -> tuple[slice, slice]:
    """Rows and columns of a box (x, y, width, height, as OpenCV has it) and what is around."""
    x, y, width, height = box
    more = round(margin_px) + 1
    rows = slice(max(0, y - more), min(shape[0], y + height + more))
    return rows, slice(max(0, x - more), min(shape[1], x + width + more))


def bands(shape: tuple[int, ...]) -> Iterator[slice]:
    """Rows of a picture, a bounded number of pixels at a time."""
    step = max(1, _BAND_PX // max(1, shape[1]))
    return (slice(top, top + step) for top in range(0, shape[0], step))


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
