"""From labels of slides, or coarse regions, to labels of images: what the paper leaves out.

CAMEL needs one label for each image of a slide. It comes from regions that a person drew in
QuPath, or from what a MIL model, taught by labels of slides alone, says of its tiles. Where neither
is clear the image is left out, and counted. Images lie on an exact grid in level-0 pixels, as the
tiles of MIL do.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from ...engine.grid import TileGrid
from ...engine.tissue.exchange import UNCLASSIFIED
from ...storage.annotations import read_annotations
from ...storage.errors import BadGeometry, LabelError
from ...storage.polygons import fill
from ...storage.qupath import Frame
from ..rasters import Placed

POSITIVE, NEGATIVE, IGNORE = "positive", "negative", "ignore"
MEANINGS = (POSITIVE, NEGATIVE, IGNORE)
DEFAULT_CLASSES: Mapping[str, str] = {"Tumor": POSITIVE}
"""QuPath's own class for it."""

UNCLEAR, OUTSIDE, NO_TILE = "unclear", "outside of all regions", "without a scored tile"
_WHOLE = 0.99


@dataclass(frozen=True)
class Regions:
    """What a person drew, in (x, y) level-0 pixels of the whole image.

    Attributes
    ----------
    positive
        Where the lesion is, more or less.
    negative
        Where there is none; None where all that is not positive is said to have none.
    """

    positive: BaseGeometry
    negative: BaseGeometry | None = None


def read_regions(path: Path, frame: Frame, *, classes: Mapping[str, str] | None = None) -> Regions:
    """Read regions that QuPath exported as GeoJSON.

    Parameters
    ----------
    frame
        The slide as QuPath showed it (:func:`~microtome.engine.tissue.exchange.tissue_frame`).
    classes
        ``positive``, ``negative`` or ``ignore`` by the class's name in QuPath, in any case;
        ``Unclassified`` for objects without one. :data:`DEFAULT_CLASSES` by default. Where a
        class is negative, only what lies in such regions is; otherwise all outside of the
        positive ones is, and a file without objects is a slide without lesion.

    Raises
    ------
    LabelError
        There are classes of which nobody said what they are, or a meaning that does not exist.
    MissingFile, EmptyFile, UnreadableFile, BadGeometry
        What is wrong with the file.
    """
    meaning = {name.casefold(): said for name, said in (classes or DEFAULT_CLASSES).items()}
    if not set(meaning.values()) <= set(MEANINGS):
        raise LabelError(
            f"a class is said to be {sorted(set(meaning.values()) - set(MEANINGS))[0]!r}",
            remedy=f"Take one of {', '.join(MEANINGS)}",
        )
    found: dict[str, list[BaseGeometry]] = {said: [] for said in MEANINGS}
    unknown = set()
    for drawn in read_annotations(path, frame=frame).annotations:
        if drawn.object_type != "annotation":
            continue
        name = UNCLASSIFIED if drawn.path_class is None else drawn.path_class.name
        if name.casefold() not in meaning:
            unknown.add(name)
        else:
            found[meaning[name.casefold()]].append(drawn.geometry)
    if unknown:
        one = sorted(unknown)[0]
        raise LabelError(
            f"what these classes are is not known: {', '.join(sorted(unknown))}",
            where=path,
            remedy=f"Say it, as in --class '{one}=positive', '{one}=negative' or '{one}=ignore'",
        )
    negative = shapely.unary_union(found[NEGATIVE]) if NEGATIVE in meaning.values() else None
    return Regions(shapely.unary_union(found[POSITIVE]), negative)


def covered_share(grid: Placed, area: BaseGeometry) -> NDArray[np.float64]:
    """Share of each tile's footprint that an area in (x, y) level-0 pixels covers: float64 [n]."""
    share = np.zeros(len(grid.coords_px))
    if area.is_empty:
        return share
    parts = shapely.STRtree(shapely.get_parts(area))
    boxes = _boxes(grid)
    tile, part = parts.query(boxes, predicate="intersects")
    inside = shapely.area(shapely.intersection(boxes[tile], parts.geometries[part]))
    np.add.at(share, tile, inside / (grid.footprint_px[0] * grid.footprint_px[1]))
    return np.clip(share, 0, 1)


def _boxes(grid: Placed) -> NDArray[Any]:
    top, left = grid.coords_px.T.astype(np.float64)
    boxes: NDArray[Any] = np.asarray(
        shapely.box(left, top, left + grid.footprint_px[1], top + grid.footprint_px[0])
    )
    return boxes


