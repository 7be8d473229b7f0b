"""Random networks keep what they promise and differ in the rest; small worlds are found."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from microtome.graphs import metrics, nulls, paths, summary
from microtome.graphs.cohorts import density_range, measure_network
from microtome.graphs.threshold import (
    disparity_backbone,
    orthogonal_trees,
    proportional,
    tree_and_strongest,
)
from microtome.storage.connectomes import Connectome
from microtome.storage.errors import BadConnectome


@pytest.fixture(scope="module")
def developer(shared_data) -> np.ndarray:
    return np.load(shared_data / "brain" / "bct" / "sample_data.npy")


@st.composite
def signed_network(draw) -> np.ndarray:
    n = draw(st.integers(4, 16))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kept = rng.uniform(size=(n, n)) < draw(st.floats(0.1, 1.0))
    upper = np.triu(rng.standard_normal((n, n)) * kept, 1)
    return upper + upper.T


@settings(max_examples=40, deadline=None)
@given(signed_network(), st.integers(0, 1000))
def test_rewiring_keeps_degrees_of_both_signs_and_all_weights(network, seed):
    for null in (
        nulls.rewire(network, seed=seed),
        nulls.rewire_strengths(network, seed=seed),
    ):
        np.testing.assert_array_equal(null, null.T)
        assert not np.diag(null).any()
        for sign in (1, -1):
            np.testing.assert_array_equal(
                (sign * null > 0).sum(axis=0), (sign * network > 0).sum(axis=0)
            )
        np.testing.assert_array_equal(np.sort(null, axis=None), np.sort(network, axis=None))


@settings(max_examples=25, deadline=None)
@given(signed_network(), st.integers(0, 1000))
def test_a_lattice_keeps_degrees_and_weights(network, seed):
    null = nulls.latticise(np.abs(network), seed=seed)
    np.testing.assert_array_equal((null > 0).sum(axis=0), (network != 0).sum(axis=0))
    np.testing.assert_array_equal(np.sort(null, axis=None), np.sort(np.abs(network), axis=None))


@settings(max_examples=25, deadline=None)
@given(signed_network(), st.integers(0, 1000))
def test_directed_rewiring_keeps_in_and_out_degrees_and_out_strengths(network, seed):
    directed = np.triu(np.abs(network)) + 2 * np.tril(np.abs(network), -2)
    null = nulls.rewire_directed(directed, seed=seed)
    for axis in (0, 1):
        np.testing.assert_array_equal((null > 0).sum(axis=axis), (directed > 0).sum(axis=axis))
    np.testing.assert_allclose(null.sum(axis=1), directed.sum(axis=1))
    assert not np.diag(null).any()


def test_equal_seeds_give_equal_networks_and_others_others(developer):
    network = proportional(developer, 0.1)
    for make in (nulls.rewire, nulls.rewire_directed, nulls.latticise, nulls.rewire_strengths):
        first = make(network, seed=4)
        np.testing.assert_array_equal(first, make(network, seed=4))
        assert (first != make(network, seed=5)).any()
        # The input is left as it was.
        np.testing.assert_array_equal(network, proportional(developer, 0.1))
    drawn = list(nulls.null_networks(network, 3, seed=1))
    np.testing.assert_array_equal(drawn[1], list(nulls.null_networks(network, 2, seed=1))[1])
    assert (drawn[0] != drawn[1]).any()


def test_rewiring_forgets_where_edges_were(developer):
    network = proportional(developer, 0.15) > 0
    null = nulls.rewire(network) > 0
    expected = nx.random_reference(
        nx.from_numpy_array(network), niter=3, connectivity=False, seed=1
    )
    theirs = nx.to_numpy_array(expected) > 0
    shared, theirs_shared = (null & network).sum(), (theirs & network).sum()
    assert shared / network.sum() < 0.25
    assert abs(shared - theirs_shared) / network.sum() < 0.05


def test_the_number_of_swaps_reaches_equilibrium(developer):
    network = proportional(developer, 0.15)
    clustering = [
        np.mean([metrics.clustering_binary(nulls.rewire(network, swaps_per_edge=k, seed=s)).mean()
                 for s in range(8)])
        for k in (10, 40)
    ]  # fmt: skip
    assert clustering[0] == pytest.approx(clustering[1], rel=0.03)


def test_strengths_are_kept_closely_and_better_with_more_rounds(developer):
    network = proportional(developer, 0.4)
    strength = metrics.strength(network)

    def kept(null) -> float:
        return np.corrcoef(metrics.strength(null), strength)[0, 1]

    assert kept(nulls.rewire_strengths(network)) > 0.95
    coarse, fine = (nulls.rewire_strengths(network, rounds=r) for r in (5, 400))
    assert kept(nulls.rewire(network)) < kept(coarse) < kept(fine)
    assert kept(fine) > 0.98


def test_a_connected_network_stays_so_where_it_would_fall_apart(developer):
    sparse = tree_and_strongest(developer, 0.025)
    assert not metrics.components(sparse).any()
    apart = 0
    for seed in range(10):
        whole = nulls.rewire(sparse, connected=True, seed=seed)
        assert not metrics.components(whole).any()
        np.testing.assert_array_equal(metrics.degree(whole), metrics.degree(sparse))
        assert not metrics.components(nulls.latticise(sparse, connected=True, seed=seed)).any()
        apart += metrics.components(nulls.rewire(sparse, seed=seed)).any()
    assert apart > 0
    with pytest.raises(BadConnectome, match="several parts"):
        nulls.rewire(np.kron(np.eye(2), np.ones((3, 3))), connected=True)


def test_a_lattice_clusters_and_is_long(developer):
    network = proportional(developer, 0.1) > 0
    lattice, random = nulls.latticise(network), nulls.rewire(network)

    def clustering_and_path(w):
        distance = paths.distances(paths.Lengths.hops(w))
        return metrics.clustering_binary(w).mean(), paths.characteristic_path_length(distance)

    (c_lattice, l_lattice), (c_random, l_random) = map(clustering_and_path, (lattice, random))
    assert c_lattice > 1.5 * c_random
    assert l_lattice > l_random


def test_a_small_world_is_told_from_a_lattice_and_from_chance():
    n, k = 100, 8
    found = {
        rewired: nulls.small_world(
            nx.to_numpy_array(nx.connected_watts_strogatz_graph(n, k, rewired, seed=2)), n_nulls=20
        )
        for rewired in (0.0, 0.1, 1.0)
    }
    assert found[0.0].omega < -0.5
    assert abs(found[0.1].omega) < 0.4
    assert found[1.0].omega > 0.6
    assert found[1.0].sigma == pytest.approx(1, abs=0.2)
    assert found[0.1].sigma > 2
    assert found[0.1].sigma > found[1.0].sigma
    # A ring lattice: C = 3 (k - 2) / (4 (k - 1)).
    assert found[0.0].clustering == pytest.approx(3 * (k - 2) / (4 * (k - 1)))
    assert found[0.1].sigma == pytest.approx(
        found[0.1].clustering_normalised / found[0.1].path_length_normalised
    )


def test_small_world_sigma_of_the_published_structural_covariance_network(shared_data):
    # Fixture of the scona tests, 10 random networks: C about 0.225, L about 2.099, sigma 1.63-1.80.
    nspn = shared_data / "brain" / "nspn"
    table = pd.read_csv(nspn / "PARC_500aparc_thickness_behavmerge.csv")
    names = (nspn / "500.names.txt").read_text().split()
    thickness = table[names].to_numpy(float)
    network = tree_and_strongest(np.corrcoef(thickness.T), 0.1)
    found = nulls.small_world(network, n_nulls=10)
    assert found.clustering / found.clustering_normalised == pytest.approx(0.225, rel=0.03)
    assert found.path_length / found.path_length_normalised == pytest.approx(2.099, rel=0.01)
    assert 1.63 * 0.97 < found.sigma < 1.80 * 1.03


def test_rich_club_is_above_chance_for_joined_hubs_and_not_for_chance():
    rng = np.random.default_rng(0)
    n, hubs = 80, 8
    joined = np.triu(rng.uniform(size=(n, n)) < 0.05, 1)
    joined[:hubs, hubs:] |= rng.uniform(size=(hubs, n - hubs)) < 0.3
    joined[:hubs, :hubs] = np.triu(np.ones((hubs, hubs), bool), 1)
    planted = (joined | joined.T).astype(float)
    level = int(np.sort(planted.sum(axis=0))[-hubs]) - 2
    assert nulls.rich_club_normalised(planted, n_nulls=30)[level] > 1.2
    chance = nulls.rewire(planted, seed=9)
    # Nulls of a null are like it.
    assert nulls.rich_club_normalised(chance, n_nulls=30)[level] == pytest.approx(1, abs=0.25)
    # By definition one where all have such a degree.
    assert nulls.rich_club_normalised(nx.to_numpy_array(nx.complete_graph(5)))[0] == 1


def test_area_over_densities_is_the_integral(developer):
    densities = (0.1, 0.2, 0.4)
    found = summary.area_over_densities(developer, densities)
    each = [summary.global_measures(proportional(developer, d)) for d in densities]
    for name, value in found.items():
        a, b, c = (measures[name] for measures in each)
        assert value == pytest.approx(0.1 * (a + b) / 2 + 0.2 * (b + c) / 2), name
    assert found["density"] == pytest.approx((0.4**2 - 0.1**2) / 2, rel=1e-3)
    with pytest.raises(BadConnectome, match="ascending"):
        summary.area_over_densities(developer, (0.2, 0.1))
    with pytest.raises(BadConnectome, match="ascending"):
        summary.area_over_densities(developer, (0.2,))


def test_a_table_row_has_nulls_and_areas_beside_the_measures():
    rng = np.random.default_rng(0)
    weights = np.abs(np.corrcoef(rng.standard_normal((24, 40))))
    connectome = Connectome(weights, tuple(f"r{i}" for i in range(24)), "pearson", "fMRI", "sub-1")
    plain = measure_network(connectome, density=0.3, keep="tree").whole
    row = measure_network(
        connectome, density=0.3, keep="tree", n_nulls=5, densities=density_range("0.2:0.3:0.05")
    ).whole
    assert {name: row[name] for name in plain} == plain
    assert row["small_world_sigma_binary"] == pytest.approx(
        row["clustering_normalised_binary"] / row["path_length_normalised_binary"]
    )
    assert {f"{name}_area" for name in plain} < set(row)
    with pytest.raises(BadConnectome, match="density of its own"):
        measure_network(connectome, keep="all", densities=(0.1, 0.2))


@pytest.mark.parametrize("text", ["0.1", "0.3:0.1:0.1", "0:0.3:0.1", "a:b:c", "0.1:0.2:0"])
def test_a_range_of_densities_is_low_high_step(text):
    assert density_range("0.05:0.3:0.05") == (0.05, 0.1, 0.15, 0.2, 0.25, 0.3)
    with pytest.raises(BadConnectome, match="LOW:HIGH:STEP"):
        density_range(text)


@pytest.mark.parametrize(
    ("keep", "kept"), [("backbone", disparity_backbone), ("trees", orthogonal_trees)]
)
def test_networks_of_a_density_of_their_own_are_measured(keep, kept):
    weights = np.corrcoef(np.random.default_rng(0).standard_normal((20, 40)))
    weights = (weights + weights.T) / 2
    connectome = Connectome(weights, tuple(map(str, range(20))), "pearson", "fMRI")
    measured = measure_network(connectome, keep=keep, nodal=True)
    own = kept(np.maximum(weights, 0))
    assert measured.whole["density"] == metrics.density(own)
    assert (measured.nodal["average_controllability"] >= 1).all()
    with pytest.raises(BadConnectome, match="density of its own"):
        measure_network(connectome, keep=keep, densities=(0.1, 0.2))
