"""Cross-validation by patient: every slide is predicted by models that never saw its patient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..evaluation import Fold, assert_no_leak
from .predict import BagPrediction, predict_bag
from .targets import Target, as_target
from .train import Features, TrainOptions, fit, readable


@dataclass(frozen=True)
class CrossValidation:
    """Out-of-fold predictions of b bags.

    Attributes
    ----------
    predictions
        One a bag, in order.
    fold
        int [b]: the fold in which the bag was tested.
    """

    predictions: tuple[BagPrediction, ...]
    fold: NDArray[np.int64]

    @property
    def probabilities(self) -> NDArray[np.float32]:
        """float32 [b, c]: probabilities, or what else the models say of bags."""
        return np.stack([prediction.outputs for prediction in self.predictions])


def cross_validate(
    bags: Sequence[Features],
    labels: NDArray[np.int64] | Target,
    patients: NDArray[Any],
    folds: Sequence[Fold],
    options: TrainOptions,
    *,
    places_um: Sequence[NDArray[np.float64]] | None = None,
    on_fold: Callable[[], None] = lambda: None,
) -> CrossValidation:
    """Fit on each fold's training bags and predict its test bags, which play no other part.

    Parameters
    ----------
    bags, labels, patients, places_um
        As in :func:`~microtome.tasks.mil.train.fit`.
    folds
        Every bag is tested once.

    Raises
    ------
    LeakError
        A patient is on both sides of a fold.
    LabelError
        A training part has fewer than two patients of a class, a label or an event.
    """
    target = as_target(labels)
    for fold in folds:
        assert_no_leak(patients[fold.train], patients[fold.test])
    tested = np.concatenate([fold.test for fold in folds])
    if sorted(tested.tolist()) != list(range(len(bags))):
        raise ValueError("every bag must be tested in exactly one fold")
    found: dict[int, BagPrediction] = {}
    fold_of = np.empty(len(bags), np.int64)
    for number, fold in enumerate(folds):
        members = fit(
            [bags[i] for i in fold.train],
            target.take(fold.train),
            patients[fold.train],
            options,
            places_um=None if places_um is None else [places_um[i] for i in fold.train],
        )
        fold_of[fold.test] = number
        for i in fold.test:
            bag = readable(options.model, bags[i], None if places_um is None else places_um[i])
            found[int(i)] = predict_bag(members, bag, device=options.device)
        on_fold()
    return CrossValidation(tuple(found[i] for i in range(len(bags))), fold_of)
