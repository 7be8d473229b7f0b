"""Metabolic networks from PET: uptake ratios, of a group or of one subject."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from ..storage.errors import BadSeries
from .matrices import Array
from .structural import MIN_SUBJECTS, distribution_similarity, group_covariance


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
