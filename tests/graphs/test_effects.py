"""Effect sizes are unbiased, intervals hold their level, threshold-free scores are sums."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest
import scipy.stats

from microtome.graphs import statistics
from microtome.graphs.design import Design
from microtome.graphs.effects import group_effect
from microtome.graphs.enhancement import enhanced, threshold_free_statistic
from microtome.graphs.matrices import edges_of, networks_of
from microtome.storage.errors import CohortError


def test_effects_are_the_textbooks_and_unbiased():
    rng = np.random.default_rng(0)
    groups = np.repeat(["a", "b"], [6, 5])
    values = 50 + rng.standard_normal((11, 6000)) * 3 + 2.4 * (groups == "b")[:, None]
    found = group_effect(values, groups, n_resamples=5)
    a, b = values[:6], values[6:]
    np.testing.assert_allclose(found.difference, b.mean(axis=0) - a.mean(axis=0))
    t = scipy.stats.ttest_ind(b, a).statistic
    # 1 - 3 / (4 df - 1) is Hedges' approximation of the factor.
    np.testing.assert_allclose(found.hedges_g, t * np.sqrt(1 / 6 + 1 / 5) * (1 - 3 / 35), rtol=2e-3)
    # Six thousand estimates of 2.4 / 3, each with a deviation of about 0.65.
    assert found.hedges_g.mean() == pytest.approx(0.8, abs=0.03)


def test_intervals_are_those_of_scipy_and_hold_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(1)
    groups = np.repeat([0, 1], [40, 50])
    values = rng.gamma(4, size=(90, 600)) + 0.5 * groups[:, None]
    found = group_effect(values, groups, n_resamples=1000, seed=2)
    held = (found.difference_low <= 0.5) & (found.difference_high >= 0.5)
    assert held.mean() == pytest.approx(0.945, abs=0.025)
    g = 0.5 / 2
    assert ((found.hedges_g_low <= g) & (found.hedges_g_high >= g)).mean() > 0.9
    theirs = scipy.stats.bootstrap(
        (values[groups == 1, 0], values[groups == 0, 0]),
        lambda x, y, axis: x.mean(axis=axis) - y.mean(axis=axis),
        method="percentile", n_resamples=4000, rng=rng,
    ).confidence_interval  # fmt: skip
    spread = theirs.high - theirs.low
    assert found.difference_low[0] == pytest.approx(theirs.low, abs=0.06 * spread)
    assert found.difference_high[0] == pytest.approx(theirs.high, abs=0.06 * spread)


def test_what_has_no_effect_is_refused_or_not_a_number():
    values = np.ones((6, 2))
    values[:, 1] = np.arange(6)
    found = group_effect(values, [0, 0, 0, 1, 1, 1], n_resamples=20)
    assert np.isnan(found.hedges_g[0])
    assert found.difference.tolist() == [0, 3]
    for groups in ([0] * 6, [0, 1, 1, 1, 1, 1], [0, 0, 1, 1, 2, 2], [0, 1]):
        with pytest.raises(CohortError, match="no difference"):
            group_effect(values, groups)


def by_definition(statistic, n, e, h, step):
    """Sum over thresholds, each network with networkx."""
    i, j = np.triu_indices(n, 1)
    scores = np.zeros(len(statistic))
    for k in range(1, int(statistic.max() / step) + 1):
        above = np.flatnonzero(statistic >= k * step)
        graph = nx.Graph(list(zip(i[above], j[above], strict=True)))
        for part in nx.connected_components(graph):
            size = graph.subgraph(part).number_of_edges()
            own = [edge for edge in above if i[edge] in part]
            scores[own] += size**e * (k * step) ** h * step
    return scores


def test_scores_are_the_sum_over_thresholds():
    rng = np.random.default_rng(3)
    statistic = np.abs(rng.standard_t(8, (4, 36)))
    found = enhanced(statistic, 9, (0.4, 3.0), 0.1)
    for row, scores in zip(statistic, found, strict=True):
        np.testing.assert_allclose(scores, by_definition(row, 9, 0.4, 3.0, 0.1))
    assert not enhanced(statistic * 1e-3, 9, (0.4, 3.0), 0.1).any()


def cohort(effect: float, seed: int) -> tuple[np.ndarray, Design]:
    rng = np.random.default_rng(seed)
    groups = np.arange(20) % 2
    networks = networks_of(rng.standard_normal((20, 66)), 12)
    for i in range(5):
        networks[:, i, i + 1] += effect * groups
        networks[:, i + 1, i] += effect * groups
    return networks, Design.between(groups)


def test_planted_edges_are_found_without_a_threshold():
    networks, design = cohort(2.2, seed=0)
    found = threshold_free_statistic(networks, design, n_permutations=200, tail="greater")
    hit = {tuple(edge) for edge in np.argwhere(np.triu(found.p < 0.05, 1)).tolist()}
    assert {(i, i + 1) for i in range(5)} <= hit
    assert len(hit) <= 6
    np.testing.assert_allclose(
        edges_of(found.statistics[None])[0], statistics.edge_statistics(edges_of(networks), design)
    )
    count = (found.null >= found.scores[0, 1]).sum()
    assert found.p[0, 1] == (1 + count) / 201
    other = threshold_free_statistic(networks, design, n_permutations=99, tail="less")
    assert other.p.min() > 0.05


@pytest.mark.slow
def test_the_error_over_all_edges_is_nominal():
    hits = 0
    for seed in range(2000):
        networks, design = cohort(0.0, seed=90_000 + seed)
        found = threshold_free_statistic(networks, design, n_permutations=99, seed=seed)
        hits += bool((found.p <= 0.05).any())
    assert 0.035 <= hits / 2000 <= 0.065


def test_people_are_exchanged_within_their_site():
    sites = np.repeat(["x", "y", "z"], 4)
    for design in (
        Design.between(np.arange(12) % 2, blocks=sites),
        Design.along(np.random.default_rng(0).uniform(size=12), blocks=sites),
    ):
        orders = statistics.permutations(design, 50)
        assert (sites[orders] == sites).all()
        assert (orders != np.arange(12)).any()
