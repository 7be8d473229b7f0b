"""How large a difference is, and how sure: effect sizes and bootstrap intervals at every edge."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import gammaln

from ..storage.errors import CohortError
from .matrices import Array

_BLOCK_ELEMENTS = 2**22
"""Values of resamples that are held at a time."""


@dataclass(frozen=True, eq=False)
class GroupEffect:
    """A difference between two groups at every edge: float64 [e] each.

    Attributes
    ----------
    difference, difference_low, difference_high
        Of the means, the second group (sorted) minus the first, with its interval.
    hedges_g, hedges_g_low, hedges_g_high
        The same over the pooled standard deviation, without the bias of few people; nan where
        nobody varies.
    level
        Of the intervals.
    """

    difference: Array
    difference_low: Array
    difference_high: Array
    hedges_g: Array
    hedges_g_low: Array
    hedges_g_high: Array
    level: float


def group_effect(
    values: ArrayLike,
    groups: ArrayLike,
    *,
    n_resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> GroupEffect:
    """Differences of two groups with percentile intervals; people are drawn again within groups.

    Covariates are not accounted for: take them out of the values first, or look at
    :func:`.statistics.partial_correlation`.

    Parameters
    ----------
    values
        [s, e], a row a person.
    groups
        [s], two labels.

    Raises
    ------
    CohortError
        Not two groups of two people or more, or values that do not fit them.

    References
    ----------
    Hedges (1981), J. Educ. Stat. 6:107; Efron & Tibshirani (1993), ch. 13.
    """
    array, labels = np.asarray(values, np.float64), np.asarray(groups)
    names, counts = np.unique(labels, return_counts=True)
    if len(names) != 2 or counts.min() < 2 or array.shape[:1] != labels.shape:
        raise CohortError(
            f"{len(names)} groups of {counts.tolist()} people and values {array.shape} make no "
            "difference of two groups"
        )
    if not 0 < level < 1 or n_resamples < 1:
        raise CohortError("a level between 0 and 1 and at least one resample are needed")
    # Means of squares lose nothing where values lie about 0.
    samples = [array[labels == name] - array.mean(axis=0) for name in names]
    rng = np.random.default_rng(seed)
    draws = [rng.multinomial(n, [1 / n] * n, size=n_resamples) for n in counts]
    ends = np.array([(1 - level) / 2, (1 + level) / 2])
    own = _effects(samples, [np.ones((1, n)) for n in counts])[:, 0]
    block = max(1, _BLOCK_ELEMENTS // n_resamples)
    intervals = [
        np.quantile(_effects([s[:, first : first + block] for s in samples], draws), ends, axis=1)
        for first in range(0, array.shape[1], block)
    ]
    low, high = np.concatenate(intervals, axis=2)
    return GroupEffect(own[0], low[0], high[0], own[1], low[1], high[1], level)


def _effects(samples: list[Array], draws: list[Array] | list[NDArray[np.int64]]) -> Array:
    """Difference of means, and Hedges' g, of people drawn so many times: float64 [2, b, e]."""
    means, squares, df = [], 0.0, -2
    for sample, drawn in zip(samples, draws, strict=True):
        n = len(sample)
        mean = drawn @ sample / n
        means.append(mean)
        squares = squares + np.maximum(drawn @ sample**2 - n * mean**2, 0.0)
        df += n
    difference = means[1] - means[0]
    pooled = np.sqrt(squares / df)
    unbiased = np.exp(gammaln(df / 2) - gammaln((df - 1) / 2)) / np.sqrt(df / 2)
    g = np.divide(
        difference * unbiased, pooled, out=np.full_like(difference, np.nan), where=pooled > 0
    )
    return np.stack([difference, g])
