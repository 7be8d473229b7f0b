"""Which edges are kept: by density, by weight, or as the maximum spanning tree.

All functions take symmetric weights [r, r] and return a new matrix without diagonal in which edges
that are not kept are 0. Equal weights are told apart by position, earlier pairs (i, j), i < j, row
by row, first: the same every time, on every machine.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse.csgraph import minimum_spanning_tree

from ..storage.errors import BadConnectome
from .matrices import Array, as_network, edge_weights

Strength = Literal["value", "magnitude"]


def n_edges_at(density: float, n_regions: int) -> int:
    """Edges that a density stands for: r (r - 1) / 2 x density, rounded, halves up.

    The convention of the Brain Connectivity Toolbox.

    Raises
    ------
    BadConnectome
        The density is not in (0, 1].
    """
    if not 0 < density <= 1:
        raise BadConnectome(f"a density lies above 0 and at most at 1, not at {density:g}")
    return math.floor((n_regions * n_regions - n_regions) * density / 2 + 0.5)


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
    return _keep(network, _strongest(edges if by == "value" else np.abs(edges), density))


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
    return _keep(network, _strongest(ranked, density))


def _strongest(strength: Array, density: float) -> NDArray[np.bool_]:
    n_regions = round((1 + np.sqrt(1 + 8 * len(strength))) / 2)
    wanted, there = n_edges_at(density, n_regions), int((strength > 0).sum())
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
