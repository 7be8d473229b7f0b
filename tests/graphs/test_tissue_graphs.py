"""Graphs of tissue beside scikit-learn, SciPy and networkx; their degenerate cases; units."""

from __future__ import annotations

from itertools import pairwise

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_bags import a_bag
from scipy.sparse.csgraph import dijkstra, minimum_spanning_tree
from scipy.spatial import ConvexHull, Delaunay
from scipy.spatial.distance import cdist
from sklearn.neighbors import kneighbors_graph, radius_neighbors_graph

from microtome.graphs.tissue import (
    TissueGraph,
    centres_um,
    delaunay_graph,
    grid_graph,
    neighbour_graph,
    spacing_um,
)
from microtome.storage.bags import ScanPlaces
from microtome.storage.errors import InputError


def cells(n: int = 300, dims: int = 2, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0, 1000, (n, dims))


def lattice(rows: int, columns: int, step: float = 128.0) -> np.ndarray:
    return step * np.stack(np.mgrid[:rows, :columns], -1).reshape(-1, 2)


def pairs(graph: TissueGraph) -> set[tuple[int, int]]:
    return {(int(i), int(j)) for i, j in graph.edges}


def is_simple(graph: TissueGraph) -> bool:
    """Every edge once, from the lower to the higher node, in order."""
    i, j = graph.edges.T
    found = list(zip(i.tolist(), j.tolist(), strict=True))
    return bool((i < j).all()) and found == sorted(set(found))


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("k", [1, 5, 8])
def test_nearest_neighbours_are_scikit_learns(k: int, dims: int) -> None:
    places = cells(dims=dims)
    theirs = kneighbors_graph(places, k, mode="distance")
    either, each = theirs.maximum(theirs.T), theirs.minimum(theirs.T)
    for mutual, expected in ((False, either), (True, each)):
        found = neighbour_graph(places, k, mutual=mutual)
        assert is_simple(found)
        matrix = found.adjacency("length")
        np.testing.assert_allclose(matrix.toarray(), expected.toarray(), rtol=1e-6)


def test_a_longest_edge_is_scikit_learns_radius() -> None:
    places = cells()
    theirs = radius_neighbors_graph(places, 60.0)
    found = neighbour_graph(places, 299, longest_um=60.0)
    np.testing.assert_array_equal(found.adjacency().toarray(), theirs.toarray())
    assert pairs(found) == pairs(neighbour_graph(places, 299).without_longer(60.0))
    # What is exactly as far as allowed is joined.
    assert len(neighbour_graph([[0, 0], [3, 4]], 1, longest_um=5.0).edges) == 1


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 7), columns=st.integers(1, 7), k=st.integers(1, 12), seed=st.integers(0, 99)
)
def test_the_order_of_nodes_decides_nothing_though_many_are_equally_far(
    rows: int, columns: int, k: int, seed: int
) -> None:
    places = lattice(rows, columns)
    order = np.random.default_rng(seed).permutation(len(places))
    plain, mixed = neighbour_graph(places, k), neighbour_graph(places[order], k)
    renamed = np.sort(order[mixed.edges], axis=1)
    assert {tuple(pair) for pair in renamed.tolist()} == pairs(plain)
    assert (plain.degree >= min(k, len(places) - 1)).all()


def test_triangulations_are_scipys() -> None:
    places = cells()
    found = delaunay_graph(places)
    starts, others = Delaunay(places).vertex_neighbor_vertices
    theirs = {(i, int(j)) for i in range(300) for j in others[starts[i] : starts[i + 1]] if i < j}
    assert is_simple(found)
    assert pairs(found) == theirs
    # Euler's formula, and what every triangulation of Delaunay's holds: the shortest tree.
    assert len(found.edges) == 3 * 300 - 3 - len(ConvexHull(places).vertices)
    tree = minimum_spanning_tree(cdist(places, places)).tocoo()
    assert {(min(p), max(p)) for p in zip(tree.row, tree.col, strict=True)} <= pairs(found)
    np.testing.assert_allclose(found.length_um, cdist(places, places)[tuple(found.edges.T)])


