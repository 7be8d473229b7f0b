"""Measures of directed networks: ``weights[i, j]`` is of the edge from region i to region j.

Weights are not negative, 0 is no edge, the diagonal plays no part. A symmetric network has here
the values of the undirected measures, with every edge counted in both directions.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse.csgraph import shortest_path

from . import paths
from .communities import membership
from .matrices import Array, as_directed_network


def in_degree(weights: ArrayLike) -> Array:
    """Number of edges that lead to each region: float64 [r]."""
    number: Array = _edges(as_directed_network(weights, signed=True)).sum(axis=0)
    return number


def out_degree(weights: ArrayLike) -> Array:
    """Number of edges that leave each region: float64 [r]."""
    number: Array = _edges(as_directed_network(weights, signed=True)).sum(axis=1)
    return number


def in_strength(weights: ArrayLike) -> Array:
    """Sum of the weights that lead to each region: float64 [r]."""
    total: Array = as_directed_network(weights, signed=True).sum(axis=0)
    return total


def out_strength(weights: ArrayLike) -> Array:
    """Sum of the weights that leave each region: float64 [r]."""
    total: Array = as_directed_network(weights, signed=True).sum(axis=1)
    return total


def reciprocity(weights: ArrayLike, *, weighted: bool = False) -> float:
    r"""Share of the edges that are answered; nan without edges.

    With ``weighted``, :math:`\sum_{ij} \min(w_{ij}, w_{ji}) / \sum_{ij} w_{ij}`.

    References
    ----------
    Newman et al. (2002), Phys. Rev. E 66:035101; Squartini et al. (2013), Sci. Rep. 3:2729.
    """
    network = as_directed_network(weights)
    ties = network if weighted else _edges(network)
    total = float(ties.sum())
    return float(np.minimum(ties, ties.T).sum()) / total if total else float("nan")


def clustering_binary(weights: ArrayLike) -> Array:
    """Directed triangles around each region over all that could be: float64 [r].

    See :func:`clustering_weighted`.
    """
    return _clustering(_edges(as_directed_network(weights)))


def clustering_weighted(weights: ArrayLike, *, rescale: bool = True) -> Array:
    r"""Fagiolo's clustering: mean intensity of the directed triangles around each region.

    .. math:: C_i = \frac{[(W^{1/3} + (W^T)^{1/3})^3]_{ii}}
              {2\,(k_i (k_i - 1) - 2 k_i^{\leftrightarrow})}

    where k counts in- and out-edges and k↔ the neighbours with both. All eight orientations of a
    triangle count. 0 where none is possible.

    Parameters
    ----------
    rescale
        Divide by the largest weight first, as in :func:`.metrics.clustering_weighted`.

    References
    ----------
    Fagiolo (2007), Phys. Rev. E 76:026107.
    """
    network = as_directed_network(weights)
    largest = network.max()
    return _clustering(np.cbrt(network / largest if rescale and largest > 0 else network))


def _clustering(ties: Array) -> Array:
    both = ties + ties.T
    triangles = np.einsum("ij,ji->i", both @ both, both)
    edges = _edges(ties)
    k = edges.sum(axis=0) + edges.sum(axis=1)
    possible = 2 * (k * (k - 1) - 2 * (edges * edges.T).sum(axis=1))
    found: Array = np.divide(triangles, possible, out=np.zeros(len(ties)), where=possible > 0)
    return found


def distances(weights: ArrayLike, *, weighted: bool) -> Array:
    """Length of the shortest path from each region (row) to each other: float64 [r, r].

    Infinite where there is none. Edges are 1 / weight long, or 1 without ``weighted``. What is
    made of distances, as :func:`.paths.global_efficiency`, holds for directed ones too.
    """
    found: Array = shortest_path(_lengths(weights, weighted), directed=True)
    return found


def betweenness(weights: ArrayLike, *, weighted: bool) -> Array:
    """How many shortest paths run through each region: float64 [r].

    Every ordered pair of other regions counts once, shared among its equally short paths, as in the
    Brain Connectivity Toolbox. Edges are 1 / weight long, or 1 without ``weighted``.

    References
    ----------
    Freeman (1977), Sociometry 40:35; Brandes (2001), J. Math. Sociol. 25:163.
    """
    lengths = _lengths(weights, weighted)
    return paths.dependencies(lengths, shortest_path(lengths, directed=True))


def _lengths(weights: ArrayLike, weighted: bool) -> Array:
    network = as_directed_network(weights)
    with np.errstate(divide="ignore"):
        lengths: Array = 1 / (network if weighted else _edges(network))
    np.fill_diagonal(lengths, 0.0)
    return lengths


def modularity(weights: ArrayLike, partition: ArrayLike, *, resolution: float = 1.0) -> float:
    r"""Leicht and Newman's Q of a given partition; nan for a network without edges.

    .. math:: Q = \frac{1}{m} \sum_{ij} (w_{ij} - \gamma s_i^{out} s_j^{in} / m)\, [c_i = c_j]

    References
    ----------
    Leicht & Newman (2008), Phys. Rev. Lett. 100:118703.
    """
    network = as_directed_network(weights)
    members = membership(partition, network)
    total = network.sum()
    if total == 0:
        return float("nan")
    inside = np.einsum("im,ij,jm->m", members, network, members, optimize=True)
    leaving, arriving = members.T @ network.sum(axis=1), members.T @ network.sum(axis=0)
    return float((inside / total - resolution * leaving * arriving / total**2).sum())


def louvain(weights: ArrayLike, *, resolution: float = 1.0, seed: int = 0) -> NDArray[np.int64]:
    """Find modules by greedy optimisation of :func:`modularity`: int64 [r], largest first.

    networkx's implementation; equal seeds give equal modules.

    References
    ----------
    Dugué & Perez (2015), hal-01231784.
    """
    import networkx as nx

    from .communities import by_size

    network = as_directed_network(weights)
    graph = nx.from_numpy_array(network, create_using=nx.DiGraph)
    found = nx.community.louvain_communities(
        graph, weight="weight", resolution=resolution, seed=seed
    )
    return by_size(found, len(network))


def participation(weights: ArrayLike, partition: ArrayLike) -> tuple[Array, Array]:
    """Participation of the edges that lead to each region, and of those that leave it.

    1 - Σ (share that comes from, or goes to, each module)²: float64 [r] each, 0 without edges.

    References
    ----------
    Guimerà & Amaral (2005), Nature 433:895.
    """
    network = as_directed_network(weights)
    members = membership(partition, network)
    return _spread(network.T @ members), _spread(network @ members)


def _spread(to_module: Array) -> Array:
    total = to_module.sum(axis=1, keepdims=True)
    share = np.divide(to_module, total, out=np.zeros_like(to_module), where=total > 0)
    return np.where(total[:, 0] > 0, 1 - (share**2).sum(axis=1), 0.0)


def _edges(network: Array) -> Array:
    return np.asarray(network != 0, np.float64)
