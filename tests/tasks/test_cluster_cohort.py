"""Clusters over a cohort: planted kinds are found, held to scikit-learn's own readings."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.cluster import MiniBatchKMeans
from sklearn.metrics import adjusted_rand_score
from sklearn.mixture import GaussianMixture

from microtome.storage.errors import LabelError
from microtome.tasks.cluster_cohort import (
    METHODS,
    composition,
    fit_vocabulary,
    sample,
    site_test,
    stability,
)

D, K = 6, 3
CENTRES = 6 * np.random.default_rng(7).normal(size=(K, D))


def planted(shares: list[list[float]], seed: int = 0, n: int = 60):
    """Bags with known kinds [n] in known shares."""
    rng = np.random.default_rng(seed)
    kinds = [rng.choice(K, n, p=share) for share in shares]
    bags = [(CENTRES[kind] + rng.normal(size=(n, D))).astype(np.float32) for kind in kinds]
    return bags, kinds


EVEN = [[0.5, 0.3, 0.2]] * 8


@pytest.mark.parametrize("method", METHODS)
def test_planted_kinds_are_found_in_new_slides(method):
    bags, _ = planted(EVEN)
    vocabulary = fit_vocabulary(sample(bags, 50, seed=0)[0], method, K)
    assert len(vocabulary) == K
    new, kinds = planted(EVEN, seed=1)
    said = vocabulary.assign(np.concatenate(new))
    known = said >= 0
    assert known.mean() > 0.9
    assert adjusted_rand_score(np.concatenate(kinds)[known], said[known]) > 0.98
    counts = np.bincount(said[known])
    assert counts[0] == counts.max()


@pytest.mark.parametrize("method", ["kmeans", "gmm"])
def test_readings_are_scikit_learns_on_the_same_points(method):
    tiles = np.concatenate(planted(EVEN)[0]) * 0.4
    vocabulary = fit_vocabulary(tiles, method, 5, seed=3, components=4)
    points = vocabulary.reduced(tiles)
    if method == "kmeans":
        theirs = MiniBatchKMeans(5, n_init=10, random_state=3).fit(points)
    else:
        theirs = GaussianMixture(5, random_state=3, reg_covar=1e-4).fit(points)
    other = planted(EVEN, seed=2)[0][0] * 0.4
    said = theirs.predict(vocabulary.reduced(other))
    assert adjusted_rand_score(said, vocabulary.assign(other)) == 1


def test_what_is_like_nothing_is_in_no_cluster_of_hdbscan():
    tiles = np.concatenate(planted(EVEN)[0])
    vocabulary = fit_vocabulary(tiles, "hdbscan", K)
    assert vocabulary.assign(np.full((1, D), 100, np.float32)).tolist() == [-1]


def test_composition_is_the_share_of_each_cluster():
    found = composition([np.array([0, 0, 1, -1]), np.array([1])], 2)
    assert found.tolist() == [[0.5, 0.25, 0.25], [0, 1, 0]]


def test_no_large_slide_rules_and_constant_features_say_nothing():
    bags, _ = planted([[1, 0, 0], [0, 1, 0]], n=30)
    tiles, of_bag = sample([np.concatenate([bags[0]] * 40), bags[1]], 20, seed=0)
    assert np.bincount(of_bag).tolist() == [20, 20]
    tiles[:, 0] = 7
    found = fit_vocabulary(tiles, "kmeans", 2).assign(tiles)
    assert adjusted_rand_score(of_bag, found) == 1


def test_real_clusters_are_stable_and_cuts_through_one_cloud_are_not():
    bags, _ = planted(EVEN)
    real = stability(bags, fit_vocabulary(np.concatenate(bags), k=K), k=K, n=4)
    assert real.ari.min() > 0.98
    assert real.ami.min() > 0.97
    rng = np.random.default_rng(0)
    cloud = [rng.normal(size=(60, D)).astype(np.float32) for _ in range(8)]
    none = stability(cloud, fit_vocabulary(np.concatenate(cloud), k=5), k=5, n=4)
    assert none.ari.mean() < 0.5


def test_composition_tells_the_site_where_sites_differ_and_only_there():
    patients = np.repeat(np.arange(16), 2)
    sites = np.where(patients % 2, "A", "B")
    rng = np.random.default_rng(0)
    alike = rng.dirichlet([4, 3, 2], 32)
    apart = alike + 0.5 * (sites == "A")[:, None] * [1, 0, -1]
    told = site_test(apart, sites, patients, n=39)
    assert told.auc > 0.95
    assert told.p == 1 / 40
    assert site_test(alike, sites, patients, n=39).p > 0.05
    with pytest.raises(LabelError, match="one class"):
        site_test(alike, np.array(["A"] * 32), patients)


def test_more_clusters_than_tiles_that_differ_are_refused():
    with pytest.raises(ValueError, match="fewer than 4 tiles differ"):
        fit_vocabulary(np.repeat(np.eye(3, dtype=np.float32), 9, axis=0), k=4)
