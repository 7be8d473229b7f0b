"""Directed and signed measures equal networkx, published values and their definitions."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from microtome.graphs import communities, directed, metrics, paths, signed
from microtome.graphs.threshold import proportional
from microtome.storage.errors import BadConnectome


@pytest.fixture(scope="module")
def macaque(shared_data) -> np.ndarray:
    return np.load(shared_data / "brain" / "bct" / "sample_directed.npy")


@pytest.fixture(scope="module")
def correlations() -> np.ndarray:
    rng = np.random.default_rng(3)
    return np.corrcoef(rng.standard_normal((30, 3)) @ rng.standard_normal((3, 50)))


def agree(found, expected) -> None:
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


def of_nodes(values: dict) -> list[float]:
    return [values[node] for node in range(len(values))]


def test_networkx_agrees_on_a_real_directed_network(macaque):
    graph = nx.from_numpy_array(macaque, create_using=nx.DiGraph)
    for u, v, data in graph.edges(data=True):
        data["length"] = 1 / macaque[u, v]
    agree(directed.in_degree(macaque), of_nodes(dict(graph.in_degree())))
    agree(directed.out_degree(macaque), of_nodes(dict(graph.out_degree())))
    agree(directed.in_strength(macaque), of_nodes(dict(graph.in_degree(weight="weight"))))
    agree(directed.out_strength(macaque), of_nodes(dict(graph.out_degree(weight="weight"))))
    agree(directed.reciprocity(macaque), nx.reciprocity(graph))
    agree(directed.clustering_binary(macaque), of_nodes(nx.clustering(graph)))
    agree(directed.clustering_weighted(macaque), of_nodes(nx.clustering(graph, weight="weight")))
    for u, v, data in graph.edges(data=True):
        # Whole numbers, which networkx adds without rounding: paths tie here.
        data["whole"] = int(6 / macaque[u, v])
    for weight in ("whole", None):
        theirs = nx.betweenness_centrality(graph, weight=weight, normalized=False)
        agree(directed.betweenness(macaque, weighted=weight is not None), of_nodes(theirs))
    theirs = dict(nx.all_pairs_dijkstra_path_length(graph, weight="length"))
    expected = [[theirs[i].get(j, np.inf) for j in graph] for i in graph]
    agree(directed.distances(macaque, weighted=True), expected)
    theirs = dict(nx.all_pairs_shortest_path_length(graph))
    expected = [[theirs[i].get(j, np.inf) for j in graph] for i in graph]
    agree(directed.distances(macaque, weighted=False), expected)
    partition = np.arange(len(macaque)) % 5
    sets = [set(np.flatnonzero(partition == k)) for k in range(5)]
    agree(
        directed.modularity(macaque, partition, resolution=0.7),
        nx.community.modularity(graph, sets, resolution=0.7),
    )


def test_values_published_in_the_toolbox_tests(macaque, shared_data):
    distance = directed.distances(macaque, weighted=True)
    assert paths.global_efficiency(distance) == pytest.approx(1.0655, abs=1e-4)
    # Its routing efficiency divides by neighbours, not by pairs.
    local = 0.0
    for row in (macaque + macaque.T) > 0:
        among = directed.distances(macaque[np.ix_(row, row)], weighted=True)
        local += (1 / among[~np.eye(len(among), dtype=bool)]).sum() / len(among)
    assert local == pytest.approx(2906.574, abs=1e-3)
    # The toolbox's spectral search ends at 0.32742787, which a greedy one betters.
    modules = directed.louvain(macaque)
    assert directed.modularity(macaque, modules) > 0.32742787
    assert np.bincount(modules).tolist() == sorted(np.bincount(modules), reverse=True)
    developer = proportional(np.load(shared_data / "brain" / "bct" / "sample_data.npy"), 0.1)
    partition = np.load(shared_data / "brain" / "bct" / "sample_partition.npy")
    assert signed.gateway(developer, partition).sum() == pytest.approx(43.4382, abs=1e-3)


def test_directed_measures_of_a_symmetric_network_are_the_undirected_ones(shared_data):
    network = proportional(np.load(shared_data / "brain" / "bct" / "sample_data.npy"), 0.1)
    partition = np.arange(len(network)) % 4
    agree(directed.clustering_weighted(network), metrics.clustering_weighted(network))
    agree(directed.clustering_binary(network), metrics.clustering_binary(network))
    agree(directed.modularity(network, partition), communities.modularity(network, partition))
    for found in directed.participation(network, partition):
        agree(found, communities.participation(network, partition))
    assert directed.reciprocity(network) == directed.reciprocity(network, weighted=True) == 1
    agree(
        directed.distances(network, weighted=True),
        paths.distances(paths.Lengths.from_weights(network)),
    )


def test_a_directed_ring_has_closed_forms():
    ring = np.roll(np.eye(6), 1, axis=1) * 2
    assert directed.reciprocity(ring) == 0
    assert directed.distances(ring, weighted=True)[0].tolist() == [0, 0.5, 1, 1.5, 2, 2.5]
    assert not directed.clustering_binary(ring).any()
    half = ring + 0.5 * ring.T
    assert directed.reciprocity(half) == 1
    assert directed.reciprocity(half, weighted=True) == pytest.approx(2 / 3)
    arriving, leaving = directed.participation(
        np.array([[0, 1, 1.0], [0, 0, 0], [0, 0, 0]]), [0, 0, 1]
    )
    assert arriving.tolist() == [0, 0, 0]
    assert leaving.tolist() == [0.5, 0, 0]


def by_definition(w: np.ndarray, i: int, *, signs: bool) -> float:
    n = range(len(w))
    pairs = [(j, h) for j in n for h in n if len({i, j, h}) == 3]
    below = sum(abs(w[i, j] * w[i, h]) for j, h in pairs)
    above = sum(w[i, j] * w[j, h] * w[h, i] for j, h in pairs)
    size = sum(abs(w[i, j] * w[j, h] * w[h, i]) for j, h in pairs)
    return (above if signs else size) / below


def test_signed_clustering_is_what_its_definition_says(correlations):
    w = correlations - np.diag(np.diag(correlations))
    w /= np.abs(w).max()
    costantini = signed.clustering_signed(correlations, kind="costantini-perugini")
    zhang = signed.clustering_signed(correlations, kind="zhang-horvath")
    for i in (0, 7, 29):
        assert costantini[i] == pytest.approx(by_definition(w, i, signs=True))
        assert zhang[i] == pytest.approx(by_definition(w, i, signs=False))
    # A triangle with one negative edge is unbalanced.
    triangle = np.ones((3, 3)) - np.eye(3)
    triangle[0, 1] = triangle[1, 0] = -1
    agree(signed.clustering_signed(triangle, kind="costantini-perugini"), [-1, -1, -1])
    agree(signed.clustering_signed(triangle, kind="zhang-horvath"), [1, 1, 1])
    assert not signed.clustering_signed(np.zeros((3, 3)), kind="zhang-horvath").any()


def test_signed_modularity_is_what_its_definition_says(correlations):
    partition = np.arange(30) % 3
    w = correlations - np.diag(np.diag(correlations))
    positive, negative = np.maximum(w, 0), np.maximum(-w, 0)
    same = np.equal.outer(partition, partition)
    v_positive, v_negative = positive.sum(), negative.sum()
    expected_positive = np.outer(positive.sum(0), positive.sum(0)) / v_positive
    expected_negative = np.outer(negative.sum(0), negative.sum(0)) / v_negative
    q = ((positive - expected_positive) * same).sum() / v_positive
    q -= ((negative - expected_negative) * same).sum() / (v_positive + v_negative)
    assert signed.modularity_signed(correlations, partition) == pytest.approx(q)
    assert signed.modularity_signed(positive, partition) == pytest.approx(
        communities.modularity(positive, partition)
    )
    assert np.isnan(signed.modularity_signed(np.zeros((3, 3)), [0, 1, 2]))


def test_signed_louvain_finds_modules_that_are_held_together_and_apart():
    planted = np.repeat([0, 1, 2], [14, 10, 6])
    rng = np.random.default_rng(5)
    w = np.where(np.equal.outer(planted, planted), 0.5, -0.3) + rng.normal(0, 0.1, (30, 30))
    w = (w + w.T) / 2
    np.fill_diagonal(w, 0)
    found = signed.louvain_signed(w, seed=1)
    np.testing.assert_array_equal(found, planted)
    np.testing.assert_array_equal(found, signed.louvain_signed(w, seed=1))


def test_signed_louvain_is_as_good_as_that_of_networkx_without_signs(shared_data):
    network = proportional(np.load(shared_data / "brain" / "bct" / "sample_data.npy"), 0.15)
    ours = max(
        communities.modularity(network, signed.louvain_signed(network, seed=s)) for s in range(5)
    )
    theirs = max(communities.modularity(network, communities.louvain(network, seed=s))
                 for s in range(5))  # fmt: skip
    assert ours == pytest.approx(theirs, abs=0.01)


def test_signs_split_strengths_participation_and_gateways(correlations):
    partition = np.arange(30) % 3
    positive, negative = signed.split_signs(correlations)
    above, below = signed.strength_signed(correlations)
    agree(above - below, metrics.strength(correlations))
    for made, part in zip(
        signed.participation_signed(correlations, partition), (positive, negative), strict=True
    ):
        agree(made, communities.participation(part, partition))
    for gates, part in zip(
        signed.gateway_signed(correlations, partition),
        signed.participation_signed(correlations, partition),
        strict=True,
    ):
        # The factor is at most one, so that a gateway is at least as high.
        assert (gates >= part - 1e-12).all()


@settings(max_examples=25, deadline=None)
@given(st.integers(3, 10), st.integers(0, 2**31), st.randoms(use_true_random=False))
def test_renaming_regions_only_reorders_directed_and_signed_measures(n, seed, random):
    rng = np.random.default_rng(seed)
    w = rng.uniform(size=(n, n)) * (rng.uniform(size=(n, n)) < 0.5)
    order = list(range(n))
    random.shuffle(order)
    renamed = w[np.ix_(order, order)]
    partition = np.arange(n) % 2
    agree(directed.clustering_weighted(renamed), directed.clustering_weighted(w)[order])
    assert directed.reciprocity(renamed, weighted=True) == pytest.approx(
        directed.reciprocity(w, weighted=True), nan_ok=True
    )
    both, both_renamed = (x + x.T - 0.5 for x in (w, renamed))
    for kind in ("costantini-perugini", "zhang-horvath"):
        found = signed.clustering_signed(both, kind=kind)
        assert (np.abs(found) <= 1 + 1e-12).all()
        agree(signed.clustering_signed(both_renamed, kind=kind), found[order])
    for made, expected in zip(
        signed.gateway_signed(both_renamed, partition[order]),
        signed.gateway_signed(both, partition),
        strict=True,
    ):
        agree(made, expected[order])


def test_negative_weights_are_refused_where_they_have_no_meaning():
    with pytest.raises(BadConnectome, match="negative"):
        directed.clustering_weighted(np.array([[0, -1.0], [1.0, 0]]))
    with pytest.raises(BadConnectome, match="partition"):
        directed.modularity(np.ones((3, 3)), [0, 1])
