"""The simulated cohort differs where it was planted to differ, and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import ks_1samp, ttest_ind

from microtome.graphs.simulate import simulate_cohort
from microtome.storage.errors import CohortError


def edge_z(cohort) -> np.ndarray:
    r = np.stack([np.corrcoef(series.T) for series in cohort.series])
    upper = np.triu_indices(r.shape[1], 1)
    return np.arctanh(r[:, *upper])


def test_the_planted_edges_differ_between_groups_and_no_others_do():
    cohort = simulate_cohort(200, 40, 150, 0.25, seed=3, repeated=0.0)
    z = edge_z(cohort)
    patient = cohort.labels == 1
    test = ttest_ind(z[patient], z[~patient])
    planted = cohort.planted[np.triu_indices(40, 1)]
    assert planted.sum() == 10
    assert (test.pvalue[planted] < 1e-4).all()
    assert (test.statistic[planted] > 0).all()
    assert 0.02 < (test.pvalue[~planted] < 0.05).mean() < 0.08
    assert ks_1samp(test.pvalue[~planted], lambda x: x).statistic < 0.1


def test_the_effect_is_the_stated_difference_of_correlation():
    cohort = simulate_cohort(40, 24, 4000, 0.3, seed=1, repeated=0.0)
    centred = cohort.series - cohort.series.mean(axis=1, keepdims=True)
    covariance = np.einsum("sti,stj->sij", centred, centred) / cohort.series.shape[1]
    # A scanner's gain scales a covariance; its noise and global signal are the same in both groups.
    for site in set(cohort.sites):
        here = np.array([name == site for name in cohort.sites])
        sick, well = (covariance[here & (cohort.labels == k)].mean(axis=0) for k in (1, 0))
        noise_free = np.sqrt(np.outer(np.diag(well), np.diag(well)))
        difference = (sick - well) / noise_free
        ratio = difference[cohort.planted].mean() / 0.3
        # Signal is 1 of a variance of 1 + noise² + global², at most 1 + 0.4² + 0.35².
        assert 1 / 1.3 - 0.15 < ratio < 1.15
        off = ~cohort.planted & ~np.eye(24, dtype=bool)
        assert abs(difference[off].mean()) < 0.03


def test_equal_seeds_give_equal_cohorts_and_others_differ():
    one, same, other = (simulate_cohort(8, 10, 30, seed=seed) for seed in (5, 5, 6))
    np.testing.assert_array_equal(one.series, same.series)
    np.testing.assert_array_equal(one.planted, same.planted)
    assert not np.array_equal(one.series, other.series)


def test_labels_are_balanced_over_sites_and_sites_can_be_told_apart():
    cohort = simulate_cohort(80, 30, 120, effect=0.0, seed=0, n_sites=2, repeated=0.0)
    site = np.array([name == "site-1" for name in cohort.sites])
    counts = np.histogram2d(cohort.labels, site, bins=2)[0]
    assert (counts == 20).all()
    mean_z = edge_z(cohort).mean(axis=1)
    assert ttest_ind(mean_z[site], mean_z[~site]).pvalue < 1e-3
    assert not cohort.planted.any()


def test_a_second_session_has_the_same_person_label_and_site():
    cohort = simulate_cohort(20, 10, 150, seed=2, repeated=0.5)
    assert len(cohort) == 30
    assert len(set(cohort.ids)) == 30
    assert len(set(cohort.subjects)) == 20
    facts = set(zip(cohort.subjects, cohort.labels.tolist(), cohort.sites, strict=True))
    assert len(facts) == 20


def test_sessions_of_one_person_resemble_each_other_more_than_two_people_do():
    cohort = simulate_cohort(30, 30, 300, effect=0.0, seed=4, n_sites=1, repeated=1.0)
    z = edge_z(cohort)
    likeness = np.corrcoef(z - z.mean(axis=0))
    same = np.equal.outer(cohort.subjects, cohort.subjects) & ~np.eye(len(z), dtype=bool)
    different = ~np.equal.outer(cohort.subjects, cohort.subjects)
    assert likeness[same].min() > likeness[different].mean() + 3 * likeness[different].std()


def test_the_brain_has_the_size_of_one_and_is_mirrored():
    cohort = simulate_cohort(4, 61, 10)
    x, y, z = cohort.centroids_mm.T
    assert len(set(cohort.regions)) == 61
    assert (np.abs(x) < 75).all()
    assert (y > -110).all()
    assert (y < 75).all()
    assert (z > -60).all()
    assert (z < 90).all()
    left = np.array([name.startswith("L") for name in cohort.regions])
    assert (x[left] < 0).all()
    assert (x[~left] > 0).all()
    np.testing.assert_allclose(np.sort(-x[left][:-1]), np.sort(x[~left]))
    distances = np.linalg.norm(cohort.centroids_mm[:, None] - cohort.centroids_mm[None], axis=-1)
    assert distances[np.triu_indices(61, 1)].min() > 8


def test_modules_are_stronger_within_than_between():
    cohort = simulate_cohort(20, 36, 200, effect=0.0, seed=0)
    r = np.mean([np.corrcoef(series.T) for series in cohort.series], axis=0)
    same = np.equal.outer(cohort.modules, cohort.modules)
    off = ~np.eye(36, dtype=bool)
    assert r[same & off].mean() > r[~same].mean() + 0.15
    assert np.bincount(cohort.modules).tolist() == [6] * 6


def test_impossible_variances_are_refused():
    with pytest.raises(CohortError, match="less than 1"):
        simulate_cohort(8, 10, 30, effect=0.5)
    with pytest.raises(CohortError, match="at least 4"):
        simulate_cohort(2, 10, 30)
