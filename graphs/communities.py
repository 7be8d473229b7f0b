"""Modules: finding them, how good they are, and what part each region plays in them.

A partition is a label for each region, [r]; which labels is all the same. Weights are not negative.
"""

from __future__ import annotations

from collections.abc import Iterable, Set

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..storage.errors import BadConnectome
from .matrices import Array, as_network


def modularity(weights: ArrayLike, partition: ArrayLike, *, resolution: float = 1.0) -> float:
    r"""Newman's Q of a given partition; nan for a network without edges.

    .. math:: Q = \frac{1}{2m} \sum_{ij} (w_{ij} - \gamma s_i s_j / 2m)\, [c_i = c_j]

    References
    ----------
    Newman (2004), Phys. Rev. E 70:056131; Reichardt & Bornholdt (2006) for the resolution.
    """
    network = as_network(weights)
    members = membership(partition, network)
    total = network.sum()
    if total == 0:
        return float("nan")
    inside = np.einsum("im,ij,jm->m", members, network, members, optimize=True)
    ends = members.T @ network.sum(axis=0)
    return float((inside / total - resolution * (ends / total) ** 2).sum())


def louvain(weights: ArrayLike, *, resolution: float = 1.0, seed: int = 0) -> NDArray[np.int64]:
    """Find modules by greedy optimisation of modularity: int64 [r], modules by size, largest first.

    networkx's implementation; equal seeds give equal modules.

    References
    ----------
    Blondel et al. (2008), J. Stat. Mech. P10008.
    """
    import networkx as nx

    network = as_network(weights)
    found = nx.community.louvain_communities(
        nx.from_numpy_array(network), weight="weight", resolution=resolution, seed=seed
    )
    return by_size(found, len(network))


def agreement(partitions: ArrayLike) -> Array:
    """Share of partitions [p, r] in which two regions are in one module: float64 [r, r].

    0 on the diagonal.
    """
    labels = np.asarray(partitions)
    if labels.ndim != 2 or not labels.size:
        raise BadConnectome(f"partitions are a table [p, r], not {labels.shape}")
    together: Array = np.mean([np.equal.outer(row, row) for row in labels], axis=0)
    np.fill_diagonal(together, 0.0)
    return together


def consensus(
    weights: ArrayLike,
    *,
    n_runs: int = 50,
    threshold: float = 0.5,
    resolution: float = 1.0,
    max_rounds: int = 20,
    seed: int = 0,
) -> NDArray[np.int64]:
    """Modules that many searches agree on: int64 [r], modules by size, largest first.

    :func:`.leiden.leiden` is run ``n_runs`` times; pairs of regions that share a module in fewer
    than ``threshold`` of the runs are let go, and the rest, weighted by how often they do, is
    searched in turn, until all runs find the same.

    Raises
    ------
    BadConnectome
        The runs still differ after ``max_rounds``.

    References
    ----------
    Lancichinetti & Fortunato (2012), Sci. Rep. 2:336.
    """
    from .leiden import leiden

    seeds = np.random.SeedSequence(seed).generate_state(max_rounds * n_runs)
    network, level = as_network(weights), resolution
    for own in seeds.reshape(max_rounds, n_runs):
        runs = np.array([leiden(network, resolution=level, seed=int(one)) for one in own])
        if (runs == runs[0]).all():
            return np.asarray(runs[0], np.int64)
        together = agreement(runs)
        network, level = np.where(together >= threshold, together, 0.0), 1.0
    raise BadConnectome(
        f"{n_runs} searches for modules do not come to agree in {max_rounds} rounds",
        remedy="Use a higher threshold or another resolution",
    )


def partition_distance(one: ArrayLike, other: ArrayLike) -> float:
    """Variation of information between two partitions, over its largest possible value: 0 … 1.

    References
    ----------
    Meilă (2007), J. Multivar. Anal. 98:873.
    """
    labels = [np.unique(np.asarray(p), return_inverse=True)[1] for p in (one, other)]
    n = len(labels[0])
    if n < 2 or len(labels[1]) != n:
        raise BadConnectome("partitions to compare have the same regions, two at least")
    both = np.zeros((labels[0].max() + 1, labels[1].max() + 1))
    np.add.at(both, tuple(labels), 1 / n)
    joint, first, second = (_entropy(p) for p in (both, both.sum(axis=1), both.sum(axis=0)))
    return max(0.0, (2 * joint - first - second) / float(np.log(n)))


def _entropy(shares: Array) -> float:
    positive = shares[shares > 0]
    return float(-(positive * np.log(positive)).sum())


