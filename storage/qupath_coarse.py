"""Fewer and larger tiles, where QuPath would need minutes to open as many as there are."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .qupath_objects import Tiles


def coarsen(tiles: Tiles, at_most: int) -> tuple[Tiles, int]:
    """Put squares of k x k tiles in the place of tiles, k the least that leaves few enough.

    A tile counts for the square that its centre lies in. Measurements are the means of those that
    are finite; the class is that of most tiles of a class, of two as frequent the first.

    Parameters
    ----------
    at_most
        How many may be left; at least 1.

    Returns
    -------
    tiles : Tiles
        As they were, where there are few enough.
    side : int
        k; 1 where nothing was done.
    """
    if len(tiles) <= at_most:
        return tiles, 1
    side = max(2, math.isqrt(len(tiles) // at_most))
    while len(np.unique(squares := _squares(tiles, side), axis=0)) > at_most:
        side += 1
    places, square = np.unique(squares, axis=0, return_inverse=True)
    square = square.reshape(-1)
    footprint = (tiles.footprint_px[0] * side, tiles.footprint_px[1] * side)
    corners = tiles.coords_px.min(axis=0) + places * np.array(footprint)
    return Tiles(
        coords_px=np.rint(corners).astype(np.int64),
        footprint_px=footprint,
        measurements={
            name: _means(square, np.asarray(column), len(places))
            for name, column in tiles.measurements.items()
        },
        classes=tiles.classes,
        class_index=None
        if tiles.class_index is None
        else _most(square, tiles.class_index, len(places), len(tiles.classes)),
    ), side


def _squares(tiles: Tiles, side: int) -> NDArray[np.int64]:
    """[n, 2]: row and column of the square that the centre of each tile lies in."""
    footprint = np.array(tiles.footprint_px)
    centres = tiles.coords_px - tiles.coords_px.min(axis=0) + footprint / 2
    return np.asarray(np.floor(centres / (footprint * side)), np.int64)


def _means(square: NDArray[np.int64], column: NDArray[Any], n: int) -> NDArray[np.float64]:
    known = np.isfinite(column)
    total = np.bincount(square[known], weights=column[known].astype(np.float64), minlength=n)
    count = np.bincount(square[known], minlength=n)
    means = np.full(n, np.nan)
    np.divide(total, count, out=means, where=count > 0)
    return means


def _most(
    square: NDArray[np.int64], class_index: NDArray[np.int64], n: int, n_classes: int
) -> NDArray[np.int64]:
    known = class_index >= 0
    places = square[known] * n_classes + class_index[known]
    votes = np.bincount(places, minlength=n * n_classes).reshape(n, n_classes)
    return np.where(votes.sum(axis=1) > 0, votes.argmax(axis=1), -1)