@pytest.mark.parametrize("diagonal", [True, False])
def test_grids_are_networkxs(diagonal: bool) -> None:
    """With holes, in any order, a little off their places, the step not the same on both axes."""
    rng = np.random.default_rng(0)
    kept = rng.permutation(12 * 9)[:70]
    row, column = np.divmod(kept, 9)
    places = np.stack([100.0 * row, 130.0 * column], 1) + rng.uniform(-5, 5, (70, 2)) + 7000
    product = nx.strong_product if diagonal else nx.cartesian_product
    whole = product(nx.path_graph(12), nx.path_graph(9))
    number = {(int(r), int(c)): i for i, (r, c) in enumerate(zip(row, column, strict=True))}
    theirs = {tuple(sorted((number[a], number[b]))) for a, b in whole.subgraph(number).edges}
    found = grid_graph(places, (100.0, 130.0), diagonal=diagonal)
    assert is_simple(found)
    assert pairs(found) == theirs


def test_grids_in_space_have_26_neighbours() -> None:
    places = 2.0 * np.stack(np.mgrid[:4, :5, :6], -1).reshape(-1, 3)
    inner = ((places > 0) & (places < 2.0 * np.array([3, 4, 5]))).all(1)
    assert set(grid_graph(places, 2.0).degree[inner]) == {26}
    assert set(grid_graph(places, 2.0, diagonal=False).degree[inner]) == {6}
    assert pairs(grid_graph(places, 2.0)) == pairs(neighbour_graph(places, 26, longest_um=3.5))


def test_on_a_grid_of_tiles_neighbours_and_grid_agree() -> None:
    places = np.random.default_rng(1).permutation(lattice(15, 11))[:120]
    near = neighbour_graph(places, 8, longest_um=1.9 * spacing_um(places))
    assert pairs(near) == pairs(grid_graph(places, 128.0))
    assert spacing_um(places) == 128.0


@pytest.mark.parametrize(
    ("places", "step"), [([[0, 0], [0, 150]], 100.0), ([[0, 0], [0, 3]], 100.0)]
)
def test_what_is_no_grid_is_refused(places: list[list[float]], step: float) -> None:
    with pytest.raises(InputError, match=r"do not lie on a grid|at one place"):
        grid_graph(places, step)


@pytest.mark.parametrize("make", [neighbour_graph, delaunay_graph, lambda p: grid_graph(p, 100.0)])
@pytest.mark.parametrize("n", [0, 1])
def test_fewer_than_two_nodes_have_no_edge(make, n: int) -> None:
    graph = make(np.zeros((n, 2)))
    assert (len(graph), graph.edges.shape) == (n, (0, 2))
    assert graph.adjacency().shape == (n, n)
    assert graph.pieces.tolist() == [0] * n
    assert spacing_um(np.zeros((n, 2))) == 0


@pytest.mark.parametrize("dims", [2, 3])
def test_nodes_on_a_line_are_joined_in_a_row(dims: int) -> None:
    rng = np.random.default_rng(0)
    along = rng.permutation(20) * 10.0
    places = 500 + along[:, None] * rng.normal(size=dims)
    order = np.argsort(along)
    expected = {tuple(sorted(two)) for two in pairwise(order)}
    assert pairs(delaunay_graph(places)) == expected
    assert pairs(delaunay_graph(places[:2])) == {(0, 1)}


def test_blocks_in_a_plane_have_the_planes_triangulation() -> None:
    flat = cells(60)
    axes = np.linalg.qr(np.random.default_rng(2).normal(size=(3, 3)))[0][:2]
    assert pairs(delaunay_graph(flat @ axes + 40)) == pairs(delaunay_graph(flat))


def test_nodes_at_one_place_hang_together() -> None:
    same = np.full((6, 2), 3.0)
    for graph in (delaunay_graph(same), neighbour_graph(same, 5)):
        assert set(graph.pieces) == {0}
        assert set(graph.length_um) == {0.0}
        assert graph.adjacency("length").nnz == 2 * len(graph.edges)
    twice = np.concatenate([cells(30), cells(30)])
    assert set(delaunay_graph(twice).pieces) == {0}


