"""How good a prediction is, and how sure one may be of it: shared by MIL and diagnosis."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..storage.errors import LabelError, LeakError

Metric = Callable[[NDArray[np.int64], NDArray[np.float64]], float]


@dataclass(frozen=True)
class Estimate:
    """A figure with its confidence interval."""

    value: float
    low: float
    high: float
    level: float = 0.95
    n: int = 0

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def auc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Area under the ROC curve of binary ``labels`` (0, 1); ties count one half."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(np.asarray(labels), np.asarray(scores)))


def bootstrap(
    labels: ArrayLike,
    scores: ArrayLike,
    groups: ArrayLike,
    *,
    metric: Metric = auc,
    n: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """Percentile bootstrap interval that resamples whole groups (patients), not rows.

    Resamples in which only one class is left say nothing about an AUC and are drawn again.

    Parameters
    ----------
    labels, scores, groups
        [n] each; the rows of one group stay together.

    References
    ----------
    Field & Welsh (2007), Bootstrapping clustered data, JRSS B 69: the cluster bootstrap.
    """
    y, s = np.asarray(labels, np.int64), np.asarray(scores, np.float64)
    names, member = np.unique(np.asarray(groups), return_inverse=True)
    if len(np.unique(y)) < 2:
        raise LabelError("only one class is present", remedy="An AUC needs both classes")
    rows = [np.flatnonzero(member == g) for g in range(len(names))]
    rng = np.random.default_rng(seed)
    values: list[float] = []
    while len(values) < n:
        drawn = np.concatenate([rows[g] for g in rng.integers(0, len(rows), len(rows))])
        if len(np.unique(y[drawn])) == 2:
            values.append(metric(y[drawn], s[drawn]))
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(metric(y, s), float(low), float(high), level, len(y))


@dataclass(frozen=True)
class Fold:
    """Row numbers of one split; no group is on both sides."""

    train: NDArray[np.int64]
    test: NDArray[np.int64]


def grouped_folds(
    labels: ArrayLike, groups: ArrayLike, n_folds: int, *, seed: int = 0
) -> list[Fold]:
    """Split rows into folds by group (patient, subject), with the classes balanced over folds.

    Raises
    ------
    LabelError
        A class has fewer groups than there are folds.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    y, g = np.asarray(labels), np.asarray(groups)
    for label in np.unique(y):
        available = len(np.unique(g[y == label]))
        if available < n_folds:
            raise LabelError(
                f"class {label} has {available} patients, too few for {n_folds} folds",
                remedy="Use fewer folds with --folds, or more patients",
            )
    splitter = StratifiedGroupKFold(n_splits=n_folds, shuffle=True, random_state=seed)
    folds = [Fold(train, test) for train, test in splitter.split(np.zeros(len(y)), y, g)]
    for fold in folds:
        assert_no_leak(g[fold.train], g[fold.test])
    return folds


def assert_no_leak(train_groups: ArrayLike, test_groups: ArrayLike) -> None:
    """Refuse a split that has a group on both sides.

    Raises
    ------
    LeakError
        Names the first groups that are.
    """
    shared = np.intersect1d(np.asarray(train_groups), np.asarray(test_groups))
    if len(shared):
        raise LeakError(
            f"{len(shared)} patients are in training and in test: {_some(shared.tolist())}",
            remedy="Split by patient",
        )


def _some(names: Sequence[object]) -> str:
    shown = ", ".join(str(name) for name in names[:5])
    return shown + (" …" if len(names) > 5 else "")
