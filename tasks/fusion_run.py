"""Late fusion from files to a product: predictions of slides and of scans in, one table out."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..storage.commit import (
    is_done,
    new_product,
    product_key,
    read_commit,
    require_commit,
    write_text,
)
from ..storage.errors import BadProduct, InputError, LabelError
from ..storage.predictions import KIND as PREDICTIONS
from .diagnosis.study import KIND as DIAGNOSIS
from .diagnosis.study import read_results
from .evaluation import Estimate, auc, bootstrap, permutation_p
from .fusion import Fused, Modality, Patients, fit_stacks, fuse, join, one_a_patient, sigmoid
from .mil.versus import read_said
from .paired import paired_difference

KIND = "fusion"
METHOD = 1
"""Goes up when the same predictions would be fused in another way."""
RESULTS, STACKS, TABLE = "results.json", "stacks.json", "predictions.csv"


@dataclass(frozen=True)
class Source:
    """Predictions to fuse.

    Attributes
    ----------
    name
        Of the modality.
    path
        ``OUT/predictions`` of ``mil train``, or what ``connectome diagnose`` wrote.
    model
        Which of a diagnosis' models; may be None where there is one.
    """

    name: str
    path: Path
    model: str | None = None

    @classmethod
    def of(cls, text: str) -> Source:
        """Read ``NAME=PATH`` or ``NAME=PATH:MODEL``; raises InputError for anything else."""
        name, equals, place = text.partition("=")
        if not (name and equals and place):
            raise InputError(
                f"{text!r} is no NAME=PATH", remedy="Write for example slides=tumour/predictions"
            )
        path, _, model = place.partition(":")
        return cls(name, Path(path), model or None)


@dataclass(frozen=True)
class Fusion:
    """What was found; ``results.json`` holds the same.

    Attributes
    ----------
    auc
        Of ``fused``, over all patients, and of each modality over those who have it.
    gains
        By modality: AUC of ``fused`` minus the modality's, over the patients who have it.
    p
        Of no gain, by modality, by paired bootstrap over patients.
    permutation_p
        How often the fused probabilities fit labels exchanged between patients as well.
    having
        How many patients have each set of modalities.
    averaged
        Patients for whom log odds were averaged, for want of others with the same modalities.
    """

    classes: tuple[str, str]
    patients: int
    auc: dict[str, Estimate]
    gains: dict[str, Estimate]
    p: dict[str, float]
    permutation_p: float
    having: dict[str, int]
    averaged: int


def run_fusion(
    sources: Sequence[Source], out: Path, *, overwrite: bool = False
) -> tuple[Fusion, bool]:
    """Fuse predictions and keep what came of it.

    Writes ``predictions.csv`` (each patient's fused probability, from stacks that were fitted on
    other folds), ``results.json`` and ``stacks.json`` (intercept and weights fitted on everyone,
    for new patients).

    Returns
    -------
    fusion, made
        What was found, and whether it was made now.

    Raises
    ------
    MissingFile, BadProduct
        Predictions are not there, or cannot be used.
    CohortError, LabelError, LeakError
        They do not go together: see :func:`~microtome.tasks.fusion.join`.
    StaleProduct
        Another fusion is in ``out`` and ``overwrite`` is false.
    """
    key = product_key(
        kind=KIND,
        method=METHOD,
        sources=[(s.name, s.model, _commit_key(s.path)) for s in sources],
    )
    if is_done(out, kind=KIND, key=key, overwrite=overwrite):
        return _read(out / RESULTS), False
    patients = join([read_modality(source) for source in sources])
    fused = fuse(patients)
    found = weigh(patients, fused)
    everyone = np.ones(len(patients.names), bool)
    stacks = [
        {"modalities": [patients.modalities[i] for i in chosen], **asdict(stack)}
        for chosen, stack in fit_stacks(patients, everyone).items()
    ]
    about = {"modalities": patients.modalities, "classes": patients.classes}
    with new_product(out, kind=KIND, key=key, about=about, overwrite=overwrite) as folder:
        write_text(folder / RESULTS, json.dumps(asdict(found), indent=1))
        write_text(folder / STACKS, json.dumps(stacks, indent=1))
        write_text(folder / TABLE, _table(patients, fused))
    return found, True


def read_modality(source: Source) -> Modality:
    """Read what a model said of patients whom it was not fitted on.

    Raises
    ------
    MissingFile, BadProduct
        Nothing is there, or neither predictions of two classes nor a diagnosis.
    LabelError, LeakError
        A patient has two labels, or is in two folds.
    """
    if _kind(source.path) == DIAGNOSIS:
        return _diagnosis(source)
    said = read_said(source.path)
    if said.target.kind != "classes" or len(said.target.names) != 2:
        raise BadProduct(
            "these are not predictions of two classes",
            where=source.path,
            remedy="Only those can be fused",
        )
    first, second = said.target.names
    return one_a_patient(
        source.name,
        (first, second),
        said.patients.tolist(),
        labels=said.target.truth,
        probabilities=said.outputs[:, 1],
        fold=said.fold,
    )


def _diagnosis(source: Source) -> Modality:
    content = read_results(source.path)
    models = [model["model"] for model in content["models"]]
    model = source.model or (models[0] if len(models) == 1 else None)
    if model not in models:
        raise InputError(
            f"which model? There are {', '.join(models)}",
            where=source.path,
            remedy=f"Write {source.name}={source.path}:{models[0]}",
        )
    with (source.path / "predictions.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    classes = content["negative"]["class"], content["positive"]["class"]
    return one_a_patient(
        source.name,
        classes,
        [row["group"] for row in rows],
        labels=np.array([classes.index(row["label"]) for row in rows], np.int64),
        probabilities=np.array([float(row[f"{model}_probability"]) for row in rows]),
        fold=np.array([int(row[f"{model}_fold"]) for row in rows], np.int64),
    )


def weigh(patients: Patients, fused: Fused) -> Fusion:
    """Figures of the fused probabilities beside those of each modality."""
    y, names = patients.labels, np.array(patients.names)
    if len(np.unique(y)) < 2:
        raise LabelError("only one class is present", remedy="Fusion needs both classes")
    areas = {"fused": bootstrap(y, fused.probabilities, names)}
    gains, p = {}, {}
    for column, name in enumerate(patients.modalities):
        has = patients.having([column])
        alone = patients.log_odds[has, column]
        areas[name] = bootstrap(y[has], alone, names[has])
        gains[name], p[name] = paired_difference(
            _area(y[has], fused.probabilities[has]), _area(y[has], alone), names[has]
        )
    sets = patients.sets()
    there = np.isfinite(patients.log_odds)
    having = {
        " + ".join(patients.modalities[i] for i in chosen): int(
            (there == np.isin(np.arange(there.shape[1]), chosen)).all(axis=1).sum()
        )
        for chosen in sets
    }
    return Fusion(
        patients.classes,
        len(names),
        areas,
        gains,
        p,
        permutation_p(y, fused.probabilities, names),
        having,
        int(fused.averaged.sum()),
    )


def _area(labels: NDArray[np.int64], scores: NDArray[np.float64]) -> Any:
    def area(rows: NDArray[np.int64]) -> float:
        y = labels[rows]
        return auc(y, scores[rows]) if 0 < y.sum() < len(y) else np.nan

    return area


def _table(patients: Patients, fused: Fused) -> str:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["patient", "fold", "label", "probability", *patients.modalities])
    for i, name in enumerate(patients.names):
        alone = sigmoid(patients.log_odds[i])
        cells = ["" if np.isnan(value) else f"{value:.6g}" for value in alone]
        label = patients.classes[int(patients.labels[i])]
        table.writerow([name, patients.fold[i], label, f"{fused.probabilities[i]:.6g}", *cells])
    return text.getvalue()


def _read(path: Path) -> Fusion:
    raw: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    for part in ("auc", "gains"):
        raw[part] = {name: Estimate(**values) for name, values in raw[part].items()}
    return Fusion(**{**raw, "classes": tuple(raw["classes"])})


def _kind(path: Path) -> str:
    commit = read_commit(path)
    return PREDICTIONS if commit is None else commit.kind


def _commit_key(path: Path) -> str:
    return require_commit(path, _kind(path)).key
