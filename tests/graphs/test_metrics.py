"""Measures equal published reference values, networkx, and closed forms."""

from __future__ import annotations

import json

import networkx as nx
import numpy as np
import pytest
import scipy.io
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import expm

from microtome.graphs import communities, metrics, paths, summary
from microtome.graphs.paths import Lengths
from microtome.graphs.routes import hop_counts, path_transitivity
from microtome.graphs.threshold import proportional
from microtome.storage.errors import BadConnectome

MATRICES = ("und15", "und40", "und02", "hcp101309sc20")

# What bctpy 75823f1 gives there is not what it defines: checked against SciPy below.
OTHERWISE = {
    "und02.subgraph_b_log10": "bctpy takes eigenvectors that are not orthogonal",
}
BCTPY_INFINITE = 1e20


def ecc(weights):
    return paths.eccentricity(paths.distances(Lengths.from_weights(weights)))


def in_parts(measure):
    """bctpy: 1e20 for a region without edges, and for the diameter where there is one; here nan."""

    def of(weights):
        found = np.asarray(measure(weights))
        return np.where(np.isnan(found), BCTPY_INFINITE, found)

    return of


def connected_efficiency(weights):
    """bctpy leaves pairs without a path out of this mean; in a connected network, eglob_w."""
    distance = paths.distances(Lengths.from_weights(weights))
    pairs = distance[~np.eye(len(distance), dtype=bool)]
    return (1 / pairs[np.isfinite(pairs)]).mean()


def matching_of_bctpy(weights):
    """bctpy divides by what one region and both have, in place of both: it is not symmetric."""
    edges = (weights > 0).astype(float)
    k = edges.sum(axis=0)
    common = metrics.matching_index(weights) * (k[:, None] + k[None, :] - 2 * edges) / 2
    others = k[None, :] - edges + common
    return np.divide(2 * common, others, out=np.zeros_like(common), where=others > 0)


def hops_of_bctpy(weights):
    """bctpy: no edge on the way to a region that cannot be reached."""
    found = hop_counts(Lengths.from_weights(weights))
    return np.where(np.isinf(found), 0, found)


def ecc_b(weights):
    return paths.eccentricity(paths.distances(Lengths.hops(weights)))


MEASURES = {
    "density": metrics.density,
    "n_edges": lambda w: metrics.degree(w).sum() / 2,
    "degree": metrics.degree,
    "strength": metrics.strength,
    "clustering_w_raw": lambda w: metrics.clustering_weighted(w, rescale=False),
    "clustering_w_unit": metrics.clustering_weighted,
    "clustering_b": metrics.clustering_binary,
    "transitivity_w": lambda w: metrics.transitivity(w, weighted=True),
    "transitivity_b": lambda w: metrics.transitivity(w, weighted=False),
    "distance_w": lambda w: paths.distances(Lengths.from_weights(w)),
    "charpath_w": lambda w: paths.characteristic_path_length(
        paths.distances(Lengths.from_weights(w))
    ),
    "radius_w": lambda w: np.nanmin(ecc(w)),
    "diameter_w": in_parts(lambda w: ecc(w).max()),
    "eccentricity_w": in_parts(ecc),
    "hops_w": hops_of_bctpy,
    "efficiency_charpath_w": connected_efficiency,
    "matching_b": matching_of_bctpy,
    "charpath_b": lambda w: paths.characteristic_path_length(paths.distances(Lengths.hops(w))),
    "radius_b": lambda w: np.nanmin(ecc_b(w)),
    "diameter_b": in_parts(lambda w: ecc_b(w).max()),
    "eglob_w": lambda w: paths.global_efficiency(paths.distances(Lengths.from_weights(w))),
    "eglob_b": lambda w: paths.global_efficiency(paths.distances(Lengths.hops(w))),
    "eloc_b": paths.local_efficiency_binary,
    "eloc_w": paths.local_efficiency_weighted,
    # The reference counts ordered pairs.
    "betweenness_w": lambda w: 2 * paths.betweenness(Lengths.from_weights(w)),
    "betweenness_b": lambda w: 2 * paths.betweenness(Lengths.hops(w)),
    "eigenvector_w": metrics.eigenvector_centrality,
    "pagerank_w": metrics.pagerank,
    "subgraph_b_log10": lambda w: np.log10(metrics.subgraph_centrality(w)),
    "assortativity_w": lambda w: metrics.assortativity(w, weighted=True),
    "assortativity_b": lambda w: metrics.assortativity(w, weighted=False),
    "rich_club_b": metrics.rich_club,
    "coreness_b": metrics.core_number,
    "n_components": lambda w: metrics.components(w).max() + 1,
    "largest_component": lambda w: np.bincount(metrics.components(w)).max(),
    "diffusion_eff_global": metrics.diffusion_efficiency,
}
OF_A_PARTITION = {
    "Q_given_partition": communities.modularity,
    "participation_w": communities.participation,
    "module_degree_z": communities.within_module_z,
    "diversity_pos": communities.module_diversity,
}


