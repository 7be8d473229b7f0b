"""Measures of a network that need no paths: of each region [r], or of the whole.

Networks are undirected, weights are not negative, 0 is no edge, the diagonal plays no part. A name
that ends in ``_weighted``, or the keyword ``weighted``, uses the weights; otherwise every edge
counts as 1. Measures of paths are in :mod:`.paths`, of modules in :mod:`.communities`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse.csgraph import connected_components

from .matrices import Array, as_network, edge_weights


def density(weights: ArrayLike) -> float:
    """Share of the pairs of regions that have an edge; nan for a single region."""
    edges = edge_weights(as_network(weights, signed=True))
    return float((edges != 0).mean()) if len(edges) else float("nan")


def degree(weights: ArrayLike) -> Array:
    """Number of edges of each region: float64 [r]."""
    number: Array = _edges(as_network(weights, signed=True)).sum(axis=0)
    return number


def strength(weights: ArrayLike) -> Array:
    """Sum of the weights of each region, of either sign: float64 [r]."""
    total: Array = as_network(weights, signed=True).sum(axis=0)
    return total


def clustering_binary(weights: ArrayLike) -> Array:
    """Share of the pairs of neighbours that are connected, float64 [r]; 0 below two neighbours.

    References
    ----------
    Watts & Strogatz (1998), Nature 393.
    """
    return _clustering(_edges(as_network(weights)))


def clustering_weighted(weights: ArrayLike, *, rescale: bool = True) -> Array:
    r"""Onnela's clustering: mean intensity of the triangles around each region, float64 [r].

    .. math:: C_i = \frac{1}{k_i (k_i - 1)} \sum_{j \ne h} (w_{ij} w_{jh} w_{hi})^{1/3}

    Parameters
    ----------
    rescale
        Divide the weights by the largest first, as Onnela and networkx do, so that values lie in
        0 … 1. The Brain Connectivity Toolbox does not, and leaves it to its user.

    References
    ----------
    Onnela et al. (2005), Phys. Rev. E 71:065103.
    """
    network = as_network(weights)
    largest = network.max()
    return _clustering(np.cbrt(network / largest if rescale and largest > 0 else network))


def _clustering(ties: Array) -> Array:
    triangles = _triangles(ties)
    k = _edges(ties).sum(axis=0)
    pairs = k * (k - 1)
    found: Array = np.divide(triangles, pairs, out=np.zeros(len(ties)), where=pairs > 0)
    return found


def transitivity(weights: ArrayLike, *, weighted: bool) -> float:
    """Triangles over connected triples of the whole network; nan where there is no triple.

    With ``weighted``, a triangle counts with the cube root of the product of its weights, which
    are taken as they are.

    References
    ----------
    Newman (2003), SIAM Rev. 45:167; Rubinov & Sporns (2010), NeuroImage 52.
    """
    network = as_network(weights)
    ties = np.cbrt(network) if weighted else _edges(network)
    k = _edges(network).sum(axis=0)
    triples = float((k * (k - 1)).sum())
    return float(_triangles(ties).sum()) / triples if triples else float("nan")


def assortativity(weights: ArrayLike, *, weighted: bool) -> float:
    """Correlation, over the edges, of the degrees (or strengths) at both ends.

    Nan where all are equal. An edge counts once whatever its weight.

    References
    ----------
    Newman (2002), Phys. Rev. Lett. 89:208701; Leung & Chau (2007), Physica A 378:591.
    """
    network = as_network(weights)
    value = strength(network) if weighted else degree(network)
    i, j = np.nonzero(network)
    if len(i) == 0 or np.ptp(value[i]) <= 1e-12 * np.abs(value[i]).max():
        return float("nan")
    return float(np.corrcoef(value[i], value[j])[0, 1])


def eigenvector_centrality(weights: ArrayLike) -> Array:
    """Leading eigenvector of the weights, of length 1 and not negative: float64 [r].

    In a network in several parts, only the part with the largest eigenvalue is above 0.

    References
    ----------
    Bonacich (1972), J. Math. Sociol. 2:113.
    """
    _, vectors = np.linalg.eigh(as_network(weights))
    leading: Array = np.abs(vectors[:, -1])
    return leading


def pagerank(weights: ArrayLike, *, damping: float = 0.85) -> Array:
    """Share of time that a random walker with restarts spends at each region: float64 [r], sum 1.

    From a region without edges the walker only restarts.

    References
    ----------
    Brin & Page (1998); Boldi et al. (2009), ACM TOIS 27:19.
    """
    network = as_network(weights)
    out = network.sum(axis=0)
    step = network / np.where(out > 0, out, 1.0)
    n = len(network)
    visits = np.linalg.solve(np.eye(n) - damping * step, np.full(n, (1 - damping) / n))
    share: Array = visits / visits.sum()
    return share


def subgraph_centrality(weights: ArrayLike) -> Array:
    """Closed walks from each region, long ones discounted by the factorial: float64 [r].

    The diagonal of exp(A) of the binary network.

    References
    ----------
    Estrada & Rodriguez-Velazquez (2005), Phys. Rev. E 71:056103.
    """
    values, vectors = np.linalg.eigh(_edges(as_network(weights)))
    walks: Array = (vectors**2) @ np.exp(values)
    return walks


def core_number(weights: ArrayLike) -> Array:
    """Largest k such that a region is in the k-core, whose members have k neighbours in it.

    float64 [r].

    References
    ----------
    Seidman (1983), Soc. Networks 5:269; Batagelj & Zaversnik (2003).
    """
    edges = _edges(as_network(weights))
    left = np.ones(len(edges), bool)
    core, k = np.zeros(len(edges)), 0.0
    neighbours = edges.sum(axis=0)
    for _ in range(len(edges)):
        weakest = int(np.argmin(np.where(left, neighbours, np.inf)))
        k = max(k, neighbours[weakest])
        core[weakest], left[weakest] = k, False
        neighbours -= edges[weakest]
    return core


def rich_club(weights: ArrayLike) -> Array:
    """Density among the regions of degree above k, for k = 1 … largest degree: float64 [k].

    Nan where fewer than two regions have such a degree. Not divided by that of random networks.

    References
    ----------
    Colizza et al. (2006), Nat. Phys. 2:110.
    """
    edges = _edges(as_network(weights))
    k = edges.sum(axis=0)
    found = np.full(int(k.max()), np.nan)
    for level in range(len(found)):
        club = k > level + 1
        n = int(club.sum())
        if n > 1:
            found[level] = edges[np.ix_(club, club)].sum() / (n * (n - 1))
    return found


def rich_club_weighted(weights: ArrayLike) -> Array:
    """Weight among the regions of degree above k, over that of as many of the largest weights.

    float64 [k] for k = 1 … largest degree; nan where no two such regions have an edge. 1 where the
    club holds the strongest edges of the whole network. Not divided by that of random networks.

    References
    ----------
    Opsahl et al. (2008), Phys. Rev. Lett. 101:168702; van den Heuvel & Sporns (2011).
    """
    network = as_network(weights)
    k = _edges(network).sum(axis=0)
    largest_first = np.cumsum(np.sort(edge_weights(network))[::-1])
    found = np.full(int(k.max()), np.nan)
    for level in range(len(found)):
        club = k > level + 1
        inside = edge_weights(network[np.ix_(club, club)])
        n = int(np.count_nonzero(inside))
        if n:
            found[level] = inside.sum() / largest_first[n - 1]
    return found


def components(weights: ArrayLike) -> NDArray[np.int64]:
    """Number of the connected part that each region is in: int64 [r], from 0."""
    _, part = connected_components(_edges(as_network(weights, signed=True)), directed=False)
    return np.asarray(part, np.int64)


def matching_index(weights: ArrayLike) -> Array:
    """Share of the neighbours, the other region left out, that two regions have in common.

    float64 [r, r]; 0 where neither has another neighbour.

    References
    ----------
    Hilgetag et al. (2002), Phil. Trans. R. Soc. B 357:1259.
    """
    edges = _edges(as_network(weights))
    k = edges.sum(axis=0)
    others = k[:, None] + k[None, :] - 2 * edges
    shared = 2 * edges @ edges
    np.fill_diagonal(shared, 0.0)
    found: Array = np.divide(shared, others, out=np.zeros_like(edges), where=others > 0)
    return found


def diffusion_efficiency(weights: ArrayLike) -> float:
    """Mean of 1 / mean first passage time of a random walker, over ordered pairs of regions.

    Nan unless the network is connected.

    References
    ----------
    Goñi et al. (2013), PLoS ONE 8:e58070; Kemeny & Snell (1960) for the passage times.
    """
    network = as_network(weights)
    if len(network) < 2 or components(network).any():
        return float("nan")
    out = network.sum(axis=0)
    stationary = out / out.sum()
    n = len(network)
    fundamental = np.linalg.inv(np.eye(n) - network / out[:, None] + stationary)
    passage = (np.diag(fundamental)[None, :] - fundamental) / stationary
    return float((1 / passage[~np.eye(n, dtype=bool)]).mean())


def _edges(network: Array) -> Array:
    return np.asarray(network != 0, np.float64)


def _triangles(ties: Array) -> Array:
    """Twice the sum over triangles around each region of the product of their ties."""
    around: Array = np.einsum("ij,ji->i", ties @ ties, ties)
    return around
