"""How good a prediction is, and how sure one may be of it: shared by MIL and diagnosis.

Labels are class indices [n]. Scores are [n], of the second of two classes, or probabilities
[n, c]. Groups [n] are patients or subjects: rows of one group are no independent witnesses.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..storage.errors import LabelError, LeakError

Metric = Callable[[NDArray[np.int64], NDArray[np.float64]], float]
_HOPELESS = 100


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
    """Area under the ROC curve; ties count one half.

    Binary ``labels`` (0, 1) take scores [n]. With probabilities [n, c] it is the mean of the c
    curves of one class against the rest (macro average), in which each class counts the same.

    Computed from ranks (Mann-Whitney), as a bootstrap asks for it thousands of times.

    Raises
    ------
    LabelError
        A class is absent, so that no curve exists.
    """
    from scipy.stats import rankdata

    y, s = np.asarray(labels), np.asarray(scores, np.float64)
    if s.ndim == 2:
        return float(np.mean([auc(y == k, s[:, k]) for k in range(s.shape[1])]))
    positive = y.astype(bool)
    n_positive = int(positive.sum())
    n_negative = len(y) - n_positive
    if not (n_positive and n_negative):
        raise LabelError("only one class is present", remedy="An AUC needs both classes")
    rank_sum = float(rankdata(s)[positive].sum())
    return (rank_sum - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative)


def balanced_accuracy(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """Mean over the classes of the share that is recognised; 1 / c by chance.

    Parameters
    ----------
    probabilities
        [n] of class 1, taken above 0.5, or [n, c], of which the largest is taken.
    """
    y, p = np.asarray(labels), np.asarray(probabilities)
    predicted = p.argmax(axis=1) if p.ndim == 2 else (p > 0.5).astype(np.int64)
    return float(np.mean([np.mean(predicted[y == k] == k) for k in np.unique(y)]))


def average_precision(labels: ArrayLike, scores: ArrayLike) -> float:
    """Area under the precision-recall curve, as the mean precision over the positives (AUPRC).

    Binary, or the mean over the classes as :func:`auc`. Chance is the share of positives. Tied
    scores are one threshold.

    Raises
    ------
    LabelError
        There are no positives.
    """
    y, s = np.asarray(labels), np.asarray(scores, np.float64)
    if s.ndim == 2:
        return float(np.mean([average_precision(y == k, s[:, k]) for k in range(s.shape[1])]))
    order = np.argsort(-s, kind="stable")
    hit, ranked = y[order].astype(np.float64), s[order]
    if not hit.any():
        raise LabelError("no positive is present", remedy="An AUPRC needs positives")
    last = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)
    hits = np.cumsum(hit)[last]
    return float((np.diff(hits, prepend=0) * hits / (last + 1)).sum() / hits[-1])


def f1_score(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """Harmonic mean of precision and recall of class 1, or of every class, averaged (macro).

    Parameters
    ----------
    probabilities
        As :func:`balanced_accuracy` takes them. A class nobody has and nobody was said to have
        counts 0.
    """
    y, p = np.asarray(labels), np.asarray(probabilities)
    predicted = p.argmax(axis=1) if p.ndim == 2 else (p > 0.5).astype(np.int64)
    found = []
    for k in range(p.shape[1]) if p.ndim == 2 else (1,):
        agreed = np.sum((predicted == k) & (y == k))
        found.append(2 * agreed / max(1, np.sum(predicted == k) + np.sum(y == k)))
    return float(np.mean(found))


def brier_score(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """Mean squared error of the probabilities; 0 is best, 0.25 is a coin's (binary).

    With [n, c] it is Brier's own sum over the classes, 0 … 2, twice the binary figure.

    References
    ----------
    Brier (1950), Verification of forecasts expressed in terms of probability.
    """
    y, p = np.asarray(labels), np.asarray(probabilities, np.float64)
    if p.ndim == 1:
        return float(np.mean((p - y) ** 2))
    return float(np.mean(((p - np.eye(p.shape[1])[y]) ** 2).sum(axis=1)))


def calibration_error(labels: ArrayLike, probabilities: ArrayLike, n_bins: int = 10) -> float:
    """Expected calibration error: how far stated probabilities are from observed frequencies.

    Binary: probabilities [n] of class 1 in bins of equal width; the mean over the bins, weighted
    by their rows, of |mean probability - share of class 1|. With [n, c]: the same of the
    predicted class and whether it is right. Biased upwards where rows are few.

    References
    ----------
    Guo et al. (2017), On calibration of modern neural networks, ICML, equation 5.
    """
    y, p = np.asarray(labels), np.asarray(probabilities, np.float64)
    hit = (p.argmax(axis=1) == y) if p.ndim == 2 else y == 1
    p = p.max(axis=1) if p.ndim == 2 else p
    bins = np.minimum((p * n_bins).astype(np.int64), n_bins - 1)
    gap = np.bincount(bins, p - hit, minlength=n_bins)
    return float(np.abs(gap).sum() / len(y))


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

    Resamples in which a class is lost say nothing about an AUC and are drawn again.

    Parameters
    ----------
    labels, groups
        [n] each; the rows of one group stay together.
    scores
        [n] or [n, c], as ``metric`` takes them.

    Raises
    ------
    LabelError
        Only one class is present.

    References
    ----------
    Field & Welsh (2007), Bootstrapping clustered data, JRSS B 69: the cluster bootstrap.
    """
    y, s = np.asarray(labels, np.int64), np.asarray(scores, np.float64)
    n_classes = len(np.unique(y))
    if n_classes < 2:
        raise LabelError("only one class is present", remedy="An AUC needs both classes")

    def of_rows(rows: NDArray[np.int64]) -> float:
        return metric(y[rows], s[rows]) if len(np.unique(y[rows])) == n_classes else np.nan

    return cluster_bootstrap(of_rows, groups, n=n, level=level, seed=seed)


