"""Which edges are kept: by density, by weight, by their share, or as spanning trees.

All functions take symmetric weights [r, r] and return a new matrix without diagonal in which edges
that are not kept are 0. Of equal weights the later pairs (i, j), i < j, row by row, are kept
first: the same every time, on every machine.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse.csgraph import minimum_spanning_tree

from ..storage.errors import BadConnectome
from . import paths
from .matrices import Array, as_directed_network, as_network, edge_weights

Strength = Literal["value", "magnitude"]


def n_edges_at(density: float, n_regions: int) -> int:
    """Edges that a density stands for: r (r - 1) / 2 x density, rounded, halves up.

    The convention of the Brain Connectivity Toolbox.

    Raises
    ------
    BadConnectome
        The density is not in (0, 1].
    """
    return _share((n_regions * n_regions - n_regions) // 2, density)


def _share(n_pairs: int, density: float) -> int:
    if not 0 < density <= 1:
        raise BadConnectome(f"a density lies above 0 and at most at 1, not at {density:g}")
    return math.floor(n_pairs * density + 0.5)


def proportional(weights: ArrayLike, density: float, *, by: Strength = "value") -> Array:
    """Keep the strongest edges, up to a density.

    Parameters
    ----------
    density
        Share of all pairs that are kept, 0 … 1; see :func:`n_edges_at`.
    by
        ``value``: the largest weights, which must be positive. ``magnitude``: the largest absolute
        weights, signs kept.

    Raises
    ------
    BadConnectome
        Fewer edges are there (``value``: with a positive weight) than the density asks for, so that
        networks of one density would not have the same number of edges.
    """
    network = as_network(weights, signed=True)
    edges = edge_weights(network)
    return _keep(network, strongest(edges if by == "value" else np.abs(edges), density))


def proportional_directed(weights: ArrayLike, density: float) -> Array:
    """Keep the strongest directed edges, largest weights first, up to a density.

    ``weights[i, j]`` is of the edge from i to j; the density is of all r (r - 1) of them. Equal
    weights are told apart by position, as everywhere here.

    Raises
    ------
    BadConnectome
        Fewer edges have a positive weight than the density asks for.
    """
    network = as_directed_network(weights, signed=True)
    n = len(network)
    pairs = np.nonzero(~np.eye(n, dtype=bool))
    kept = np.zeros((n, n), bool)
    kept[pairs] = strongest(network[pairs], density)
    return np.where(kept, network, 0.0)


def absolute(weights: ArrayLike, minimum: float) -> Array:
    """Keep edges whose weight is at least ``minimum``."""
    network = as_network(weights, signed=True)
    return np.where(network >= minimum, network, 0.0)


def binarise(weights: ArrayLike) -> Array:
    """1 where there is an edge, of whatever sign, else 0."""
    return np.asarray(as_network(weights, signed=True) != 0, np.float64)


def maximum_spanning_tree(weights: ArrayLike) -> Array:
    """Keep the r - 1 edges of largest total weight that connect all regions.

    Signed weights are ordered by value. Of a network in several parts, a tree of each part is kept.
    """
    network = as_network(weights, signed=True)
    edges = network != 0
    # Kruskal's order is all that counts, and a cost of zero would be no edge.
    cost = np.where(edges, 1.0 + network.max() - network, 0.0)
    tree = minimum_spanning_tree(np.triu(cost)).toarray() > 0
    return np.where(tree | tree.T, network, 0.0)


def tree_and_strongest(weights: ArrayLike, density: float) -> Array:
    """Keep the maximum spanning tree, and the strongest other edges up to a density.

    The network is connected at every density, which :func:`proportional` does not promise.

    References
    ----------
    Alexander-Bloch et al. (2010), Front. Syst. Neurosci. 4:147.
    """
    network = as_network(weights, signed=True)
    tree = maximum_spanning_tree(network) != 0
    edges = edge_weights(network)
    first = edges.max(initial=0.0) + 1.0
    ranked = np.where(edge_weights(tree) > 0, first + np.abs(edges), edges)
    if n_edges_at(density, len(network)) < len(network) - 1:
        raise BadConnectome(
            f"density {density:g} has fewer edges than the spanning tree of {len(network)} regions",
            remedy=f"Ask for at least {2 / len(network):.3g}",
        )
    return _keep(network, strongest(ranked, density))


def disparity_backbone(weights: ArrayLike, *, alpha: float = 0.05) -> Array:
    r"""Keep edges that are too strong for one of their ends to be chance.

    A region that divides its strength among its k edges at random gives one of them a share p or
    more with probability :math:`(1 - p)^{k - 1}`. An edge is kept where that is below ``alpha`` at
    either end; an only edge says nothing of that end.

    References
    ----------
    Serrano et al. (2009), PNAS 106:6483.
    """
    network = as_network(weights)
    if not 0 < alpha < 1:
        raise BadConnectome(f"alpha lies between 0 and 1, not at {alpha:g}")
    k = np.count_nonzero(network, axis=1)[:, None]
    total = network.sum(axis=1, keepdims=True)
    share = np.divide(network, total, out=np.zeros_like(network), where=total > 0)
    p = np.where(k > 1, (1 - share) ** np.maximum(k - 1, 1), 1.0)
    return np.where(np.minimum(p, p.T) < alpha, network, 0.0)


def orthogonal_trees(weights: ArrayLike) -> Array:
    """Join spanning trees that share no edge, until efficiency is no longer worth its cost.

    The maximum spanning tree is taken out of the network again and again; of all unions of the
    first k trees, that of the largest global efficiency (over that of the whole network) minus cost
    (its share of the total weight) is kept. Lengths are 1 / weight. No density has to be chosen.

    References
    ----------
    Dimitriadis et al. (2017), Front. Neuroinform. 11:28.
    """
    network = as_network(weights)
    whole, total = _efficiency(network), network.sum()
    kept = best = np.zeros_like(network)
    left, highest = network, -np.inf
    # Efficiency is at most that of the whole, so that no costlier union can win any more.
    while left.any() and 1 - kept.sum() / total > highest:
        tree = maximum_spanning_tree(left)
        kept, left = kept + tree, left - tree
        worth = _efficiency(kept) / whole - kept.sum() / total
        if worth > highest:
            best, highest = kept, worth
    return best


def _efficiency(network: Array) -> float:
    return paths.global_efficiency(paths.distances(paths.Lengths.from_weights(network)))


def strongest(strength: Array, density: float) -> NDArray[np.bool_]:
    """Which of the strengths [e] are kept at a density: bool [e].

    Raises
    ------
    BadConnectome
        Fewer of them are above 0 than the density asks for.
    """
    wanted, there = _share(len(strength), density), int((strength > 0).sum())
    if wanted > there:
        raise BadConnectome(
            f"density {density:g} asks for {wanted} edges, but only {there} of {len(strength)} "
            "pairs have a positive weight",
            remedy=f"Ask for a density of at most {there / max(1, len(strength)):.3g}",
        )
    kept = np.zeros(len(strength), bool)
    kept[np.argsort(strength, kind="stable")[len(strength) - wanted :]] = True
    return kept


def _keep(network: Array, kept: NDArray[np.bool_]) -> Array:
    mask = np.zeros(network.shape, bool)
    mask[np.triu_indices(len(network), 1)] = kept
    return np.where(mask | mask.T, network, 0.0)
