"""How good what was said is, for every kind of target, each figure with its interval."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..concordance import pairs
from ..evaluation import (
    Estimate,
    Metric,
    auc,
    average_precision,
    balanced_accuracy,
    brier_score,
    calibration_error,
    cluster_bootstrap,
    f1_score,
)
from .names import Kind
from .targets import Target

OfRows = Callable[[NDArray[np.int64]], float]

METRICS: Mapping[str, Metric] = {
    "auc": auc,
    "auprc": average_precision,
    "balanced_accuracy": balanced_accuracy,
    "f1": f1_score,
    "brier_score": brier_score,
    "calibration_error": calibration_error,
}
HEADLINE: Mapping[Kind, str] = {
    "classes": "auc", "labels": "auc", "regression": "r2", "survival": "c_index",
}  # fmt: skip
"""The figure that controls are judged by, too."""
CHANCE: Mapping[Kind, float] = {
    "classes": 0.5, "labels": 0.5, "regression": 0.0, "survival": 0.5,
}  # fmt: skip
TITLES: Mapping[str, str] = {
    "auc": "AUC", "auprc": "AUPRC", "balanced_accuracy": "balanced accuracy", "f1": "F1",
    "brier_score": "Brier score", "calibration_error": "calibration error",
    "mae": "mean absolute error", "r2": "R²", "c_index": "c-index",
}  # fmt: skip


def measured(
    target: Target,
    said: NDArray[Any],
    patients: NDArray[Any],
    fold: NDArray[np.int64] | None = None,
    *,
    brief: bool = False,
) -> dict[str, Estimate]:
    """Figures of what was said, with bootstrap intervals over patients.

    Parameters
    ----------
    said
        float [n, c].
    fold
        int [n]: which model said it. Log hazards of different models are not compared.
    brief
        The headline alone.

    Raises
    ------
    LabelError
        Too few patients to have an interval.
    """
    found = statistics(target, said, fold)
    chosen = {HEADLINE[target.kind]: found[HEADLINE[target.kind]]} if brief else found
    return {
        name: replace(cluster_bootstrap(figure, patients), n=_rows(target, name))
        for name, figure in chosen.items()
    }


def _rows(target: Target, name: str) -> int:
    """Rows that a figure speaks of: of a label those where it is known."""
    of_label = dict(zip(target.names, np.atleast_2d(target.truth.T), strict=False))
    known = of_label.get(name.partition(" ")[2])
    return len(target) if known is None else int((~np.isnan(known)).sum())


def headline(target: Target, said: NDArray[Any], fold: NDArray[np.int64] | None = None) -> float:
    """The headline figure without its interval."""
    return statistics(target, said, fold)[HEADLINE[target.kind]](np.arange(len(target)))


def statistics(
    target: Target, said: NDArray[Any], fold: NDArray[np.int64] | None = None
) -> dict[str, OfRows]:
    """By name, what takes row numbers and gives a figure; nan where these rows say nothing."""
    values = np.asarray(said, np.float64)
    if target.kind == "classes":
        return _of_classes(target, values)
    if target.kind == "labels":
        return _of_labels(target, values)
    if target.kind == "regression":
        return _of_values(target.truth, values[:, 0])
    compared = pairs(target.truth[:, 0], target.truth[:, 1], values[:, 0], fold)
    return {"c_index": compared.index}


def _of_classes(target: Target, said: NDArray[np.float64]) -> dict[str, OfRows]:
    scores = said[:, 1] if said.shape[1] == 2 else said
    n_classes = len(np.unique(target.truth))

    def of(metric: Metric) -> OfRows:
        def figure(rows: NDArray[np.int64]) -> float:
            truth = target.truth[rows]
            return metric(truth, scores[rows]) if len(np.unique(truth)) == n_classes else np.nan

        return figure

    return {name: of(metric) for name, metric in METRICS.items()}


def _of_labels(target: Target, said: NDArray[np.float64]) -> dict[str, OfRows]:
    """Of each label on the rows where it is known, and their mean (macro)."""
    table = {"auc": auc, "auprc": average_precision, "brier_score": brier_score}

    def one(metric: Metric, k: int) -> OfRows:
        def figure(rows: NDArray[np.int64]) -> float:
            rows = rows[~np.isnan(target.truth[rows, k])]
            truth = target.truth[rows, k].astype(np.int64)
            return metric(truth, said[rows, k]) if len(np.unique(truth)) == 2 else np.nan

        return figure

    def macro(figures: list[OfRows]) -> OfRows:
        return lambda rows: float(np.mean([figure(rows) for figure in figures]))

    each = {name: [one(m, k) for k in range(len(target.names))] for name, m in table.items()}
    found = {name: macro(figures) for name, figures in each.items()}
    for name in ("auc", "auprc"):
        labelled = zip(target.names, each[name], strict=True)
        found |= {f"{name} {label}": figure for label, figure in labelled}
    return found


def _of_values(truth: NDArray[Any], said: NDArray[np.float64]) -> dict[str, OfRows]:
    def mae(rows: NDArray[np.int64]) -> float:
        return float(np.abs(said[rows] - truth[rows]).mean())

    def r2(rows: NDArray[np.int64]) -> float:
        total = float(((truth[rows] - truth[rows].mean()) ** 2).sum())
        return 1 - float(((said[rows] - truth[rows]) ** 2).sum()) / total if total else np.nan

    return {"mae": mae, "r2": r2}