def test_gaps_part_tissue_into_pieces() -> None:
    large, small = lattice(8, 8), lattice(4, 4) + np.array([0, 5000])
    places = np.random.default_rng(0).permutation(np.concatenate([small, large]))
    whole = delaunay_graph(places)
    parted = delaunay_graph(places, longest_um=200.0)
    assert set(whole.pieces) == {0}
    assert np.bincount(parted.pieces).tolist() == [64, 16]
    theirs = nx.connected_components(nx.from_scipy_sparse_array(parted.adjacency()))
    assert sorted(map(sorted, theirs)) == sorted(
        np.flatnonzero(parted.pieces == piece).tolist() for piece in (0, 1)
    )
    assert parted.length_um.max() <= 200


def test_weights_of_edges() -> None:
    graph = delaunay_graph(cells(80))
    i, j = graph.edges.T
    for scale in (None, 50.0):
        s = np.median(graph.length_um) if scale is None else scale
        matrix = graph.adjacency("gaussian", scale_um=scale)
        np.testing.assert_allclose(
            matrix.toarray()[i, j],
            np.exp(-(graph.length_um**2) / (2 * s**2)),
            rtol=1e-5,
            atol=1e-30,
        )
        assert (matrix != matrix.T).nnz == 0
    ours = dijkstra(graph.adjacency("length"), indices=0)
    network = nx.Graph()
    network.add_weighted_edges_from(zip(i.tolist(), j.tolist(), graph.length_um, strict=True))
    theirs = nx.single_source_dijkstra_path_length(network, 0)
    np.testing.assert_allclose(ours, [theirs[node] for node in range(80)], rtol=1e-5)
    assert graph.adjacency().dtype == np.float32
    with pytest.raises(InputError, match="scale"):
        graph.adjacency("gaussian", scale_um=0.0)


def test_places_are_in_micrometres() -> None:
    bag = a_bag(coords_px=np.arange(24).reshape(12, 2) * 1000, slide_mpp=(0.25, 0.5))
    found = centres_um(bag)
    assert found[0].tolist() == [512 * 0.25, (1000 + 512) * 0.5]
    assert found[3].tolist() == [(6000 + 512) * 0.25, (7000 + 512) * 0.5]


def test_places_of_a_scan_are_in_its_space() -> None:
    affine = np.diag([1.0, 2.0, 3.0, 1.0])
    affine[:3, 3] = 10, 20, 30
    corner = np.array([[0.0, 0.0, 0.0], [2.0, 4.0, 6.0]])
    scan = ScanPlaces(corner, (1.0, 1.0, 1.0), (9, 9, 9), affine)
    bag = a_bag(n=2, scan=scan, quality={})
    np.testing.assert_allclose(centres_um(bag), [[10e3, 20e3, 30e3], [16e3, 28e3, 36e3]])


@pytest.mark.parametrize("make", [neighbour_graph, delaunay_graph, lambda p: grid_graph(p, 1.0)])
def test_coordinates_that_are_none_are_refused(make) -> None:
    with pytest.raises(InputError, match="not finite"):
        make([[0.0, np.nan], [1.0, 1.0]])
    with pytest.raises(InputError, match="shape"):
        make(np.zeros((3, 4)))
    with pytest.raises(InputError, match="neighbours"):
        neighbour_graph(cells(5), 0)


def test_many_nodes_need_no_square_matrix() -> None:
    """60,000 nodes: the square would be 14 GB, and each graph takes under two seconds."""
    places = cells(60_000)
    graph = neighbour_graph(places, 8)
    triangles = delaunay_graph(places)
    assert graph.adjacency().nnz == 2 * len(graph.edges) < 60_000 * 16
    assert 2.9 < len(triangles.edges) / 60_000 < 3
    assert spacing_um(places) == pytest.approx(
        np.sqrt(np.log(2) / np.pi * 1000**2 / 60_000), rel=0.02
    )
