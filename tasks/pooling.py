"""Many vectors to one: their mean, their mean by attention, their shares of prototypes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..storage.errors import InputError
from ..storage.slide_vectors import Prototypes

_PIECE = 4096
"""Instances that are handled in double precision at once."""


def pool_mean(features: NDArray[np.float32]) -> NDArray[np.float64]:
    """Mean of the instances of a bag [n, d]: float64 [d]."""
    mean: NDArray[np.float64] = features.mean(axis=0, dtype=np.float64)
    return mean


def pool_weighted(
    features: NDArray[np.float32], weights: NDArray[np.float32]
) -> NDArray[np.float64]:
    r"""Mean of instances [n, d] by weights [n], :math:`\sum_i a_i x_i / \sum_i a_i`: float64 [d].

    The weights are the attention of a model, so this is the bag's representation of Ilse et al.
    (2018, ICML), taken of the encoder's own features instead of the model's embedding.
    """
    weights_64 = weights.astype(np.float64)
    total: NDArray[np.float64] = np.zeros(features.shape[1])
    for start in range(0, len(features), _PIECE):
        part = slice(start, start + _PIECE)
        total += weights_64[part] @ features[part].astype(np.float64)
    pooled: NDArray[np.float64] = total / weights_64.sum()
    return pooled


def find_prototypes(sample: NDArray[np.floating[Any]], k: int, *, seed: int = 0) -> Prototypes:
    """Centres of k-means over tiles [n, d], each feature brought to mean 0 and deviation 1.

    Features that do not vary are left as they are, and count for nothing.

    References
    ----------
    Sculley (2010), Web-scale k-means clustering, WWW: the mini-batch algorithm.

    Raises
    ------
    InputError
        There are fewer distinct tiles than prototypes.
    """
    from sklearn.cluster import MiniBatchKMeans

    values = sample.astype(np.float64)
    mean, deviation = values.mean(axis=0), values.std(axis=0)
    deviation[deviation < 1e-12] = 1
    scaled = (values - mean) / deviation
    if len(np.unique(scaled, axis=0)) < k:
        raise InputError(
            f"there are fewer than {k} distinct tiles", where="--k", remedy="Ask for fewer"
        )
    means = MiniBatchKMeans(k, n_init=10, random_state=seed).fit(scaled)
    centres = means.cluster_centers_.astype(np.float64)
    nearest = _squared_distances(scaled, centres).min(axis=1)
    variance = max(float(nearest.mean()) / scaled.shape[1], 1e-12)
    return Prototypes(centres, mean, deviation, variance)


def assign(features: NDArray[np.floating[Any]], prototypes: Prototypes) -> NDArray[np.float64]:
    r"""How far each tile [n, d] belongs to each prototype: float64 [n, k], rows sum to 1.

    :math:`p_{ik} \propto \exp(-\lVert z_i - c_k \rVert^2 / 2\sigma^2)`, the posterior of a mixture
    of Gaussians of equal shares and one variance :math:`\sigma^2`, that of tiles around their
    nearest centre. With many features it is close to the nearest centre alone.
    """
    from scipy.special import softmax

    scaled = (features.astype(np.float64) - prototypes.mean) / prototypes.deviation
    squared = _squared_distances(scaled, prototypes.centres)
    shares: NDArray[np.float64] = softmax(-squared / (2 * prototypes.variance), axis=1)
    return shares


def _squared_distances(
    points: NDArray[np.float64], centres: NDArray[np.float64]
) -> NDArray[np.float64]:
    from scipy.spatial.distance import cdist

    squared: NDArray[np.float64] = cdist(points, centres, "sqeuclidean")
    return squared


def pool_prototypes(features: NDArray[np.float32], prototypes: Prototypes) -> NDArray[np.float64]:
    """Share of a bag's tiles [n, d] that each prototype has: float64 [k], sums to 1."""
    total = np.zeros(len(prototypes.centres))
    for start in range(0, len(features), _PIECE):
        total += assign(features[start : start + _PIECE], prototypes).sum(axis=0)
    return total / len(features)
