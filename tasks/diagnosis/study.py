"""A diagnosis from files to a product: what is asked for, what is read, what is kept."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ...graphs.harmonise import Unseen
from ...storage.commit import new_product, product_key, require_commit
from ...storage.connectomes import KIND as CONNECTOMES
from ...storage.connectomes import SUFFIX, ConnectomeCohort, read_connectomes
from ...storage.errors import BadConnectome, CohortError
from ...storage.files import write_text
from ..evaluation import Fold, grouped_folds
from .evaluate import (
    OutOfFold,
    Plan,
    Result,
    Trial,
    folds_by,
    run_trial,
    summarise,
)
from .examples import Examples, examples_of
from .families import QUICK, Known, families
from .kept_models import as_csv, keep_family
from .phenotypes import Columns, Phenotypes, file_key, read_phenotypes

KIND = "diagnosis"
RESULTS = "results.json"
METHOD = 2
"""Counts up when the same request gives other results."""


@dataclass(frozen=True)
class Request:
    """What to diagnose from what, and how.

    Attributes
    ----------
    cohort
        A ``NAME.connectomes.zarr``.
    table, columns, classes, positive, drop_missing
        See :func:`~microtome.tasks.diagnosis.phenotypes.read_phenotypes`.
    models
        Names, see :func:`~microtome.tasks.diagnosis.families.families`.
    n_folds, n_inner, seed
        See :class:`~microtome.tasks.diagnosis.evaluate.Plan`.
    shuffles, graph_shuffles
        Evaluations on shuffled labels: of models that fit in a blink, and of graph networks.
    backend
        How graph networks pass messages; no part of what comes out.
    layers
        Further cohorts of the same people over the same regions.
    harmonise
        Take sites out of the connectomes within each fold, and what becomes of a site that
        training does not know; None leaves them in.
    """

    cohort: Path
    table: Path
    columns: Columns
    classes: tuple[str, ...] | None = None
    positive: str | None = None
    drop_missing: bool = False
    models: tuple[str, ...] = ("gcn", "linear")
    n_folds: int = 5
    n_inner: int = 3
    seed: int = 0
    shuffles: int = 20
    graph_shuffles: int = 2
    backend: Literal["auto", "dgl", "dense"] = "auto"
    layers: tuple[Path, ...] = ()
    harmonise: Unseen | None = None

    @property
    def key(self) -> str:
        """Key of the product: all inputs by content, and every parameter but the backend."""
        other = ("cohort", "layers", "table", "backend")
        parts = {k: v for k, v in asdict(self).items() if k not in other}
        return product_key(
            kind=KIND,
            method=METHOD,
            connectomes=[require_commit(c, CONNECTOMES).key for c in (self.cohort, *self.layers)],
            phenotypes=file_key(self.table),
            **parts,
        )


@dataclass(frozen=True, eq=False)
class Study:
    """A request with its data read and its folds made.

    Attributes
    ----------
    cohort
        The first layer's.
    layers
        How many of the examples have each layer, by name.
    folds
        Where the table says how to split; None for random folds.
    """

    request: Request
    cohort: ConnectomeCohort
    phenotypes: Phenotypes
    examples: Examples
    plan: Plan
    folds: tuple[Fold, ...] | None
    layers: Mapping[str, int]


def open_study(request: Request) -> Study:
    """Read what a request names, and refuse here what cannot be evaluated later.

    Raises
    ------
    MissingFile, BadProduct, BadConnectome
        The cohort cannot be used.
    CohortError, LabelError, LeakError
        The table cannot be used, has too few people, or splits a person.
    MissingDependency
        DGL was asked for and does not import.
    """
    cohort, *others = (read_connectomes(path) for path in (request.cohort, *request.layers))
    phenotypes = read_phenotypes(
        request.table,
        list(dict.fromkeys(name for one in (cohort, *others) for name in one.subjects)),
        request.columns,
        classes=request.classes,
        positive=request.positive,
        drop_missing=request.drop_missing,
    )
    examples = examples_of(cohort, phenotypes, *others)
    known = Known(_columns_known(examples), cohort.measure, 1 + len(others))
    plan = Plan(
        families(request.models, backend=request.backend, known=known, harmonise=request.harmonise),
        request.n_folds,
        request.n_inner,
        {m: request.shuffles if m in QUICK else request.graph_shuffles for m in request.models},
        request.seed,
    )
    names = _layer_names(request, (cohort, *others))
    counts = examples.present.sum(0).tolist()
    layers = dict(zip(names, counts, strict=True))
    if phenotypes.splits is not None:
        folds = tuple(folds_by(phenotypes.splits, examples.groups))
        if request.harmonise == "refuse":
            _check_sites(examples, folds)
        return Study(request, cohort, phenotypes, examples, plan, folds, layers)
    grouped_folds(examples.labels, examples.groups, plan.n_folds)
    return Study(request, cohort, phenotypes, examples, plan, None, layers)


def _columns_known(examples: Examples) -> tuple[str, ...]:
    named = {"site": examples.sites, "covariates": examples.covariates}
    return tuple(name for name, values in named.items() if values is not None)


def _layer_names(request: Request, cohorts: Sequence[ConnectomeCohort]) -> list[str]:
    """Modalities, or names of the files where two are of one modality."""
    modalities = [one.modality for one in cohorts]
    if len(set(modalities)) == len(cohorts):
        return modalities
    names = [path.name.removesuffix(SUFFIX) for path in (request.cohort, *request.layers)]
    if len(set(names)) < len(names):
        raise BadConnectome(
            "layers cannot be told apart by modality or name",
            where=request.layers[-1],
            remedy="Give each cohort of connectomes a file name of its own",
        )
    return names


def _check_sites(examples: Examples, folds: Sequence[Fold]) -> None:
    assert examples.sites is not None
    for fold in folds:
        unseen = np.setdiff1d(examples.sites[fold.test], examples.sites[fold.train])
        if len(unseen):
            raise CohortError(
                f"site {unseen[0]} is not among the training rows of a fold",
                where="--harmonise",
                remedy="There is nothing to know of such a site: leave its values as they are with "
                "--harmonise leave, or split by another column",
            )


def run_study_trial(trial: Trial, request: Request) -> OutOfFold:
    """One trial of a request, data read anew: small enough to send to another process."""
    study = open_study(request)
    return run_trial(trial, study.examples, study.plan, folds=study.folds)


def keep_study(
    out: Path, study: Study, ends: Sequence[OutOfFold], *, overwrite: bool = False
) -> dict[str, Any]:
    """Write the product of a study from its finished trials.

    ``results.json`` and ``results.csv``: figures; ``predictions.csv``: the held-out score of every
    subject; ``models/NAME``: each family's model fitted on all subjects with the hyper-parameters
    that a cross-validation of all chooses, for use on others; ``edges-NAME.csv`` and ``.png``,
    ``regions-NAME.csv``: what that model rests on, with ``-LAYER`` where there are several.

    Returns
    -------
    dict
        What ``results.json`` holds.

    Raises
    ------
    StaleProduct
        Another diagnosis is there and ``overwrite`` is false.
    """
    results = summarise(ends, study.examples, study.plan)
    content = _content(study, results)
    about = {"models": list(study.request.models), "cohort": str(study.request.cohort)}
    key = study.request.key
    with new_product(out, kind=KIND, key=key, about=about, overwrite=overwrite) as folder:
        write_text(folder / "results.csv", as_csv(figure_rows(content)))
        write_text(folder / "predictions.csv", as_csv(_predictions(study, results)))
        for result, model in zip(results, content["models"], strict=True):
            model.update(keep_family(folder, study, result.scores, _card(study, content, model)))
        write_text(folder / RESULTS, json.dumps(content, indent=1, allow_nan=False))
    return content


def read_results(out: Path) -> dict[str, Any]:
    """What ``results.json`` of a finished diagnosis holds."""
    require_commit(out, KIND)
    content: dict[str, Any] = json.loads((out / RESULTS).read_text(encoding="utf-8"))
    return content


def figure_rows(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Figures of a study as flat rows, one a model; absent ones are None."""
    rows = []
    for model in content["models"]:
        row: dict[str, Any] = {"model": model["model"]}
        for figure in ("auc", "balanced_accuracy"):
            row[figure] = model[figure]["value"]
            row[f"{figure}_low"] = model[figure]["low"]
            row[f"{figure}_high"] = model[figure]["high"]
        shuffled = model["shuffled_auc"]
        row["shuffles"] = len(shuffled)
        row["shuffled_auc_mean"] = float(np.mean(shuffled)) if shuffled else None
        row["shuffled_auc_max"] = max(shuffled, default=None)
        row["p_value"] = model["p_value"]
        rows.append(row)
    return rows