@dataclass(frozen=True)
class LabelledImages:
    """Images of one slide that have a label.

    Attributes
    ----------
    grid
        One tile an image.
    labels
        bool [n].
    left_out
        How many images have none, by reason.
    """

    grid: TileGrid
    labels: NDArray[np.bool_]
    left_out: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.grid)

    def __str__(self) -> str:
        n = int(self.labels.sum())
        counts = [f"{n} positive", f"{len(self) - n} negative"]
        counts += [f"{count} {why}" for why, count in self.left_out.items() if count]
        return ", ".join(counts)

    def select(self, keep: NDArray[np.bool_]) -> LabelledImages:
        """Some of them; keep is bool [n]."""
        return LabelledImages(self.grid.select(keep), self.labels[keep], self.left_out)


def label_by_regions(grid: TileGrid, regions: Regions, *, least: float = 0.25) -> LabelledImages:
    """Label images by regions.

    An image is positive where regions cover at least a share of it, and negative where none
    touches it and, if negative ones were drawn, those cover it. Others are left out: a rim of a
    coarse region says nothing for sure.

    Parameters
    ----------
    least
        That share, over 0.
    """
    positive_share = covered_share(grid, regions.positive)
    positive = positive_share >= least
    outside = np.zeros(len(grid), np.bool_)
    if regions.negative is not None:
        outside = (positive_share == 0) & (covered_share(grid, regions.negative) < _WHOLE)
    negative = (positive_share == 0) & ~outside
    unclear = ~(positive | negative | outside)
    left_out = {UNCLEAR: int(unclear.sum()), OUTSIDE: int(outside.sum())}
    known = positive | negative
    return LabelledImages(grid.select(known), positive[known], left_out)


class ScoredTiles(Protocol):
    """Tiles with a score: a :class:`~microtome.storage.predictions.SlidePrediction`."""

    @property
    def coords_px(self) -> NDArray[np.int64]:
        """[n, 2]: (y, x) of the corners in level-0 pixels of the whole image."""
        ...

    @property
    def footprint_px(self) -> tuple[float, float]:
        """(y, x) extent of a tile in level-0 pixels."""
        ...

    @property
    def score(self) -> NDArray[np.float32]:
        """[n]: 0 … 1."""
        ...

    @property
    def slide_px(self) -> tuple[int, int]:
        """(height, width) of level 0."""
        ...


def image_scores(
    grid: TileGrid, tiles: ScoredTiles, slide_px: tuple[int, int]
) -> NDArray[np.float32]:
    """The highest score among the tiles whose centre lies in an image.

    Parameters
    ----------
    grid
        Images that do not overlap.
    slide_px
        (height, width) of level 0 of the slide that they are of.

    Returns
    -------
    float32 [n]
        NaN for an image without a tile.

    Raises
    ------
    BadGeometry
        The tiles are of a slide of another size.
    """
    if tuple(tiles.slide_px) != tuple(slide_px):
        raise BadGeometry(
            f"the scores are of a slide of {tiles.slide_px[0]} x {tiles.slide_px[1]} px, the "
            f"images of one of {slide_px[0]} x {slide_px[1]} px"
        )
    image = _image_of(grid, tiles.coords_px + np.array(tiles.footprint_px) / 2)
    best = np.full(len(grid), -np.inf, np.float32)
    scored = (image >= 0) & np.isfinite(tiles.score)
    np.maximum.at(best, image[scored], tiles.score[scored])
    return np.where(np.isfinite(best), best, np.nan).astype(np.float32)


def _image_of(grid: TileGrid, points_px: NDArray[np.float64]) -> NDArray[np.int64]:
    """Number of the image that each point (y, x) lies in, -1 for none: int64 [m]."""
    if not len(grid):
        return np.full(len(points_px), -1, np.int64)
    starts, places, inside = [], [], np.ones(len(points_px), np.bool_)
    for axis in (0, 1):
        start, number = np.unique(grid.coords_px[:, axis], return_inverse=True)
        place = np.searchsorted(start, points_px[:, axis], side="right") - 1
        inside &= (place >= 0) & (points_px[:, axis] < start[place] + grid.footprint_px[axis])
        starts.append(number)
        places.append(place)
    shape = (int(starts[0].max()) + 1, int(starts[1].max()) + 1)
    lookup = np.full(shape, -1, np.int64)
    lookup[starts[0], starts[1]] = np.arange(len(grid))
    image = np.full(len(points_px), -1, np.int64)
    image[inside] = lookup[places[0][inside], places[1][inside]]
    return image


