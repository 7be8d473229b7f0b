"""Networks of one person's uptake: against their equations, and properties that they must have."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import entropy

from microtome.graphs.metabolic import (
    effect_size_network,
    jsse,
    klse,
    metabolic_covariance,
    perturbation_network,
)
from microtome.graphs.structural import kullback_leibler_similarity
from microtome.storage.errors import BadSeries

seeds = st.integers(0, 2**32 - 1)


def people(seed: int, n: int = 25, regions: int = 6) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return 5 + rng.standard_normal((n, 1)) + rng.standard_normal((n, regions))


def test_the_similarity_of_kullback_and_leibler_is_scipys_entropy():
    p = np.random.default_rng(0).gamma(1.0, size=(5, 30))
    found = kullback_leibler_similarity(p)
    for i in range(5):
        for j in range(5):
            both = entropy(p[i], p[j]) + entropy(p[j], p[i])
            assert found[i, j] == pytest.approx(np.exp(-both))
    apart = kullback_leibler_similarity([[1, 1, 0, 0], [0, 0, 1, 1]])
    np.testing.assert_array_equal(apart, np.eye(2))


def test_two_normal_regions_are_as_alike_as_theory_says():
    """The symmetric divergence of N(0, s) and N(m, s) is (m / s)²."""
    rng = np.random.default_rng(0)
    samples = [rng.normal(0, 1, 40_000), rng.normal(0.7, 1, 40_000)]
    assert klse(samples)[0, 1] == pytest.approx(np.exp(-(0.7**2)), abs=0.02)


@settings(max_examples=20, deadline=None)
@given(seeds)
def test_similarities_are_symmetric_bounded_and_one_for_regions_with_the_same_voxels(seed):
    rng = np.random.default_rng(seed)
    samples = [rng.gamma(rng.uniform(1, 9), size=rng.integers(20, 80)) for _ in range(4)]
    samples.append(rng.permutation(samples[0]))
    order = rng.permutation(5)
    for method in (jsse, klse):
        found = method(samples)
        np.testing.assert_array_equal(found, found.T)
        assert ((found >= 0) & (found <= 1)).all()
        assert found[0, 4] == pytest.approx(1)
        moved = method([samples[i] for i in order])
        np.testing.assert_allclose(moved, found[np.ix_(order, order)], atol=1e-9)


@settings(max_examples=20, deadline=None)
@given(seeds)
def test_a_subject_like_the_mean_of_controls_has_their_network(seed):
    controls = people(seed)
    found = effect_size_network(controls.mean(axis=0) + 0.3, controls)
    np.testing.assert_allclose(found, metabolic_covariance(controls))
    one = people(seed + 1, 1)[0]
    found, group = effect_size_network(one, controls), metabolic_covariance(controls)
    np.testing.assert_allclose(found, found.T)
    assert (np.abs(found) <= np.abs(group) + 1e-12).all()
    np.testing.assert_allclose(effect_size_network(3 * one, 3 * controls), found)


@settings(max_examples=20, deadline=None)
@given(seeds)
def test_individual_networks_do_not_depend_on_the_order_of_regions(seed):
    controls, one = people(seed), people(seed + 1, 1)[0]
    order = np.random.default_rng(seed).permutation(6)
    for method in (effect_size_network, perturbation_network):
        moved = method(one[order], controls[:, order])
        np.testing.assert_allclose(moved, method(one, controls)[np.ix_(order, order)], atol=1e-9)


def test_identical_regions_have_the_strongest_edge_there_is():
    controls = people(0)
    controls[:, 5] = controls[:, 2]
    one = people(1, 1)[0]
    one[5] = one[2]
    assert effect_size_network(one, controls)[2, 5] == pytest.approx(1)
    with pytest.raises(BadSeries, match="regions 3 and 6 are the same"):
        perturbation_network(one, controls)


def test_one_region_that_is_off_loses_its_edges_and_no_others():
    controls = people(0, 40)
    one = controls.mean(axis=0)
    one[3] -= 4 * controls[:, 3].std()
    lost = metabolic_covariance(controls) - effect_size_network(one, controls)
    assert lost[3, [0, 1, 2, 4, 5]].min() > 0.2
    others = np.delete(np.delete(lost, 3, 0), 3, 1)
    np.testing.assert_allclose(others, 0, atol=1e-12)


def test_the_perturbation_is_the_change_of_a_correlation_in_its_own_errors():
    controls, one = people(0), people(1, 1)[0]
    found = perturbation_network(one, controls)
    before = np.corrcoef(controls[:, 1], controls[:, 4])[0, 1]
    after = np.corrcoef(np.r_[controls[:, 1], one[1]], np.r_[controls[:, 4], one[4]])[0, 1]
    assert found[1, 4] == pytest.approx((after - before) / ((1 - before**2) / 24))
    np.testing.assert_array_equal(np.diag(found), 0)


def test_one_more_control_perturbs_by_about_one():
    rng = np.random.default_rng(0)
    z = [
        perturbation_network(rng.standard_normal(2), rng.standard_normal((100, 2)))[0, 1]
        for _ in range(600)
    ]
    assert np.mean(z) == pytest.approx(0, abs=0.15)
    assert np.std(z) == pytest.approx(1, abs=0.15)


def test_too_few_controls_or_another_set_of_regions_are_refused():
    with pytest.raises(BadSeries, match="5 subjects are too few"):
        effect_size_network(people(1, 1)[0], people(0, 5))
    with pytest.raises(BadSeries, match="not that of 6 regions"):
        perturbation_network(np.ones(4), people(0))
