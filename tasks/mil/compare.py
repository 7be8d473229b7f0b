"""A model beside its baseline and its controls, under the same folds, with intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..evaluation import (
    Estimate,
    Fold,
    Metric,
    auc,
    balanced_accuracy,
    bootstrap,
    brier_score,
    calibration_error,
    permutation_p,
    permute_labels,
)
from .controls import bag_sizes, mean_colours, predict_from
from .crossval import CrossValidation, cross_validate
from .train import Features, TrainOptions, scarcest_class

METRICS: Mapping[str, Metric] = {
    "auc": auc,
    "balanced_accuracy": balanced_accuracy,
    "brier_score": brier_score,
    "calibration_error": calibration_error,
}
_SHUFFLES = 100

Figures = dict[str, dict[str, Estimate]]


@dataclass(frozen=True)
class Comparison:
    """What was found under one set of folds.

    Attributes
    ----------
    found
        Out-of-fold predictions of the model.
    figures
        By name of model or control, then of metric; intervals over patients. Controls have the
        AUC only.
    permutation_p
        How often the model's predictions fit labels exchanged between patients as well.
    notes
        Controls that could not be had, and why.
    """

    found: CrossValidation
    figures: Figures
    permutation_p: float
    notes: tuple[str, ...]


def compare(
    bags: Sequence[Features],
    labels: NDArray[np.int64],
    patients: NDArray[Any],
    folds: Sequence[Fold],
    options: TrainOptions,
    *,
    feature_names: Sequence[str] = (),
    on_fold: Callable[[], None] = lambda: None,
) -> Comparison:
    """Cross-validate a model, mean pooling, and what needs no look at the tissue.

    The controls: a logistic regression on the size of the bag, one on its mean colour, and the
    model itself with labels exchanged between patients. Of the last, an AUC above one half is a
    leak's; one below is usual where patients are few and of few kinds, as the labels that a kind
    has in a test part are those that it lacks in training.

    Parameters are those of :func:`~microtome.tasks.mil.crossval.cross_validate`.
    """
    notes = []

    def held_out(truth: NDArray[np.int64], chosen: TrainOptions) -> CrossValidation:
        return cross_validate(bags, truth, patients, folds, chosen, on_fold=on_fold)

    def figures(
        truth: NDArray[np.int64], found: NDArray[Any], metrics: Sequence[str] = ("auc",)
    ) -> dict[str, Estimate]:
        return {
            name: bootstrap(truth, _scores(found), patients, metric=METRICS[name])
            for name in metrics
        }

    model = held_out(labels, options)
    table: Figures = {options.model: figures(labels, model.probabilities, tuple(METRICS))}
    if options.model != "mean":
        plain = held_out(labels, replace(options, model="mean"))
        table["mean"] = figures(labels, plain.probabilities, tuple(METRICS))
    table["bag_size"] = figures(labels, predict_from(bag_sizes(bags), labels, folds))
    colours = mean_colours(bags, feature_names)
    if colours is None:
        notes.append("no control by mean colour: no feature of this encoder states one")
    else:
        table["mean_colour"] = figures(labels, predict_from(colours, labels, folds))
    shuffled = shuffled_labels(labels, patients, folds, seed=options.seed)
    if shuffled is None:
        notes.append("no control by shuffled labels: too few patients to exchange them")
    else:
        table["shuffled"] = figures(shuffled, held_out(shuffled, options).probabilities)
        if table["shuffled"]["auc"].low > 0.5:
            notes.append("shuffled labels seem to be learnt: look for a leak between the folds")
    chance = permutation_p(labels, _scores(model.probabilities), patients)
    return Comparison(model, table, chance, tuple(notes))


def n_cross_validations(options: TrainOptions) -> int:
    """How many times :func:`compare` goes over the folds: model, baseline, shuffled labels."""
    return 2 if options.model == "mean" else 3


def shuffled_labels(
    labels: NDArray[np.int64], patients: NDArray[Any], folds: Sequence[Fold], *, seed: int
) -> NDArray[np.int64] | None:
    """Labels exchanged between patients that can be learnt in every fold; None where none can."""
    rng = np.random.default_rng(seed)
    for _ in range(_SHUFFLES):
        shuffled = permute_labels(labels, patients, rng)
        if not np.array_equal(shuffled, labels) and all(
            scarcest_class(shuffled[fold.train], patients[fold.train], len(np.unique(labels))) >= 2
            for fold in folds
        ):
            return shuffled
    return None


def _scores(probabilities: NDArray[Any]) -> NDArray[Any]:
    """Of two classes the second's, as binary metrics take them."""
    return probabilities[:, 1] if probabilities.shape[1] == 2 else probabilities