@dataclass(frozen=True)
class ScoreBands:
    """Between which scores an image of a positive slide is left out.

    Attributes
    ----------
    low, high
        Up to ``low`` it is negative, over ``high`` positive.
    negatives
        Images of negative slides that they were found on.
    """

    low: float
    high: float
    negatives: int


def calibrate_bands(
    negative_scores: NDArray[np.float32], *, alpha: float = 0.01, beta: float = 0.5
) -> ScoreBands:
    """Find the bands from images that are known to be negative: those of negative slides.

    ``high`` is the conformal quantile: of images that are exchangeable with the given ones, a
    share of at most ``alpha`` is called positive by mistake, whatever the model. ``low`` is the
    score that a share ``beta`` of them exceeds: what scores no more looks as the bulk of negative
    images does. The scores should be those of slides that the model was not fitted on; images of
    one slide are alike, so that few negative slides promise less than their images seem to.

    Parameters
    ----------
    negative_scores
        float32 [n]; those that are not finite are left out.

    Raises
    ------
    LabelError
        Too few images for so small an ``alpha``.

    References
    ----------
    Vovk, Gammerman & Shafer (2005), Algorithmic learning in a random world; Bates et al. (2023),
    Testing for outliers with conformal p-values, Annals of Statistics 51.
    """
    known = np.sort(negative_scores[np.isfinite(negative_scores)])
    rank = math.ceil((len(known) + 1) * (1 - alpha))
    if rank > len(known):
        raise LabelError(
            f"{len(known)} images of negative slides cannot bound mistakes to {alpha:g}",
            remedy=f"Give at least {math.ceil(1 / alpha) - 1} of them, or allow more with --alpha",
        )
    high = float(known[rank - 1])
    low = min(high, float(np.quantile(known, 1 - beta)))
    return ScoreBands(low, high, len(known))


def label_by_scores(
    grid: TileGrid, scores: NDArray[np.float32], bands: ScoreBands, *, is_negative: bool
) -> LabelledImages:
    """Label images by scores; all of a slide that is known to be negative are so.

    Parameters
    ----------
    scores
        float32 [n] of :func:`image_scores`.
    is_negative
        Whether the slide is said to have no lesion at all.
    """
    if is_negative:
        return LabelledImages(grid, np.zeros(len(grid), np.bool_))
    unscored = ~np.isfinite(scores)
    positive, negative = scores > bands.high, scores <= bands.low
    known = positive | negative
    left_out = {UNCLEAR: int((~known & ~unscored).sum()), NO_TILE: int(unscored.sum())}
    return LabelledImages(grid.select(known), positive[known], left_out)


def truth_masks(grid: TileGrid, truth: BaseGeometry) -> NDArray[np.uint8]:
    """Exact masks of images, where it is known what is where.

    Parameters
    ----------
    truth
        In (x, y) level-0 pixels.

    Returns
    -------
    uint8 [n, tile_px, tile_px]
        1 where a pixel's centre lies inside.
    """
    masks = np.zeros((len(grid), grid.tile_px, grid.tile_px), np.uint8)
    parts = shapely.STRtree(shapely.get_parts(truth))
    pixel_px = (grid.footprint_px[0] / grid.tile_px, grid.footprint_px[1] / grid.tile_px)
    for mask, box, corner in zip(masks, _boxes(grid), grid.coords_px, strict=True):
        draw(mask, parts, box, (float(corner[0]), float(corner[1])), pixel_px)
    return masks


def draw(
    mask: NDArray[Any],
    parts: shapely.STRtree,
    box: Any,
    corner_px: tuple[float, float],
    pixel_px: tuple[float, float],
) -> None:
    """Set the pixels of a mask whose centres lie in polygons, which may overlap.

    Parameters
    ----------
    mask
        [h, w], written into.
    parts
        Polygons in (x, y) level-0 pixels.
    box
        What the mask covers, in the same.
    corner_px, pixel_px
        (y, x) of its corner, and size of its pixels, in level-0 pixels.
    """
    at = np.array(corner_px[::-1])
    for part in parts.geometries[np.sort(parts.query(box))]:
        moved = shapely.transform(part, lambda xy: xy - at)
        fill(mask, moved, pixel_px, 1)
