"""Structural networks from anatomy: of a group, or of one subject."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import rel_entr

from ..storage.errors import BadSeries
from .functional import pearson
from .matrices import Array, checked_columns

Divergence = Literal["jensen-shannon", "kullback-leibler"]

MIN_SUBJECTS = 10
"""Fewer subjects than this are refused for a covariance over subjects, unless asked for."""


def group_covariance(
    values: ArrayLike,
    regions: Sequence[str] = (),
    *,
    covariates: ArrayLike | None = None,
    min_subjects: int = MIN_SUBJECTS,
) -> Array:
    """Correlation of regional values over subjects: float64 [r, r], 1 on the diagonal.

    "Structural covariance" is the field's name for it; it is Pearson's correlation.

    Parameters
    ----------
    values
        [s, r]: thickness, volume, uptake … of each region in each subject.
    regions
        r names, for messages.
    covariates
        [s, c]: age, sex, total volume …; regressed out of every region first, with an intercept.

    Raises
    ------
    BadSeries
        Too few subjects, a value that is not finite, a region that does not vary.

    References
    ----------
    Alexander-Bloch, Giedd & Bullmore (2013), Nat. Rev. Neurosci. 14:322.
    """
    array = checked_columns(
        values,
        regions,
        rows="subjects",
        minimum=min_subjects,
        remedy="Use more, or a method for single subjects",
    )
    if covariates is not None:
        design = np.column_stack([np.ones(len(array)), np.asarray(covariates, np.float64)])
        array = array - design @ np.linalg.lstsq(design, array, rcond=None)[0]
    return pearson(array)


def morphometric_similarity(features: ArrayLike) -> Array:
    """Correlation between the feature vectors of regions within one subject: float64 [r, r].

    Each feature is first z-scored over the regions, so that none outweighs another.

    Parameters
    ----------
    features
        [r, f]: at least three features (thickness, area, volume, curvature …); with two, every
        correlation is 1 or -1. Few features give coarse similarities: the paper used ten.

    Returns
    -------
    float64 [r, r]
        1 on the diagonal and between regions with the same features.

    Raises
    ------
    BadSeries
        Fewer than three features, one that is the same in all regions, or a region whose features
        all lie equally far from their mean.

    References
    ----------
    Seidlitz et al. (2018), Neuron 97:231.
    """
    array = np.asarray(features, np.float64)
    if array.ndim != 2 or array.shape[1] < 3:
        raise BadSeries(
            f"morphometric similarity needs three features or more, not {array.shape[1:]}",
            remedy="Add a table of another measure",
        )
    names = [f"feature {i + 1}" for i in range(array.shape[1])]
    checked_columns(array, names, rows="regions", minimum=3)
    z = (array - array.mean(axis=0)) / array.std(axis=0)
    checked_columns(z.T, rows="features", minimum=3)
    return pearson(z.T)


def distribution_similarity(
    samples: Sequence[ArrayLike],
    *,
    divergence: Divergence = "jensen-shannon",
    n_points: int = 256,
) -> Array:
    r"""Likeness of the distributions of values within regions: float64 [r, r].

    .. math:: S_{ij} = 1 - \sqrt{\mathrm{JSD}_2(p_i \| p_j)}

    Jensen-Shannon divergence to base 2, whose root is a metric in 0 … 1, between Gaussian kernel
    densities (Scott's bandwidth) on one grid over the range of all samples; or the similarity of
    Kullback and Leibler, :func:`kullback_leibler_similarity`.

    Parameters
    ----------
    samples
        For each region its voxel values, any number of at least two that differ.
    n_points
        Points of the grid.

    Returns
    -------
    float64 [r, r]
        Symmetric, 0 … 1; 1 on the diagonal and between regions with the same values.

    Raises
    ------
    BadSeries
        A region with one voxel, with a value that is not finite, or all of whose values are equal.

    References
    ----------
    Kong et al. (2015), PLoS ONE 10:e0141840 and Wang et al. (2016), Brain Behav. 6:e00448, with the
    Kullback-Leibler divergence; Li et al. (2021), doi:10.1101/2021.01.25.428021, with this one;
    Endres & Schindelin (2003), IEEE Trans. Inf. Theory 49:1858, for the metric.
    """
    values = [np.asarray(s, np.float64).ravel() for s in samples]
    for number, region in enumerate(values):
        if len(region) < 2 or not np.isfinite(region).all() or np.ptp(region) == 0:
            raise BadSeries(
                f"region {number + 1} has no distribution: {len(region)} voxels that are "
                "not finite or do not differ",
                remedy="Leave it out of the atlas, or check that the scan covers it",
            )
    densities = _densities(values, n_points)
    if divergence == "kullback-leibler":
        return kullback_leibler_similarity(densities)
    return jensen_shannon_similarity(densities)


def kullback_leibler_similarity(distributions: ArrayLike) -> Array:
    r"""Likeness by the symmetric Kullback-Leibler divergence of all pairs of rows: float64 [r, r].

    .. math:: S_{ij} = \exp\Bigl(-\sum_b p_{ib} \ln\frac{p_{ib}}{p_{jb}}
                                + p_{jb} \ln\frac{p_{jb}}{p_{ib}}\Bigr)

    0 where one row is 0 and the other is not; it falls off faster than Jensen and Shannon's.

    Parameters
    ----------
    distributions
        [r, b]: not negative, the same bins in all rows; each is scaled to sum 1.

    References
    ----------
    Kong et al. (2015), PLoS ONE 10:e0141840.
    """
    p = np.asarray(distributions, np.float64)
    p = p / p.sum(axis=1, keepdims=True)
    similarity = np.ones((len(p), len(p)))
    for i in range(len(p) - 1):
        others = p[i + 1 :]
        apart = (rel_entr(p[i], others) + rel_entr(others, p[i])).sum(axis=1)
        similarity[i, i + 1 :] = similarity[i + 1 :, i] = np.exp(-apart)
    return similarity


def jensen_shannon_similarity(distributions: ArrayLike) -> Array:
    """1 - Jensen-Shannon distance (base 2) between all pairs of rows: float64 [r, r].

    Parameters
    ----------
    distributions
        [r, b]: not negative, the same bins in all rows; each is scaled to sum 1.
    """
    p = np.asarray(distributions, np.float64)
    p = p / p.sum(axis=1, keepdims=True)
    entropy = _entropy(p)
    similarity = np.ones((len(p), len(p)))
    for i in range(len(p) - 1):
        divergence = _entropy((p[i] + p[i + 1 :]) / 2) - (entropy[i] + entropy[i + 1 :]) / 2
        # Rounding may leave the divergence of equal distributions just off zero.
        divergence = np.where((p[i] == p[i + 1 :]).all(axis=1), 0.0, divergence)
        row = 1 - np.sqrt(np.clip(divergence, 0.0, 1.0))
        similarity[i, i + 1 :] = similarity[i + 1 :, i] = row
    return similarity


def _entropy(p: Array) -> Array:
    bits: Array = -(p * np.log2(p, out=np.zeros_like(p), where=p > 0)).sum(axis=-1)
    return bits


def _densities(values: Sequence[Array], n_points: int) -> Array:
    from scipy.stats import gaussian_kde

    low, high = min(v.min() for v in values), max(v.max() for v in values)
    grid = np.linspace(low, high, n_points)
    return np.stack([gaussian_kde(v)(grid) for v in values])
