"""Stages of brain networks: building them, and telling groups apart by them."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ...engine.schedule import Skipped, run_items
from ...graphs.build import AtlasRecipe, SeriesRecipe
from ...graphs.build_cohort import (
    BuildOptions,
    build_network,
    keep_networks,
    plan_build,
    stored_networks,
)
from ...graphs.confounds import Cleaning
from ...storage.commit import is_done
from ...storage.connectomes import SUFFIX
from .parts import BuildPart, DiagnosePart
from .task import Made, Task

if TYPE_CHECKING:
    from ..diagnosis.study import Request


def build(task: Task) -> Made | Skipped[Made]:
    """``<out>/networks.connectomes.zarr``; a subject that has no network is left out, and named."""
    part = task.plan.connectome.build
    assert part is not None
    plan = plan_build(part.files, build_options(part))
    path = task.plan.out / f"networks{SUFFIX}"
    stored = stored_networks(plan, path, overwrite=task.overwrite)
    if stored:
        return Skipped(Made(path, f"{len(stored)} networks"))
    outcomes = run_items(
        plan.sources,
        partial(build_network, plan=plan, stored=stored),
        name=lambda source: source.subject,
    )
    networks = [outcome.value for outcome in outcomes if outcome.value is not None]
    bad = [outcome for outcome in outcomes if outcome.error is not None]
    if not networks:
        assert bad[0].error is not None
        raise bad[0].error
    keep_networks(path, plan, networks, overwrite=task.overwrite)
    lost = ", ".join(f"{outcome.item} ({outcome.reason})" for outcome in bad)
    return Made(path, f"{len(networks)} networks", f"without {lost}" if lost else "")


def build_options(part: BuildPart) -> BuildOptions:
    """How networks are built."""
    return BuildOptions(
        method=part.method,
        series=SeriesRecipe(
            fisher=part.fisher,
            min_timepoints=part.min_timepoints,
            detrend=part.detrend,
            rows=part.rows,
            key=part.key,
            regions=part.regions,
            centroids=part.centroids,
            band_hz=part.band_hz,
            max_lag=part.max_lag,
            cleaning=Cleaning(
                part.confounds,
                part.confound,
                max_fd_mm=part.max_fd_mm,
                max_dvars=part.max_dvars,
                low_pass_hz=part.low_pass_hz,
                high_pass_hz=part.high_pass_hz,
                tr_s=part.tr_s,
            ),
        ),
        regions=AtlasRecipe(
            atlas=part.atlas,
            names=part.atlas_names,
            coordinates=part.coordinates,
            radius_mm=part.radius_mm,
            resample=part.resample,
            leave_out=part.leave_out,
            drop_lost=part.drop_lost,
        ),
        subject_column=part.subject_column,
        reference=part.reference,
        modality=part.modality or ("sMRI" if part.controls is None else "PET"),
        controls=part.controls,
    )


def diagnose(task: Task) -> Made | Skipped[Made]:
    """``<out>/diagnosis``."""
    from ..diagnosis.evaluate import trials
    from ..diagnosis.study import KIND, keep_study, open_study, run_study_trial

    part = task.plan.connectome.diagnose
    assert part is not None
    request = diagnosis_request(part, task.plan.out / f"networks{SUFFIX}")
    out = task.plan.out / "diagnosis"
    made = Made(out, ", ".join(part.models))
    if is_done(out, kind=KIND, key=request.key, overwrite=task.overwrite):
        return Skipped(made)
    study = open_study(request)
    work = partial(run_study_trial, request=request)
    outcomes = run_items(trials(study.plan), work, debug=True)
    ends = [outcome.value for outcome in outcomes if outcome.value is not None]
    keep_study(out, study, ends, overwrite=task.overwrite)
    return made


def diagnosis_request(part: DiagnosePart, cohort: Path) -> Request:
    """What a diagnosis is asked for, of a cohort of networks."""
    from ..diagnosis.phenotypes import Columns
    from ..diagnosis.study import Request

    return Request(
        cohort,
        part.table,
        Columns(part.label, part.subject, part.group, part.site, part.split_by, part.covariates),
        classes=part.classes,
        positive=part.positive,
        drop_missing=part.drop_missing,
        models=part.models,
        n_folds=part.folds,
        n_inner=part.inner_folds,
        seed=part.seed,
        shuffles=part.shuffles,
        graph_shuffles=part.graph_shuffles,
        backend=part.backend,
        layers=part.layers,
        harmonise=part.harmonise,
    )
