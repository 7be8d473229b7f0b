"""Functional networks: how the time courses of regions go together.

Pure functions take one subject's series, [t, r]: rows are time points, columns are regions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from ..storage.connectomes import Connectome
from ..storage.errors import BadSeries
from .coupling import Band, coherence, lagged, mutual_information
from .matrices import Array, checked_columns, without_diagonal

Method = Literal[
    "pearson",
    "partial",
    "covariance",
    "precision",
    "lasso",
    "mutual-information",
    "coherence",
    "lagged",
]

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
    standard = standardised(series)
    if shrink:
        from sklearn.covariance import ledoit_wolf

        estimate = ledoit_wolf(standard, assume_centered=True)[0]
    elif len(standard) > standard.shape[1]:
        estimate = standard.T @ standard / len(standard)
    else:
        raise BadSeries(
            f"{len(standard)} time points of {standard.shape[1]} regions have no precision matrix",
            remedy="Use the shrunk estimate",
        )
    return _partial_of(np.linalg.inv(estimate))


def precision(series: ArrayLike) -> Array:
    """Inverse covariance of the standardised series, shrunk as in :func:`partial`: float64 [r, r].

    References
    ----------
    Ledoit & Wolf (2004), J. Multivar. Anal. 88:365.
    """
    from sklearn.covariance import ledoit_wolf

    found: Array = np.linalg.inv(ledoit_wolf(standardised(series), assume_centered=True)[0])
    return (found + found.T) / 2


def sparse_partial(series: ArrayLike, *, alpha: float | None = None) -> Array:
    """Partial correlation from the graphical lasso, many of them exactly 0: float64 [r, r].

    Parameters
    ----------
    alpha
        Penalty on the precision of the standardised series; by default the best of three-fold
        cross-validation over time, which takes minutes for hundreds of regions.

    Raises
    ------
    BadSeries
        The estimate does not converge.

    References
    ----------
    Friedman, Hastie & Tibshirani (2008), Biostatistics 9:432; Smith et al. (2011), NeuroImage
    54:875.
    """
    from sklearn.covariance import GraphicalLasso, GraphicalLassoCV

    standard = standardised(series)
    model = (
        GraphicalLassoCV(cv=3, assume_centered=True)
        if alpha is None
        else GraphicalLasso(alpha, assume_centered=True)
    )
    try:
        model.fit(standard)
    except FloatingPointError as error:
        raise BadSeries(
            f"the graphical lasso does not converge ({error})", remedy="Use a larger penalty"
        ) from error
    return _partial_of(model.precision_)


def standardised(series: ArrayLike) -> Array:
    """Series with mean 0 and variance 1 (divisor t): float64 [t, r]."""
    array = np.asarray(series, np.float64)
    standard: Array = (array - array.mean(axis=0)) / array.std(axis=0)
    return standard


def _partial_of(inverse: Array) -> Array:
    scale = np.sqrt(np.diag(inverse))
    found: Array = -inverse / np.outer(scale, scale)
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


@dataclass(frozen=True)
class Coupling:
    """How the series of two regions are related.

    Attributes
    ----------
    method
        ``pearson``, ``partial``, ``covariance``, ``precision``; ``lasso``: :func:`sparse_partial`;
        ``mutual-information``, ``coherence``, ``lagged``: see :mod:`.coupling`.
    band_hz, tr_s
        Of ``coherence``, which needs both.
    max_lag
        Of ``lagged``: longest delay, in time points.
    """

    method: Method = "pearson"
    band_hz: Band | None = None
    tr_s: float | None = None
    max_lag: int = 3

    def matrix(self, series: Array) -> Array:
        """The relation of all pairs: float64 [r, r].

        Raises
        ------
        BadSeries
            Coherence without a band or the time between points, and as each method says.
        """
        match self.method:
            case "coherence":
                if self.band_hz is None or self.tr_s is None:
                    raise BadSeries(
                        "coherence needs a band and the time between two points",
                        remedy="Pass --band-hz LOW:HIGH, and --tr-s where the file has no time",
                    )
                return coherence(series, tr_s=self.tr_s, band_hz=self.band_hz)
            case "lagged":
                return lagged(series, max_lag=self.max_lag)[0]
            case simple:
                return _METHODS[simple](series)


_METHODS: dict[str, Callable[[Array], Array]] = {
    "pearson": pearson,
    "partial": partial,
    "covariance": covariance,
    "precision": precision,
    "lasso": sparse_partial,
    "mutual-information": mutual_information,
}
CORRELATIONS = ("pearson", "partial", "lasso", "lagged")
"""Methods that Fisher's transform is for."""


def functional_connectome(
    series: ArrayLike,
    regions: Sequence[str],
    *,
    subject: str = "",
    method: Method | Coupling = "pearson",
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
        See :class:`Coupling`.
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
    coupling = method if isinstance(method, Coupling) else Coupling(method)
    if fisher and coupling.method not in CORRELATIONS:
        raise ValueError(f"Fisher's transform is for correlations, not for {coupling.method}")
    array = checked_columns(
        series,
        regions,
        rows="time points",
        minimum=min_timepoints,
        remedy="Check which axis is time, or lower --min-timepoints",
    )
    matrix = coupling.matrix(array)
    return Connectome(
        fisher_z(matrix) if fisher else without_diagonal(matrix),
        tuple(regions),
        f"fisher-z-{coupling.method}" if fisher else coupling.method,
        "fMRI",
        subject,
        centroids_mm,
    )
