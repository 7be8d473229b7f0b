"""Along the shortest paths: which regions they pass, how many edges they have, what lies beside.

Undirected networks. Where several paths are equally short, one of them is taken.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse.csgraph import shortest_path

from .matrices import Array, as_network
from .paths import Lengths


def hop_counts(lengths: Lengths) -> Array:
    """Number of edges of the shortest path between all pairs: float64 [r, r], infinite without."""
    stations = _stations(lengths)
    count = (stations[1:] != stations[:-1]).sum(axis=0).astype(np.float64)
    apart = stations[-1] != np.arange(len(lengths.values))[:, None]
    return np.where(apart, np.inf, count)


def path_transitivity(weights: ArrayLike) -> Array:
    """How densely the neighbours along each shortest path are shared: float64 [r, r].

    The mean, over all pairs of regions on the path, of the weight that goes to neighbours they
    have in common, over all their weight but that between them. Lengths are 1 / weight. 0 on the
    diagonal and where there is no path.

    References
    ----------
    Goñi et al. (2014), PNAS 111:833.
    """
    network = as_network(weights)
    stations = _stations(Lengths.from_weights(network))
    edges = (network != 0).astype(np.float64)
    shared = network @ edges
    shared = shared + shared.T
    strength = network.sum(axis=0)
    all_weight = strength[:, None] + strength[None, :] - 2 * network
    match = np.divide(shared, all_weight, out=np.zeros_like(shared), where=all_weight > 0)
    np.fill_diagonal(match, 0.0)
    found, n = np.zeros_like(network), np.arange(len(network))
    for later in range(1, len(stations)):
        # A path that has ended stays where it is: only its last step counts.
        new = stations[later] != stations[later - 1]
        for earlier in range(later):
            found += np.where(new, match[stations[earlier], stations[later]], 0.0)
    k = 1 + (stations[1:] != stations[:-1]).sum(axis=0)
    reached = (stations[-1] == n[:, None]) & (k > 1)
    mean: Array = np.divide(2 * found, k * (k - 1), out=np.zeros_like(found), where=reached)
    return mean


def _stations(lengths: Lengths) -> NDArray[np.int64]:
    """Regions on the path back from each column's region to each row's: int64 [step, r, r].

    A path that has arrived, or that cannot, stays where it is.
    """
    _, before = shortest_path(lengths.values, directed=False, return_predecessors=True)
    n = len(before)
    rows = np.arange(n)[:, None]
    steps = [np.tile(np.arange(n), (n, 1))]
    while True:
        previous = before[rows, steps[-1]]
        there = np.where(previous < 0, steps[-1], previous)
        if np.array_equal(there, steps[-1]):
            return np.stack(steps)
        steps.append(there)
