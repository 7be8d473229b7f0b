"""Measures of networks with positive and negative weights, such as correlations.

Networks are undirected and the diagonal plays no part. What negative weights mean is a choice: each
function says how they enter.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import communities
from .communities import membership
from .matrices import Array, as_network


def split_signs(weights: ArrayLike) -> tuple[Array, Array]:
    """Positive weights, and sizes of the negative ones: float64 [r, r] each, not negative."""
    network = as_network(weights, signed=True)
    return np.maximum(network, 0.0), np.maximum(-network, 0.0)


def strength_signed(weights: ArrayLike) -> tuple[Array, Array]:
    """Sum of the positive weights of each region, and of the sizes of its negative ones: [r]."""
    positive, negative = split_signs(weights)
    return positive.sum(axis=0), negative.sum(axis=0)


def clustering_signed(
    weights: ArrayLike, *, kind: Literal["costantini-perugini", "zhang-horvath"]
) -> Array:
    r"""Clustering of each region, float64 [r]; 0 where it has no two neighbours.

    ``costantini-perugini``, -1 … 1: triangles of negative product count against the region.

    .. math:: C_i = \frac{\sum_{jh} w_{ij} w_{jh} w_{hi}}{\sum_{j \ne h} |w_{ij} w_{ih}|}

    ``zhang-horvath``, 0 … 1: the same of :math:`|w|`, so that signs play no part.

    Weights are divided by the largest size first.

    References
    ----------
    Costantini & Perugini (2014), PLoS ONE 9:e88669; Zhang & Horvath (2005), Stat. Appl. Genet.
    Mol. Biol. 4:17.
    """
    network = as_network(weights, signed=True)
    size = np.abs(network)
    largest = size.max()
    if largest == 0:
        return np.zeros(len(network))
    ties = (network if kind == "costantini-perugini" else size) / largest
    triangles = np.einsum("ij,ji->i", ties @ ties, ties)
    total = size.sum(axis=0) / largest
    pairs = total**2 - (ties**2).sum(axis=0)
    found: Array = np.divide(
        triangles, pairs, out=np.zeros(len(ties)), where=pairs > 1e-12 * total**2
    )
    return found


def modularity_signed(
    weights: ArrayLike, partition: ArrayLike, *, resolution: float = 1.0
) -> float:
    r"""Asymmetric modularity Q*; nan for a network without edges.

    .. math:: Q^* = Q^+ - \frac{v^-}{v^+ + v^-} Q^-

    where Q± are of the positive weights and of the sizes of the negative ones, v± their sums:
    negative weights within modules count against the partition, and less the fewer they are.

    References
    ----------
    Rubinov & Sporns (2011), NeuroImage 56:2068.
    """
    positive, negative = split_signs(weights)
    v_positive, v_negative = positive.sum(), negative.sum()
    if v_positive + v_negative == 0:
        return float("nan")
    q = communities.modularity(positive, partition, resolution=resolution) if v_positive else 0.0
    if v_negative:
        share = v_negative / (v_positive + v_negative)
        q -= share * communities.modularity(negative, partition, resolution=resolution)
    return float(q)


def louvain_signed(
    weights: ArrayLike, *, resolution: float = 1.0, seed: int = 0
) -> NDArray[np.int64]:
    """Find modules by greedy optimisation of :func:`modularity_signed`: int64 [r], largest first.

    Regions move, then modules as wholes, in random order, until nothing improves. Equal seeds give
    equal modules.

    References
    ----------
    Blondel et al. (2008), J. Stat. Mech. P10008; Rubinov & Sporns (2011).
    """
    gain = _gain_matrix(weights, resolution)
    rng = np.random.default_rng(seed)
    modules = np.arange(len(gain))
    level = gain
    while True:
        moved = _move_all(level, rng)
        _, number = np.unique(moved, return_inverse=True)
        modules = number[modules]
        if number.max() + 1 == len(level):
            break
        members = np.eye(number.max() + 1)[modules]
        level = members.T @ gain @ members
    sets = [set(np.flatnonzero(modules == m).tolist()) for m in range(modules.max() + 1)]
    return communities.by_size(sets, len(gain))


def _gain_matrix(weights: ArrayLike, resolution: float) -> Array:
    """Float64 [r, r] whose sum over pairs in one module is proportional to Q*."""
    positive, negative = split_signs(weights)
    v_positive, v_negative = positive.sum(), negative.sum()
    gain = np.zeros_like(positive)
    for part, total, scale in (
        (positive, v_positive, v_positive),
        (negative, v_negative, -(v_positive + v_negative)),
    ):
        if total:
            s = part.sum(axis=0)
            gain += (part - resolution * np.outer(s, s) / total) / scale
    return gain


def _move_all(gain: Array, rng: np.random.Generator) -> NDArray[np.int64]:
    """Move each node to the module that gains most, until none moves: int64 [n]."""
    n = len(gain)
    module = np.arange(n)
    to_module = gain.copy()
    improved = True
    while improved:
        improved = False
        for node in rng.permutation(n):
            own = module[node]
            value = to_module[node].copy()
            value[own] -= gain[node, node]
            best = int(np.argmax(value))
            if value[best] > value[own] + 1e-12:
                to_module[:, own] -= gain[:, node]
                to_module[:, best] += gain[:, node]
                module[node], improved = best, True
    return module


def participation_signed(weights: ArrayLike, partition: ArrayLike) -> tuple[Array, Array]:
    """Participation (:func:`.communities.participation`) of positive and of negative weights.

    float64 [r] each.

    References
    ----------
    Guimerà & Amaral (2005), Nature 433:895; Rubinov & Sporns (2011).
    """
    positive, negative = split_signs(weights)
    return (
        communities.participation(positive, partition),
        communities.participation(negative, partition),
    )


def gateway_signed(weights: ArrayLike, partition: ArrayLike) -> tuple[Array, Array]:
    """Gateway coefficient of positive and of negative weights; see :func:`gateway`."""
    positive, negative = split_signs(weights)
    return gateway(positive, partition), gateway(negative, partition)


def gateway(weights: ArrayLike, partition: ArrayLike) -> Array:
    r"""Participation that counts how critical a region is to its module: float64 [r].

    .. math:: G_i = 1 - g_i^2 \sum_m \Big(\frac{k_{im}}{k_i}\Big)^2, \qquad
              g_i = 1 - \bar c_i \sum_m \frac{k_{im}}{\sum_{j \in c_i} k_{jm}}

    where :math:`k_{im}` is the region's strength into module m, and :math:`\bar c_i` the strength
    of all of its module over that of the strongest module. 0 without edges.

    Notes
    -----
    The Brain Connectivity Toolbox's reading of the paper, with strength as the centrality: one
    factor for all modules, and the centrality of the region's own module.

    References
    ----------
    Vargas & Wahl (2014), Eur. Phys. J. B 87:161.
    """
    network = as_network(weights)
    members = membership(partition, network)
    total = network.sum(axis=1)
    of_module = members.T @ total
    if not of_module.any():
        return np.zeros(len(network))
    to_module = network @ members
    together = members @ (members.T @ to_module)
    share = np.divide(to_module, together, out=np.zeros_like(to_module), where=together > 0)
    factor = 1 - members @ of_module / of_module.max() * share.sum(axis=1)
    part = np.divide(
        to_module, total[:, None], out=np.zeros_like(to_module), where=total[:, None] > 0
    )
    return np.where(total > 0, 1 - factor**2 * (part**2).sum(axis=1), 0.0)
