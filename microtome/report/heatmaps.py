"""The report of a run of heatmaps: predictions and pictures to panels and figures."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from ..storage.predictions import SlidePrediction
from ..tasks.evaluation import bootstrap
from ..tasks.heatmap import HeatmapProducts
from .model import FigureRow, FigureTable, Rejection, Report, SlidePanel
from .render import versions

LIMITS = (
    "A tile's score is the model's evidence for the slide's class, no calibrated probability.",
    "No pathologist labelled the tiles that the model learnt from.",
    "Attention says where the model looked, not what it saw there.",
    "For research; not for diagnosis.",
)

UNTESTED = (
    "Slides that were not held out may be slides that the model was trained on, and it knows those "
    "too well."
)


def slide_panel(
    prediction: SlidePrediction,
    made: HeatmapProducts,
    folder: Path,
    *,
    site: str = "",
    facts: Mapping[str, str] | None = None,
) -> SlidePanel:
    """One slide of a report that will lie in ``folder``."""
    files = {"QuPath GeoJSON": made.geojson}
    if made.overlay is not None:
        files["overlay PNG"] = made.overlay
    return SlidePanel(
        id=prediction.id,
        probability=prediction.probability,
        tiles=len(prediction),
        patient=prediction.patient or "",
        site=site,
        label=prediction.label or "",
        fold=prediction.fold,
        layers=made.layers,
        facts=facts or {},
        files={name: _link(path, folder) for name, path in files.items()},
        notes=made.notes,
    )


def _link(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path, folder)).as_posix()


def heatmap_report(
    made: Sequence[tuple[SlidePrediction, HeatmapProducts]],
    folder: Path,
    *,
    rejected: Sequence[Rejection] = (),
    parameters: Mapping[str, str] | None = None,
) -> Report:
    """A report of heatmaps; with an AUC where every slide was held out and is labelled."""
    predictions = [prediction for prediction, _ in made]
    targets = sorted({prediction.target for prediction in predictions})
    encoders = ", ".join(sorted({prediction.encoder for prediction in predictions}))
    figures = held_out_auc(predictions)
    return Report(
        title="Heatmaps",
        summary=f"Scores for {', '.join(targets) or 'nothing'} of {len(made)} slides.",
        made=datetime.now(UTC).strftime("%d %B %Y, %H:%M UTC"),
        figures=() if figures is None else (figures,),
        target=targets[0] if len(targets) == 1 else "",
        slides=tuple(slide_panel(prediction, products, folder) for prediction, products in made),
        rejected=tuple(rejected),
        parameters={"encoder": encoders, **(parameters or {})},
        versions=versions(("microtome", "torch", "openslide-python")),
        limits=LIMITS if all(p.fold is not None for p in predictions) else (*LIMITS, UNTESTED),
    )


def held_out_auc(predictions: Sequence[SlidePrediction], name: str = "model") -> FigureTable | None:
    """AUC over slides with its interval over patients.

    None where it would be meaningless: a slide without a label or that was not held out, targets
    that differ, fewer than two classes.
    """
    targets = {p.target for p in predictions}
    labels = [int(p.label == p.target) for p in predictions]
    honest = all(p.label is not None and p.fold is not None for p in predictions)
    honest &= all(p.kind == "classes" for p in predictions)
    if not honest or len(targets) != 1 or len(set(labels)) != 2:
        return None
    patients = [p.patient or p.id for p in predictions]
    found = bootstrap(labels, [p.probability for p in predictions], patients)
    row = FigureRow(name, found.value, found.low, found.high, found.n)
    return FigureTable(
        title=f"Slides: {targets.pop()} or not",
        rows=(row,),
        level=found.level,
        caption="Each slide was predicted by a model that never saw its patient; percentile "
        "bootstrap over patients.",
    )
