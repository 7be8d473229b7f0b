"""The tiles that speak most for a class and those that speak least, apart from one another."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..engine.slides.base import Slide
from ..storage.predictions import SlidePrediction
from ..storage.qupath import Annotation, PathClass
from .layers import SlideLayer
from .overlay import as_jpeg
from .zoom import Box, Place

REGION = PathClass("Region*", (0, 0, 180))
"""QuPath's own class for places to look at, with its own colour."""

N_TOP = 5
PICTURE_PX = 160
_APART = 2.0


@dataclass(frozen=True)
class TilePicture:
    """A tile to look at.

    Attributes
    ----------
    place_px
        (y, x) of its corner, in level-0 pixels.
    highest
        Whether it is among those with the highest scores; else among the lowest.
    """

    jpeg: bytes
    score: float
    place_px: tuple[int, int]
    highest: bool


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


def tile_pictures(
    prediction: SlidePrediction, slide: Slide, count: int = 4
) -> tuple[TilePicture, ...]:
    """The tiles with the highest scores and those with the lowest, none of them twice.

    Raises
    ------
    UnreadableFile
        A tile cannot be decoded.
    """
    layer, (tall, wide) = SlideLayer(slide), prediction.footprint_px
    top = extreme_tiles(prediction, count)
    bottom = np.setdiff1d(extreme_tiles(prediction, count, lowest=True), top)
    bottom = bottom[np.argsort(prediction.score[bottom], kind="stable")]
    pictures = []
    for highest, indices in ((True, top), (False, bottom)):
        for index in indices.tolist():
            y, x = prediction.coords_px[index].tolist()
            place = Place(
                Box(y, x, tall, wide), (PICTURE_PX, PICTURE_PX), max(tall, wide) / PICTURE_PX
            )
            picture = as_jpeg(layer.draw(place))
            pictures.append(TilePicture(picture, float(prediction.score[index]), (y, x), highest))
    return tuple(pictures)