@pytest.fixture(scope="module")
def networks(shared_data) -> dict[str, np.ndarray]:
    brain = shared_data / "brain"
    developer = np.load(brain / "bct" / "sample_data.npy")
    tracts = scipy.io.loadmat(brain / "sc_bold" / "hcp_101309_DTI_CM.mat")["sc"]
    tracts = (tracts + tracts.T) / 2
    np.fill_diagonal(tracts, 0)
    return {
        "und15": proportional(developer, 0.15),
        "und40": proportional(developer, 0.40),
        "und02": proportional(developer, 0.02),
        "hcp101309sc20": proportional(tracts / tracts.max(), 0.20),
    }


@pytest.fixture(scope="module")
def reference(shared_data) -> dict[str, object]:
    folder = shared_data / "brain" / "bct"
    cases = json.loads((folder / "reference.json").read_text())["cases"]
    arrays = np.load(folder / "reference.npz")
    return {c["id"]: c["value"] if "value" in c else arrays[c["id"]] for c in cases}


def agree(found, expected) -> None:
    np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-12)


CASES = [
    f"{matrix}.{measure}"
    for matrix in MATRICES
    for measure in (*MEASURES, *OF_A_PARTITION)
    if f"{matrix}.{measure}" not in (*OTHERWISE, "und40.eloc_w", "und02.diffusion_eff_global")
    and not (matrix == "hcp101309sc20" and measure in OF_A_PARTITION)
]


@pytest.mark.parametrize("case", CASES)
def test_measures_equal_the_reference_values(case, networks, reference, shared_data):
    matrix, measure = case.split(".")
    if measure in OF_A_PARTITION:
        partition = np.load(shared_data / "brain" / "bct" / "sample_partition.npy")
        found = OF_A_PARTITION[measure](networks[matrix], partition)
    else:
        found = MEASURES[measure](networks[matrix])
    agree(found, reference[case])


def test_every_reference_value_is_checked_or_named_as_different(reference):
    left = set(reference) - set(CASES)
    assert {case for case in left if not {case, case.split(".")[1]} & set(OTHERWISE)} == set()
    assert len(CASES) == len(reference) - 1 == 153


@pytest.mark.parametrize(
    ("measure", "density", "expected", "tolerance"),
    [
        (lambda w: metrics.transitivity(w, weighted=True), 0.23, 1.32927829, 1e-5),
        (lambda w: metrics.transitivity(w, weighted=False), 0.17, 0.42763107, 1e-5),
        (lambda w: distance_sum(Lengths.hops(w)), 0.02, 30506, 0),
        (
            lambda w: paths.global_efficiency(paths.distances(Lengths.from_weights(w))),
            0.4,
            1.8784,
            1e-4,
        ),
        (lambda w: paths.local_efficiency_weighted(w).sum(), 0.4, 268.5581, 0.1),
        (lambda w: paths.local_efficiency_binary(w).sum(), 0.4, 105.5111, 0.1),
        (lambda w: metrics.strength(w).sum(), 1.0, 38967.38702018, 1e-3),
        (lambda w: np.bincount(metrics.components(w)).max(), 0.02, 72, 0),
        (lambda w: metrics.diffusion_efficiency(w) * (w.size - len(w)), 0.23, 131.34, 0.01),
        # The toolbox itself gives 8340.8355.
        (lambda w: path_transitivity(w).sum(), 0.31, 8340.8, 0.05),
        (lambda w: communities.core_periphery(w)[1], 0.1, 0.3086, 1e-4),
        # Weights are taken for lengths there.
        (lambda w: hop_sum(as_lengths(w)), 0.02, 30570, 0),
    ],
)
def test_measures_equal_values_published_in_the_toolbox_tests(
    measure, density, expected, tolerance, shared_data
):
    developer = np.load(shared_data / "brain" / "bct" / "sample_data.npy")
    assert abs(measure(proportional(developer, density)) - expected) <= tolerance


