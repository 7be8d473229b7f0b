"""How well a map agrees with what is known, in pixels and in instances, with intervals.

A *field* is a square of neighbouring instances. Pixels and instances that lie side by side are no
independent witnesses, so the intervals of a slide resample fields (a spatial block bootstrap), and
those of all slides resample slides.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from ...storage.errors import BadGeometry, UnreadableFile
from ...storage.maps import MapFrame, StoredMap, at_least
from ..evaluation import Estimate
from .bridge import draw

TP, FP, FN, TN = range(4)
COUNTS = 8
"""Pixels: true and false positives, false and true negatives; then the same of instances."""

Counts = NDArray[np.int64]
_INSTANCE = 4
BLOCK_PX = 2048
"""About so large is what is compared at a time."""


def iou(c: NDArray[Any]) -> NDArray[np.float64]:
    """Intersection over union, of counts [..., 8]; the Jaccard index; NaN of nothing."""
    return _ratio(c[..., TP], c[..., TP] + c[..., FP] + c[..., FN])


def dice(c: NDArray[Any]) -> NDArray[np.float64]:
    """2 TP / (2 TP + FP + FN) of pixels, which is F1."""
    return _ratio(2 * c[..., TP], 2 * c[..., TP] + c[..., FP] + c[..., FN])


def sensitivity(c: NDArray[Any], first: int = 0) -> NDArray[np.float64]:
    """TP / (TP + FN)."""
    return _ratio(c[..., first + TP], c[..., first + TP] + c[..., first + FN])


def specificity(c: NDArray[Any], first: int = 0) -> NDArray[np.float64]:
    """TN / (TN + FP)."""
    return _ratio(c[..., first + TN], c[..., first + TN] + c[..., first + FP])


METRICS: Mapping[str, Callable[[NDArray[Any]], NDArray[np.float64]]] = {
    "IoU": iou,
    "Dice": dice,
    "pixel sensitivity": sensitivity,
    "pixel specificity": specificity,
    "instance sensitivity": lambda c: sensitivity(c, _INSTANCE),
    "instance specificity": lambda c: specificity(c, _INSTANCE),
}


def _ratio(part: NDArray[Any], whole: NDArray[Any]) -> NDArray[np.float64]:
    out = np.full(np.shape(whole), np.nan)
    np.divide(part, whole, out=out, where=np.asarray(whole > 0))
    return out


@dataclass(frozen=True)
class EvaluateOptions:
    """How a map is compared.

    Attributes
    ----------
    threshold
        Least probability of what counts as found.
    instance_um
        Side of an instance; rounded to whole pixels of the map.
    least
        An instance is positive where at least this share of it is, in the truth and in the map
        alike.
    field_instances
        Instances along a side of a field.
    resamples, seed
        Of the bootstrap.
    """

    threshold: float = 0.5
    instance_um: float = 160.0
    least: float = 0.5
    field_instances: int = 4
    resamples: int = 2000
    seed: int = 0


class Truth(Protocol):
    """What is known of a slide."""

    def mask(self, frame: MapFrame, rows: slice, columns: slice) -> NDArray[np.bool_]:
        """Where the lesion is, in a rectangle of a map's pixels: bool [h, w]."""
        ...


class DrawnTruth:
    """Polygons in (x, y) level-0 pixels; a pixel is positive where its centre lies inside."""

    def __init__(self, area: BaseGeometry) -> None:
        self._parts = shapely.STRtree(shapely.get_parts(area))

    def mask(self, frame: MapFrame, rows: slice, columns: slice) -> NDArray[np.bool_]:
        """See :class:`Truth`."""
        found = np.zeros((rows.stop - rows.start, columns.stop - columns.start), np.uint8)
        top, left = _at(frame, rows.start, columns.start)
        bottom, right = _at(frame, rows.stop, columns.stop)
        draw(found, self._parts, shapely.box(left, top, right, bottom), (top, left), frame.pixel_px)
        return found > 0


class PaintedTruth:
    """A mask over the whole of level 0, of any resolution; each pixel takes what is at its centre.

    Parameters
    ----------
    mask
        [h, w]; not 0 is positive.
    """

    def __init__(self, mask: NDArray[Any]) -> None:
        self._mask = mask

    def mask(self, frame: MapFrame, rows: slice, columns: slice) -> NDArray[np.bool_]:
        """See :class:`Truth`."""
        places = [
            np.minimum(centre * size / side, size - 1).astype(np.int64)
            for centre, size, side in zip(
                _at(frame, *_centres(rows, columns)), self._mask.shape, frame.slide_px, strict=True
            )
        ]
        return np.asarray(self._mask[np.ix_(places[0], places[1])] != 0)


def _centres(rows: slice, columns: slice) -> tuple[NDArray[Any], NDArray[Any]]:
    return np.arange(rows.start, rows.stop) + 0.5, np.arange(columns.start, columns.stop) + 0.5


def _at(frame: MapFrame, row: Any, column: Any) -> tuple[Any, Any]:
    """(y, x) in level-0 pixels of places in a map's pixels."""
    return (
        frame.origin_px[0] + row * frame.pixel_px[0],
        frame.origin_px[1] + column * frame.pixel_px[1],
    )


