"""Multiplex measures equal their equations and networkx, and reduce to one layer."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest
import scipy.io
from hypothesis import given, settings
from hypothesis import strategies as st

from microtome.graphs import metrics, multiplex, paths
from microtome.graphs.threshold import proportional
from microtome.storage.connectomes import Connectome
from microtome.storage.errors import BadConnectome


def agree(found, expected, rtol=1e-9) -> None:
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=1e-12)


@pytest.fixture(scope="module")
def structure_and_function(shared_data) -> np.ndarray:
    """Tracts and correlations of one person, 94 regions, at one density."""
    folder = shared_data / "brain" / "sc_bold"
    tracts = scipy.io.loadmat(folder / "hcp_101309_DTI_CM.mat")["sc"]
    series = scipy.io.loadmat(folder / "hcp_101309_TC_rsfMRI_REST1_LR.mat")["tc"]
    layers = np.log1p(tracts + tracts.T), np.corrcoef(series)
    return np.stack([proportional(layer / layer.max(), 0.2) for layer in layers])


@st.composite
def any_layers(draw) -> np.ndarray:
    n_layers, n = draw(st.integers(2, 4)), draw(st.integers(3, 9))
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    w = rng.uniform(0.1, 1, (n_layers, n, n)) * (rng.uniform(size=(n_layers, n, n)) < 0.6)
    upper = np.triu(w, 1)
    return upper + upper.transpose(0, 2, 1)


@settings(max_examples=40, deadline=None)
@given(any_layers())
def test_participation_is_what_its_equation_says(layers):
    n_layers = len(layers)
    degree = multiplex.overlapping_degree(layers)
    for weighted in (False, True):
        found = multiplex.participation(layers, weighted=weighted)
        ties = layers if weighted else layers > 0
        for i in range(layers.shape[1]):
            own = [ties[a, i].sum() for a in range(n_layers)]
            if degree[i] == 0:
                assert np.isnan(found[i])
                continue
            expected = n_layers / (n_layers - 1) * (1 - sum((k / sum(own)) ** 2 for k in own))
            assert found[i] == pytest.approx(expected, abs=1e-12)
            assert -1e-12 <= found[i] <= 1 + 1e-12
    agree(degree, sum(metrics.degree(layer) for layer in layers))
    agree(multiplex.edge_overlap(layers).sum(axis=0), degree)


def test_equal_layers_are_one_layer(structure_and_function):
    layer = structure_and_function[0]
    thrice = np.stack([layer] * 3)
    agree(multiplex.overlapping_strength(thrice), 3 * metrics.strength(layer))
    has_edges = layer.any(axis=0)
    agree(multiplex.participation(thrice)[has_edges], np.ones(has_edges.sum()))
    agree(multiplex.layer_coupling(thrice), np.ones((3, 3)))
    agree(multiplex.layer_overlap(thrice), np.ones((3, 3)))
    # Paths of the whole are those of a layer: changing layers leads nowhere new.
    supra = multiplex.supra_adjacency(thrice)
    distance = paths.distances(paths.Lengths.from_weights(supra))
    single = paths.distances(paths.Lengths.from_weights(layer))
    n = len(layer)
    agree(distance[:n, :n], single)
    agree(distance[:n, n : 2 * n] - single, np.ones((n, n)))


def test_a_region_that_lives_in_one_layer_does_not_participate():
    layers = np.zeros((2, 4, 4))
    layers[0, 0, 1] = layers[0, 1, 0] = 1
    layers[0, 0, 2] = layers[0, 2, 0] = layers[1, 0, 2] = layers[1, 2, 0] = 1
    found = multiplex.participation(layers)
    agree(found[[0, 1, 2]], [2 * (1 - (4 + 1) / 9), 0, 1])
    assert np.isnan(found[3])
    agree(multiplex.layer_overlap(layers), [[1, 0.5], [0.5, 1]])


def test_the_supra_adjacency_is_the_graph_that_networkx_builds(structure_and_function):
    layers = structure_and_function
    n = layers.shape[1]
    graph = nx.Graph()
    for a in range(2):
        graph.add_nodes_from((a, i) for i in range(n))
        for i, j in np.argwhere(np.triu(layers[a])):
            graph.add_edge((a, i), (a, j), weight=layers[a, i, j])
    graph.add_edges_from((((0, i), (1, i)) for i in range(n)), weight=0.3)
    order = [(a, i) for a in range(2) for i in range(n)]
    supra = multiplex.supra_adjacency(layers, 0.3)
    agree(supra, nx.to_numpy_array(graph, nodelist=order))
    theirs = nx.clustering(graph, weight="weight")
    agree(metrics.clustering_weighted(supra), [theirs[node] for node in order])
    # Without coupling, layers are parts of their own: their spectrum is that of both.
    apart = np.linalg.eigvalsh(multiplex.supra_adjacency(layers, 0.0))
    agree(apart, np.sort(np.concatenate([np.linalg.eigvalsh(layer) for layer in layers])))
    three = np.stack([*layers, layers[0]])
    weights = np.array([[0, 1, 0], [1, 0, 2], [0, 2, 0]])
    supra = multiplex.supra_adjacency(three, weights)
    assert supra[0, n] == 1
    assert supra[n, 2 * n] == 2
    assert supra[0, 2 * n] == 0


def test_coupling_of_layers_is_pearsons_correlation(structure_and_function):
    layers = structure_and_function
    i, j = np.triu_indices(94, 1)
    found = multiplex.layer_coupling(layers)
    agree(found, np.corrcoef(layers[0][i, j], layers[1][i, j]))
    # Structure and function of a healthy person go together.
    assert 0.2 < found[0, 1] < 0.7
    regional = multiplex.regional_coupling(layers)
    others = np.arange(94) != 5
    agree(regional[5], np.corrcoef(layers[0][5, others], layers[1][5, others]))


def fused_by_the_equations(layers, k, n_iterations):
    """Wang et al. (2014), equations 2 to 8, entry by entry, for two layers."""
    n = layers.shape[1]
    p, s = np.zeros_like(layers), np.zeros_like(layers)
    for v, w in enumerate(layers):
        for i in range(n):
            others = [j for j in range(n) if j != i]
            near = sorted(others, key=lambda j, i=i, w=w: (-w[i, j], j))[:k]
            p[v, i, i] = 0.5
            for j in others:
                p[v, i, j] = w[i, j] / (2 * sum(w[i, h] for h in others))
            for j in near:
                s[v, i, j] = w[i, j] / sum(w[i, h] for h in near)
    for _ in range(n_iterations):
        new = [s[0] @ p[1] @ s[0].T, s[1] @ p[0] @ s[1].T]
        for v in range(2):
            sym = (new[v] + new[v].T) / 2
            for i in range(n):
                off = [j for j in range(n) if j != i]
                p[v, i, off] = sym[i, off] / (2 * sym[i, off].sum())
                p[v, i, i] = 0.5
    mean = (p[0] + p[1]) / 2
    fused = (mean + mean.T) / 2
    np.fill_diagonal(fused, 0)
    return fused


def test_fusion_is_what_its_equations_say():
    rng = np.random.default_rng(0)
    layers = rng.uniform(0.05, 1, (2, 12, 12))
    layers = (layers + layers.transpose(0, 2, 1)) / 2
    for k, steps in ((4, 1), (4, 10), (11, 3)):
        agree(
            multiplex.fuse(layers, n_neighbours=k, n_iterations=steps),
            fused_by_the_equations(layers, k, steps),
        )


def test_fusion_finds_groups_that_no_layer_shows_alone():
    rng = np.random.default_rng(1)
    truth = np.repeat([0, 1, 2], 10)
    layers = rng.uniform(0.2, 1.0, (3, 30, 30))
    # Each layer shows one group only.
    for layer, group in zip(layers, range(3), strict=True):
        layer[np.ix_(truth == group, truth == group)] += 0.5
    layers = (layers + layers.transpose(0, 2, 1)) / 2
    same = np.equal.outer(truth, truth)[np.triu_indices(30, 1)]

    def contrast(network):
        values = network[np.triu_indices(30, 1)]
        ranks = values.argsort().argsort()
        n_same = same.sum()
        return (ranks[same].sum() - n_same * (n_same - 1) / 2) / (n_same * (~same).sum())

    fused = contrast(multiplex.fuse(layers, n_neighbours=8))
    assert fused > max(contrast(layer) for layer in layers)
    assert fused > 0.9


@settings(max_examples=20, deadline=None)
@given(st.integers(4, 9), st.integers(0, 2**31), st.randoms(use_true_random=False))
def test_renaming_regions_or_layers_only_reorders(n, seed, random):
    rng = np.random.default_rng(seed)
    layers = rng.uniform(0.1, 1, (3, n, n))
    layers = layers + layers.transpose(0, 2, 1)
    order = list(range(n))
    random.shuffle(order)
    renamed = layers[::-1][:, order][:, :, order]
    agree(multiplex.fuse(renamed, n_neighbours=3), multiplex.fuse(layers, n_neighbours=3)[
        np.ix_(order, order)], rtol=1e-7)  # fmt: skip
    agree(
        multiplex.participation(renamed, weighted=True),
        multiplex.participation(layers, weighted=True)[order],
    )


def test_layers_must_be_of_one_person_and_one_atlas():
    network = np.ones((3, 3))
    one = Connectome(network, ("a", "b", "c"), "pearson", "fMRI", "sub-1")
    other = Connectome(network, ("a", "b", "c"), "msn", "sMRI", "sub-1")
    assert multiplex.stack_layers([one, other]).shape == (2, 3, 3)
    for wrong in (
        Connectome(network, ("a", "c", "b"), "msn", "sMRI", "sub-1"),
        Connectome(network, ("a", "b", "c"), "msn", "sMRI", "sub-2"),
    ):
        with pytest.raises(BadConnectome, match="differ"):
            multiplex.stack_layers([one, wrong])
    with pytest.raises(BadConnectome, match="two"):
        multiplex.stack_layers([one])
    with pytest.raises(BadConnectome, match="two or more"):
        multiplex.overlapping_degree(network)
    lonely = np.ones((2, 3, 3))
    lonely[1, 0] = lonely[1, :, 0] = 0
    with pytest.raises(BadConnectome, match="region 0 has no edge in layer 1"):
        multiplex.fuse(lonely)