def distance_sum(lengths: Lengths) -> float:
    return finite_sum(paths.distances(lengths))


def as_lengths(weights: np.ndarray) -> Lengths:
    lengths = np.where(weights > 0, weights, np.inf)
    np.fill_diagonal(lengths, 0)
    return Lengths(lengths)


def hop_sum(lengths: Lengths) -> float:
    return finite_sum(hop_counts(lengths))


def finite_sum(found: np.ndarray) -> float:
    return found[np.isfinite(found)].sum()


@pytest.fixture(scope="module")
def random_network() -> np.ndarray:
    """60 regions, a third of the edges, two parts and a region without edges."""
    rng = np.random.default_rng(7)
    weights = rng.uniform(0.1, 1, (60, 60)) * (rng.uniform(size=(60, 60)) < 0.2)
    weights = np.maximum(np.triu(weights, 1), np.triu(weights, 1).T)
    weights[:25, 25:] = weights[25:, :25] = 0
    weights[0] = weights[:, 0] = 0
    return weights


def of_nodes(values: dict) -> list[float]:
    return [values[node] for node in range(len(values))]


def test_networkx_agrees(random_network):
    w = random_network
    graph = nx.from_numpy_array(w)
    for u, v, data in graph.edges(data=True):
        data["length"] = 1 / w[u, v]
    agree(metrics.clustering_weighted(w), of_nodes(nx.clustering(graph, weight="weight")))
    agree(metrics.clustering_binary(w), of_nodes(nx.clustering(graph)))
    agree(metrics.transitivity(w, weighted=False), nx.transitivity(graph))
    agree(
        paths.betweenness(Lengths.from_weights(w)),
        of_nodes(nx.betweenness_centrality(graph, weight="length", normalized=False)),
    )
    agree(
        paths.betweenness(Lengths.hops(w)),
        of_nodes(nx.betweenness_centrality(graph, normalized=False)),
    )
    agree(paths.global_efficiency(paths.distances(Lengths.hops(w))), nx.global_efficiency(graph))
    agree(paths.local_efficiency_binary(w).mean(), nx.local_efficiency(graph))
    agree(metrics.core_number(w), of_nodes(nx.core_number(graph)))
    agree(
        metrics.assortativity(w, weighted=False), nx.degree_pearson_correlation_coefficient(graph)
    )
    agree(metrics.subgraph_centrality(w), of_nodes(nx.subgraph_centrality(graph)))
    parts = [sorted(part) for part in nx.connected_components(graph)]
    ours = metrics.components(w)
    assert sorted(np.flatnonzero(ours == k).tolist() for k in range(ours.max() + 1)) == sorted(
        parts
    )


def test_the_weighted_rich_club_is_opsahls_sum(networks):
    w = networks["und15"]
    found, degrees = metrics.rich_club_weighted(w), (w > 0).sum(axis=0)
    graph = nx.from_numpy_array(w)
    strongest = sorted((e["weight"] for _, _, e in graph.edges(data=True)), reverse=True)
    for k in (1, 10, 20, 30):
        club = graph.subgraph(np.flatnonzero(degrees > k).tolist())
        most = sum(strongest[: club.number_of_edges()])
        assert found[k - 1] == pytest.approx(club.size("weight") / most)
    # A star of strong edges: its club of one has no edge.
    star = np.zeros((4, 4))
    star[0, 1:] = star[1:, 0] = 2
    assert np.isnan(metrics.rich_club_weighted(star)).all()
    assert metrics.rich_club_weighted(np.ones((4, 4)))[:2].tolist() == [1, 1]


def test_pagerank_of_a_network_without_lone_regions_is_that_of_networkx(random_network):
    connected = random_network[1:, 1:]
    assert (connected.sum(axis=0) > 0).all()
    theirs = nx.pagerank(nx.from_numpy_array(connected), tol=1e-14, max_iter=500)
    np.testing.assert_allclose(metrics.pagerank(connected), of_nodes(theirs), rtol=1e-9)


def test_subgraph_centrality_is_the_diagonal_of_the_matrix_exponential(networks):
    network = networks["und02"]
    agree(metrics.subgraph_centrality(network), np.diag(expm((network > 0).astype(float))))


def test_matching_index_counts_common_neighbours(random_network):
    graph = nx.from_numpy_array(random_network)
    found = metrics.matching_index(random_network)
    for u, v in [(1, 2), (5, 9), (30, 41), (1, 40), (0, 3)]:
        others = len(set(graph[u]) - {v}) + len(set(graph[v]) - {u})
        common = len(list(nx.common_neighbors(graph, u, v)))
        assert found[u, v] == found[v, u] == pytest.approx(2 * common / others)