def read_painted(path: Path, frame: MapFrame) -> PaintedTruth:
    """Read a mask from a picture (PNG, TIFF) of the whole slide, of one value a pixel.

    Raises
    ------
    UnreadableFile
        It is no such picture.
    BadGeometry
        It has another shape than the slide.
    """
    import cv2

    mask = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if mask is None or mask.ndim != 2:
        raise UnreadableFile(
            "not a mask: a picture of one value a pixel is needed",
            where=path,
            remedy="Save it as grey PNG or TIFF, 0 where there is no lesion",
        )
    (height, width), (tall, wide) = frame.slide_px, mask.shape
    if abs(height * wide - width * tall) > max(height, width):
        raise BadGeometry(
            f"the mask of {tall} x {wide} px has not the shape of the slide, {height} x {width} px",
            where=path,
            remedy="Give a mask of the whole slide",
        )
    return PaintedTruth(mask)


def count_fields(stored: StoredMap, truth: Truth, options: EvaluateOptions) -> Counts:
    """Compare a map with the truth, block by block.

    Lesion where nobody looked was missed. What else was not looked at counts for nothing.
    Instances count where at least half of their pixels do.

    Returns
    -------
    int64 [f, 8]
        One row a field that has anything to count.
    """
    side = max(1, round(options.instance_um / stored.frame.pixel_um))
    field_px = side * options.field_instances
    rows_of_fields: list[Counts] = []
    for rows, columns in stored.blocks(field_px * max(1, BLOCK_PX // field_px)):
        codes = stored.codes(rows, columns)
        found = at_least(codes, options.threshold)
        is_true = truth.mask(stored.frame, rows, columns)
        pixels = confusion(found, is_true, codes > 0)
        per_instance = _sums(pixels, side)
        both = np.concatenate([per_instance, _instances(per_instance, side, options.least)], -1)
        fields = _sums(both, options.field_instances).reshape(-1, COUNTS)
        rows_of_fields.append(fields[fields.any(axis=1)])
    return np.concatenate(rows_of_fields)


def confusion(
    found: NDArray[np.bool_], truth: NDArray[np.bool_], known: NDArray[np.bool_]
) -> Counts:
    """TP, FP, FN and TN of each pixel: int64 [h, w, 4], of which one at most is 1."""
    parts = (found & truth, found & ~truth, ~found & truth, ~found & ~truth & known)
    return np.asarray(np.stack(parts, axis=-1), np.int64)


def _sums(counts: Counts, side: int) -> Counts:
    """Sums over squares, the last ones of which may lack rows and columns."""
    padding = [(0, -n % side) for n in counts.shape[:2]]
    padded = np.pad(counts, [*padding, (0, 0)])
    down, across = (n // side for n in padded.shape[:2])
    squares = padded.reshape(down, side, across, side, counts.shape[2])
    return np.asarray(squares.sum(axis=(1, 3)))


def _instances(pixels: Counts, side: int, least: float) -> Counts:
    """TP, FP, FN and TN of instances [r, c, 4], from the counts of their pixels."""
    n = pixels.sum(axis=-1)
    counted = 2 * n >= side * side
    found = pixels[..., TP] + pixels[..., FP] >= least * n
    truth = pixels[..., TP] + pixels[..., FN] >= least * n
    return np.asarray(confusion(found, truth, counted) * counted[..., None])


@dataclass(frozen=True)
class Agreement:
    """How well maps agree with the truth.

    Attributes
    ----------
    counts
        int64 [8] in all.
    figures
        By the names of :data:`METRICS`; NaN where there is nothing to divide by.
    """

    id: str
    counts: Counts
    figures: Mapping[str, Estimate]


def agreement(id_: str, units: Counts, *, resamples: int = 2000, seed: int = 0) -> Agreement:
    """Figures with 95 % intervals over units, which are fields of a slide, or slides.

    Parameters
    ----------
    units
        int64 [u, 8]. One alone has no interval.

    References
    ----------
    Hall (1985), Resampling a coverage pattern, Stoch. Proc. Appl. 20: the spatial block bootstrap.
    """
    n = len(units)
    total = units.sum(axis=0)
    drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), resamples) @ units
    figures = {}
    for name, metric in METRICS.items():
        values = metric(drawn)
        values = values[np.isfinite(values)]
        low, high = np.quantile(values, [0.025, 0.975]) if n > 1 and len(values) else (np.nan,) * 2
        figures[name] = Estimate(float(metric(total)), float(low), float(high), 0.95, n)
    return Agreement(id_, total, figures)


def evaluate_map(id_: str, stored: StoredMap, truth: Truth, options: EvaluateOptions) -> Agreement:
    """Compare one slide's map with the truth; intervals over its fields."""
    fields = count_fields(stored, truth, options)
    return agreement(id_, fields, resamples=options.resamples, seed=options.seed)


def overall(parts: Sequence[Agreement], options: EvaluateOptions) -> Agreement:
    """All slides together, each pixel counting the same; intervals over slides."""
    units = np.stack([part.counts for part in parts])
    return agreement("all slides", units, resamples=options.resamples, seed=options.seed)
