"""Shortest paths and what is made of them. Everything here takes *lengths*, never weights.

A weight says how strongly two regions are connected, a length how far apart they are. Mixing them
up goes unnoticed in most tools; here lengths are a type of their own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse.csgraph import shortest_path

from ..storage.errors import BadConnectome
from .matrices import Array, as_network

_TIE = 1e-12
"""Two paths are equally short when their lengths differ by less than this fraction."""

_MANY_REGIONS, _REGIONS_AN_EDGE = 2500, 50
"""Dijkstra's heap is faster from so many regions on, and so many more for each edge of a region."""


@dataclass(frozen=True, eq=False)
class Lengths:
    """Lengths of the edges of an undirected network.

    Attributes
    ----------
    values
        float64 [r, r], symmetric, positive; infinite where there is no edge, 0 on the diagonal.
    """

    values: Array

    def __post_init__(self) -> None:
        off = self.values[~np.eye(len(self.values), dtype=bool)]
        if self.values.ndim != 2 or self.values.shape[0] != self.values.shape[1]:
            raise BadConnectome(f"lengths are a square matrix, not {self.values.shape}")
        if not (off > 0).all() or not np.array_equal(self.values, self.values.T):
            raise BadConnectome("lengths must be positive and the same in both directions")

    @classmethod
    def from_weights(cls, weights: ArrayLike) -> Lengths:
        """Length = 1 / weight; no edge where the weight is 0."""
        network = as_network(weights)
        with np.errstate(divide="ignore"):
            values = 1 / network
        np.fill_diagonal(values, 0.0)
        return cls(values)

    @classmethod
    def hops(cls, weights: ArrayLike) -> Lengths:
        """Length 1 for every edge, whatever its weight."""
        network = as_network(weights, signed=True)
        values = np.where(network != 0, 1.0, np.inf)
        np.fill_diagonal(values, 0.0)
        return cls(values)


def distances(lengths: Lengths) -> Array:
    """Length of the shortest path between all pairs: float64 [r, r], infinite where there is none.

    Floyd-Warshall, or Dijkstra where many regions have few edges each.
    """
    n = len(lengths.values)
    mean_degree = np.isfinite(lengths.values).sum() / n - 1
    if n > _MANY_REGIONS + _REGIONS_AN_EDGE * mean_degree:
        by_heap: Array = shortest_path(lengths.values, method="D", directed=False)
        return by_heap
    from .shortest import floyd_warshall

    found = lengths.values.copy()
    floyd_warshall(found)
    return found


def characteristic_path_length(distance: ArrayLike) -> float:
    """Mean shortest path length over the pairs that a path connects; nan where none is.

    Parameters
    ----------
    distance
        [r, r] as of :func:`distances`. Pairs in different parts of the network are left out: look
        at the number of components beside it.

    References
    ----------
    Watts & Strogatz (1998), Nature 393.
    """
    pairs = _off_diagonal(distance)
    connected = pairs[np.isfinite(pairs)]
    return float(connected.mean()) if len(connected) else float("nan")


def eccentricity(distance: ArrayLike) -> Array:
    """Longest shortest path from each region to any it is connected with: float64 [r].

    The smallest is the radius, the largest the diameter. Nan for a region without an edge.
    """
    far = np.where(np.isfinite(distance) & (np.asarray(distance) > 0), distance, np.nan)
    reached = ~np.isnan(far).all(axis=1)
    found = np.full(len(far), np.nan)
    found[reached] = np.nanmax(far[reached], axis=1)
    return found


def global_efficiency(distance: ArrayLike) -> float:
    """Mean of 1 / shortest path length over all pairs; a pair without a path counts as 0.

    References
    ----------
    Latora & Marchiori (2001), Phys. Rev. Lett. 87:198701.
    """
    pairs = _off_diagonal(distance)
    return float((1 / pairs).mean()) if len(pairs) else float("nan")


