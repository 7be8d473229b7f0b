"""Networks that are random but for space, and weighted small worlds."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest
from scipy.sparse.csgraph import connected_components

from microtome.graphs import nulls
from microtome.graphs.spatial import rewire_in_space
from microtome.storage.errors import BadConnectome


def in_space(seed: int, n: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Regions in a box, edges mostly between near ones, weights that fall with distance."""
    rng = np.random.default_rng(seed)
    places = rng.uniform(0, 100, (n, 3))
    apart = np.linalg.norm(places[:, None] - places[None], axis=2)
    there = rng.uniform(size=(n, n)) < np.exp(-apart / 25)
    upper = np.triu(np.exp(-apart / 40) * rng.uniform(0.5, 1.5, (n, n)) * there, 1)
    return upper + upper.T, places


@pytest.mark.parametrize("seed", range(3))
def test_degrees_and_lengths_are_kept(seed):
    network, places = in_space(seed)
    apart = np.linalg.norm(places[:, None] - places[None], axis=2)
    null = rewire_in_space(network, places, n_bins=10, seed=seed)
    np.testing.assert_array_equal(null, null.T)
    np.testing.assert_array_equal((null > 0).sum(axis=0), (network > 0).sum(axis=0))
    np.testing.assert_array_equal(np.sort(null, axis=None), np.sort(network, axis=None))
    moved = (null > 0) & (network == 0)
    assert moved.sum() > 0.3 * (network > 0).sum()
    lengths = [np.sort(apart[np.triu(w) > 0]) for w in (network, null)]
    edges = np.quantile(lengths[0], np.linspace(0, 1, 11)[1:-1])
    counts = [np.bincount(np.searchsorted(edges, own), minlength=10) for own in lengths]
    np.testing.assert_array_equal(*counts)
    cost = [(w * apart).sum() for w in (network, null)]
    assert cost[1] == pytest.approx(cost[0], rel=0.03)
    free = nulls.rewire(network, seed=seed)
    assert (free * apart).sum() > 1.15 * cost[0]
    np.testing.assert_array_equal(null, rewire_in_space(network, places, n_bins=10, seed=seed))
    with pytest.raises(BadConnectome, match="centroids"):
        rewire_in_space(network, places[1:])


@pytest.mark.parametrize("seed", range(5))
def test_a_strongly_connected_network_stays_so(seed):
    # A ring with few chords falls apart in most rewired networks.
    rng = np.random.default_rng(seed)
    ring = np.roll(np.eye(20), 1, axis=1)
    ring[rng.integers(0, 20, 6), rng.integers(0, 20, 6)] = 2
    np.fill_diagonal(ring, 0)
    free = nulls.rewire_directed(ring, seed=seed)
    null = nulls.rewire_directed(ring, connected=True, seed=seed)
    assert connected_components(null > 0, connection="strong")[0] == 1
    assert connected_components(free > 0, connection="strong")[0] > 1
    assert ((null > 0) & (ring == 0)).sum() > 5
    for axis in (0, 1):
        np.testing.assert_array_equal((null > 0).sum(axis=axis), (ring > 0).sum(axis=axis))
    with pytest.raises(BadConnectome, match="reached"):
        nulls.rewire_directed(np.triu(ring), connected=True)


def test_a_small_world_lies_between_a_lattice_and_a_random_network():
    rng = np.random.default_rng(0)

    def weighted(graph: nx.Graph) -> np.ndarray:
        upper = np.triu(nx.to_numpy_array(graph) * rng.uniform(0.9, 1.0, (100, 100)), 1)
        return upper + upper.T

    ring = nulls.ring_lattice(weighted(nx.watts_strogatz_graph(100, 8, 0)), rng)
    found = {
        p: nulls.small_world_propensity(weighted(nx.watts_strogatz_graph(100, 8, p, seed=1)))
        for p in (0, 0.05, 1)
    }
    # One of the two distances is nothing, the other all: 1 - sqrt(1 / 2).
    assert nulls.small_world_propensity(ring) == pytest.approx(0.293, abs=0.02)
    assert found[0] == pytest.approx(0.293, abs=0.05)
    assert found[1] == pytest.approx(0.293, abs=0.06)
    assert found[0.05] > 0.6


def test_the_weighted_rich_club_is_one_where_hubs_are_as_chance_joins_them():
    rng = np.random.default_rng(3)
    upper = np.triu(rng.uniform(size=(40, 40)) * (rng.uniform(size=(40, 40)) < 0.3), 1)
    network = upper + upper.T
    plain = nulls.rich_club_normalised(network, weighted=True, n_nulls=20)
    assert np.nanmedian(plain) == pytest.approx(1, abs=0.1)
    hubs = np.argsort((network > 0).sum(axis=0))[-10:]
    network[np.ix_(hubs, hubs)] *= 5
    strong = nulls.rich_club_normalised(network, weighted=True, n_nulls=20)
    level = int(np.sort((network > 0).sum(axis=0))[-10]) - 2
    assert strong[level] > plain[level] + 0.3
