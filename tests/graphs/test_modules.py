"""Modules: Leiden's hold together and are as good as any; consensus finds what is planted."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import mutual_info_score

from microtome.graphs import communities, directed
from microtome.graphs.leiden import leiden
from microtome.graphs.spectral import spectral_modules
from microtome.graphs.threshold import proportional
from microtome.storage.errors import BadConnectome


def planted(seed: int, n: int = 48, inside: float = 0.8, outside: float = 0.05):
    rng = np.random.default_rng(seed)
    truth = np.repeat(np.arange(4), n // 4)
    chance = np.where(np.equal.outer(truth, truth), inside, outside)
    upper = np.triu(rng.uniform(0.5, 1, (n, n)) * (rng.uniform(size=(n, n)) < chance), 1)
    return upper + upper.T, truth


def same(one, other) -> bool:
    return communities.partition_distance(one, other) == pytest.approx(0)


def test_the_modules_of_the_karate_club_are_the_best_known():
    club = nx.to_numpy_array(nx.karate_club_graph(), weight=None)
    best = max(communities.modularity(club, leiden(club, seed=seed)) for seed in range(10))
    # Brandes et al. (2008) proved 0.41979 to be the largest modularity of this network.
    assert best == pytest.approx(0.41979, abs=1e-5)


def test_they_are_as_good_as_louvains_on_real_tracts(shared_data):
    folder = shared_data / "brain" / "bct"
    tracts = np.load(folder / "sample_group_dsi.npy")[:, :, 0]
    quality = {
        search: np.mean([communities.modularity(tracts, search(tracts, seed=s)) for s in range(5)])
        for search in (leiden, communities.louvain)
    }
    assert quality[leiden] >= quality[communities.louvain] - 0.002
    np.testing.assert_array_equal(leiden(tracts, seed=3), leiden(tracts, seed=3))


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 40), st.floats(0.02, 0.5), st.integers(0, 2**32 - 1))
def test_every_module_is_connected_within(n, share, seed):
    rng = np.random.default_rng(seed)
    upper = np.triu(rng.uniform(size=(n, n)) * (rng.uniform(size=(n, n)) < share), 1)
    weights = upper + upper.T
    modules = leiden(weights, seed=seed)
    for k in range(modules.max() + 1):
        own = np.flatnonzero(modules == k)
        assert nx.is_connected(nx.from_numpy_array(weights[np.ix_(own, own)]))
    size = np.bincount(modules)
    assert (np.diff(size) <= 0).all()


def test_a_higher_resolution_gives_smaller_modules_and_no_edges_none():
    weights, _ = planted(0)
    number = [leiden(weights, resolution=g).max() + 1 for g in (0.1, 1, 4)]
    assert number[0] < number[1] < number[2]
    assert leiden(np.zeros((3, 3))).tolist() == [0, 1, 2]


@pytest.mark.parametrize("seed", range(3))
def test_consensus_finds_planted_modules(seed):
    weights, truth = planted(seed)
    assert same(communities.consensus(weights, n_runs=10, seed=seed), truth)


def test_agreement_counts_partitions():
    found = communities.agreement([[0, 0, 1], [5, 5, 5]])
    assert found.tolist() == [[0, 1, 0.5], [1, 0, 0.5], [0.5, 0.5, 0]]
    with pytest.raises(BadConnectome, match="table"):
        communities.agreement([0, 1])


def test_the_distance_of_partitions_is_the_variation_of_information():
    rng = np.random.default_rng(0)
    one, other = rng.integers(0, 4, 60), rng.integers(0, 6, 60)
    shared = mutual_info_score(one, other)
    alone = mutual_info_score(one, one) + mutual_info_score(other, other)
    found = communities.partition_distance(one, other)
    assert found == pytest.approx((alone - 2 * shared) / np.log(60))
    assert communities.partition_distance(one, 7 - one) == pytest.approx(0)
    assert communities.partition_distance(np.arange(60), np.zeros(60)) == pytest.approx(1)
    with pytest.raises(BadConnectome, match="same regions"):
        communities.partition_distance([0, 1], [0, 1, 1])


def test_halving_gives_the_modularity_published_by_the_toolbox(shared_data):
    folder = shared_data / "brain" / "bct"
    network = proportional(np.load(folder / "sample_data.npy"), 0.4)
    plain = spectral_modules(network, refine=False)
    assert communities.modularity(network, plain) == pytest.approx(0.24097717, rel=1e-5)
    # Its refinement changes nothing, nor does it for directed networks: 0.32742787.
    refined = communities.modularity(network, spectral_modules(network))
    best = communities.modularity(network, leiden(network))
    assert 0.24097717 < refined <= best + 1e-9
    macaque = np.load(folder / "sample_directed.npy")
    assert directed.modularity(macaque, spectral_modules(macaque)) > 0.32742787


def test_the_distance_of_two_scans_modules_is_the_published_one(shared_data):
    modules = []
    for scan in ("qball", "dsi"):
        each = np.load(shared_data / "brain" / "bct" / f"sample_group_{scan}.npy")
        mean = (each / each.max(axis=(0, 1))).mean(axis=2)
        modules.append(spectral_modules(mean, refine=False))
    assert communities.partition_distance(*modules) == pytest.approx(0.1964, abs=0.01)


@pytest.mark.parametrize("refine", [True, False])
def test_halving_finds_planted_modules_and_leaves_what_has_none(refine):
    network, truth = planted(3)
    assert same(spectral_modules(network, refine=refine), truth)
    full = 1 - np.eye(12)
    assert (spectral_modules(full, refine=refine) == 0).all()
    assert np.array_equal(spectral_modules(np.zeros((3, 3)), refine=refine), [0, 1, 2])


def test_two_triangles_are_parted_between_them():
    network = np.kron(np.eye(2), 1 - np.eye(3))
    network[2, 3] = network[3, 2] = 1
    assert same(spectral_modules(network), [0, 0, 0, 1, 1, 1])
    order = np.array([4, 0, 5, 2, 1, 3])
    shuffled = spectral_modules(network[np.ix_(order, order)])
    assert same(shuffled, np.array([0, 0, 0, 1, 1, 1])[order])
