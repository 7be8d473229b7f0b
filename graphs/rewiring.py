"""Loops over single edges that arrays cannot express, compiled by Numba when first called.

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


def _reaches(weights: Array, ends: tuple[int, int], seen: Index, queue: Index, mark: int) -> bool:
    start, goal = ends
    seen[start] = mark
    queue[0] = start
    first, last = 0, 1
    while first < last:
        here = queue[first]
        first += 1
        for other in range(len(weights)):
            if weights[here, other] != 0 and seen[other] != mark:
                if other == goal or weights[other, goal] != 0:
                    return True
                seen[other] = mark
                queue[last] = other
                last += 1
    return False


reaches: Callable[..., bool] = njit(cache=True)(_reaches)


def _swap_undirected(  # noqa: PLR0917 - compiled functions take their arguments by position
    weights: Array,
    ends: Index,
    cost: Array,
    tries: tuple[int, int],
    connected: bool,
    rng: np.random.Generator,
) -> int:
    n_edges, n = len(ends), len(weights)
    wanted, attempts = tries
    seen, queue = np.zeros(n, np.int64), np.empty(n, np.int64)
    done, mark = 0, 0
    for _ in range(wanted):
        for _ in range(attempts):
            one, two = int(rng.random() * n_edges), int(rng.random() * n_edges)
            a, b = ends[one]
            c, d = ends[two]
            flip = rng.random() < 0.5
            if flip:
                c, d = d, c
            if a in (c, d) or b in (c, d):
                continue
            ab, cd, ad, cb = weights[a, b], weights[c, d], weights[a, d], weights[c, b]
            if np.sign(ab) != np.sign(cd) or np.sign(ad) != np.sign(cb):
                continue
            if np.sign(ab) == np.sign(ad):
                continue
            if len(cost) and (
                cost[a, d] * ab + cost[c, b] * cd > cost[a, b] * ab + cost[c, d] * cd
            ):
                continue
            weights[a, d] = weights[d, a] = ab
            weights[c, b] = weights[b, c] = cd
            weights[a, b] = weights[b, a] = ad
            weights[c, d] = weights[d, c] = cb
            # All else hangs on one of the four ends, and a is tied to d, c to b.
            if connected and ad == 0:
                mark += 1
                if not reaches(weights, (a, b), seen, queue, mark):
                    weights[a, b] = weights[b, a] = ab
                    weights[c, d] = weights[d, c] = cd
                    weights[a, d] = weights[d, a] = ad
                    weights[c, b] = weights[b, c] = cb
                    continue
            if ad == 0:
                ends[one, 0], ends[one, 1] = a, d
                ends[two, 0], ends[two, 1] = c, b
            done += 1
            break
    return done


def _swap_directed(
    weights: Array,
    ends: Index,
    tries: tuple[int, int],
    connected: bool,
    rng: np.random.Generator,
) -> int:
    n_edges, done = len(ends), 0
    wanted, attempts = tries
    seen, queue, mark = np.zeros(len(weights), np.int64), np.empty(len(weights), np.int64), 0
    for _ in range(wanted):
        for _ in range(attempts):
            one, two = int(rng.random() * n_edges), int(rng.random() * n_edges)
            a, b = ends[one]
            c, d = ends[two]
            if a in (c, d) or b in (c, d) or weights[a, d] != 0 or weights[c, b] != 0:
                continue
            weights[a, d], weights[c, b] = weights[a, b], weights[c, d]
            weights[a, b] = weights[c, d] = 0.0
            # Every other path can go round the edges that are gone, if these two can.
            if connected:
                mark += 2
                if not (
                    reaches(weights, (a, b), seen, queue, mark - 1)
                    and reaches(weights, (c, d), seen, queue, mark)
                ):
                    weights[a, b], weights[c, d] = weights[a, d], weights[c, b]
                    weights[a, d] = weights[c, b] = 0.0
                    continue
            ends[one, 1], ends[two, 1] = d, b
            done += 1
            break
    return done


def _swap_within_bins(
    weights: Array, ends: Index, bins: Index, tries: tuple[int, int], rng: np.random.Generator
) -> int:
    """Swap ends where the new edges lie in the bins of the old ones; weights stay with the bin."""
    n_edges, done = len(ends), 0
    wanted, attempts = tries
    for _ in range(wanted):
        for _ in range(attempts):
            one, two = int(rng.random() * n_edges), int(rng.random() * n_edges)
            a, b = ends[one]
            c, d = ends[two]
            if rng.random() < 0.5:
                c, d = d, c
            if a in (c, d) or b in (c, d) or weights[a, d] != 0 or weights[c, b] != 0:
                continue
            same = bins[a, d] == bins[a, b] and bins[c, b] == bins[c, d]
            if not same and not (bins[a, d] == bins[c, d] and bins[c, b] == bins[a, b]):
                continue
            first, second = weights[a, b], weights[c, d]
            weights[a, b] = weights[b, a] = weights[c, d] = weights[d, c] = 0.0
            weights[a, d] = weights[d, a] = first if same else second
            weights[c, b] = weights[b, c] = second if same else first
            ends[one, 0], ends[one, 1] = a, d
            ends[two, 0], ends[two, 1] = c, b
            done += 1
            break
    return done


def _largest_components(
    excess: Array, rows: Index, columns: Index, n: int, intensity: bool
) -> Array:
    """For each row of ``excess`` [m, e] (above 0: kept), the size of its largest component."""
    largest = np.zeros(len(excess))
    parent, size = np.empty(n, np.int64), np.empty(n)
    for m in range(len(excess)):
        for i in range(n):
            parent[i] = i
            size[i] = 0.0
        for e in range(len(rows)):
            if excess[m, e] <= 0:
                continue
            i, j = rows[e], columns[e]
            while parent[i] != i:
                parent[i] = parent[parent[i]]
                i = parent[i]
            while parent[j] != j:
                parent[j] = parent[parent[j]]
                j = parent[j]
            if i != j:
                parent[j] = i
                size[i] += size[j]
            size[i] += excess[m, e] if intensity else 1.0
            largest[m] = max(largest[m], size[i])
    return largest


def _root(parent: Index, i: int) -> int:
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


root: Callable[..., int] = njit(cache=True)(_root)


def _enhance(  # noqa: PLR0917
    statistics: Array,
    rows: Index,
    columns: Index,
    n: int,
    exponents: tuple[float, float],
    step: float,
) -> Array:
    """For each row of statistics [m, e], threshold-free scores: components grow as h falls."""
    scores = np.zeros(statistics.shape)
    extent, height = exponents
    for m in range(len(statistics)):
        order = np.argsort(-statistics[m])
        parent, size, last = np.arange(n), np.zeros(n), 0
        for k in range(int(statistics[m].max() / step), 0, -1):
            h = k * step
            while last < len(order) and statistics[m, order[last]] >= h:
                i, j = root(parent, rows[order[last]]), root(parent, columns[order[last]])
                if i != j:
                    parent[j] = i
                    size[i] += size[j]
                size[i] += 1.0
                last += 1
            worth = h**height * step
            for e in order[:last]:
                scores[m, e] += size[root(parent, rows[e])] ** extent * worth
    return scores


enhance: Callable[..., Array] = njit(cache=True)(_enhance)
swap_undirected: Callable[..., int] = njit(cache=True)(_swap_undirected)
swap_directed: Callable[..., int] = njit(cache=True)(_swap_directed)
swap_within_bins: Callable[..., int] = njit(cache=True)(_swap_within_bins)
largest_components: Callable[..., Any] = njit(cache=True)(_largest_components)
