"""A study: cross-validated figures beside controls, out-of-fold predictions, a model to keep."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...graphs.tissue import centres_um
from ...storage.commit import is_done, product_key, writable, write_text
from ...storage.errors import StaleProduct
from ...storage.predictions import KIND as PREDICTIONS
from ...storage.predictions import write_predictions
from ..calibration import platt_targets, temperature
from ..cohort import Cohort, heed_telling_names
from ..evaluation import Estimate, Fold
from ..splits import Splits, draw_splits, read_splits, write_splits
from .bag_list import TrainingBags, read_training_bags
from .compare import Figures, compare, n_cross_validations
from .crossval import CrossValidation
from .names import MODEL_TITLES, Kind, SplitBy
from .predict import slide_prediction
from .store import KIND as MODEL
from .store import MilModel, new_card, save_model
from .targets import Target, read_target
from .train import TrainOptions, fit

VERSION = 4
"""Goes up with every change that alters what a study finds."""

TITLES: Mapping[str, str] = MODEL_TITLES | {
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
        Name of the model that is kept.
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


@dataclass(frozen=True)
class _Data:
    cohort: Cohort
    loaded: TrainingBags
    target: Target
    splits: Splits

    @property
    def classes(self) -> tuple[str, ...]:
        return self.target.names

    @property
    def sites(self) -> NDArray[np.str_]:
        """Site of every slide; all the same where one is not named."""
        sites = [case.site or "" for case in self.cohort.cases]
        return np.array(sites if all(sites) else [""] * len(sites))

    @property
    def features(self) -> list[NDArray[np.float32]]:
        return [bag.features for bag in self.loaded.bags]

    @property
    def places_um(self) -> list[NDArray[np.float64]]:
        return [centres_um(bag) for bag in self.loaded.bags]

    @property
    def folds(self) -> list[Fold]:
        return self.splits.rows(self.cohort)


def run_study(
    cohort: Cohort,
    bags: Path,
    out: Path,
    *,
    options: TrainOptions | None = None,
    n_folds: int = 5,
    split_by: SplitBy = "patient",
    splits: Path | None = None,
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
    split_by
        Draw folds of patients, or of sites.
    splits
        Folds to use; without it those of an earlier run in ``out``, or else new ones.
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
    cohort = heed_telling_names(cohort, allowed=allow_telling_names)
    target = target or read_target(cohort, "classes", positive=positive)
    loaded = read_training_bags(cohort, bags)
    if splits is not None:
        folds = read_splits(splits, cohort)
    elif (out / "splits.json").is_file() and not overwrite:
        folds = _kept_splits(out / "splits.json", cohort, n_folds, options.seed, split_by)
    else:
        folds = draw_splits(cohort, n_folds, seed=options.seed, target=target, by=split_by)
    data = _Data(cohort, loaded, target, folds)
    key = _key(data, options)
    done = [
        is_done(out / name, kind=kind, key=key, overwrite=overwrite)
        for name, kind in (("model", MODEL), ("predictions", PREDICTIONS))
    ]
    kept = read_study(out / "metrics.json")
    if all(done) and kept is not None and kept.key == key:
        return kept, False
    write_splits(out / "splits.json", folds)
    study, found = _conduct(data, options, key, on_fold)
    with writable(out / "metrics.json"):
        write_text(out / "metrics.json", json.dumps(asdict(study), indent=1))
    _write_predictions(out / "predictions", data, found, key, overwrite)
    save_model(out / "model", _final_model(data, options, study, found), overwrite=overwrite)
    return study, True


def read_study(path: Path) -> Study | None:
    """Read ``metrics.json``; None where it is not there or is not ours."""
    try:
        raw: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        raw["figures"] = {
            name: {metric: Estimate(**values) for metric, values in figures.items()}
            for name, figures in raw["figures"].items()
        }
        return Study(**{**raw, "classes": tuple(raw["classes"]), "notes": tuple(raw["notes"])})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _kept_splits(path: Path, cohort: Cohort, n_folds: int, seed: int, by: SplitBy) -> Splits:
    splits = read_splits(path, cohort)
    asked = len(splits.folds) if by == "each-site" else n_folds
    if (splits.seed, len(splits.folds), splits.by) != (seed, asked, by):
        raise StaleProduct(
            f"holds {len(splits.folds)} folds by {splits.by}, drawn with seed {splits.seed}",
            where=path,
            remedy="Pass it with --splits to use it, choose another --out, or --overwrite it",
        )
    return splits


def _key(data: _Data, options: TrainOptions) -> str:
    rows = [
        (case.id, case.patient, truth, bag)
        for case, truth, bag in zip(
            data.cohort.cases, _as_text(data.target), data.loaded.keys, strict=True
        )
    ]
    return product_key(
        kind="mil-study",
        version=VERSION,
        rows=rows,
        kind_of_target=data.target.kind,
        classes=data.classes,
        splits=data.splits.hash,
        options=options.record(),
    )


def _as_text(target: Target) -> list[str]:
    """Truth of every slide, exactly."""
    return [repr(truth) for truth in target.truth.tolist()]


def _conduct(
    data: _Data, options: TrainOptions, key: str, on_fold: Callable[[int, int], None]
) -> tuple[Study, CrossValidation]:
    total, done = n_cross_validations(options) * len(data.folds), 0

    def tell() -> None:
        nonlocal done
        done += 1
        on_fold(done, total)

    result = compare(
        data.features,
        data.target,
        data.cohort.patients,
        data.folds,
        options,
        feature_names=data.loaded.needs.feature_names,
        sites=data.sites,
        places_um=data.places_um,
        on_fold=tell,
    )
    study = Study(
        key=key,
        model=options.model,
        classes=data.classes,
        slides=len(data.cohort),
        patients=len(np.unique(data.cohort.patients)),
        folds=len(data.folds),
        splits=data.splits.hash,
        figures=result.figures,
        permutation_p=result.permutation_p,
        notes=(*data.cohort.notes, *result.notes),
        kind=data.target.kind,
    )
    return study, result.found


def _write_predictions(
    path: Path, data: _Data, found: CrossValidation, key: str, overwrite: bool
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
    about = {"what": "out-of-fold", "splits": data.splits.hash, "classes": data.classes}
    write_predictions(path, predictions, key=key, about=about, overwrite=overwrite)


def _final_model(
    data: _Data, options: TrainOptions, study: Study, found: CrossValidation
) -> MilModel:
    """Fit on every slide, in the way that was cross-validated."""
    members = fit(
        data.features, data.target, data.cohort.patients, options, places_um=data.places_um
    )
    ids = "\n".join(sorted(data.cohort.ids))
    binary = data.target.kind == "classes" and len(data.classes) == 2
    card = new_card(
        options,
        classes=data.classes,
        members=len(members),
        needs=data.loaded.needs,
        training={
            "slides": study.slides,
            "patients": study.patients,
            "ids_sha256": hashlib.sha256(ids.encode()).hexdigest(),
            "splits_sha256": study.splits,
        },
        metrics={name: asdict(value) for name, value in study.figures[study.model].items()},
        limits=_limits(data.cohort),
        kind=data.target.kind,
        # Out-of-fold is to the final model what an inner fold is to a model of a fold.
        temperature=temperature(platt_targets(data.target.truth), found.probabilities[:, 1])
        if binary
        else None,
    )
    return MilModel(card, tuple(members), study.key)


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
