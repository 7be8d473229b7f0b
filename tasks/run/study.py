"""Stages of bag models: training, prediction, heatmaps."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from ...engine.schedule import Skipped
from ...storage.bags import SUFFIX as BAG
from ...storage.errors import CohortError
from ...storage.predictions import read_prediction
from ...storage.qupath_script import write_load_script
from ..cohort import Cohort, read_cohort
from ..heatmap import HeatmapProducts
from ..heatmap_run import HeatmapItem, draw_once
from .parts import HeatmapPart, MilTrainPart
from .task import Made, Task


def train(task: Task) -> Made | Skipped[Made]:
    """``<out>/mil``: the model, predictions of held-out slides, figures."""
    from ..mil.candidates import read_candidate
    from ..mil.study import run_study
    from ..mil.targets import read_target
    from ..mil.train import TrainOptions
    from ..tile_views import view_folder

    part = task.plan.mil.train or MilTrainPart()
    cohort = _with_bags(task, label_cohort(task.plan.cohort, part))
    target = read_target(cohort, part.task, part.columns, positive=part.positive)
    out, bags = task.plan.out / "mil", task.plan.out / "bags"
    usual = TrainOptions()
    options = TrainOptions(
        model=part.model,
        epochs=part.epochs,
        batch_bags=16 if part.task == "survival" else usual.batch_bags,
        seed=part.seed,
        device=part.device,
    )
    study, is_new = run_study(
        cohort,
        bags,
        out,
        options=options,
        candidates=[read_candidate(text, options) for text in part.candidate],
        n_folds=part.folds,
        inner_folds=part.inner_folds,
        split_by=part.split_by,
        splits=part.splits,
        views=[view_folder(bags, view) for view in range(1, part.views + 1)],
        target=target,
        allow_telling_names=part.allow_telling_names,
        overwrite=task.overwrite,
    )
    words = f"{study.slides} slides of {study.patients} patients, {study.folds} folds"
    made = Made(out, words, _left_out(task))
    return made if is_new else Skipped(made)


def label_cohort(table: Path | None, part: MilTrainPart) -> Cohort:
    """The cohort with what is to be learnt of it; refused where a column is missing or wrong."""
    assert table is not None
    if part.task == "classes":
        return read_cohort(table, needs=("label",), label=part.columns[0])
    return read_cohort(table, needs=(), extra=part.columns)


def _with_bags(task: Task, cohort: Cohort) -> Cohort:
    cases = tuple(case for case in cohort.cases if case.id not in task.lacking)
    if not cases:
        raise CohortError("not one slide has a bag", where=cohort.source)
    return replace(cohort, cases=cases)


def _left_out(task: Task) -> str:
    return f"without {len(task.lacking)} slides that have no bag" if task.lacking else ""


def predict(task: Task) -> Made | Skipped[Made]:
    """``<out>/predicted``: what a model says of the plan's slides."""
    from ..mil.new_slides import are_predicted, predict_file, write_new_predictions
    from ..mil.store import load_model

    part = task.plan.mil.predict
    assert part is not None
    assert task.plan.cohort is not None
    out, cohort = task.plan.out / "predicted", _with_bags(task, read_cohort(task.plan.cohort))
    bags = [task.plan.out / "bags" / f"{id_}{BAG}" for id_ in cohort.ids]
    model = load_model(part.model)
    if part.calibrated:
        model.require_temperature()
    how = {"calibrated": part.calibrated, "overwrite": task.overwrite}
    made = Made(out, f"{len(bags)} slides", _left_out(task))
    if are_predicted(out, model, bags, **how):
        return Skipped(made)
    work = partial(predict_file, model=model, device=part.device, calibrated=part.calibrated)
    write_new_predictions(out, model, bags, [work(bag) for bag in bags], **how)
    return made


def heatmap(task: Task) -> Made | Skipped[Made]:
    """``<out>/heatmaps/<id>.geojson.gz`` and ``<id>.heatmap.png``."""
    slide, part = task.slide, task.plan.heatmap or HeatmapPart()
    assert slide is not None
    mil = task.plan.mil
    source = "predicted" if mil.predict is not None else "mil/predictions"
    item = HeatmapItem(
        slide.id,
        read_prediction(task.plan.out / source, slide.id),
        task.plan.out / "bags" / f"{slide.id}{BAG}",
    )
    made = draw_once(
        item,
        task.plan.out / "heatmaps",
        crop=part.crop,
        overlay=part.overlay,
        store=part.store,
        overwrite=task.overwrite,
    )
    return Skipped(Made(made.value)) if isinstance(made, Skipped) else _drawn(made)


def _drawn(made: HeatmapProducts) -> Made:
    write_load_script(made.geojson.parent)
    return Made(made.geojson, f"{made.objects:,} tiles", "; ".join(made.notes))