def by_size(sets: Iterable[Set[int]], n_regions: int) -> NDArray[np.int64]:
    """Sets of regions as a number for each region, int64 [r]: 0 for the largest set, and so on."""
    modules = np.empty(n_regions, np.int64)
    for number, members in enumerate(sorted(sets, key=lambda m: (-len(m), min(m)))):
        modules[list(members)] = number
    return modules


def participation(weights: ArrayLike, partition: ArrayLike) -> Array:
    """1 - Σ (share of a region's strength that goes to each module)²: float64 [r].

    0 for a region all of whose edges stay in one module, and for a region without edges.

    References
    ----------
    Guimerà & Amaral (2005), Nature 433:895.
    """
    share = _shares(weights, partition)
    return np.where(share.any(axis=1), 1 - (share**2).sum(axis=1), 0.0)


def module_diversity(weights: ArrayLike, partition: ArrayLike) -> Array:
    """Entropy of the shares of a region's strength over modules, over its largest possible value.

    float64 [r], 0 … 1; 0 for a region without edges or where there is one module.

    References
    ----------
    Rubinov & Sporns (2011), NeuroImage 56:2068.
    """
    share = _shares(weights, partition)
    n_modules = share.shape[1]
    if n_modules == 1:
        return np.zeros(len(share))
    logs = np.log(share, out=np.zeros_like(share), where=share > 0)
    entropy: Array = np.abs((share * logs).sum(axis=1) / np.log(n_modules))
    return entropy


def within_module_z(weights: ArrayLike, partition: ArrayLike) -> Array:
    """Strength of a region within its module, as a z-score over the module: float64 [r].

    With the standard deviation of the population (divisor n), as in the Brain Connectivity
    Toolbox in Python; its MATLAB version divides by n - 1. 0 where all of a module are equal.

    References
    ----------
    Guimerà & Amaral (2005), Nature 433:895.
    """
    network = as_network(weights)
    members = membership(partition, network)
    own = ((network @ members) * members).sum(axis=1)
    size = members.sum(axis=0)
    mean = members @ (members.T @ own / size)
    deviation = np.sqrt(members @ (members.T @ (own - mean) ** 2 / size))
    scale = np.abs(own).max(initial=0.0)
    found: Array = np.divide(
        own - mean, deviation, out=np.zeros(len(own)), where=deviation > 1e-12 * scale
    )
    return found


def _shares(weights: ArrayLike, partition: ArrayLike) -> Array:
    network = as_network(weights)
    to_module = network @ membership(partition, network)
    total = to_module.sum(axis=1, keepdims=True)
    found: Array = np.divide(to_module, total, out=np.zeros_like(to_module), where=total > 0)
    return found


def core_periphery(weights: ArrayLike, *, seed: int = 0) -> tuple[NDArray[np.bool_], float]:
    r"""Divide regions into a core, dense within, and a periphery, empty within.

    Maximises :math:`\sum_{ij \in core} (w_{ij} - \bar w) - \sum_{ij \in periphery} (w_{ij} -
    \bar w)`, over the total weight, where :math:`\bar w` is the mean weight, by moving regions to
    the other side, best first, each once a round, until a round does not better it.

    Returns
    -------
    core
        bool [r].
    coreness
        The largest value found; not proven to be the largest there is.

    References
    ----------
    Borgatti & Everett (2000), Soc. Networks 21:375; Rubinov et al. (2015), PNAS 112:10032.
    """
    network = as_network(weights)
    total = network.sum()
    if total == 0:
        raise BadConnectome("a network without edges has no core")
    excess = (network - network.mean()) / total
    core = np.random.default_rng(seed).uniform(size=len(network)) < 0.5
    best = _coreness(excess, core)
    while True:
        trial, free, improved = core.copy(), np.ones(len(core), bool), False
        while free.any():
            # The two sides change by the same: what the core loses, the periphery does not regain.
            change = np.where(trial, -2.0, 2.0) * excess.sum(axis=1)
            moved = int(np.argmax(np.where(free, change, -np.inf)))
            trial[moved], free[moved] = not trial[moved], False
            value = _coreness(excess, trial)
            if value > best + 1e-12:
                core, best, improved = trial.copy(), value, True
        if not improved:
            return core, best


def _coreness(excess: Array, core: NDArray[np.bool_]) -> float:
    inside = excess[np.ix_(core, core)].sum()
    return float(inside - excess[np.ix_(~core, ~core)].sum())


def membership(partition: ArrayLike, network: Array) -> Array:
    """Which module each region is in: float64 [r, m], 1 where it is in that module."""
    labels = np.asarray(partition)
    if labels.shape != (len(network),):
        raise BadConnectome(
            f"a partition of shape {labels.shape} does not fit {len(network)} regions"
        )
    names, number = np.unique(labels, return_inverse=True)
    return np.eye(len(names))[number]
