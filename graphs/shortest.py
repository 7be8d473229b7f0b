"""Shortest paths in loops that Numba compiles when first called.

Importing this module takes a while: import it inside functions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

Array = NDArray[np.float64]
Index = NDArray[np.int64]
Mask = NDArray[np.bool_]


def _through(distance: Array, k: int, row: Array) -> None:
    """Let paths run through region k; only the lower triangle is read and written."""
    n = len(distance)
    for j in range(k):
        row[j] = distance[k, j]
    for j in range(k, n):
        row[j] = distance[j, k]
    for i in range(n):
        to = row[i]
        if to == np.inf:
            continue
        own = distance[i]
        for j in range(i):
            longer = to + row[j]
            own[j] = longer if longer < own[j] else own[j]


through: Callable[..., None] = njit(cache=True)(_through)


def _floyd_warshall(distance: Array) -> None:
    """Turn lengths (symmetric, 0 on the diagonal, infinite without an edge) into distances."""
    n = len(distance)
    row = np.empty(n)
    for k in range(n):
        through(distance, k, row)
    for i in range(n):
        for j in range(i):
            distance[j, i] = distance[i, j]


floyd_warshall: Callable[..., None] = njit(cache=True)(_floyd_warshall)


def _efficiency_of(region: int, members: Index, distance: Array, ties: Array) -> float:
    total = 0.0
    for i in range(1, len(members)):
        own = 0.0
        for j in range(i):
            own += ties[region, members[j]] / distance[members[i], members[j]]
        total += own * ties[region, members[i]]
    k = len(members)
    return 2 * total / (k * (k - 1)) if k > 1 else 0.0


efficiency_of: Callable[..., float] = njit(cache=True)(_efficiency_of)


def _efficiency_one_by_one(lengths: Array, ties: Array) -> Array:
    """Paths among the neighbours of each region, found anew for each: for sparse networks."""
    n = len(lengths)
    found, row = np.zeros(n), np.empty(n)
    for region in range(n):
        members = np.flatnonzero(ties[region])
        k = len(members)
        distance = np.empty((k, k))
        own = np.empty((1, k))
        for i in range(k):
            own[0, i] = ties[region, members[i]]
            for j in range(i):
                distance[i, j] = lengths[members[i], members[j]]
            distance[i, i] = 0.0
        for i in range(k):
            through(distance, i, row)
        found[region] = efficiency_of(0, np.arange(k), distance, own)
    return found


efficiency_one_by_one: Callable[..., Array] = njit(cache=True)(_efficiency_one_by_one)


def _efficiency_by_halves(lengths: Array, ties: Array, allowed: Mask) -> Array:
    """Paths among the neighbours of each region, those of many regions found together.

    Regions are halved again and again. A region that is a neighbour of all of a half lets paths
    through before that half is divided, so a complete network takes r³ log r steps in place of r⁴.

    Parameters
    ----------
    allowed
        bool [node, r] of a binary heap of halves: neighbours of all regions below the node.
    """
    n, n_nodes = len(lengths), len(allowed)
    levels = 1
    while (1 << levels) - 1 < n_nodes:
        levels += 1
    n_leaves = 1 << (levels - 1)
    held = np.empty((levels, n, n))
    held[0] = lengths
    found, row = np.zeros(n), np.empty(n)
    for leaf in range(n):
        # What is held from the root down is kept up to where the last leaf's path was another.
        for level in range(levels):
            node = ((leaf + n_leaves) >> (levels - 1 - level)) - 1
            first = (node + 1) << (levels - 1 - level)
            if first != leaf + n_leaves:
                continue
            if level:
                held[level] = held[level - 1]
            above = (node - 1) // 2
            for k in range(n):
                if allowed[node, k] and (level == 0 or not allowed[above, k]):
                    through(held[level], k, row)
        members = np.flatnonzero(ties[leaf])
        found[leaf] = efficiency_of(leaf, members, held[levels - 1], ties)
    return found


efficiency_by_halves: Callable[..., Array] = njit(cache=True)(_efficiency_by_halves)


def _dependencies(distance: Array, starts: Index, before: Index, steps: Array, tie: float) -> Array:
    """Sum over all sources of how much each of them depends on each region (Brandes 2001).

    Parameters
    ----------
    starts, before, steps
        Edges that may be the last of a shortest path, by where they end: those to region v come
        from ``before[starts[v]:starts[v + 1]]`` and are ``steps[...]`` long.
    """
    n = len(distance)
    total = np.zeros(n)
    n_paths, dependency = np.empty(n), np.empty(n)
    last, ends = np.empty(len(before), np.int64), np.zeros(n + 1, np.int64)
    for source in range(n):
        own = distance[source]
        order = np.argsort(own)
        n_paths[:] = 0.0
        dependency[:] = 0.0
        n_paths[source] = 1.0
        reached, n_last = 0, 0
        for v in order:
            if own[v] == np.inf:
                break
            limit = own[v] * (1 + tie)
            for e in range(starts[v], starts[v + 1]):
                if own[before[e]] + steps[e] <= limit:
                    n_paths[v] += n_paths[before[e]]
                    last[n_last] = before[e]
                    n_last += 1
            reached += 1
            ends[reached] = n_last
        for place in range(reached - 1, 0, -1):
            v = order[place]
            share = (1 + dependency[v]) / n_paths[v]
            for e in range(ends[place], ends[place + 1]):
                dependency[last[e]] += n_paths[last[e]] * share
        for v in range(n):
            if v != source:
                total[v] += dependency[v]
    return total


dependencies: Callable[..., Any] = njit(cache=True)(_dependencies)
