"""Nested cross-validation of a diagnosis, beside the same on shuffled labels.

Everything that learns or chooses does so on the training rows of its fold: a :class:`Model` is
given no other rows, and hyper-parameters are chosen by a cross-validation inside them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...storage.errors import LabelError
from ..evaluation import (
    Estimate,
    Fold,
    assert_no_leak,
    auc,
    balanced_accuracy,
    bootstrap,
    grouped_folds,
)
from .examples import Examples
from .models import Family, Fitted, Model
from .steps import fit_each
from .threads import one_thread

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Plan:
    """How models are evaluated.

    Attributes
    ----------
    families
        The models to compare.
    n_folds, n_inner
        Outer folds, which score, and inner ones, which choose.
    shuffles
        How often each family, by name, is evaluated on shuffled labels.
    seed
        Decides folds, shuffles and initial parameters.
    """

    families: tuple[Family, ...]
    n_folds: int = 5
    n_inner: int = 3
    shuffles: Mapping[str, int] | None = None
    seed: int = 0


@dataclass(frozen=True)
class Trial:
    """One nested cross-validation: a family, on the true labels (0) or on the n-th shuffle."""

    family: str
    shuffle: int = 0

    def __str__(self) -> str:
        return f"{self.family} on shuffled labels {self.shuffle}" if self.shuffle else self.family


@dataclass(frozen=True, eq=False)
class OutOfFold:
    """Scores of all rows, each from a model that saw nothing of that person.

    Attributes
    ----------
    trial
        What was evaluated.
    labels
        int64 [s]: true, or shuffled.
    scores
        float64 [s]: probability of the positive class.
    fold
        int64 [s]: the fold in which the row was held out.
    chosen
        For each fold the hyper-parameters that its inner cross-validation chose.
    """

    trial: Trial
    labels: NDArray[np.int64]
    scores: Array
    fold: NDArray[np.int64]
    chosen: tuple[Mapping[str, Any], ...]

    @property
    def auc(self) -> float:
        """Area under the ROC curve over all rows."""
        return auc(self.labels, self.scores)


@dataclass(frozen=True, eq=False)
class Result:
    """What became of one family.

    Attributes
    ----------
    auc, balanced_accuracy
        With 95 % intervals by resampling people; the accuracy is at probability 0.5.
    fold_auc
        AUC within each fold that holds both classes.
    shuffled_auc
        AUC of each evaluation on shuffled labels.
    p_value
        Share of shuffles at least as good as the true labels, both counted with the true ones
        (Phipson & Smyth 2010); None without shuffles. No less than 1 / (shuffles + 1).
    scores
        The evaluation on the true labels.
    """

    family: str
    auc: Estimate
    balanced_accuracy: Estimate
    fold_auc: tuple[float, ...]
    shuffled_auc: tuple[float, ...]
    p_value: float | None
    scores: OutOfFold


def diagnose(
    examples: Examples,
    plan: Plan,
    *,
    folds: Sequence[Fold] | None = None,
    on_trial: Callable[[OutOfFold], None] | None = None,
) -> list[Result]:
    """Evaluate every family of a plan, one trial after another.

    Parameters
    ----------
    folds
        Outer folds; by default ``plan.n_folds`` of them, see :func:`outer_folds`.
    on_trial
        Told of each trial as it ends.

    Returns
    -------
    list of Result
        In the order of ``plan.families``.
    """
    ends = []
    for trial in trials(plan):
        ends.append(run_trial(trial, examples, plan, folds=folds))
        if on_trial is not None:
            on_trial(ends[-1])
    return summarise(ends, examples, plan)


def trials(plan: Plan) -> list[Trial]:
    """All trials of a plan: each family on the true labels, then on its shuffles."""
    wanted = plan.shuffles or {}
    return [
        Trial(family.name, shuffle)
        for family in plan.families
        for shuffle in range(1 + wanted.get(family.name, 0))
    ]


def run_trial(
    trial: Trial, examples: Examples, plan: Plan, *, folds: Sequence[Fold] | None = None
) -> OutOfFold:
    """One nested cross-validation from beginning to end.

    On shuffled labels everything is done anew: folds, choice, standardisation, fit. Folds that
    were given stay.

    Raises
    ------
    LabelError
        A class has too few people for the folds, or a training fold has a single class.
    LeakError
        A person is on both sides of a split.
    """
    with one_thread():
        return _run_trial(trial, examples, plan, folds)


def _run_trial(
    trial: Trial, examples: Examples, plan: Plan, folds: Sequence[Fold] | None
) -> OutOfFold:
    if trial.shuffle:
        examples = examples.shuffled(_seed(plan.seed, 1, trial.shuffle))
    family = next(f for f in plan.families if f.name == trial.family)
    outer = folds or grouped_folds(
        examples.labels, examples.groups, plan.n_folds, seed=_seed(plan.seed, 2, trial.shuffle)
    )
    scores = np.full(len(examples), np.nan)
    held_out = np.full(len(examples), -1)
    chosen = []
    for number, fold in enumerate(outer):
        seed = _seed(plan.seed, 3, trial.shuffle, number)
        model = choose(family, examples.take(fold.train), plan.n_inner, seed)
        scores[fold.test] = held_out_scores(model, examples, fold, seed)
        held_out[fold.test] = number
        chosen.append(model.describe())
    return OutOfFold(trial, examples.labels, scores, held_out, tuple(chosen))


@dataclass(frozen=True, eq=False)
class FoldModel:
    """The model of a fold, as it was scored."""

    fold: Fold
    fitted: Fitted


def fold_models(end: OutOfFold, examples: Examples, plan: Plan) -> list[FoldModel]:
    """Fit the models of a trial on the true labels again: equal to those that were scored.

    Raises
    ------
    ValueError
        The trial is one on shuffled labels.
    """
    if end.trial.shuffle:
        raise ValueError("models of shuffled labels say nothing of the examples")
    family = next(f for f in plan.families if f.name == end.trial.family)
    found = []
    with one_thread():
        for number, chosen in enumerate(end.chosen):
            fold = Fold(np.flatnonzero(end.fold != number), np.flatnonzero(end.fold == number))
            model = next(m for m in family.candidates if m.describe() == chosen)
            fitted = model.fit(examples.take(fold.train), seed=_seed(plan.seed, 3, 0, number))
            found.append(FoldModel(fold, fitted))
    return found


def choose(family: Family, train: Examples, n_inner: int, seed: int) -> Model:
    """The candidate with the highest AUC in a cross-validation within the training rows."""
    if len(family.candidates) == 1:
        return family.candidates[0]
    scores = np.empty((len(family.candidates), len(train)))
    for fold in grouped_folds(train.labels, train.groups, n_inner, seed=seed):
        inner, held_out = _sides(train, fold)
        for row, fitted in zip(scores, fit_each(family.candidates, inner, seed), strict=True):
            row[fold.test] = fitted.predict_proba(held_out)
    best = int(np.argmax([auc(train.labels, row) for row in scores]))
    return family.candidates[best]


def held_out_scores(model: Model, examples: Examples, fold: Fold, seed: int) -> Array:
    """Fit on one side of a split and score the other.

    Raises
    ------
    LeakError
        A person is on both sides.
    LabelError
        The training side has a single class.
    """
    train, test = _sides(examples, fold)
    return model.fit(train, seed=seed).predict_proba(test)


def _sides(examples: Examples, fold: Fold) -> tuple[Examples, Examples]:
    """Training and held-out rows, if they may be told apart by learning."""
    assert_no_leak(examples.groups[fold.train], examples.groups[fold.test])
    train = examples.take(fold.train)
    if len(np.unique(train.labels)) < 2:
        raise LabelError(
            "the training rows of a fold are all of one class",
            remedy="Use fewer folds, or another column to split by",
        )
    return train, examples.take(fold.test)


def folds_by(values: Sequence[str], groups: NDArray[np.str_]) -> list[Fold]:
    """Hold out each value once, for example each site.

    Raises
    ------
    LabelError
        There is only one value.
    LeakError
        A person has rows of two values, and would be on both sides.
    """
    column = np.array(values, np.str_)
    if len(np.unique(column)) < 2:
        raise LabelError("the column to split by has a single value", remedy="Use --folds instead")
    folds = [
        Fold(np.flatnonzero(column != value), np.flatnonzero(column == value))
        for value in np.unique(column)
    ]
    for fold in folds:
        assert_no_leak(groups[fold.train], groups[fold.test])
    return folds


def summarise(ends: Sequence[OutOfFold], examples: Examples, plan: Plan) -> list[Result]:
    """Put the trials of each family together."""
    return [
        _result([end for end in ends if end.trial.family == family.name], examples, plan.seed)
        for family in plan.families
    ]


def _result(ends: Sequence[OutOfFold], examples: Examples, seed: int) -> Result:
    true = next(end for end in ends if not end.trial.shuffle)
    shuffled = tuple(end.auc for end in ends if end.trial.shuffle)
    as_good = sum(value >= true.auc for value in shuffled)
    rows = [np.flatnonzero(true.fold == number) for number in np.unique(true.fold)]
    return Result(
        family=true.trial.family,
        auc=bootstrap(true.labels, true.scores, examples.groups, seed=seed),
        balanced_accuracy=bootstrap(
            true.labels, true.scores, examples.groups, metric=balanced_accuracy, seed=seed
        ),
        fold_auc=tuple(
            auc(true.labels[r], true.scores[r]) for r in rows if len(np.unique(true.labels[r])) == 2
        ),
        shuffled_auc=shuffled,
        p_value=(1 + as_good) / (1 + len(shuffled)) if shuffled else None,
        scores=true,
    )


def _seed(*path: int) -> int:
    """A seed of its own for each step, the same whatever else is run."""
    return int(np.random.SeedSequence(path).generate_state(1)[0])
