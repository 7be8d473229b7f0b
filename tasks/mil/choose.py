"""Which of several ways to learn is best, found within the rows that are there to learn from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..evaluation import Fold, assert_no_leak
from .figures import headline
from .inner import Inner
from .kept_members import KeptMembers
from .predict import BagPrediction, predict_bag
from .targets import Target
from .train import Features, Member, Places, TrainOptions, fit_members, readable

OnFit = Callable[[], None]


@dataclass(frozen=True)
class Nested:
    """Settings to choose from within the training part of every fold.

    Attributes
    ----------
    candidates
        The first is taken where others do no better.
    inner
        For each fold, the inner folds of its training rows; by the numbers of all rows.
    """

    candidates: tuple[TrainOptions, ...]
    inner: tuple[tuple[Fold, ...], ...]


@dataclass(frozen=True)
class Material:
    """What is learnt from: bags, what is true of them, whose they are, and their views.

    See :func:`~microtome.tasks.mil.train.fit_members`.
    """

    bags: Sequence[Features]
    target: Target
    patients: NDArray[Any]
    places_um: Places | None = None
    views: Sequence[Sequence[Features]] = ()

    def fit(
        self, rows: NDArray[np.int64], options: TrainOptions, kept: KeptMembers
    ) -> list[Member]:
        """Members that learn from some rows; what they validated on is counted within these."""
        return fit_members(
            [self.bags[i] for i in rows],
            self.target.take(rows),
            self.patients[rows],
            options,
            places_um=None if self.places_um is None else [self.places_um[i] for i in rows],
            views=[[view[i] for i in rows] for view in self.views],
            kept=kept,
        )

    def said(self, members: Sequence[Member], row: int, options: TrainOptions) -> BagPrediction:
        """What members say of a bag, in the mean."""
        places = None if self.places_um is None else self.places_um[row]
        bag = readable(options.model, self.bags[row], places)
        return predict_bag([member.model for member in members], bag, device=options.device)


def choose(
    material: Material,
    candidates: Sequence[TrainOptions],
    inner: Sequence[Fold],
    kept: KeptMembers,
    on_fit: OnFit,
) -> tuple[int, Inner]:
    """The number of the best candidate by the headline figure, and what it says out of fold.

    Only rows of the inner folds play a part.
    """
    best, which, said = -np.inf, 0, None
    for number, options in enumerate(candidates):
        found, fold = _out_of_fold(material, inner, options, kept.at(f"way-{number}"), on_fit)
        value = headline(material.target.take(found.rows), found.outputs, fold)
        if said is None or value > best:
            best, which, said = value, number, found
    if said is None:
        raise ValueError("there is nothing to choose from")
    return which, said


def _out_of_fold(
    material: Material,
    folds: Sequence[Fold],
    options: TrainOptions,
    kept: KeptMembers,
    on_fit: OnFit,
) -> tuple[Inner, NDArray[np.int64]]:
    """What is said of every row by predictors that did not see its patient, and in which fold."""
    said, fold_of = [], []
    for number, fold in enumerate(folds):
        assert_no_leak(material.patients[fold.train], material.patients[fold.test])
        members = material.fit(fold.train, options, kept.at(f"fold-{number}"))
        said += [material.said(members, i, options) for i in fold.test]
        fold_of += [number] * len(fold.test)
        on_fit()
    rows = np.concatenate([fold.test for fold in folds])
    outputs = np.stack([one.outputs for one in said]).astype(np.float64)
    return Inner(rows, outputs), np.array(fold_of)


def validated(
    material: Material, rows: NDArray[np.int64], members: Sequence[Member], options: TrainOptions
) -> Inner:
    """What each member says of the bags that told it when to stop; they make up the rows."""
    places = np.concatenate([member.validated for member in members])
    said = [
        material.said([member], rows[place], options).outputs
        for member in members
        for place in member.validated
    ]
    return Inner(rows[places], np.stack(said).astype(np.float64))
