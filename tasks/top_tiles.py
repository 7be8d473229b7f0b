"""The tiles that speak most for a class and those that speak least, apart from one another."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..storage.predictions import SlidePrediction
from ..storage.qupath import Annotation, PathClass

REGION = PathClass("Region*", (0, 0, 180))
"""QuPath's own class for places to look at, with its own colour."""

N_TOP = 5
_APART = 2.0


def extreme_tiles(
    prediction: SlidePrediction, count: int = N_TOP, *, lowest: bool = False
) -> NDArray[np.intp]:
    """Which tiles have the highest scores, at least two tiles apart; or the lowest.

    Neighbours look alike: without a distance all would show one place.

    Returns
    -------
    intp [k]
        k <= count; the most extreme first, of equal scores the one that comes first.
    """
    order = np.argsort(prediction.score if lowest else -prediction.score, kind="stable")
    order = order[np.isfinite(prediction.score[order])]
    places = prediction.coords_px / np.array(prediction.footprint_px)
    found: list[int] = []
    free = np.ones(len(prediction), np.bool_)
    for index in order.tolist():
        if len(found) == count:
            break
        if free[index]:
            found.append(index)
            free &= np.abs(places - places[index]).max(axis=1) >= _APART
    return np.array(found, np.intp)


def top_regions(prediction: SlidePrediction, count: int = N_TOP) -> tuple[Annotation, ...]:
    """The highest tiles as annotations to jump to, named by their place among all."""
    import shapely

    tall, wide = prediction.footprint_px
    regions = []
    for place, index in enumerate(extreme_tiles(prediction, count).tolist(), start=1):
        (y, x), score = prediction.coords_px[index].tolist(), float(prediction.score[index])
        name = f"top {place}: {prediction.target} {score:.3f}"
        square = shapely.box(x, y, x + wide, y + tall)
        regions.append(Annotation(square, REGION, name, {"score": score}))
    return tuple(regions)
