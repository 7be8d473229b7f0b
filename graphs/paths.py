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

_BLOCK_ELEMENTS = 2**15


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

    Floyd-Warshall or Dijkstra, whichever SciPy finds faster for the density.
    """
    found: Array = shortest_path(lengths.values, directed=False)
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
    found = np.zeros(len(ties))
    for region, row in enumerate(ties):
        neighbours = np.flatnonzero(row)
        k = len(neighbours)
        if k < 2:
            continue
        distance = shortest_path(lengths[np.ix_(neighbours, neighbours)], directed=False)
        np.fill_diagonal(distance, np.inf)
        found[region] = row[neighbours] @ (1 / distance) @ row[neighbours] / (k * (k - 1))
    return found


def betweenness(lengths: Lengths) -> Array:
    """How many shortest paths run through each region: float64 [r].

    Every unordered pair of other regions counts once, shared among its equally short paths. Divide
    by (r - 1)(r - 2) / 2 for a share of pairs; double it for the convention of the Brain
    Connectivity Toolbox, which counts both directions.

    Notes
    -----
    Brandes' accumulation for a block of sources at once: step k handles the k-th nearest region of
    every source of the block. The block is sized to stay in the processor's cache.

    References
    ----------
    Brandes (2001), J. Math. Sociol. 25:163; Freeman (1977), Sociometry 40:35.
    """
    n = len(lengths.values)
    distance = distances(lengths)
    edges = np.where(lengths.values > 0, lengths.values, np.inf)
    block = max(1, _BLOCK_ELEMENTS // n)
    through = np.zeros(n)
    for first in range(0, n, block):
        through += _dependencies(np.arange(first, min(first + block, n)), distance, edges)
    return through / 2


def _dependencies(sources: NDArray[np.int64], distance: Array, edges: Array) -> Array:
    """Sum over sources of how much each of them depends on each region: float64 [r]."""
    own = distance[sources]
    rows = np.arange(len(sources))
    order = np.argsort(own, axis=1, kind="stable")
    n_steps = int(np.isfinite(own).sum(axis=1).max())
    n_paths = np.zeros(own.shape)
    n_paths[rows, sources] = 1.0

    def last_steps(to: NDArray[np.int64]) -> Array:
        """For each source, number of shortest paths to ``to`` by the region before it."""
        target = own[rows, to][:, None]
        excess = edges[to]
        excess += own
        # Regions out of reach, at an infinite distance, have no last step.
        on_path = excess <= np.where(np.isfinite(target), target * (1 + _TIE), -1.0)
        return np.where(on_path, n_paths, 0.0)

    for step in range(1, n_steps):
        to = order[:, step]
        n_paths[rows, to] = last_steps(to).sum(axis=1)
    dependency = np.zeros(own.shape)
    for step in range(n_steps - 1, 0, -1):
        to = order[:, step]
        reached = n_paths[rows, to]
        share = (1 + dependency[rows, to]) / np.where(reached > 0, reached, np.inf)
        dependency += last_steps(to) * share[:, None]
    dependency[rows, sources] = 0.0
    total: Array = dependency.sum(axis=0)
    return total


def _off_diagonal(matrix: ArrayLike) -> Array:
    array = np.asarray(matrix, np.float64)
    pairs: Array = array[~np.eye(len(array), dtype=bool)]
    return pairs
