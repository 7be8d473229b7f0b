"""Metabolic networks from PET: uptake ratios, of a group or of one subject."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from ..storage.errors import BadSeries
from .functional import pearson
from .matrices import Array, without_diagonal
from .structural import MIN_SUBJECTS, distribution_similarity, group_covariance

_SAME = 1e-9
"""1 - r² below which two regions are the same."""


def suvr(
    uptake: ArrayLike, reference: Sequence[int], *, n_voxels: ArrayLike | None = None
) -> Array:
    """Standardised uptake value ratio: uptake over the mean uptake of a reference region.

    Parameters
    ----------
    uptake
        [..., r]: mean uptake of each region, in any unit.
    reference
        Positions of the region or regions that together are the reference: pons or cerebellum for
        FDG, cerebellar grey matter for amyloid. Which one is the user's choice, never a default.
    n_voxels
        [r]: sizes that weigh several reference regions; equal weights without.

    Returns
    -------
    float64 [..., r]
        1 on average over the reference.

    Raises
    ------
    BadSeries
        No reference, or its uptake is not above zero.
    """
    values = np.asarray(uptake, np.float64)
    chosen = list(reference)
    if not chosen:
        raise BadSeries("no reference region is given")
    weights = np.ones(len(chosen)) if n_voxels is None else np.asarray(n_voxels, np.float64)[chosen]
    level = values[..., chosen] @ (weights / weights.sum())
    if not (np.asarray(level) > 0).all():
        raise BadSeries(
            "the reference region has no uptake",
            remedy="Choose another reference, or check that scan and atlas lie in the same space",
        )
    ratio: Array = values / np.asarray(level)[..., None]
    return ratio


def jsse(samples: Sequence[ArrayLike]) -> Array:
    """Network of one subject by Jensen-Shannon similarity estimation: float64 [r, r].

    How alike the distributions of voxel uptake in two regions are; see
    :func:`.structural.distribution_similarity`. It does not depend on the unit of the uptake, nor
    on a reference region.

    Parameters
    ----------
    samples
        For each region the uptake of its voxels.

    References
    ----------
    Zhu et al. (2022), Front. Cell Dev. Biol. 9:803800, for FDG in epilepsy. Wang et al. (2020),
    EJNMMI 47:2753, for the Kullback-Leibler form in Alzheimer's disease.
    """
    return distribution_similarity(samples)


def klse(samples: Sequence[ArrayLike]) -> Array:
    """Network of one subject by Kullback-Leibler similarity estimation: float64 [r, r].

    As :func:`jsse` with the older divergence; see
    :func:`.structural.kullback_leibler_similarity`.

    References
    ----------
    Wang et al. (2020), EJNMMI 47:2753.
    """
    return distribution_similarity(samples, divergence="kullback-leibler")


def effect_size_network(uptake: ArrayLike, controls: ArrayLike) -> Array:
    r"""Network of one subject: that of controls, weighed by how far pairs of regions are shifted.

    .. math:: A_{ij} = W_{ij}\, r_{ij}, \quad W_{ij} = \exp\left(-\left|
              \frac{(x_i - x_j) - (m_i - m_j)}{s_{ij}}\right|\right), \quad
              s_{ij}^2 = (s_i^2 + s_j^2) / 2

    with means m, standard deviations s and correlations r of the controls: the difference between
    the effect sizes (Cohen's d between two regions) of the subject and of the controls' mean. The
    paper speaks of a weight that comes from this difference; that it is the exponential, 1 where
    the subject differs as controls do and towards 0 beyond, is chosen here.

    Parameters
    ----------
    uptake
        [r]: of the subject; a ratio, so that its level is that of the controls.
    controls
        [c, r]: the same of at least :data:`.structural.MIN_SUBJECTS`, the subject not among them.

    Returns
    -------
    float64 [r, r]
        Symmetric, -1 … 1; 1 on the diagonal.

    Raises
    ------
    BadSeries
        Too few controls, values that are not finite, a region that does not vary among them.

    References
    ----------
    Huang et al. (2020), Front. Neurosci. 14:344.
    """
    group = group_covariance(controls)
    values, one = np.asarray(controls, np.float64), _one(uptake, len(group))
    shift = one - values.mean(axis=0)
    variance = values.var(axis=0, ddof=1)
    pooled = np.sqrt((variance[:, None] + variance) / 2)
    weight: Array = np.exp(-np.abs(shift[:, None] - shift) / pooled)
    return weight * group


def perturbation_network(uptake: ArrayLike, controls: ArrayLike) -> Array:
    r"""Network of one subject: how it changes the correlations of controls that it joins.

    .. math:: z_{ij} = \frac{r_{ij}^{(n + 1)} - r_{ij}^{(n)}}{(1 - (r_{ij}^{(n)})^2) / (n - 1)}

    About standard normal for one more control, so that large values are edges that are lost or won.

    Parameters
    ----------
    uptake, controls
        As in :func:`effect_size_network`.

    Returns
    -------
    float64 [r, r]
        Symmetric, of either sign; 0 on the diagonal.

    Raises
    ------
    BadSeries
        As in :func:`effect_size_network`; two regions are the same up to scale among controls.

    References
    ----------
    Liu et al. (2016), Nucleic Acids Res. 44:e164; Sun et al. (2022), EJNMMI 49:2994, for PET.
    """
    before = group_covariance(controls)
    values, one = np.asarray(controls, np.float64), _one(uptake, len(before))
    with_subject = pearson(np.vstack([values, one]))
    room = 1 - before**2
    np.fill_diagonal(room, 1.0)
    if room.min() < _SAME:
        i, j = np.argwhere(room < _SAME)[0]
        raise BadSeries(
            f"regions {i + 1} and {j + 1} are the same up to scale among controls",
            remedy="Leave one of them out",
        )
    return without_diagonal((with_subject - before) / room * (len(values) - 1))


def _one(uptake: ArrayLike, n_regions: int) -> Array:
    one = np.asarray(uptake, np.float64)
    if one.shape != (n_regions,) or not np.isfinite(one).all():
        raise BadSeries(
            f"uptake of shape {one.shape} is not that of {n_regions} regions, or not finite"
        )
    return one


def metabolic_covariance(
    uptake: ArrayLike,
    regions: Sequence[str] = (),
    *,
    reference: Sequence[int] | None = None,
    covariates: ArrayLike | None = None,
    min_subjects: int = MIN_SUBJECTS,
) -> Array:
    """Correlation of regional uptake over subjects: float64 [r, r].

    Parameters
    ----------
    uptake
        [s, r]: mean uptake, or ratios already.
    regions
        r names, for messages.
    reference
        Divide by these regions first (:func:`suvr`). They take part in the network none the less;
        a single one would be constant, and is refused.

    References
    ----------
    Horwitz, Duara & Rapoport (1984), J. Cereb. Blood Flow Metab. 4:484.
    """
    values = np.asarray(uptake, np.float64) if reference is None else suvr(uptake, reference)
    return group_covariance(values, regions, covariates=covariates, min_subjects=min_subjects)
