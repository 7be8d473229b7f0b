"""Thresholds keep what they say they keep, and resolve ties the same way every time."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from microtome.graphs.threshold import (
    absolute,
    binarise,
    disparity_backbone,
    maximum_spanning_tree,
    n_edges_at,
    orthogonal_trees,
    proportional,
    proportional_directed,
    tree_and_strongest,
)
from microtome.storage.errors import BadConnectome


def correlations(seed: int, n: int = 20) -> np.ndarray:
    return np.corrcoef(np.random.default_rng(seed).standard_normal((n, 30)))


def test_densities_published_by_the_toolbox(shared_data):
    developer = np.load(shared_data / "brain" / "bct" / "sample_data.npy")
    assert proportional(developer, 0.5).sum() == pytest.approx(22548.51206965, rel=1e-9)
    assert binarise(proportional(developer, 0.41)).sum() == 7752
    macaque = np.load(shared_data / "brain" / "bct" / "sample_directed.npy")
    assert proportional_directed(macaque, 2126 / (95 * 94)).sum() == 3410
    # The toolbox gives the same for a density that it cannot reach, which is refused here.
    with pytest.raises(BadConnectome, match="only 2126 of 8930"):
        proportional_directed(macaque, 0.28)
    strongest = proportional_directed(macaque, 0.05)
    assert np.count_nonzero(strongest) == 447
    assert strongest[strongest > 0].min() >= macaque[strongest == 0].max()
    kept = proportional(developer, 0.13)
    assert (1 / kept[kept > 0]).sum() == pytest.approx(790.43107587, rel=1e-9)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(4, 25), st.floats(0.05, 0.4))
def test_the_strongest_edges_are_kept_unchanged(seed, n, density):
    w = np.abs(correlations(seed, n))
    kept = proportional(w, density)
    there = kept > 0
    assert there.sum() == 2 * n_edges_at(density, n)
    np.testing.assert_array_equal(kept, kept.T)
    np.testing.assert_allclose(kept[there], w[there], rtol=1e-14)
    off = ~np.eye(n, dtype=bool)
    assert w[there].min(initial=2.0) >= w[off & ~there].max(initial=0.0) - 1e-14


def test_ties_are_resolved_by_position_and_so_the_same_in_every_run():
    w = np.ones((5, 5))
    kept = proportional(w, 0.3)
    assert np.argwhere(np.triu(kept)).tolist() == [[2, 3], [2, 4], [3, 4]]


def test_half_an_edge_is_rounded_up():
    assert [n_edges_at(p, 6) for p in (0.1, 0.3, 0.5)] == [2, 5, 8]


def test_a_density_that_cannot_be_reached_is_refused():
    w = np.zeros((4, 4))
    w[0, 1] = w[1, 0] = 0.5
    w[2, 3] = w[3, 2] = -0.9
    with pytest.raises(BadConnectome, match="only 1 of 6 pairs"):
        proportional(w, 0.4)
    assert proportional(w, 0.33, by="magnitude")[2, 3] == -0.9
    with pytest.raises(BadConnectome, match="above 0"):
        proportional(w, 0.0)


def test_absolute_keeps_from_the_minimum_on():
    w = np.array([[9, 0.2, 0.5], [0.2, 9, -0.7], [0.5, -0.7, 9]])
    assert absolute(w, 0.5).tolist() == [[0, 0, 0.5], [0, 0, 0], [0.5, 0, 0]]


@pytest.mark.parametrize("seed", range(5))
def test_the_spanning_tree_is_that_of_networkx(seed):
    w = correlations(seed)
    np.fill_diagonal(w, 0)
    theirs = nx.to_numpy_array(nx.maximum_spanning_tree(nx.from_numpy_array(w)))
    np.testing.assert_allclose(maximum_spanning_tree(w), theirs)


@pytest.mark.parametrize("seed", range(5))
def test_the_tree_keeps_every_density_connected(seed):
    w = correlations(seed)
    kept = tree_and_strongest(w, 0.12)
    assert (kept != 0).sum() == 2 * n_edges_at(0.12, 20)
    assert nx.is_connected(nx.from_numpy_array(kept))
    tree = maximum_spanning_tree(w)
    np.testing.assert_array_equal(kept[tree != 0], tree[tree != 0])
    others = (kept != 0) & (tree == 0)
    left = (kept == 0) & ~np.eye(20, dtype=bool)
    assert kept[others].min() >= w[left].max() - 1e-14
    with pytest.raises(BadConnectome, match="at least 0\\.1"):
        tree_and_strongest(w, 0.05)


def test_a_network_in_two_parts_has_a_tree_of_each():
    w = np.kron(np.eye(2), np.array([[0, 3.0, 2], [3, 0, 1], [2, 1, 0]]))
    tree = maximum_spanning_tree(w)
    assert (tree > 0).sum() == 2 * 4
    assert tree[1, 2] == tree[4, 5] == 0


def test_the_backbone_keeps_edges_that_a_random_division_would_hardly_make():
    # Region 0 gives 0.9 of its strength to region 1: p = (1 - 0.9) ** 3 at its end.
    w = np.zeros((5, 5))
    w[0, 1:] = [0.9, 0.04, 0.03, 0.03]
    w += w.T
    kept = disparity_backbone(w, alpha=0.0011)
    assert np.argwhere(np.triu(kept)).tolist() == [[0, 1]]
    assert not disparity_backbone(w, alpha=0.0009).any()
    with pytest.raises(BadConnectome, match="alpha"):
        disparity_backbone(w, alpha=0)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_the_backbone_is_serranos_integral(seed):
    w = np.abs(correlations(seed, 8)) * (1 - np.eye(8))
    p = np.ones((8, 8))
    for i, row in enumerate(w):
        for j in np.flatnonzero(row):
            x = np.linspace(0, row[j] / row.sum(), 4001)
            k = np.count_nonzero(row)
            p[i, j] = 1 - (k - 1) * np.trapezoid((1 - x) ** (k - 2), x)
    kept = disparity_backbone(w, alpha=0.05)
    clear = np.abs(np.minimum(p, p.T) - 0.05) > 1e-6
    np.testing.assert_array_equal((kept > 0)[clear], (np.minimum(p, p.T) < 0.05)[clear])


@pytest.mark.parametrize("seed", range(3))
def test_orthogonal_trees_are_the_union_worth_most(seed):
    w = np.abs(correlations(seed, 12)) * (1 - np.eye(12))
    graph, unions = nx.from_numpy_array(w), [nx.empty_graph(12)]
    while graph.number_of_edges():
        tree = nx.maximum_spanning_tree(graph)
        graph.remove_edges_from(tree.edges)
        unions.append(nx.compose(unions[-1], tree))

    def efficiency(g: nx.Graph) -> float:
        far = nx.all_pairs_dijkstra_path_length(g, weight=lambda u, v, e: 1 / e["weight"])
        return sum(1 / d for _, to in far for d in to.values() if d)

    worth = [
        efficiency(g) / efficiency(unions[-1]) - g.size("weight") / unions[-1].size("weight")
        for g in unions[1:]
    ]
    best = nx.to_numpy_array(unions[1 + int(np.argmax(worth))], nodelist=range(12))
    np.testing.assert_allclose(orthogonal_trees(w), best)