def _content(study: Study, results: Sequence[Result]) -> dict[str, Any]:
    examples, phenotypes, request = study.examples, study.phenotypes, study.request
    negative, positive = phenotypes.classes
    counts = Counter(examples.labels.tolist())
    return {
        "rows": len(examples),
        "people": len(np.unique(examples.groups)),
        "positive": {"class": positive, "rows": counts[1]},
        "negative": {"class": negative, "rows": counts[0]},
        "sites": None if examples.sites is None else dict(Counter(examples.sites.tolist())),
        "excluded": dict(phenotypes.excluded),
        "layers": dict(study.layers),
        "harmonise": request.harmonise,
        "regions": len(study.cohort.regions),
        "measure": study.cohort.measure,
        "modality": study.cohort.modality,
        "split": f"each {request.columns.split} held out"
        if study.folds is not None
        else f"{request.n_folds} folds by person",
        "n_inner": request.n_inner,
        "seed": request.seed,
        "models": [
            {
                "model": result.family,
                "auc": asdict(result.auc),
                "balanced_accuracy": asdict(result.balanced_accuracy),
                "fold_auc": list(result.fold_auc),
                "shuffled_auc": list(result.shuffled_auc),
                "p_value": result.p_value,
                "chosen": [dict(chosen) for chosen in result.scores.chosen],
            }
            for result in results
        ],
    }


def _predictions(study: Study, results: Sequence[Result]) -> list[dict[str, Any]]:
    examples = study.examples
    rows = []
    for i, name in enumerate(examples.names.tolist()):
        row: dict[str, Any] = {
            "subject": name,
            "group": str(examples.groups[i]),
            "site": "" if examples.sites is None else str(examples.sites[i]),
            "label": study.phenotypes.classes[int(examples.labels[i])],
        }
        for result in results:
            row[f"{result.family}_fold"] = int(result.scores.fold[i])
            row[f"{result.family}_probability"] = float(result.scores.scores[i])
        rows.append(row)
    return rows


def _card(study: Study, content: Mapping[str, Any], model: Mapping[str, Any]) -> dict[str, Any]:
    cohort = study.cohort
    return {
        "family": model["model"],
        "regions": list(cohort.regions),
        "measure": cohort.measure,
        "modality": cohort.modality,
        "layers": list(study.layers),
        "classes": list(study.phenotypes.classes),
        "trained_on": {k: content[k] for k in ("rows", "people", "sites", "positive")},
        "held_out": {k: model[k] for k in ("auc", "balanced_accuracy", "p_value")},
    }
