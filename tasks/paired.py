"""Is one predictor better than another on the same rows? Paired tests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..storage.errors import LabelError
from .evaluation import Estimate, cluster_bootstrap

OfRows = Callable[[NDArray[np.int64]], float]


@dataclass(frozen=True)
class DeLong:
    """AUCs of k predictors on the same rows, and how they vary together.

    Attributes
    ----------
    aucs
        float [k].
    covariance
        float [k, k], of the AUCs.
    n
        Rows.
    """

    aucs: NDArray[np.float64]
    covariance: NDArray[np.float64]
    n: int

    def difference(self, a: int = 0, b: int = 1, *, level: float = 0.95) -> Estimate:
        """AUC of a minus that of b, with a normal interval."""
        from scipy.special import ndtri

        value, half = self._contrast(a, b)
        half *= float(ndtri((1 + level) / 2))
        return Estimate(value, value - half, value + half, level, self.n)

    def p(self, a: int = 0, b: int = 1) -> float:
        """Two-sided, of no difference; 1 where the two rank all rows alike."""
        from scipy.special import ndtr

        value, error = self._contrast(a, b)
        if error == 0:
            return 1.0 if value == 0 else 0.0
        return float(2 * ndtr(-abs(value) / error))

    def _contrast(self, a: int, b: int) -> tuple[float, float]:
        c = self.covariance
        variance = max(0.0, float(c[a, a] + c[b, b] - 2 * c[a, b]))
        return float(self.aucs[a] - self.aucs[b]), float(np.sqrt(variance))


def delong(labels: ArrayLike, *scores: ArrayLike) -> DeLong:
    """Compare AUCs of several scores [n] of the same independent rows.

    From midranks, in O(n log n). Rows must be independent: where patients have several slides,
    use :func:`paired_difference`.

    Parameters
    ----------
    labels
        0 or 1, [n].

    Raises
    ------
    LabelError
        A class has fewer than two rows: it has no variance.

    References
    ----------
    DeLong, DeLong & Clarke-Pearson (1988), Biometrics 44. Sun & Xu (2014), Fast implementation of
    DeLong's algorithm, IEEE Signal Processing Letters 21.
    """
    from scipy.stats import rankdata

    positive = np.asarray(labels).astype(bool)
    m, n = int(positive.sum()), int((~positive).sum())
    if min(m, n) < 2:
        raise LabelError("DeLong's test needs two rows of each class")
    of_positive, of_negative = [], []
    for given in scores:
        s = np.asarray(given, np.float64)
        rank = rankdata(s)
        of_positive.append((rank[positive] - rankdata(s[positive])) / n)
        of_negative.append(1 - (rank[~positive] - rankdata(s[~positive])) / m)
    v10, v01 = np.stack(of_positive), np.stack(of_negative)
    covariance = np.atleast_2d(np.cov(v10)) / m + np.atleast_2d(np.cov(v01)) / n
    return DeLong(v10.mean(1), covariance, m + n)


def paired_difference(
    first: OfRows, second: OfRows, groups: ArrayLike, *, n: int = 2000, seed: int = 0
) -> tuple[Estimate, float]:
    """Difference of two statistics of the same rows, resampled together by group (patient).

    Parameters
    ----------
    first, second
        As :func:`~microtome.tasks.evaluation.cluster_bootstrap` takes them.

    Returns
    -------
    difference, p
        ``first`` minus ``second`` with a percentile interval; and twice the share of resamples
        on the other side of 0, of 1 + n with the one seen: never 0.
    """
    drawn: list[float] = []

    def difference(rows: NDArray[np.int64]) -> float:
        value = first(rows) - second(rows)
        drawn.append(value)
        return value

    found = cluster_bootstrap(difference, groups, n=n, seed=seed)
    values = np.array(drawn[:-1])
    values = values[np.isfinite(values)]
    tail = min(int((values <= 0).sum()), int((values >= 0).sum()))
    return found, min(1.0, 2 * (1 + tail) / (1 + len(values)))