def test_modularity_is_that_of_networkx_and_louvain_finds_planted_modules(random_network):
    planted = np.repeat([0, 1, 2, 3], 10)
    rng = np.random.default_rng(1)
    w = np.where(np.equal.outer(planted, planted), 0.8, 0.1) + rng.uniform(0, 0.1, (40, 40))
    w = (w + w.T) / 2
    found = communities.louvain(w, seed=3)
    assert len(set(zip(found, planted, strict=True))) == 4
    sets = [set(np.flatnonzero(planted == k)) for k in range(4)]
    np.fill_diagonal(w, 0)
    theirs = nx.community.modularity(nx.from_numpy_array(w), sets, resolution=1.3)
    agree(communities.modularity(w, planted, resolution=1.3), theirs)
    np.testing.assert_array_equal(
        communities.louvain(random_network, seed=5), communities.louvain(random_network, seed=5)
    )


def ring(n: int, k: int) -> np.ndarray:
    """Each of n regions is connected with the k / 2 nearest on both sides."""
    apart = np.abs(np.subtract.outer(np.arange(n), np.arange(n)))
    apart = np.minimum(apart, n - apart)
    return ((apart > 0) & (apart <= k // 2)).astype(float)


def test_closed_forms_of_a_complete_network():
    w = 0.5 * (np.ones((6, 6)) - np.eye(6))
    distance = paths.distances(Lengths.from_weights(w))
    assert metrics.density(w) == 1
    assert paths.characteristic_path_length(distance) == 2
    assert paths.global_efficiency(distance) == 0.5
    agree(metrics.clustering_weighted(w), np.ones(6))
    agree(metrics.clustering_weighted(w, rescale=False), np.full(6, 0.5))
    agree(paths.local_efficiency_weighted(w / 0.5), np.ones(6))
    agree(paths.betweenness(Lengths.from_weights(w)), np.zeros(6))
    agree(metrics.core_number(w), np.full(6, 5))
    agree(metrics.subgraph_centrality(w), np.full(6, (np.exp(5) + 5 * np.exp(-1)) / 6))
    assert np.isnan(metrics.assortativity(w, weighted=True))


def test_closed_forms_of_a_ring_lattice():
    n, k = 24, 6
    w = ring(n, k)
    agree(metrics.clustering_binary(w), np.full(n, 3 * (k - 2) / (4 * (k - 1))))
    # From one region the n - 1 others lie at 1, 2, 3 and 4 steps of k / 2 places a side.
    assert paths.characteristic_path_length(paths.distances(Lengths.hops(w))) == pytest.approx(
        (6 * 1 + 6 * 2 + 6 * 3 + 5 * 4) / 23
    )
    agree(metrics.pagerank(w), np.full(n, 1 / n))
    assert np.ptp(paths.betweenness(Lengths.hops(w))) < 1e-9


def test_closed_forms_of_a_star():
    w = np.zeros((7, 7))
    w[0, 1:] = w[1:, 0] = 2.0
    agree(paths.betweenness(Lengths.from_weights(w)), [15, 0, 0, 0, 0, 0, 0])
    assert metrics.assortativity(w, weighted=False) == pytest.approx(-1)
    agree(paths.eccentricity(paths.distances(Lengths.from_weights(w))), [0.5] + [1.0] * 6)
    agree(metrics.eigenvector_centrality(w), [np.sqrt(0.5)] + [np.sqrt(0.5 / 6)] * 6)


def test_two_cliques_are_two_parts_of_which_each_is_whole():
    w = np.kron(np.eye(2), np.ones((4, 4)) - np.eye(4))
    partition = [0] * 4 + [1] * 4
    distance = paths.distances(Lengths.hops(w))
    assert metrics.components(w).tolist() == partition
    assert communities.modularity(w, partition) == pytest.approx(0.5)
    assert paths.characteristic_path_length(distance) == 1
    assert paths.global_efficiency(distance) == pytest.approx(3 / 7)
    assert np.isinf(distance[0, 5])
    agree(communities.participation(w, partition), np.zeros(8))
    assert np.isnan(metrics.diffusion_efficiency(w))


def test_a_region_between_two_modules_takes_part_in_both():
    w = np.zeros((5, 5))
    for i, j in [(0, 1), (3, 4), (2, 0), (2, 1), (2, 3), (2, 4)]:
        w[i, j] = w[j, i] = 1
    partition = [0, 0, 0, 1, 1]
    assert communities.participation(w, partition)[2] == 0.5
    assert communities.module_diversity(w, partition)[2] == pytest.approx(1)
    assert paths.betweenness(Lengths.hops(w)).tolist() == [0, 0, 4, 0, 0]


def test_lengths_are_no_weights():
    w = np.array([[0, 4.0, 0], [4.0, 0, 1.0], [0, 1.0, 0]])
    assert Lengths.from_weights(w).values[0].tolist() == [0, 0.25, np.inf]
    assert paths.distances(Lengths.from_weights(w))[0, 2] == 1.25
    with pytest.raises(BadConnectome, match="positive"):
        Lengths(w)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.ones((2, 3)), "square"),
        (np.array([[0, -1.0], [-1.0, 0]]), "negative"),
        (np.array([[0, np.nan], [np.nan, 0]]), "finite"),
        (np.array([[0, 1.0], [0.0, 0]]), "directed"),
    ],
)
def test_what_a_measure_is_not_defined_for_is_refused(weights, message):
    with pytest.raises(BadConnectome, match=message):
        metrics.clustering_weighted(weights)