def cluster_bootstrap(
    statistic: Callable[[NDArray[np.int64]], float],
    groups: ArrayLike,
    *,
    n: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """Percentile interval of any statistic of rows, whole groups [n] (patients) being drawn.

    Parameters
    ----------
    statistic
        Takes row numbers, some of them more than once; not finite where these rows say nothing.
        Such a resample is drawn again.

    Raises
    ------
    LabelError
        Of the first 100 resamples none says anything.

    References
    ----------
    Field & Welsh (2007), as :func:`bootstrap`.
    """
    names, member = np.unique(np.asarray(groups), return_inverse=True)
    rows = [np.flatnonzero(member == g) for g in range(len(names))]
    rng = np.random.default_rng(seed)
    values: list[float] = []
    tried = 0
    while len(values) < n:
        drawn = np.concatenate([rows[g] for g in rng.integers(0, len(rows), len(rows))])
        value = statistic(drawn)
        tried += 1
        if np.isfinite(value):
            values.append(value)
        elif not values and tried == _HOPELESS:
            raise LabelError(
                "too few patients for an interval: no resample of them has what the figure needs",
                remedy="More patients are needed of every class, label or outcome",
            )
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    found = statistic(np.arange(len(member)))
    return Estimate(found, float(low), float(high), level, len(member))


def permute_labels(
    labels: ArrayLike, groups: ArrayLike, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Labels [n] exchanged between groups, so that no row's label says anything of it.

    Groups with the same number of rows swap their labels whole: the rows of a group stay as alike
    as they were, and every class keeps its count.
    """
    y = np.asarray(labels, np.int64)
    _, member = np.unique(np.asarray(groups), return_inverse=True)
    by_size: defaultdict[int, list[NDArray[np.int64]]] = defaultdict(list)
    for g in range(member.max() + 1):
        rows = np.flatnonzero(member == g)
        by_size[len(rows)].append(rows)
    permuted = y.copy()
    for blocks in by_size.values():
        givers = rng.permutation(len(blocks))
        for block, giver in zip(blocks, givers, strict=True):
            permuted[block] = y[blocks[giver]]
    return permuted


def permutation_p(
    labels: ArrayLike,
    scores: ArrayLike,
    groups: ArrayLike,
    *,
    metric: Metric = auc,
    n: int = 2000,
    seed: int = 0,
) -> float:
    """How often scores fit labels exchanged between groups as well as the true ones.

    Returns
    -------
    float
        (1 + hits) / (1 + n): one-sided, never 0. Phipson & Smyth (2010).
    """
    y, s = np.asarray(labels, np.int64), np.asarray(scores, np.float64)
    rng = np.random.default_rng(seed)
    found = metric(y, s)
    hits = sum(metric(permute_labels(y, groups, rng), s) >= found for _ in range(n))
    return (1 + hits) / (1 + n)


def balanced_folds(
    strata: ArrayLike, groups: ArrayLike, n_folds: int, *, seed: int = 0
) -> list[Fold]:
    """Split rows by group, strata [n] balanced as far as they allow.

    Unlike :func:`grouped_folds`, strata are no classes: those with fewer groups than folds are
    balanced together, and a single one will do.

    Raises
    ------
    LabelError
        There are fewer groups than folds.
    """
    s, g = np.unique(np.asarray(strata), return_inverse=True)[1], np.asarray(groups)
    if len(np.unique(g)) < n_folds:
        raise LabelError(
            f"{len(np.unique(g))} patients are too few for {n_folds} folds",
            remedy="Use fewer folds with --folds, or more patients",
        )
    rare = [k for k in np.unique(s) if len(np.unique(g[s == k])) < n_folds]
    s = np.where(np.isin(s, rare), -1, s)
    if len(np.unique(g[s == -1])) < n_folds:
        s = np.where(s == -1, s.max(), s)
    return _folds(s, g, n_folds, seed)


def _folds(strata: NDArray[Any], groups: NDArray[Any], n_folds: int, seed: int) -> list[Fold]:
    from sklearn.model_selection import StratifiedGroupKFold

    splitter = StratifiedGroupKFold(n_splits=n_folds, shuffle=True, random_state=seed)
    rows = np.zeros(len(strata))
    folds = [Fold(train, test) for train, test in splitter.split(rows, strata, groups)]
    for fold in folds:
        assert_no_leak(groups[fold.train], groups[fold.test])
    return folds


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
        There is only one class, or one has fewer groups than there are folds.
    """
    y, g = np.asarray(labels), np.asarray(groups)
    if len(np.unique(y)) < 2:
        raise LabelError("only one class is present", remedy="Folds need at least two")
    for label in np.unique(y):
        available = len(np.unique(g[y == label]))
        if available < n_folds:
            raise LabelError(
                f"class {label} has {available} patients, too few for {n_folds} folds",
                remedy="Use fewer folds with --folds, or more patients",
            )
    return _folds(y, g, n_folds, seed)


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
            f"{len(shared)} patients are in training and in test: {some(shared.tolist())}",
            remedy="Split by patient",
        )


def some(names: Sequence[object], limit: int = 5) -> str:
    """The first few of many names, for a message."""
    shown = ", ".join(str(name) for name in names[:limit])
    return shown + (" …" if len(names) > limit else "")
