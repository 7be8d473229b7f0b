"""Edge statistics equal SciPy and least squares; the network-based statistic holds its error."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from microtome.graphs import statistics
from microtome.graphs.matrices import edges_of, networks_of
from microtome.graphs.statistics import Design
from microtome.storage.errors import BadConnectome, CohortError


@pytest.fixture(scope="module")
def tracts(shared_data) -> tuple[np.ndarray, np.ndarray]:
    """Sixteen real networks of eight people: two reconstructions of each."""
    folder = shared_data / "brain" / "bct"
    made = [np.load(folder / f"sample_group_{kind}.npy") for kind in ("dsi", "qball")]
    return np.concatenate(made, axis=2).transpose(2, 0, 1), np.repeat(["dsi", "qball"], 8)


def agree(found, expected, rtol=1e-8) -> None:
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=1e-9)


def test_without_covariates_t_and_p_are_those_of_scipy(tracts):
    networks, kinds = tracts
    values = edges_of(networks)
    values = values[:, values.std(axis=0) > 0]
    design = Design.between(kinds)
    t = statistics.edge_statistics(values, design)
    theirs = scipy.stats.ttest_ind(values[8:], values[:8])
    agree(t, theirs.statistic)
    agree(statistics.p_values(t, design), theirs.pvalue)
    one_sided = scipy.stats.ttest_ind(values[8:], values[:8], alternative="less")
    agree(statistics.p_values(t, design, tail="less"), one_sided.pvalue)
    people = np.tile(np.arange(8), 2)
    paired = Design.paired(kinds, people)
    differs = (values[8:] != values[:8]).any(axis=0)
    t = statistics.edge_statistics(values, paired)
    agree(t[differs], scipy.stats.ttest_rel(values[8:], values[:8]).statistic[differs])
    assert not t[~differs].any()
    assert paired.df == 7


def test_several_groups_give_the_f_of_an_analysis_of_variance():
    rng = np.random.default_rng(0)
    values, groups = rng.standard_normal((30, 12)), np.repeat(["a", "b", "c"], 10)
    design = Design.between(groups)
    f = statistics.edge_statistics(values, design)
    theirs = scipy.stats.f_oneway(*(values[groups == g] for g in "abc"))
    agree(f, theirs.statistic)
    agree(statistics.p_values(f, design), theirs.pvalue)
    between = sum(10 * (values[groups == g].mean(axis=0) - values.mean(axis=0)) ** 2 for g in "abc")
    total = ((values - values.mean(axis=0)) ** 2).sum(axis=0)
    agree(statistics.partial_correlation(f, design), np.sqrt(between / total))
    with pytest.raises(CohortError, match="no direction"):
        statistics.p_values(f, design, tail="greater")


def test_a_number_gives_its_correlation():
    rng = np.random.default_rng(1)
    values, age = rng.standard_normal((25, 6)), rng.uniform(20, 80, 25)
    design = Design.along(age)
    t = statistics.edge_statistics(values, design)
    theirs = [scipy.stats.pearsonr(age, column) for column in values.T]
    agree(statistics.partial_correlation(t, design), [r.statistic for r in theirs])
    agree(statistics.p_values(t, design), [r.pvalue for r in theirs])


def least_squares_t(values: np.ndarray, design: Design) -> np.ndarray:
    x = np.hstack([design.tested, design.nuisance])
    inverse = np.linalg.inv(x.T @ x)
    beta = inverse @ x.T @ values
    error = ((values - x @ beta) ** 2).sum(axis=0) / (len(x) - x.shape[1])
    return beta[0] / np.sqrt(error * inverse[0, 0])


def covaried(seed: int = 2) -> tuple[np.ndarray, Design]:
    rng = np.random.default_rng(seed)
    groups = np.repeat([0, 1], [14, 10])
    covariates = np.stack([rng.uniform(20, 80, 24) + 8 * groups, rng.integers(0, 2, 24)], axis=1)
    values = rng.standard_normal((24, 15)) + 0.05 * covariates[:, :1]
    return values, Design.between(groups, covariates)


def test_with_covariates_t_is_that_of_least_squares():
    values, design = covaried()
    agree(statistics.edge_statistics(values, design), least_squares_t(values, design))


def test_permuted_statistics_are_freedman_and_lanes_written_out():
    values, design = covaried()
    z = design.nuisance
    fitted = z @ np.linalg.lstsq(z, values, rcond=None)[0]
    orders = statistics.permutations(design, 20, seed=3)
    found = statistics.permuted_statistics(values, design, orders)
    for order, t in zip(orders, found, strict=True):
        agree(t, least_squares_t(fitted + (values - fitted)[order], design))


def test_rows_are_exchanged_within_their_block_only():
    design = Design.paired(["b", "a"] * 6, np.repeat(np.arange(6), 2))
    orders = statistics.permutations(design, 200, seed=0)
    assert (orders // 2 == np.arange(12) // 2).all()
    # Each pair is swapped in half of them.
    np.testing.assert_allclose((orders != np.arange(12)).mean(axis=0), 0.5, atol=0.12)
    free = statistics.permutations(Design.between([0, 0, 1, 1]), 2000, seed=0)
    _, count = np.unique(free, axis=0, return_counts=True)
    assert len(count) == 24
    assert scipy.stats.chisquare(count).pvalue > 0.001


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=40))
def test_the_false_discovery_rate_is_that_of_scipy(p):
    found = statistics.false_discovery_rate(p)
    agree(found, scipy.stats.false_discovery_control(p, method="bh"))


def test_components_are_those_of_networkx(tracts):
    networks, kinds = tracts
    found = statistics.network_based_statistic(
        networks, Design.between(kinds), threshold=2.5, n_permutations=20, tail="greater"
    )
    graph = nx.from_numpy_array(np.triu(found.statistics, 1) > 2.5)
    parts = [graph.subgraph(part) for part in nx.connected_components(graph) if len(part) > 1]
    ours = {frozenset(map(tuple, c.edges.tolist())) for c in found.components}
    assert ours == {frozenset(map(tuple, map(sorted, part.edges))) for part in parts}
    for c in found.components:
        assert c.size == len(c.edges)
        assert c.p == (1 + (found.null >= c.size).sum()) / 21


def test_the_p_published_in_the_toolbox_tests(tracts):
    found = statistics.network_based_statistic(
        tracts[0], Design.between(tracts[1]), threshold=0.1, n_permutations=25
    )
    assert found.components[0].p == pytest.approx(0.5, abs=0.3)


@pytest.mark.parametrize("size", ["extent", "intensity"])
def test_sizes_in_permutations_are_those_of_networkx(size):
    rng = np.random.default_rng(4)
    values = rng.standard_normal((16, 45))
    design, threshold = Design.between(np.arange(16) % 2), 1.5
    found = statistics.network_based_statistic(
        networks_of(values, 10), design, threshold=threshold, n_permutations=30, size=size, seed=8
    )
    i, j = np.triu_indices(10, 1)
    orders = statistics.permutations(design, 30, seed=8)
    for row, largest in zip(
        np.abs(statistics.permuted_statistics(values, design, orders)), found.null, strict=True
    ):
        graph = nx.Graph()
        for e in np.flatnonzero(row > threshold):
            graph.add_edge(i[e], j[e], excess=row[e] - threshold if size == "intensity" else 1)
        sizes = [graph.subgraph(c).size("excess") for c in nx.connected_components(graph)]
        assert largest == pytest.approx(max(sizes, default=0))


def planted_cohort(effect: float, seed: int, n: int = 24, r: int = 20):
    """Networks of n people over r regions; regions 0 … 5 form a path that differs by group."""
    rng = np.random.default_rng(seed)
    groups, age = np.arange(n) % 2, rng.uniform(0, 1, n)
    values = rng.standard_normal((n, r * (r - 1) // 2)) + 0.5 * age[:, None]
    networks = networks_of(values, r)
    for i in range(5):
        networks[:, i, i + 1] += effect * groups
        networks[:, i + 1, i] += effect * groups
    return networks, Design.between(groups, age[:, None])


def test_a_planted_network_is_found_and_its_direction():
    networks, design = planted_cohort(2.5, seed=0)
    for size in ("extent", "intensity"):
        found = statistics.network_based_statistic(
            networks, design, threshold=3, n_permutations=400, tail="greater", size=size, seed=1
        )
        first = found.components[0]
        assert first.p == 1 / 401
        assert {(i, i + 1) for i in range(5)} <= set(map(tuple, first.edges.tolist()))
        assert len(first.edges) <= 7
        other = statistics.network_based_statistic(
            networks, design, threshold=3, n_permutations=100, tail="less", size=size, seed=1
        )
        assert all(c.p > 0.05 for c in other.components)


def test_equal_seeds_give_equal_results():
    networks, design = planted_cohort(1.0, seed=5)
    one, same, other = (
        statistics.network_based_statistic(
            networks, design, threshold=2, n_permutations=50, seed=seed
        )
        for seed in (3, 3, 4)
    )
    np.testing.assert_array_equal(one.null, same.null)
    assert (one.null != other.null).any()


def test_family_wise_p_is_the_rank_among_the_largest():
    values, design = covaried()
    values[:, 3] += 3 * design.tested[:, 0]
    found = statistics.family_wise_p(values, design, n_permutations=200, seed=6)
    orders = statistics.permutations(design, 200, seed=6)
    largest = np.abs(statistics.permuted_statistics(values, design, orders)).max(axis=1)
    own = np.abs(statistics.edge_statistics(values, design))
    agree(found, [(1 + (largest >= t).sum()) / 201 for t in own])
    assert found[3] == found.min() < 0.05


@pytest.mark.slow
@pytest.mark.parametrize(
    ("n", "covariate", "size"),
    [(16, False, "intensity"), (60, True, "intensity"), (16, True, "extent")],
)
def test_type_one_error_is_nominal(n, covariate, size):
    n_cohorts = 2000
    hits = 0
    for seed in range(n_cohorts):
        networks, design = planted_cohort(0.0, seed=50_000 + seed, n=n, r=10)
        if not covariate:
            design = Design.between(np.arange(n) % 2)
        found = statistics.network_based_statistic(
            networks, design, threshold=1.5, n_permutations=99, size=size, seed=seed
        )
        hits += any(c.p <= 0.05 for c in found.components)
    # Extents tie, and few people leave Freedman and Lane's residuals short: both err on the safe
    # side.
    lowest = 0.015 if size == "extent" else 0.035
    assert lowest <= hits / n_cohorts <= 0.065


def test_an_edge_that_does_not_vary_has_no_statistic():
    values = np.ones((10, 2)) * 0.1
    values[:, 1] = np.arange(10)
    design = Design.along(np.random.default_rng(0).standard_normal(10), np.arange(10.0)[:, None])
    assert not statistics.edge_statistics(values, design).any()
    # One that is told in full has a large one.
    assert statistics.edge_statistics(values, Design.along(np.arange(10.0)))[1] > 1e5


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Design.between(["a"] * 5), "two groups"),
        (lambda: Design.between([0, 0, 1, 1], [[0.0], [0], [1], [1]]), "cannot be told"),
        (lambda: Design.between([0, 1, 1], [[1.0], [np.nan], [2]]), "missing"),
        (lambda: Design.between([0, 1, 1], [[0.0], [3], [2]]), "too few"),
        (lambda: Design.between([0, 1, 1], [[0.0], [3]]), "fit 3 subjects"),
        (lambda: Design.paired([0, 1, 1], [0, 0, 1]), "everybody once"),
        (
            lambda: statistics.edge_statistics(np.ones((3, 2)), Design.along(np.arange(4.0))),
            "do not fit",
        ),
        (
            lambda: statistics.edge_statistics(
                np.full((4, 2), np.nan), Design.along(np.arange(4.0))
            ),
            "finite",
        ),
    ],
)
def test_what_cannot_be_tested_is_refused(make, message):
    with pytest.raises(CohortError, match=message):
        make()


def test_edges_of_a_cohort_go_back_to_networks():
    rng = np.random.default_rng(0)
    edges = rng.standard_normal((3, 10))
    agree(edges_of(networks_of(edges, 5)), edges)
    with pytest.raises(BadConnectome, match="do not join"):
        networks_of(edges, 6)
    with pytest.raises(BadConnectome, match="cohort"):
        edges_of(edges)
