"""Functional networks: how the time courses of regions go together.

Pure functions take one subject's series, [t, r]: rows are time points, columns are regions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from ..storage.connectomes import Connectome
from ..storage.errors import BadSeries
from .matrices import Array, checked_columns, without_diagonal

Method = Literal["pearson", "partial", "covariance"]

MIN_TIMEPOINTS = 10
"""Fewer time points than this are refused unless asked for: a correlation of them is noise."""


def pearson(series: ArrayLike) -> Array:
    """Pearson correlation between all pairs: float64 [r, r], 1 on the diagonal."""
    correlation: Array = np.atleast_2d(np.corrcoef(np.asarray(series, np.float64), rowvar=False))
    return np.clip(correlation, -1.0, 1.0)


def covariance(series: ArrayLike) -> Array:
    """Sample covariance between all pairs, divisor t - 1: float64 [r, r]."""
    found: Array = np.atleast_2d(np.cov(np.asarray(series, np.float64), rowvar=False))
    return found


def partial(series: ArrayLike, *, shrink: bool = True) -> Array:
    r"""Correlation of each pair with all other regions held fixed: float64 [r, r].

    .. math:: \rho_{ij} = -P_{ij} / \sqrt{P_{ii} P_{jj}}, \quad P = \Sigma^{-1}

    Parameters
    ----------
    shrink
        Estimate the covariance of the standardised series with Ledoit and Wolf's shrinkage, which
        can be inverted whatever the number of time points. nilearn does the same without
        standardising, so that its result depends on each region's gain. Without it the sample
        covariance is inverted, which needs more time points than regions.

    Returns
    -------
    float64 [r, r]
        1 on the diagonal.

    References
    ----------
    Marrelec et al. (2006), NeuroImage 32:228; Ledoit & Wolf (2004), J. Multivar. Anal. 88:365.
    """
    array = np.asarray(series, np.float64)
    standard = (array - array.mean(axis=0)) / array.std(axis=0)
    if shrink:
        from sklearn.covariance import ledoit_wolf

        estimate = ledoit_wolf(standard, assume_centered=True)[0]
    elif len(array) > array.shape[1]:
        estimate = standard.T @ standard / len(array)
    else:
        raise BadSeries(
            f"{len(array)} time points of {array.shape[1]} regions have no precision matrix",
            remedy="Use the shrunk estimate",
        )
    precision = np.linalg.inv(estimate)
    scale = np.sqrt(np.diag(precision))
    found: Array = -precision / np.outer(scale, scale)
    found = np.clip((found + found.T) / 2, -1.0, 1.0)
    np.fill_diagonal(found, 1.0)
    return found


def fisher_z(correlation: ArrayLike) -> Array:
    """arctanh of correlations, which makes them close to normal; the diagonal becomes 0.

    Raises
    ------
    BadSeries
        Two different regions correlate perfectly, for which z is infinite.

    References
    ----------
    Fisher (1915), Biometrika 10:507.
    """
    r = without_diagonal(correlation)
    if (np.abs(r) >= 1).any():
        i, j = np.argwhere(np.abs(r) >= 1)[0]
        raise BadSeries(
            f"regions {i + 1} and {j + 1} are the same up to scale",
            remedy="Leave one of them out, or do without the Fisher transform",
        )
    return np.arctanh(r)


_METHODS = {"pearson": pearson, "partial": partial, "covariance": covariance}


def functional_connectome(
    series: ArrayLike,
    regions: Sequence[str],
    *,
    subject: str = "",
    method: Method = "pearson",
    fisher: bool = False,
    centroids_mm: Array | None = None,
    min_timepoints: int = MIN_TIMEPOINTS,
) -> Connectome:
    """Network of one subject from the series of its regions.

    Parameters
    ----------
    series
        [t, r].
    method
        See :func:`pearson`, :func:`partial`, :func:`covariance`.
    fisher
        Take Fisher's z of correlations.

    Returns
    -------
    Connectome
        Without diagonal; ``measure`` is the method, or ``fisher-z-pearson`` and the like.

    Raises
    ------
    BadSeries
        Too few time points, values that are not finite, a region that does not vary.
    """
    if fisher and method == "covariance":
        raise ValueError("Fisher's transform is for correlations, not for covariances")
    array = checked_columns(
        series,
        regions,
        rows="time points",
        minimum=min_timepoints,
        remedy="Check which axis is time, or lower --min-timepoints",
    )
    matrix = _METHODS[method](array)
    return Connectome(
        fisher_z(matrix) if fisher else without_diagonal(matrix),
        tuple(regions),
        f"fisher-z-{method}" if fisher else method,
        "fMRI",
        subject,
        centroids_mm,
    )
