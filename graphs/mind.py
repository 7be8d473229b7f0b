"""Similarity of regions within one subject by all vertices of the cortex: MIND."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from ..storage.errors import BadSeries
from .matrices import Array


def morphometric_inverse_divergence(vertices: Sequence[ArrayLike]) -> Array:
    r"""Similarity between the multivariate distributions of regions' vertices: float64 [r, r].

    .. math:: 1 / (1 + D(P\|Q) + D(Q\|P)), \qquad
        D(P\|Q) = \frac{d}{n} \sum_i \log\frac{s_i}{r_i} + \log\frac{m}{n - 1}

    D is the Kullback-Leibler divergence estimated by nearest neighbours: of n vertices with d
    features in region P, r is the distance of each to its nearest other in P, and s to its nearest
    of the m in Q. Estimates below 0 count as 0. A vertex with a twin, at distance 0 in P or Q,
    adds nothing to the sum.

    Parameters
    ----------
    vertices
        For each region [v, f]: v vertices, two at least, and f features. **Standardise each feature
        over all vertices first** (:func:`standardised_vertices`): distances are Euclidean.

    Returns
    -------
    float64 [r, r]
        Symmetric, above 0, at most 1; 1 on the diagonal.

    Raises
    ------
    BadSeries
        A region with fewer than two vertices, other features, or a value that is not finite.

    Notes
    -----
    The reference implementation asks its trees for neighbours within 1 % of the nearest; here the
    nearest itself is taken.

    References
    ----------
    Sebenius et al. (2023), Nat. Neurosci. 26:1461; Pérez-Cruz (2008), IEEE ISIT, 1666.
    """
    from scipy.spatial import cKDTree

    arrays = [np.asarray(one, np.float64) for one in vertices]
    _require(arrays)
    trees = [cKDTree(one) for one in arrays]
    own = [tree.query(one, k=2)[0][:, 1] for tree, one in zip(trees, arrays, strict=True)]
    n = len(arrays)
    divergence = np.zeros((n, n))
    for i in range(n):
        for j in range(n):
            if i != j:
                other = trees[j].query(arrays[i])[0]
                divergence[i, j] = _divergence(own[i], other, arrays[i].shape[1], len(arrays[j]))
    both = divergence + divergence.T
    similarity: Array = 1 / (1 + both)
    return similarity


def standardised_vertices(values: ArrayLike, regions: ArrayLike, n_regions: int) -> list[Array]:
    """Features of all vertices, z-scored over all that lie in a region, region by region.

    Parameters
    ----------
    values
        [v, f].
    regions
        int [v]: number of the region from 0; below 0 for vertices of none, which are left out.

    Returns
    -------
    list of float64 [v, f]
        ``n_regions`` long.

    Raises
    ------
    BadSeries
        The two do not fit, or a feature is the same at all vertices.
    """
    array, place = np.asarray(values, np.float64), np.asarray(regions)
    if array.ndim != 2 or place.shape != (len(array),):
        raise BadSeries(f"vertices {array.shape} and their regions {place.shape} do not fit")
    inside = array[place >= 0]
    deviation = inside.std(axis=0) if len(inside) else np.zeros(array.shape[1])
    if not (deviation > 0).all():
        raise BadSeries(f"feature {int(np.argmin(deviation)) + 1} is the same at all vertices")
    z = (array - inside.mean(axis=0)) / deviation
    return [z[place == number] for number in range(n_regions)]


def _divergence(own: Array, other: Array, n_features: int, n_other: int) -> float:
    apart = (own > 0) & (other > 0)
    total = np.log(other[apart] / own[apart]).sum() * n_features / len(own)
    return max(0.0, float(total + np.log(n_other / (len(own) - 1))))


def _require(arrays: Sequence[Array]) -> None:
    if len(arrays) < 2:
        raise BadSeries("two regions or more are needed")
    for number, one in enumerate(arrays):
        if one.ndim != 2 or one.shape[1:] != arrays[0].shape[1:] or len(one) < 2:
            raise BadSeries(
                f"region {number} has vertices {one.shape}, not two or more of the features of "
                f"region 0, {arrays[0].shape[1:]}",
                remedy="Leave the region out, or take a coarser parcellation",
            )
        if not np.isfinite(one).all():
            raise BadSeries(f"region {number} has a value that is not a finite number")
