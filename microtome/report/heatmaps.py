"""The report of a run of heatmaps: predictions and pictures to panels and figures."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..storage.commit import read_commit
from ..storage.predictions import KIND as PREDICTIONS
from ..storage.predictions import SlidePrediction
from ..tasks.evaluation import bootstrap
from ..tasks.heatmap import HeatmapProducts
from ..tasks.heatmap_run import HeatmapItem, draw_item
from .model import FigureRow, FigureTable, Rejection, Report, SlidePanel
from .render import versions, write_report

LIMITS = (
    "A tile's score is the model's evidence for the slide's class, no calibrated probability.",
    "No pathologist labelled the tiles that the model learnt from.",
    "Attention says where the model looked, not what it saw there.",
    "For research; not for diagnosis.",
)

PACKAGES = ("microtome", "torch", "openslide-python")
DETAIL_PX = 3000
"""Longer side of the slide in a page of its own."""

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
    page: Path | None = None,
) -> SlidePanel:
    """One slide of a report that will lie in ``folder``."""
    files = {"QuPath GeoJSON": made.geojson}
    if page is not None:
        files["page of its own"] = page
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
        facts={**made.facts, **(facts or {})},
        interval=prediction.interval,
        pictures=made.tiles,
        files={name: _link(path, folder) for name, path in files.items()},
        notes=made.notes,
    )


def _page_of(prediction: SlidePrediction, folder: Path) -> Path | None:
    page = folder / f"{prediction.id}.html"
    return page if page.is_file() else None


def _link(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path, folder)).as_posix()


def heatmap_report(
    made: Sequence[tuple[SlidePrediction, HeatmapProducts]],
    folder: Path,
    *,
    rejected: Sequence[Rejection] = (),
    parameters: Mapping[str, str] | None = None,
    card: Mapping[str, str] | None = None,
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
        slides=tuple(
            slide_panel(p, products, folder, page=_page_of(p, folder)) for p, products in made
        ),
        rejected=tuple(rejected),
        parameters={"encoder": encoders, **(parameters or {})},
        versions=versions(PACKAGES),
        card=card or {},
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


def model_card(source: Path) -> dict[str, str]:
    """What a report says of the model in a folder, or of that which lies beside predictions.

    Nothing where no model of these predictions is there.
    """
    record = read_commit(source)
    if record is None:
        return {}
    place = source.parent / "model" if record.kind == PREDICTIONS else source
    beside = read_commit(place)
    if beside is None or beside.key != record.key:
        return {}
    # Only now: it needs torch.
    from ..tasks.mil.store import KIND, load_model

    if beside.kind != KIND:
        return {}
    card = load_model(place).card
    metrics = {
        name.replace("_", " "): f"{m['value']:.3f} ({m['low']:.3f} – {m['high']:.3f})"
        for name, m in card.metrics.items()
        if {"value", "low", "high"} <= m.keys()
    }
    return {
        "model": f"{card.options['model']}, {card.members} members",
        "classes": ", ".join(card.classes),
        "features": f"{card.needs.n_features} of {card.needs.encoder}, {card.needs.tile_px} px "
        f"tiles at {card.needs.mpp:g} µm/px",
        "trained on": f"{card.training.get('slides', '?')} slides of "
        f"{card.training.get('patients', '?')} patients",
        **metrics,
        "made with": f"microtome {card.microtome}",
        "key": beside.key[:16],
    }


def draw_with_page(
    item: HeatmapItem, out: Path, *, card: Mapping[str, str], pages: bool, **options: Any
) -> tuple[SlidePrediction, HeatmapProducts]:
    """Draw a slide, and write ``<id>.html`` with more pixels where pages are wanted."""
    detail = {"detail_px": DETAIL_PX} if pages else {}
    prediction, made = draw_item(item, out, **detail, **options)
    if made.detail is not None:
        write_report(_page(prediction, made, out, card), out / f"{item.id}.html")
    return prediction, replace(made, detail=None)


def _page(
    prediction: SlidePrediction, made: HeatmapProducts, out: Path, card: Mapping[str, str]
) -> Report:
    held_out = prediction.fold is not None
    return Report(
        title=prediction.id,
        summary=f"{len(prediction):,} tiles, scored for {prediction.target}.",
        made=datetime.now(UTC).strftime("%d %B %Y, %H:%M UTC"),
        target=prediction.target,
        slides=(slide_panel(prediction, replace(made, layers=made.detail or made.layers), out),),
        parameters={"encoder": prediction.encoder, "slide": Path(prediction.source).name},
        versions=versions(PACKAGES),
        card=card,
        limits=LIMITS if held_out else (*LIMITS, UNTESTED),
    )
