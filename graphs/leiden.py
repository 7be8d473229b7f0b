"""Leiden's search for modules: as Louvain's, but modules are always connected within.

Works on arrays; modules of weights that are not negative, by modularity with a resolution.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .matrices import Array, as_network

Labels = NDArray[np.int64]
_GAIN = 1e-12
"""Smallest gain, as a fraction of the total weight, that counts as one."""
_TEMPERATURE = 0.01
"""How often the refinement takes another than the best merge (theta of the paper)."""


@dataclass(frozen=True, eq=False)
class _Level:
    """A network whose nodes stand for groups of regions.

    ``ties`` [n, n] holds weights, twice those within a node on the diagonal; ``strength`` [n] its
    sums; ``penalty`` is resolution / total.
    """

    ties: Array
    strength: Array
    penalty: float

    def gathered(self, groups: Labels) -> _Level:
        """The network of groups of nodes, numbered from 0."""
        member = np.eye(groups.max() + 1)[groups]
        return _Level(member.T @ self.ties @ member, member.T @ self.strength, self.penalty)

    def gains(self, node: int, groups: Labels, total: Array) -> Array:
        """What joining each group would bring to a node that is in none: float64 [group]."""
        row = self.ties[node].copy()
        row[node] = 0.0
        to_group = np.bincount(groups, row, minlength=len(total))
        gain: Array = to_group - self.penalty * self.strength[node] * total
        return gain


def leiden(weights: ArrayLike, *, resolution: float = 1.0, seed: int = 0) -> Labels:
    """Find modules by modularity: int64 [r], modules by size, largest first.

    Nodes are moved to the module that gains most, modules are refined into well connected parts,
    and the parts are the nodes of the next round, until nothing moves. Equal seeds give equal
    modules.

    References
    ----------
    Traag et al. (2019), Sci. Rep. 9:5233.
    """
    from .communities import by_size

    network = as_network(weights)
    rng = np.random.default_rng(seed)
    total = network.sum()
    level = _Level(network, network.sum(axis=0), resolution / total if total else 0.0)
    modules, stands_for = np.arange(len(network)), np.arange(len(network))
    while True:
        modules = _moved(level, modules, rng)
        if modules.max() + 1 == len(modules):
            break
        parts = _refined(level, modules, rng)
        # A round in which no part grew would be the same again.
        if parts.max() + 1 == len(parts):
            break
        _, first = np.unique(parts, return_index=True)
        level, modules, stands_for = level.gathered(parts), modules[first], parts[stands_for]
    found = _connected(network, modules[stands_for])
    return by_size([set(np.flatnonzero(found == k).tolist()) for k in np.unique(found)], len(found))


def _connected(network: Array, modules: Labels) -> Labels:
    """Modules cut where nothing holds them together, which the last moves may leave.

    Cutting them never loses modularity: no weight is between the pieces, but a penalty was.
    """
    from scipy.sparse.csgraph import connected_components

    within = np.where(modules[:, None] == modules[None, :], network, 0.0)
    return np.asarray(connected_components(within, directed=False)[1], np.int64)


def _moved(level: _Level, modules: Labels, rng: np.random.Generator) -> Labels:
    """Move nodes while it gains; a node is looked at again when a neighbour has left."""
    modules = modules.copy()
    n = len(modules)
    total: Array = np.bincount(modules, level.strength, minlength=n).astype(np.float64)
    queue, waiting = deque(rng.permutation(n).tolist()), np.ones(n, bool)
    least = _GAIN * level.strength.sum()
    while queue:
        node = queue.popleft()
        waiting[node] = False
        old = modules[node]
        total[old] -= level.strength[node]
        gains = level.gains(node, modules, total)
        new = int(np.argmax(gains))
        if gains[new] <= gains[old] + least:
            new = old
        modules[node] = new
        total[new] += level.strength[node]
        if new != old:
            again = np.flatnonzero((level.ties[node] > 0) & (modules != new) & ~waiting)
            waiting[again] = True
            queue.extend(again.tolist())
    return np.asarray(np.unique(modules, return_inverse=True)[1], np.int64)


def _refined(level: _Level, modules: Labels, rng: np.random.Generator) -> Labels:
    """Divide each module into parts that hold together: labels from 0, each within one module."""
    n = len(modules)
    parts = np.arange(n)
    total, size = level.strength.copy(), np.ones(n, np.int64)
    least, scale = _GAIN * level.strength.sum(), _TEMPERATURE * level.strength.sum()
    same = modules[:, None] == modules[None, :]
    strength = np.bincount(modules, level.strength)[modules]
    inner = np.where(same, level.ties, 0.0)
    np.fill_diagonal(inner, 0.0)
    out_of_part = inner.sum(axis=1)
    for node in rng.permutation(n):
        own = level.strength[node]
        held = inner[node].sum() >= level.penalty * own * (strength[node] - own)
        if size[parts[node]] > 1 or not held:
            continue
        total[parts[node]] -= own
        gains = level.gains(node, parts, total)
        fits = np.zeros(n, bool)
        fits[parts[same[node]]] = True
        bound = out_of_part >= level.penalty * total * (strength[node] - total)
        gains[~fits | (~bound & (np.arange(n) != parts[node]))] = -np.inf
        open_to = np.flatnonzero(gains >= least)
        new = parts[node]
        if len(open_to):
            chance = np.exp((gains[open_to] - gains[open_to].max()) / scale)
            new = int(rng.choice(open_to, p=chance / chance.sum()))
        if new != parts[node]:
            size[parts[node]] -= 1
            size[new] += 1
            within = inner[node] @ (parts == new)
            out_of_part[new] += inner[node].sum() - 2 * within
            parts[node] = new
        total[new] += own
    return np.asarray(np.unique(parts, return_inverse=True)[1], np.int64)
