"""Two time points of one patient: which slides belong together, and what changed between them."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import numpy as np

from ..engine.slides.base import Slide
from ..storage.errors import CohortError, InputError
from ..storage.predictions import SlidePrediction, read_predictions
from .cohort import Cohort
from .evaluation import some
from .extent import THRESHOLD, Extent, find_mask, measure_extent
from .heatmap import open_source
from .overlay import colour_table, colourise
from .picture import MAX_PX, Canvas, Layers, canvas_for, layers, smaller
from .rasters import rasterise


@dataclass(frozen=True)
class Visit:
    """A slide at its time.

    Attributes
    ----------
    time
        As the table has it.
    moment
        The same to order by: days since 1970 of a date, or the number.
    is_date
        Whether it is a date.
    """

    prediction: SlidePrediction
    time: str
    moment: float
    is_date: bool


@dataclass(frozen=True)
class Pair:
    """Two visits of a patient that follow one another."""

    patient: str
    before: Visit
    after: Visit

    @property
    def name(self) -> str:
        """For a ledger."""
        return f"{self.patient}: {self.before.prediction.id} to {self.after.prediction.id}"

    @property
    def days(self) -> int | None:
        """Whole days between them; None where the order is a number."""
        return int(self.after.moment - self.before.moment) if self.after.is_date else None


@dataclass(frozen=True)
class FollowUp:
    """What changed between two visits.

    Attributes
    ----------
    extents
        Before and after, measured alike: by masks where both slides have one.
    layers
        Pictures before and after, in one scale and of one size: a millimetre of one is as long as
        a millimetre of the other.
    notes
        What is missing or particular.
    """

    pair: Pair
    extents: tuple[Extent, Extent]
    layers: tuple[Layers, Layers]
    notes: tuple[str, ...] = ()


def read_visited(places: Sequence[Path]) -> dict[str, SlidePrediction]:
    """Predictions of one or several runs, by slide.

    Raises
    ------
    CohortError
        A slide is in two of them.
    MissingFile, BadProduct
        As :func:`~microtome.storage.predictions.read_predictions`.
    """
    found: dict[str, SlidePrediction] = {}
    for place in places:
        for prediction in read_predictions(place):
            if prediction.id in found:
                raise CohortError(
                    f"{prediction.id} was predicted twice",
                    where=place,
                    remedy="Name the predictions that count",
                )
            found[prediction.id] = prediction
    return found


def follow_ups(
    predictions: dict[str, SlidePrediction], cohort: Cohort, order: str
) -> tuple[list[Pair], list[str]]:
    """Each patient's visits in order, every one with the next.

    Parameters
    ----------
    cohort
        Whose slides are to be compared, with ``order`` among its further columns.
    order
        Column that says which comes first: dates as 2026-03-31, or numbers.

    Returns
    -------
    pairs
        In the order of the table's patients.
    alone
        Patients with one slide only.

    Raises
    ------
    CohortError
        A slide was not predicted, or as another patient's; or the order of two slides of a patient
        is not said: a cell that is empty or neither date nor number, dates beside numbers, or the
        same for both.
    """
    lost = [case.id for case in cohort.cases if case.id not in predictions]
    if lost:
        raise CohortError(
            f"not predicted: {some(lost)}",
            where=cohort.source,
            remedy="Predict these too, or leave their rows out",
        )
    visits: defaultdict[str, list[Visit]] = defaultdict(list)
    for row, case in enumerate(cohort.cases, start=2):
        prediction, text = predictions[case.id], case.extra[order]
        if prediction.patient not in (None, "", case.patient):
            raise CohortError(
                f"row {row}: {case.id} is {case.patient}'s, but was predicted as "
                f"{prediction.patient}'s",
                where=cohort.source,
                remedy="Correct the table, or predict with the right one",
            )
        moment, is_date = _moment(text, f"row {row}, column {order}", cohort.source)
        visits[case.patient].append(Visit(prediction, text, moment, is_date))
    _require_one_kind([visit for found in visits.values() for visit in found], order, cohort)
    pairs = [
        Pair(patient, before, after)
        for patient, found in visits.items()
        for before, after in _in_order(patient, found, order, cohort)
    ]
    return pairs, [patient for patient, found in visits.items() if len(found) == 1]


def _moment(text: str, place: str, source: str) -> tuple[float, bool]:
    """What a cell orders by, and whether it is a date; only what can be read in one way."""
    try:
        if math.isfinite(number := float(text)):
            return number, False
    except ValueError:
        pass
    moment: datetime | None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    # With a time zone it would have no order among those without.
    if moment is None or moment.tzinfo is not None:
        raise CohortError(
            f"{place}: {text!r} is neither a date nor a number",
            where=source,
            remedy="Write dates as 2026-03-31, or number the visits",
        )
    return moment.replace(tzinfo=UTC).timestamp() / 86400, True


def _require_one_kind(visits: Sequence[Visit], order: str, cohort: Cohort) -> None:
    numbered = [visit for visit in visits if not visit.is_date]
    if numbered and len(numbered) < len(visits):
        raise CohortError(
            f"column {order} has dates and numbers, such as {numbered[0].time!r}",
            where=cohort.source,
            remedy="Write all of them as 2026-03-31, or number all visits",
        )


def _in_order(
    patient: str, visits: Sequence[Visit], order: str, cohort: Cohort
) -> list[tuple[Visit, Visit]]:
    ordered = sorted(visits, key=lambda visit: visit.moment)
    following = list(pairwise(ordered))
    for before, after in following:
        if before.moment == after.moment:
            raise CohortError(
                f"{patient} has two slides of {before.time}: {before.prediction.id} and "
                f"{after.prediction.id}",
                where=cohort.source,
                remedy=f"Keep one row a time point, or name a column that orders them in place "
                f"of {order}",
            )
    return following


def compare_pair(
    pair: Pair, *, masks: Path | None = None, threshold: float = THRESHOLD, crop: bool = True
) -> FollowUp:
    """Measure two visits alike and draw them side by side.

    Parameters
    ----------
    masks
        Folder of ``<id>.tissue.zarr``; without it the labels of the slides' own OME-Zarr count.
    threshold
        Score from which a tile is positive.
    crop
        False shows all of level 0 where a slide states bounds.

    Raises
    ------
    CohortError
        The two were predicted by different models, or for different classes.
    MissingFile, BadProduct, BadGeometry
        A mask is not there, or damaged; a mask or slide does not fit the prediction.
    """
    both = (pair.before.prediction, pair.after.prediction)
    _require_alike(pair)
    found = [find_mask(prediction, masks) for prediction in both]
    notes = []
    if sum(mask is None for mask in found) == 1:
        found = [None, None]
        notes.append("only one of the slides has a tissue mask: both are measured by their tiles")
    before, after = (
        measure_extent(prediction, mask, threshold=threshold)
        for prediction, mask in zip(both, found, strict=True)
    )
    with ExitStack() as opened:
        slides: list[Slide | None] = []
        for prediction in both:
            try:
                slides.append(opened.enter_context(open_source(prediction)))
            except InputError as error:
                slides.append(None)
                notes.append(f"{prediction.id}: {error.what}, so only its colours are shown")
        pictures = _side_by_side(both, slides, crop=crop)
    return FollowUp(pair, (before, after), pictures, tuple(notes))


def _require_alike(pair: Pair) -> None:
    before, after = pair.before.prediction, pair.after.prediction
    for what, one, other in (
        ("models", before.model, after.model),
        ("classes", before.target, after.target),
    ):
        if one != other:
            raise CohortError(
                f"{before.id} and {after.id} were predicted by or for different {what}: "
                f"{one[:16]} and {other[:16]}",
                remedy="Predict both with one model of two classes: a change could be the model's",
            )


def _side_by_side(
    both: tuple[SlidePrediction, SlidePrediction], slides: Sequence[Slide | None], *, crop: bool
) -> tuple[Layers, Layers]:
    """Pictures of two slides with as many micrometres per pixel and of one size."""
    longest_um = [max(np.multiply(p.slide_px, p.slide_mpp)) for p in both]
    um = max(max(longest_um) / MAX_PX, *(max(p.slide_mpp) for p in both))
    canvases = [
        _canvas(prediction, slide, crop=crop, max_px=max(1, round(long / um)))
        for prediction, slide, long in zip(both, slides, longest_um, strict=True)
    ]
    size = (max(c.shown_px[0] for c in canvases), max(c.shown_px[1] for c in canvases))
    before, after = (
        layers(
            canvas,
            colourise(rasterise(p, p.score, canvas.downsample, canvas.shape), colour_table()),
            size_px=size,
        )
        for p, canvas in zip(both, canvases, strict=True)
    )
    return before, after


def _canvas(tiles: SlidePrediction, slide: Slide | None, *, crop: bool, max_px: int) -> Canvas:
    return smaller(canvas_for(tiles, slide, crop=crop, max_px=max_px), max_px)
