"""Paths that are found in several ways are the same, whichever way is the quicker one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.csgraph import shortest_path

from microtome.graphs import paths, shortest
from microtome.graphs.paths import Lengths


def network(n: int, share: float, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    upper = np.triu(rng.uniform(0.01, 1, (n, n)) * (rng.uniform(size=(n, n)) < share), 1)
    return upper + upper.T


def by_definition(weights: np.ndarray) -> list[float]:
    """Local efficiency, one neighbourhood after the other, with SciPy's paths."""
    found = []
    for row in weights:
        among = np.flatnonzero(row)
        with np.errstate(divide="ignore"):
            lengths = 1 / np.cbrt(weights[np.ix_(among, among)])
        np.fill_diagonal(lengths, 0)
        distance = shortest_path(lengths, directed=False)
        np.fill_diagonal(distance, np.inf)
        pairs = len(among) * (len(among) - 1)
        near = np.cbrt(row[among])
        found.append((near[:, None] * near / distance).sum() / pairs if pairs else 0.0)
    return found


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 24), st.sampled_from([0.2, 0.6, 0.95, 1.0]), st.integers(0, 2**32 - 1))
def test_distances_and_local_efficiency_are_those_of_scipy(n, share, seed):
    weights = network(n, share, seed)
    lengths = Lengths.from_weights(weights)
    expected = shortest_path(lengths.values, directed=False)
    np.testing.assert_allclose(paths.distances(lengths), expected, rtol=1e-12)
    expected = by_definition(weights)
    np.testing.assert_allclose(paths.local_efficiency_weighted(weights), expected, rtol=1e-12)
    ties = np.cbrt(weights)
    lengths = Lengths.from_weights(ties)
    together = shortest.efficiency_by_halves(
        lengths.values, ties, paths._shared_neighbours(ties != 0)
    )
    np.testing.assert_allclose(together, expected, rtol=1e-12)
    alone = shortest.efficiency_one_by_one(lengths.values, ties)
    np.testing.assert_allclose(alone, expected, rtol=1e-12)


@pytest.mark.parametrize("n", [50, 2700])
def test_on_a_ring_the_way_round_is_counted_by_either_method(n):
    ring = np.roll(np.eye(n), 1, axis=0)
    found = paths.distances(Lengths.hops(ring + ring.T))
    apart = np.arange(n)
    np.testing.assert_array_equal(found[0], np.minimum(apart, n - apart))
    np.testing.assert_array_equal(found[:, n // 3], np.roll(found[0], n // 3))