@st.composite
def any_network(draw) -> np.ndarray:
    n = draw(st.integers(3, 12))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    share = draw(st.floats(0.2, 1.0))
    # Few different weights make ties between paths and empty neighbourhoods likely.
    weights = rng.choice([0.25, 0.5, 1.0, 2.0], (n, n)) * (rng.uniform(size=(n, n)) < share)
    upper = np.triu(weights, 1)
    return upper + upper.T


@settings(max_examples=25, deadline=None)
@given(any_network(), st.randoms(use_true_random=False))
def test_renaming_regions_only_reorders_the_measures(weights, random):
    order = list(range(len(weights)))
    random.shuffle(order)
    renamed = summary.nodal_measures(weights[np.ix_(order, order)])
    for name, values in summary.nodal_measures(weights).items():
        # Which of equally good partitions, or leading vectors of equal parts, depends on order.
        if name not in (
            "module",
            "participation_weighted",
            "within_module_z",
            "eigenvector_centrality",
        ):
            np.testing.assert_allclose(renamed[name], values[order], atol=1e-9, err_msg=name)


@settings(max_examples=50, deadline=None)
@given(any_network())
def test_measures_stay_within_their_bounds(weights):
    found = summary.global_measures(weights)
    for name in (
        "density", "clustering_binary", "clustering_weighted", "global_efficiency_binary",
        "global_efficiency_weighted", "local_efficiency_binary", "mean_participation_weighted",
    ):  # fmt: skip
        assert 0 <= found[name] <= 1 + 1e-12, name
    distance = paths.distances(Lengths.from_weights(weights))
    np.testing.assert_array_equal(np.isinf(distance), np.isinf(distance.T))
    np.testing.assert_allclose(distance, distance.T)
    matching = metrics.matching_index(weights)
    np.testing.assert_array_equal(matching, matching.T)


@settings(max_examples=25, deadline=None)
@given(any_network())
def test_betweenness_is_that_of_networkx_where_paths_tie(weights):
    graph = nx.from_numpy_array(weights)
    for u, v, data in graph.edges(data=True):
        data["length"] = 1 / weights[u, v]
    theirs = nx.betweenness_centrality(graph, weight="length", normalized=False)
    np.testing.assert_allclose(
        paths.betweenness(Lengths.from_weights(weights)), of_nodes(theirs), atol=1e-9
    )


@settings(max_examples=25, deadline=None)
@given(any_network(), st.floats(0.1, 10))
def test_weighted_clustering_and_modules_do_not_depend_on_the_unit(weights, factor):
    np.testing.assert_allclose(
        metrics.clustering_weighted(weights * factor),
        metrics.clustering_weighted(weights),
        atol=1e-12,
    )
    partition = np.arange(len(weights)) % 2
    np.testing.assert_allclose(
        communities.modularity(weights * factor, partition),
        communities.modularity(weights, partition),
        atol=1e-12,
    )


def test_an_empty_network_has_values_for_everything_or_nan():
    found = summary.global_measures(np.zeros((4, 4)))
    assert found["density"] == found["global_efficiency_binary"] == 0
    assert found["n_components"] == found["n_modules"] == 4
    assert np.isnan(found["path_length_binary"])
    assert np.isnan(found["modularity_weighted"])
