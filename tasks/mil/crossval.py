"""Cross-validation by patient: every slide is predicted by models that never saw its patient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..evaluation import Fold, assert_no_leak
from .choose import Material, Nested, choose, validated
from .inner import Inner
from .kept_members import NOTHING_KEPT, KeptMembers
from .predict import BagPrediction
from .targets import Target, as_target
from .train import Features, Places, TrainOptions


@dataclass(frozen=True)
class CrossValidation:
    """Out-of-fold predictions of b bags.

    Attributes
    ----------
    predictions
        One a bag, in order.
    fold
        int [b]: the fold in which the bag was tested.
    inner
        For each fold, what is said of its training bags by models that did not learn from them:
        out of the inner folds where there are some, else by each member of its validation bags.
    chosen
        For each fold, the number of the candidate that was fitted; 0 where there is one.
    """

    predictions: tuple[BagPrediction, ...]
    fold: NDArray[np.int64]
    inner: tuple[Inner, ...]
    chosen: tuple[int, ...]

    @property
    def probabilities(self) -> NDArray[np.float32]:
        """float32 [b, c]: probabilities, or what else the models say of bags."""
        return np.stack([prediction.outputs for prediction in self.predictions])


def cross_validate(
    bags: Sequence[Features],
    labels: NDArray[np.int64] | Target,
    patients: NDArray[Any],
    folds: Sequence[Fold],
    options: TrainOptions | Nested,
    *,
    places_um: Places | None = None,
    views: Sequence[Sequence[Features]] = (),
    kept: KeptMembers = NOTHING_KEPT,
    on_fold: Callable[[], None] = lambda: None,
) -> CrossValidation:
    """Fit on each fold's training bags and predict its test bags, which play no other part.

    Parameters
    ----------
    bags, labels, patients, places_um, views, kept
        As in :func:`~microtome.tasks.mil.train.fit_members`.
    folds
        Every bag is tested once.
    options
        How to fit; or several ways, of which each fold takes the one whose headline figure is
        the best over the inner folds of its training bags.
    on_fold
        Told after every predictor that was fitted: one a fold, and one a candidate and inner fold.

    Raises
    ------
    LeakError
        A patient is on both sides of a fold.
    LabelError
        A training part has fewer than two patients of a class, a label or an event.
    """
    material = Material(bags, as_target(labels), patients, places_um, views)
    for fold in folds:
        assert_no_leak(patients[fold.train], patients[fold.test])
    tested = np.concatenate([fold.test for fold in folds])
    if sorted(tested.tolist()) != list(range(len(bags))):
        raise ValueError("every bag must be tested in exactly one fold")
    found: dict[int, BagPrediction] = {}
    fold_of = np.empty(len(bags), np.int64)
    inner, chosen = [], []
    for number, fold in enumerate(folds):
        place, which, said, way = kept.at(f"fold-{number}"), 0, None, options
        if isinstance(way, Nested):
            which, said = choose(material, way.candidates, way.inner[number], place, on_fold)
            way = way.candidates[which]
        members = material.fit(fold.train, way, place)
        found |= {int(i): material.said(members, i, way) for i in fold.test}
        fold_of[fold.test] = number
        inner.append(said or validated(material, fold.train, members, way))
        chosen.append(which)
        on_fold()
    predictions = tuple(found[i] for i in range(len(bags)))
    return CrossValidation(predictions, fold_of, tuple(inner), tuple(chosen))
