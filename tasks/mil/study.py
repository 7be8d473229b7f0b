"""A study: cross-validated figures beside controls, out-of-fold predictions, a model to keep."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...storage.commit import is_done, writable, write_text
from ...storage.predictions import KIND as PREDICTIONS
from ...storage.predictions import write_predictions
from ..calibration import platt_targets, temperature
from ..cohort import Cohort, heed_telling_names
from ..evaluation import Estimate
from ..splits import write_splits
from .bag_list import read_training_bags, read_views
from .candidates import in_words
from .choose import choose
from .compare import CHOSEN, Figures, compare, n_predictors, name_of
from .crossval import CrossValidation
from .inner import TABLE as INNER
from .inner import InnerKind, inner_table
from .kept_members import KeptMembers
from .names import MODEL_TITLES, Kind, SplitBy
from .predict import slide_prediction
from .store import KIND as MODEL
from .store import MilModel, new_card, new_model_product, write_model
from .study_data import INNER_FOLDS, SplitPlan, StudyData
from .targets import Target, read_target
from .train import TrainOptions
from .usable import Binary, Calibration, calibration

VERSION = 5
"""Goes up with every change that alters what a study finds."""

TITLES: Mapping[str, str] = MODEL_TITLES | {
    CHOSEN: "chosen in inner folds",
    "bag_size": "control: bag size alone",
    "mean_colour": "control: mean colour alone",
    "site": "control: site alone",
    "shuffled": "control: labels shuffled",
}


@dataclass(frozen=True)
class Study:
    """What was found; ``metrics.json`` holds the same.

    Attributes
    ----------
    model
        Name of the model; ``chosen`` where folds may take different ones.
    classes
        Tile scores and probabilities of two classes speak of the second.
    figures
        By name of model or control, then of metric; out-of-fold, with intervals over patients.
    permutation_p
        How often the model's predictions fit labels exchanged between patients as well.
    splits
        SHA-256 of the folds.
    notes
        What a reader should know.
    kind
        What is learnt.
    calibration
        Of two classes: Brier score and calibration error as said, and after what was fitted within
        each fold.
    inner
        Inner folds; 0 for none.
    chosen
        What each fold took of the candidates, and last what the kept model did.
    """

    key: str
    model: str
    classes: tuple[str, ...]
    slides: int
    patients: int
    folds: int
    splits: str
    figures: Figures
    permutation_p: float
    notes: tuple[str, ...]
    kind: Kind = "classes"
    calibration: Calibration = field(default_factory=dict)
    inner: int = 0
    chosen: tuple[str, ...] = ()


def run_study(
    cohort: Cohort,
    bags: Path,
    out: Path,
    *,
    options: TrainOptions | None = None,
    candidates: Sequence[TrainOptions] = (),
    n_folds: int = 5,
    inner_folds: int | None = None,
    split_by: SplitBy = "patient",
    splits: Path | None = None,
    views: Sequence[Path] = (),
    positive: str | None = None,
    target: Target | None = None,
    allow_telling_names: bool = False,
    overwrite: bool = False,
    on_fold: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Study, bool]:
    """Cross-validate, compare with the controls, and train a model on everything.

    Writes ``splits.json``, ``metrics.json``, ``predictions`` (out-of-fold) and ``model`` below
    ``out``. What is there already, from the same bags, labels, folds and options, is kept.

    Parameters
    ----------
    bags
        Folder with a bag for every slide.
    candidates
        Further ways to learn: each fold takes the best of ``options`` and these in its inner
        folds, and the model that is kept the best over all folds.
    inner_folds
        Part the training slides of each fold into so many; by default 3 where there are
        candidates, none where there are none, or those of ``splits``.
    split_by
        Draw folds of patients, or of sites.
    splits
        Folds to use; without it those of an earlier run in ``out``, or else new ones.
    views
        Folders with a view of every bag, which are seen in training alone.
    positive
        Class that scores shall speak of; the last in the alphabet by default.
    target
        What is learnt, where it is not the cohort's labels as classes.
    allow_telling_names
        Go on where names of slides say their labels; the card and the study note it.
    on_fold
        Told how many rounds of training of how many are done.

    Returns
    -------
    study, made
        What was found, and whether it was made now.

    Raises
    ------
    CohortError, LabelError, LeakError
        The cohort, its labels or its folds cannot be used.
    MissingFile, BadProduct
        As :func:`~microtome.tasks.mil.bag_list.read_training_bags`.
    StaleProduct
        ``out`` holds another study and ``overwrite`` is false.
    """
    options = options or TrainOptions()
    ways = (options, *candidates)
    cohort = heed_telling_names(cohort, allowed=allow_telling_names)
    target = target or read_target(cohort, "classes", positive=positive)
    loaded = read_training_bags(cohort, bags)
    if inner_folds is None and splits is None:
        inner_folds = INNER_FOLDS if candidates else 0
    plan = SplitPlan(n_folds, split_by, options.seed, inner_folds, splits)
    kept_splits = out / "splits.json"
    found = plan.splits(cohort, target, None if overwrite else kept_splits)
    data = StudyData(cohort, loaded, target, found, read_views(cohort, views, loaded))
    key = data.key(VERSION, ways)
    done = [
        is_done(out / name, kind=kind, key=key, overwrite=overwrite)
        for name, kind in (("model", MODEL), ("predictions", PREDICTIONS))
    ]
    kept = read_study(out / "metrics.json")
    if all(done) and kept is not None and kept.key == key:
        return kept, False
    write_splits(kept_splits, found)
    # The model is written last, and what is fitted on the way is kept where it is made.
    with new_model_product(
        out / "model", key, data.classes, loaded.needs, overwrite=overwrite
    ) as folder:
        members = KeptMembers(folder / "fitted")
        study, validation, way = _conduct(data, ways, key, members, on_fold)
        with writable(out / "metrics.json"):
            write_text(out / "metrics.json", json.dumps(asdict(study), indent=1))
        _write_predictions(out / "predictions", data, validation, key, overwrite)
        write_model(folder, _final_model(data, study, validation, way, members))
        members.clear()
    return study, True


def read_study(path: Path) -> Study | None:
    """Read ``metrics.json``; None where it is not there or is not ours."""
    try:
        raw: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        for tables in ("figures", "calibration"):
            raw[tables] = {
                name: {metric: Estimate(**values) for metric, values in figures.items()}
                for name, figures in raw[tables].items()
            }
        for name in ("classes", "notes", "chosen"):
            raw[name] = tuple(raw[name])
        return Study(**raw)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _conduct(
    data: StudyData,
    ways: tuple[TrainOptions, ...],
    key: str,
    members: KeptMembers,
    on_fold: Callable[[int, int], None],
) -> tuple[Study, CrossValidation, TrainOptions]:
    recipe, material, n_folds = data.nested(ways), data.material, len(data.folds)
    total, done = n_predictors(recipe, n_folds) + (len(ways) > 1) * len(ways) * n_folds, 0

    def tell() -> None:
        nonlocal done
        done += 1
        on_fold(done, total)

    result = compare(
        material.bags,
        data.target,
        data.cohort.patients,
        data.folds,
        recipe,
        feature_names=data.loaded.needs.feature_names,
        sites=data.sites,
        places_um=material.places_um,
        views=material.views,
        kept=members,
        on_fold=tell,
    )
    final = 0
    if len(ways) > 1:
        final, _ = choose(material, ways, data.folds, members.at("final"), tell)
    study = Study(
        key=key,
        model=name_of(recipe),
        classes=data.classes,
        slides=len(data.cohort),
        patients=len(np.unique(data.cohort.patients)),
        folds=len(data.folds),
        splits=data.splits.hash,
        figures=result.figures,
        permutation_p=result.permutation_p,
        notes=(*data.cohort.notes, *result.notes),
        kind=data.target.kind,
        calibration=calibration(_binary(data, result.found)) if data.is_binary else {},
        inner=max(map(len, data.splits.inner), default=0),
        chosen=tuple(in_words(ways[k], ways[0]) for k in (*result.found.chosen, final))
        if len(ways) > 1
        else (),
    )
    return study, result.found, ways[final]


def _binary(data: StudyData, found: CrossValidation) -> Binary:
    second = found.probabilities[:, 1].astype(np.float64)
    inner = dict(enumerate(found.inner))
    return Binary(data.target, second, found.fold, data.cohort.patients, inner)


def _write_predictions(
    path: Path, data: StudyData, found: CrossValidation, key: str, overwrite: bool
) -> None:
    predictions = [
        slide_prediction(
            bag,
            found.predictions[i],
            data.classes,
            model=key,
            kind=data.target.kind,
            label=data.target.words(i),
            patient=data.cohort.cases[i].patient,
            fold=int(found.fold[i]),
        )
        for i, bag in enumerate(data.loaded.bags)
    ]
    kind: InnerKind = "inner folds" if data.splits.inner else "validation"
    about = {
        "what": "out-of-fold",
        "splits": data.splits.hash,
        "classes": data.classes,
        "inner": kind,
    }
    tables = {INNER: inner_table(found.inner, data.cohort.ids, data.classes)}
    write_predictions(path, predictions, key=key, about=about, tables=tables, overwrite=overwrite)


def _final_model(
    data: StudyData, study: Study, validation: CrossValidation, way: TrainOptions, kept: KeptMembers
) -> MilModel:
    """Fit on every slide, in the way that was cross-validated."""
    rows = np.arange(len(data.cohort))
    members = data.material.fit(rows, way, kept.at("final"))
    ids = "\n".join(sorted(data.cohort.ids))
    training: dict[str, int | str] = {
        "slides": study.slides,
        "patients": study.patients,
        "ids_sha256": hashlib.sha256(ids.encode()).hexdigest(),
        "splits_sha256": study.splits,
    }
    if data.views:
        training["views"] = len(data.views)
    card = new_card(
        way,
        classes=data.classes,
        members=len(members),
        needs=data.loaded.needs,
        training=training,
        metrics={name: asdict(value) for name, value in study.figures[study.model].items()},
        limits=_limits(data.cohort),
        kind=data.target.kind,
        # Out-of-fold is to the final model what an inner fold is to a model of a fold.
        temperature=temperature(platt_targets(data.target.truth), validation.probabilities[:, 1])
        if data.is_binary
        else None,
    )
    return MilModel(card, tuple(member.model for member in members), study.key)


_UNTESTED = (
    "The figures are those of models made in the same way from part of the patients, on the "
    "others; these very weights, made from all of them, were not tested."
)
_SCORES = (
    "Scores of tiles were learnt from labels of slides. They rank tiles; they are no "
    "probabilities, and attention is where the model looked, not what it found."
)


def _limits(cohort: Cohort) -> Sequence[str]:
    sites = {case.site for case in cohort.cases if case.site is not None}
    seen = f"the {len(sites)} sites named in the cohort" if sites else "sites that nobody named"
    elsewhere = f"Trained and tested on slides of {seen}; no word on others."
    notes = (f"Of the cohort: {note}." for note in cohort.notes)
    return (_UNTESTED, elsewhere, *notes, _SCORES, "For research; not a medical device.")
