"""The report of follow-ups: two slides of a patient side by side, and what changed."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from ..storage.commit import writable, write_text
from ..storage.predictions import SlidePrediction
from ..tasks.extent import Extent
from ..tasks.followup import FollowUp, Visit
from .heatmaps import LIMITS, PACKAGES
from .model import FollowUpPanel, Rejection, Report, SlidePanel, Table
from .render import versions

CAUTION = (
    "Two slides are two pieces of tissue: a difference may lie in where they were taken and cut, "
    "how they were stained and scanned, and not in the disease."
)

_NAMES = {"regression": "value", "survival": "log hazard"}
"""What the figure of a slide is, by the kind of prediction, where it is no probability."""


@dataclass(frozen=True)
class Measure:
    """A figure that is measured at both time points.

    Attributes
    ----------
    of
        The figure; NaN where it is undefined.
    form
        How it is written, of one number.
    unit
        Behind it.
    scale
        What it is multiplied by to be written.
    """

    name: str
    column: str
    of: Callable[[Extent], float]
    form: str = ",.2f"
    unit: str = " mm²"
    scale: float = 1.0

    def words(self, value: float) -> str:
        """The figure as it is read."""
        return "–" if math.isnan(value) else f"{self.scale * value:{self.form}}{self.unit}"

    def change(self, before: float, after: float) -> str:
        """The difference, with its sign, and in percent of a figure that was not nothing."""
        if math.isnan(before) or math.isnan(after):
            return "–"
        unit = " points" if self.unit == " %" else self.unit
        difference = f"{self.scale * (after - before):+{self.form}}{unit}"
        if before == 0 or self.unit != " mm²":
            return difference
        return f"{difference} ({100 * (after / before - 1):+,.0f} %)"


MEASURES = (
    Measure("tissue", "tissue_mm2", lambda one: one.tissue_mm2),
    Measure("positive", "positive_mm2", lambda one: one.positive_mm2),
    Measure("share of the tissue", "share", lambda one: one.share, ".1f", " %", 100.0),
    Measure("regions", "regions", lambda one: float(len(one.regions_mm2)), ",.0f", ""),
    Measure("largest region", "largest_mm2", lambda one: one.largest_mm2),
)


def followup_report(
    found: Sequence[FollowUp],
    *,
    alone: Sequence[str] = (),
    rejected: Sequence[Rejection] = (),
    parameters: Mapping[str, str] | None = None,
) -> Report:
    """A report of follow-ups, the largest growth first.

    Parameters
    ----------
    alone
        Patients with one slide, who cannot be compared.
    """
    single = [
        Rejection(patient, "one time point", "Add a row with the patient's other slide")
        for patient in alone
    ]
    targets = sorted({one.pair.after.prediction.target for one in found})
    return Report(
        title="Follow-up",
        summary=f"{len(found)} pairs of slides of {len({one.pair.patient for one in found})} "
        f"patients, scored for {', '.join(targets) or 'nothing'}.",
        made=datetime.now(UTC).strftime("%d %B %Y, %H:%M UTC"),
        target=targets[0] if len(targets) == 1 else "",
        followups=tuple(followup_panel(one) for one in found),
        rejected=(*rejected, *single),
        parameters=parameters or {},
        versions=versions(PACKAGES),
        limits=(CAUTION, *LIMITS),
    )


def followup_panel(found: FollowUp) -> FollowUpPanel:
    """What a report shows of one pair."""
    pair, (before, after) = found.pair, found.extents
    days = "" if pair.days is None else f" ({pair.days:,} days)"
    return FollowUpPanel(
        patient=pair.patient,
        before=_slide(found, 0),
        after=_slide(found, 1),
        times=(pair.before.time, pair.after.time),
        table=Table(
            "What changed",
            ("", pair.before.time, pair.after.time, "change"),
            (
                *(
                    (_name(m, before), m.words(m.of(before)), m.words(m.of(after)),
                     m.change(m.of(before), m.of(after)))
                    for m in MEASURES
                ),
                _probability(pair.before.prediction, pair.after.prediction),
            ),
            f"Tissue by the {before.source}. Positive: a score of {before.threshold:g} and more."
            f"{days}",
        ),
        growth_mm2=after.positive_mm2 - before.positive_mm2,
        notes=found.notes,
    )  # fmt: skip


def _name(measure: Measure, extent: Extent) -> str:
    return f"tissue, by the {extent.source}" if measure.column == "tissue_mm2" else measure.name


def _slide(found: FollowUp, index: int) -> SlidePanel:
    visit: Visit = (found.pair.before, found.pair.after)[index]
    prediction = visit.prediction
    return SlidePanel(
        id=prediction.id,
        probability=prediction.probability,
        tiles=len(prediction),
        patient=found.pair.patient,
        label=prediction.label or "",
        fold=prediction.fold,
        layers=found.layers[index],
        interval=prediction.interval,
    )


def _probability(before: SlidePrediction, after: SlidePrediction) -> tuple[str, str, str, str]:
    name = f"{_NAMES.get(after.kind, 'probability')} of {after.target}"
    difference = f"{after.probability - before.probability:+.3f}"
    if before.interval is None or after.interval is None:
        return name, f"{before.probability:.3f}", f"{after.probability:.3f}", difference
    # Of the members that differ most: which of them belong together is not kept.
    least, most = after.interval[0] - before.interval[1], after.interval[1] - before.interval[0]
    return (
        f"{name} (lowest and highest of the model's members)",
        _spanned(before),
        _spanned(after),
        f"{difference} ({least:+.3f} to {most:+.3f})",
    )


def _spanned(prediction: SlidePrediction) -> str:
    assert prediction.interval is not None
    low, high = prediction.interval
    return f"{prediction.probability:.3f} ({low:.3f} – {high:.3f})"


def write_changes(found: Sequence[FollowUp], path: Path) -> None:
    """Write the figures as CSV, a row a pair: each before, after and the difference.

    Raises
    ------
    UnwritableOutput
        Permission denied, read-only or full file system.
    """
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    columns = [*(measure.column for measure in MEASURES), "probability"]
    names = [f"{c}_{when}" for c in columns for when in ("before", "after", "change")]
    head = ["patient", "before", "after", "time_before", "time_after", "days", "tissue_by"]
    table.writerow([*head, "threshold", *names])
    for one in found:
        pair, extents = one.pair, one.extents
        both = (pair.before.prediction, pair.after.prediction)
        values = [[measure.of(extent) for extent in extents] for measure in MEASURES]
        values.append([prediction.probability for prediction in both])
        row = [pair.patient, both[0].id, both[1].id, pair.before.time, pair.after.time]
        row += ["" if pair.days is None else str(pair.days), extents[0].source]
        row += [f"{extents[0].threshold:g}"]
        row += [_written(v) for first, last in values for v in (first, last, last - first)]
        table.writerow(row)
    with writable(path):
        write_text(path, text.getvalue())


def _written(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.6g}"