def local_efficiency_binary(weights: ArrayLike) -> Array:
    """Global efficiency among the neighbours of each region, edges counted as 1: float64 [r].

    0 for a region with fewer than two neighbours. Paths run among the neighbours only.

    References
    ----------
    Latora & Marchiori (2001), Phys. Rev. Lett. 87:198701.
    """
    hops = Lengths.hops(weights).values
    return _local_efficiency(hops, np.where(hops == 1, 1.0, 0.0))


def local_efficiency_weighted(weights: ArrayLike) -> Array:
    r"""Efficiency among the neighbours of each region, weighted by their ties to it: float64 [r].

    .. math:: E_i = \frac{1}{k_i (k_i - 1)}
              \sum_{j \ne h} \frac{(w_{ij} w_{ih})^{1/3}}{d_{jh}(N_i)}

    where d are shortest paths within the neighbourhood, over lengths :math:`w^{-1/3}`. Weights are
    taken as they are: divide by the largest to compare networks.

    References
    ----------
    Wang et al. (2017), Neural Comput. 29:313: the *modified* local efficiency of the Brain
    Connectivity Toolbox, which is 1 for a complete network of weight 1.
    """
    ties = np.cbrt(as_network(weights))
    return _local_efficiency(Lengths.from_weights(ties).values, ties)


def _local_efficiency(lengths: Array, ties: Array) -> Array:
    from .shortest import efficiency_by_halves, efficiency_one_by_one

    neighbours = ties != 0
    n = len(ties)
    allowed = _shared_neighbours(neighbours)
    fresh = np.count_nonzero(allowed[0]) + np.count_nonzero(
        allowed[1:] & ~np.repeat(allowed, 2, axis=0)[: len(allowed) - 1]
    )
    if fresh * n**2 < (neighbours.sum(axis=1, dtype=np.float64) ** 3).sum():
        return efficiency_by_halves(lengths, ties, allowed)
    return efficiency_one_by_one(lengths, ties)


def _shared_neighbours(neighbours: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Neighbours of all regions below each node of a binary heap of halves: bool [node, r]."""
    n = len(neighbours)
    n_leaves = 1 << max(0, (n - 1).bit_length())
    level = np.ones((n_leaves, n), bool)
    level[:n] = neighbours
    levels = [level]
    while len(level) > 1:
        level = level[::2] & level[1::2]
        levels.append(level)
    return np.concatenate(levels[::-1])


def betweenness(lengths: Lengths) -> Array:
    """How many shortest paths run through each region: float64 [r].

    Every unordered pair of other regions counts once, shared among its equally short paths. Divide
    by (r - 1)(r - 2) / 2 for a share of pairs; double it for the convention of the Brain
    Connectivity Toolbox, which counts both directions.

    References
    ----------
    Brandes (2001), J. Math. Sociol. 25:163; Freeman (1977), Sociometry 40:35.
    """
    return dependencies(lengths.values, distances(lengths)) / 2


def dependencies(lengths: Array, distance: Array) -> Array:
    """How many shortest paths run through each region, over ordered pairs: float64 [r].

    Parameters
    ----------
    lengths, distance
        [r, r], of the edge and of the shortest path from each region (row) to each other, directed
        or not; infinite where there is none.
    """
    from . import shortest

    finite = distance[np.isfinite(distance)]
    slack = _TIE * finite.max(initial=0.0)
    # No other edge is part of any shortest path, and in a dense network few are.
    last = (lengths <= distance + slack) & (lengths > 0) & np.isfinite(lengths)
    to, before = np.nonzero(last.T)
    starts = np.searchsorted(to, np.arange(len(lengths) + 1))
    found: Array = shortest.dependencies(distance, starts, before, lengths[before, to], _TIE)
    return found


def _off_diagonal(matrix: ArrayLike) -> Array:
    array = np.asarray(matrix, np.float64)
    pairs: Array = array[~np.eye(len(array), dtype=bool)]
    return pairs
