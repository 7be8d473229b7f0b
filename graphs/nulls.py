"""Random networks that keep some of what a network is, and what a network is compared with them.

A measure alone says little: clustering grows with density, path length falls with it. These
networks have the same regions, edges and degrees (or strengths), and are otherwise random, or
as orderly as a ring. Equal seeds give equal networks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse.csgraph import connected_components

from ..storage.errors import BadConnectome
from . import metrics, paths
from .matrices import Array, as_directed_network, as_network, edge_weights, networks_of

Null = Literal["degree", "strength", "lattice"]


def rewire(
    weights: ArrayLike, *, swaps_per_edge: float = 10, connected: bool = False, seed: int = 0
) -> Array:
    """Swap the ends of edges at random; every region keeps its degree.

    Two edges a-b and c-d become a-d and c-b where those are not there yet. A weight goes with its
    edge, so strengths change. In a signed network, positive and negative degrees are both kept.

    Parameters
    ----------
    weights
        [r, r], symmetric, signed or not.
    swaps_per_edge
        How many swaps are sought for each edge.
    connected
        Leave out swaps that would divide a connected network.

    Returns
    -------
    float64 [r, r]

    Raises
    ------
    BadConnectome
        ``connected`` is asked for of a network in several parts.

    References
    ----------
    Maslov & Sneppen (2002), Science 296:910; Rubinov & Sporns (2011), NeuroImage 56:2068 for signs.
    """
    network = as_network(weights, signed=True)
    if connected and metrics.components(network).any():
        raise BadConnectome(
            "a network in several parts cannot be rewired into a connected one",
            remedy="Keep the spanning tree when thresholding, or do not ask for connected networks",
        )
    rng = np.random.default_rng(seed)
    n_edges = int(np.count_nonzero(network)) // 2
    tries = round(swaps_per_edge * n_edges), _attempts(n_edges, len(network))
    return _swapped(network, np.empty((0, 0)), tries, connected, rng)


def rewire_directed(
    weights: ArrayLike, *, swaps_per_edge: float = 10, connected: bool = False, seed: int = 0
) -> Array:
    """Swap the targets of edges at random; every region keeps its in- and its out-degree.

    a→b and c→d become a→d and c→b where those are not there yet. A weight stays with its source,
    so out-strengths are kept, and in-strengths are not.

    Parameters
    ----------
    connected
        Leave out swaps after which some region could not be reached from each other one.

    Raises
    ------
    BadConnectome
        ``connected`` is asked for of a network that is not strongly connected.

    References
    ----------
    Maslov & Sneppen (2002), Science 296:910.
    """
    from .rewiring import swap_directed

    network = as_directed_network(weights)
    if connected and connected_components(network != 0, connection="strong")[0] > 1:
        raise BadConnectome(
            "not every region can be reached from each other one, and rewiring cannot mend that",
            remedy="Take the largest strongly connected part, or do not ask for connected networks",
        )
    ends = np.argwhere(network != 0)
    n, n_edges = len(network), len(ends)
    if n_edges > 1:
        tries = round(swaps_per_edge * n_edges), _attempts(n_edges / 2, n)
        swap_directed(network, ends, tries, connected, np.random.default_rng(seed))
    return network


def latticise(
    weights: ArrayLike, *, tries_per_edge: float = 1000, connected: bool = False, seed: int = 0
) -> Array:
    """Swap the ends of edges towards a ring lattice; every region keeps its degree.

    The regions are put on a ring in random order, and only swaps are made that do not lengthen
    the edges along it, each counted by its weight. The larger weights come to lie closest.

    Order needs many more swaps than disorder: with the usual 10 per edge, a small world of 100
    regions reached half of the clustering that it has with the 1,000 tries per edge made here,
    which is within 4 % of where it ends.

    References
    ----------
    Sporns & Zwi (2004), Neuroinformatics 2:145 (``latmio_und`` of the Brain Connectivity Toolbox).
    """
    network = as_network(weights)
    if connected and metrics.components(network).any():
        raise BadConnectome("a network in several parts has no connected lattice")
    rng = np.random.default_rng(seed)
    n = len(network)
    place = rng.permutation(n)
    apart = np.abs(np.subtract.outer(place, place))
    ring = np.minimum(apart, n - apart).astype(np.float64)
    n_tries = round(tries_per_edge * np.count_nonzero(network) / 2)
    return _swapped(network, ring, (n_tries, 1), connected, rng)


def _swapped(
    network: Array,
    cost: Array,
    tries: tuple[int, int],
    connected: bool,
    rng: np.random.Generator,
) -> Array:
    """Swap in place: so many times, each with so many tries."""
    from .rewiring import swap_undirected

    ends = np.argwhere(np.triu(network, 1) != 0)
    if len(ends) > 1:
        swap_undirected(network, ends, cost, tries, connected, rng)
    return network


def _attempts(n_edges: float, n_regions: int) -> int:
    """Tries for one swap, as in the Brain Connectivity Toolbox: more where more is taken."""
    return max(1, round(n_edges / max(1, n_regions - 1)))


def rewire_strengths(
    weights: ArrayLike, *, swaps_per_edge: float = 5, rounds: int = 100, seed: int = 0
) -> Array:
    """Rewire, and give the weights back so that strengths come close to what they were.

    Degrees and the set of weights are kept exactly, of both signs; strengths approximately. After
    :func:`rewire`, the pair of largest remaining strengths :math:`s_i s_j` is expected to have the
    largest weight, and so on down; weights are handed out at random ranks, and expectations are
    renewed ``rounds`` times.

    Parameters
    ----------
    rounds
        More rounds keep strengths better. The toolbox renews after every tenth weight.

    References
    ----------
    Rubinov & Sporns (2011), NeuroImage 56:2068 (``null_model_und_sign``).
    """
    network = as_network(weights, signed=True)
    topology = rewire(network, swaps_per_edge=swaps_per_edge, seed=seed)
    rng = np.random.default_rng((seed, 1))
    found = np.zeros_like(network)
    for sign in (1, -1):
        own = np.maximum(sign * network, 0.0)
        places = np.argwhere(np.triu(sign * topology, 1) > 0)
        values = np.sort(own[np.triu(own, 1) > 0])
        found[tuple(places.T)] = sign * _handed_out(values, places, own.sum(axis=0), rounds, rng)
    return found + found.T


def _handed_out(
    values: Array, places: NDArray[np.intp], strength: Array, rounds: int, rng: np.random.Generator
) -> Array:
    """Which of the ascending values each pair of regions gets: float64 [e]."""
    left = strength.copy()
    free = np.arange(len(places))
    given = np.zeros(len(places))
    batch = max(1, -(-len(places) // rounds))
    while len(free):
        i, j = places[free].T
        order = np.argsort(np.maximum(left[i], 0) * np.maximum(left[j], 0), kind="stable")
        ranks = rng.permutation(len(free))[:batch]
        chosen = free[order[ranks]]
        given[chosen] = values[ranks]
        for end in places[chosen].T:
            np.subtract.at(left, end, values[ranks])
        free, values = np.delete(free, order[ranks]), np.delete(values, ranks)
    return given


_MODELS: dict[Null, Callable[..., Array]] = {
    "degree": rewire,
    "strength": rewire_strengths,
    "lattice": latticise,
}


def null_networks(
    weights: ArrayLike, n: int, *, model: Null = "degree", seed: int = 0, connected: bool = False
) -> Iterator[Array]:
    """Draw n random networks; network k depends on ``seed`` and k alone.

    Parameters
    ----------
    model
        ``degree``: :func:`rewire`; ``strength``: :func:`rewire_strengths`, which does not know
        ``connected``; ``lattice``: :func:`latticise`.
    """
    options = {} if model == "strength" else {"connected": connected}
    for child in np.random.SeedSequence(seed).spawn(n):
        own_seed = int(child.generate_state(1, np.uint64)[0])
        yield _MODELS[model](weights, seed=own_seed, **options)


@dataclass(frozen=True)
class SmallWorld:
    r"""How much of a small world a network is.

    Attributes
    ----------
    clustering, path_length
        Of the network.
    clustering_normalised, path_length_normalised
        Divided by the mean over random networks (γ and λ).
    sigma
        γ / λ; above 1 in a small world (Humphries & Gurney 2008). Grows with the network's size.
    omega
        :math:`L_{random} / L - C / C_{lattice}`; near 0 in a small world, towards 1 as random, -1
        as a lattice (Telesford et al. 2011).
    """

    clustering: float
    path_length: float
    clustering_normalised: float
    path_length_normalised: float
    sigma: float
    omega: float


def small_world(
    weights: ArrayLike, *, n_nulls: int = 100, weighted: bool = False, seed: int = 0
) -> SmallWorld:
    """Compare clustering and path length with rewired networks and with lattices.

    Random networks keep the degrees (:func:`rewire`) and, where the network is connected, stay so.
    The clustering of the lattice is the mean over a tenth of ``n_nulls`` lattices, since they
    hardly differ. Path lengths are means over the pairs that a path connects.

    Parameters
    ----------
    weighted
        Use Onnela's clustering and lengths of 1 / weight; otherwise every edge counts as 1.

    Returns
    -------
    SmallWorld
        Nan where a ratio is not defined, as without triangles in the random networks.

    References
    ----------
    Watts & Strogatz (1998); Humphries & Gurney (2008), PLoS ONE 3:e0002051; Telesford et al.
    (2011), Brain Connect. 1:367.
    """
    network = as_network(weights)
    if not weighted:
        network = (network > 0).astype(np.float64)
    connected = not metrics.components(network).any()
    random = [
        _clustering_and_path(null)
        for null in null_networks(network, n_nulls, seed=seed, connected=connected)
    ]
    lattices = null_networks(
        network, max(1, n_nulls // 10), model="lattice", seed=seed, connected=connected
    )
    clustering, path = _clustering_and_path(network)
    c_random, l_random = np.mean(random, axis=0)
    c_lattice = float(np.mean([_clustering_and_path(null)[0] for null in lattices]))
    gamma, lam = _ratio(clustering, c_random), _ratio(path, l_random)
    return SmallWorld(
        clustering,
        path,
        gamma,
        lam,
        sigma=_ratio(gamma, lam),
        omega=_ratio(l_random, path) - _ratio(clustering, c_lattice),
    )


def _clustering_and_path(network: Array) -> tuple[float, float]:
    distance = paths.distances(paths.Lengths.from_weights(network))
    clustering = float(metrics.clustering_weighted(network).mean())
    return clustering, paths.characteristic_path_length(distance)


def _ratio(value: float, reference: float) -> float:
    return float(value / reference) if reference > 0 else float("nan")


def small_world_propensity(weights: ArrayLike, *, seed: int = 0) -> float:
    r"""Small-worldness of a weighted network, which does not grow with its density: 0 … 1.

    .. math:: \phi = 1 - \sqrt{(\Delta_C^2 + \Delta_L^2) / 2}

    where Δ are the distances of clustering to that of a lattice, and of path length to that of a
    random network, each as a fraction of the distance between the two, held to 0 … 1. The lattice
    has the largest weights between the nearest regions of a ring, the random network has all
    weights anywhere. Clustering is Onnela's, lengths are 1 / weight. Above 0.6 is usually called a
    small world. Nan where the two references do not differ.

    References
    ----------
    Muldoon et al. (2016), Sci. Rep. 6:22057.
    """
    network = as_network(weights)
    rng = np.random.default_rng(seed)
    own, lattice, random = (
        np.array(_clustering_and_path(each))
        for each in (network, ring_lattice(network, rng), _shuffled(network, rng))
    )
    # Clustering falls from lattice to random network, path length too.
    span = lattice - random
    if not (span > 0).all():
        return float("nan")
    away = np.clip([(lattice - own)[0] / span[0], (own - random)[1] / span[1]], 0.0, 1.0)
    return float(1 - np.sqrt((away**2).mean()))


def ring_lattice(weights: ArrayLike, rng: np.random.Generator) -> Array:
    """The same weights on a ring, the largest between neighbours, equally far ones in any order."""
    network = as_network(weights)
    n = len(network)
    i, j = np.triu_indices(n, 1)
    apart = np.minimum(j - i, n - (j - i))
    order = np.lexsort((rng.uniform(size=len(i)), apart))
    edges = np.empty(len(i))
    edges[order] = np.sort(edge_weights(network))[::-1]
    return networks_of(edges, n)


def _shuffled(network: Array, rng: np.random.Generator) -> Array:
    return networks_of(rng.permutation(edge_weights(network)), len(network))


def rich_club_normalised(
    weights: ArrayLike, *, weighted: bool = False, n_nulls: int = 100, seed: int = 0
) -> Array:
    """Rich club (:func:`.metrics.rich_club`) over its mean in rewired networks: float64 [k].

    Above 1 where hubs are joined more than their degrees make them. Nan where fewer than two
    regions have the degree, or where they are not joined in any rewired network. ``weighted``:
    :func:`.metrics.rich_club_weighted`; weights go with the edges that are rewired.

    References
    ----------
    Colizza et al. (2006), Nat. Phys. 2:110; van den Heuvel & Sporns (2011), J. Neurosci. 31:15775.
    """
    network = as_network(weights)
    nulls = null_networks(network, n_nulls, seed=seed)
    club = metrics.rich_club_weighted if weighted else metrics.rich_club
    random = np.mean([club(null) for null in nulls], axis=0)
    own = club(network)
    defined = random > 0
    found: Array = np.divide(own, random, out=np.full(len(own), np.nan), where=defined)
    return found
