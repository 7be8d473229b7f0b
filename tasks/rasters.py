"""Tiles of a slide laid out as a dense map."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Outline = NDArray[np.float64]
"""[m, 2]: (y, x) of the corners, in level-0 pixels of the whole image; closed by itself."""


FINEST_PX = 4096
"""Longer side of a map that is made of tiles, at most."""


class Placed(Protocol):
    """Tiles, wherever they come from: a grid, a bag, a prediction."""

    @property
    def coords_px(self) -> NDArray[np.int64]:
        """[n, 2]: (y, x) in level-0 pixels of the whole image."""
        ...

    @property
    def footprint_px(self) -> tuple[float, float]:
        """(y, x) extent of a tile in level-0 pixels."""
        ...


class Tiled(Protocol):
    """What bags and predictions have in common: tiles of one slide."""

    @property
    def id(self) -> str:
        """Identity of the slide."""
        ...

    @property
    def coords_px(self) -> NDArray[np.int64]:
        """[n, 2]: (y, x) in level-0 pixels of the whole image."""
        ...

    @property
    def footprint_px(self) -> tuple[float, float]:
        """(y, x) extent of a tile in level-0 pixels."""
        ...

    @property
    def slide_px(self) -> tuple[int, int]:
        """(height, width) of level 0."""
        ...

    @property
    def bounds_px(self) -> tuple[int, int, int, int] | None:
        """(y, x, height, width) of the scanned area where the slide states one."""
        ...

    @property
    def source(self) -> str:
        """Path of the slide as it was given."""
        ...

    @property
    def encoder(self) -> str:
        """``name@version``."""
        ...


@dataclass(frozen=True)
class Dense:
    """A map of tiles' values that lies as the tiles do.

    Attributes
    ----------
    values
        float32 [h, w], NaN where there is no tile.
    origin_px, pixel_px
        (y, x) of the corner and of a pixel's extent, in level-0 pixels.
    """

    values: NDArray[np.float32]
    origin_px: tuple[float, float]
    pixel_px: tuple[float, float]


def on_own_grid(tiles: Tiled, values: NDArray[Any]) -> Dense:
    """Lay values [n] out in pixels of half a tile from the corner of the first tile.

    Tiles that lie on a grid, or overlap by half, are laid out exactly; what would have more than
    4096 pixels on a side is made coarser.
    """
    tall, wide = tiles.footprint_px
    top, left = tiles.coords_px.min(axis=0).tolist()
    bottom, right = tiles.coords_px.max(axis=0).tolist()
    height, width = bottom - top + tall, right - left + wide
    coarse = max(1.0, 2 * height / tall / FINEST_PX, 2 * width / wide / FINEST_PX)
    pixel = (coarse * tall / 2, coarse * wide / 2)
    shape = (math.ceil(height / pixel[0] - 1e-6), math.ceil(width / pixel[1] - 1e-6))
    origin = (float(top), float(left))
    return Dense(rasterise(tiles, values, pixel, shape, origin_px=origin), origin, pixel)


def rasterise(
    tiles: Tiled,
    values: NDArray[Any],
    downsample: tuple[float, float],
    shape: tuple[int, int] | None = None,
    *,
    origin_px: tuple[float, float] = (0.0, 0.0),
) -> NDArray[np.float32]:
    """Lay the tiles' values out as a dense map, by default of the whole of level 0.

    A pixel of the map has the mean of the tiles that cover its centre. A tile that covers no
    centre, being smaller than a pixel, counts for the pixel that its own centre is in.

    Parameters
    ----------
    values
        [n]; those that are not finite count as no tile.
    downsample
        (y, x) level-0 pixels per pixel of the map.
    shape
        (h, w) of the map; that of the slide by default.
    origin_px
        (y, x) of the map's corner, in level-0 pixels.

    Returns
    -------
    float32 [h, w]
        NaN where there is no tile.
    """
    if shape is None:
        fitted = [max(1, round(s / d)) for s, d in zip(tiles.slide_px, downsample, strict=True)]
        shape = (fitted[0], fitted[1])
    known = np.isfinite(values)
    corners = tiles.coords_px[known] - np.array(origin_px)
    (top, bottom), (left, right) = (
        _span(corners[:, i], tiles.footprint_px[i], downsample[i], shape[i]) for i in (0, 1)
    )
    # Sums over rectangles by their four corners: the cost does not depend on how tiles overlap.
    total = np.zeros((shape[0] + 1, shape[1] + 1, 2))
    weighted = np.stack([values[known].astype(np.float64), np.ones(known.sum())], axis=1)
    for rows, columns, sign in (
        (top, left, 1), (top, right, -1), (bottom, left, -1), (bottom, right, 1),
    ):  # fmt: skip
        np.add.at(total, (rows, columns), sign * weighted)
    summed, count = np.moveaxis(total.cumsum(0).cumsum(1)[:-1, :-1], 2, 0)
    count = np.rint(count)
    dense = np.full(shape, np.nan, np.float32)
    np.divide(summed, count, out=dense, where=count > 0, casting="same_kind")
    return dense


def _span(
    start_px: NDArray[np.floating[Any]], extent_px: float, downsample: float, limit: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First pixel whose centre a tile covers, and the first after it that it does not."""
    low = np.ceil(start_px / downsample - 0.5)
    high = np.ceil((start_px + extent_px) / downsample - 0.5)
    missed = low == high
    low = np.where(missed, np.floor((start_px + extent_px / 2) / downsample), low)
    high = np.where(missed, low + 1, high)
    return np.clip(low, 0, limit).astype(np.int64), np.clip(high, 0, limit).astype(np.int64)
