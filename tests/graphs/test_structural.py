"""Structural networks: a published group network, and properties that any similarity must have."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from scipy.stats import norm

from microtome.graphs import communities, metrics, paths
from microtome.graphs.build import from_morphometry
from microtome.graphs.structural import (
    distribution_similarity,
    group_covariance,
    jensen_shannon_similarity,
    morphometric_similarity,
)
from microtome.graphs.tables import read_freesurfer, read_names, read_region_table
from microtome.graphs.threshold import binarise, tree_and_strongest
from microtome.storage.errors import BadSeries


def test_the_group_network_of_nspn_has_the_published_measures(shared_data):
    """Whitaker & Vertes (2016); scona's fixture at 10 % density: C 0.44501, L 2.39854, a 0.0984."""
    folder = shared_data / "brain" / "nspn"
    table = read_region_table(
        folder / "PARC_500aparc_thickness_behavmerge.csv",
        subject_column="nspn_id",
        regions=read_names(folder / "500.names.txt"),
    )
    assert table.values.shape == (297, 308)
    network = binarise(tree_and_strongest(group_covariance(table.values), 0.10))
    assert network.sum() / 2 == 4728
    distance = paths.distances(paths.Lengths.hops(network))
    assert metrics.clustering_binary(network).mean() == pytest.approx(0.44501, rel=0.03)
    assert paths.characteristic_path_length(distance) == pytest.approx(2.39854, rel=0.03)
    assert metrics.assortativity(network, weighted=False) == pytest.approx(0.09840, abs=0.01)
    modules = communities.louvain(network, seed=0)
    assert communities.modularity(network, modules) == pytest.approx(0.39148, rel=0.05)


def test_group_covariance_is_the_correlation_over_subjects():
    values = np.random.default_rng(0).standard_normal((30, 6))
    np.testing.assert_allclose(group_covariance(values), np.corrcoef(values.T))


def test_a_covariate_is_taken_out():
    rng = np.random.default_rng(0)
    age = rng.uniform(20, 80, 400)
    values = -0.05 * age[:, None] + rng.standard_normal((400, 5))
    off = ~np.eye(5, dtype=bool)
    assert group_covariance(values)[off].min() > 0.3
    left = group_covariance(values, covariates=age[:, None])
    assert np.abs(left[off]).max() < 0.15
    np.testing.assert_allclose(
        left, group_covariance(values - 3 * age[:, None], covariates=age[:, None])
    )


def test_a_group_that_is_no_group_is_refused():
    with pytest.raises(BadSeries, match="5 subjects are too few"):
        group_covariance(np.random.default_rng(0).standard_normal((5, 4)))
    values = np.random.default_rng(0).standard_normal((20, 3))
    values[:, 1] = 2.5
    with pytest.raises(BadSeries, match="same at all subjects: insula"):
        group_covariance(values, ("cuneus", "insula", "precuneus"))


def test_every_abide_subject_has_a_morphometric_network(shared_data):
    tables = read_freesurfer(shared_data / "brain" / "abide_smri")
    assert list(tables) == ["area", "thickness", "volume"]
    first = tables["thickness"]
    assert first.values.shape == (789, 68)
    assert {r[:3] for r in first.regions} == {"lh_", "rh_"}
    # Read off the files: the first subject, superior temporal gyrus of the left hemisphere.
    assert first.values[0, first.regions.index("lh_bankssts")] == 2.296
    assert tables["area"].values[0, first.regions.index("rh_bankssts")] == 1089.0
    networks = np.stack([from_morphometry(tables, s).adjacency for s in first.subjects[::50]])
    assert (np.abs(networks) <= 1).all()
    left = [i for i, r in enumerate(first.regions) if r.startswith("lh_")]
    right = [first.regions.index("rh_" + first.regions[i][3:]) for i in left]
    mean = networks.mean(axis=0)
    off = ~np.eye(68, dtype=bool)
    # Regions resemble their counterpart on the other side more than the others.
    assert mean[left, right].mean() > mean[off].mean() + 0.5


def test_morphometric_similarity_is_the_correlation_of_z_scores():
    features = np.random.default_rng(0).gamma(2, size=(10, 4)) * [1, 100, 1e4, 0.1]
    z = (features - features.mean(axis=0)) / features.std(axis=0)
    found = morphometric_similarity(features)
    np.testing.assert_allclose(found, np.corrcoef(z))
    np.testing.assert_allclose(morphometric_similarity(features * [2, 0.1, 3, 5] + 7), found)


def test_two_features_or_even_ones_make_no_network():
    features = np.random.default_rng(0).standard_normal((10, 3))
    with pytest.raises(BadSeries, match="three features"):
        morphometric_similarity(features[:, :2])
    features[:, 1] = 4.0
    with pytest.raises(BadSeries, match="feature 2"):
        morphometric_similarity(features)


def test_the_similarity_of_distributions_is_scipys_distance():
    p = np.random.default_rng(0).gamma(1.0, size=(6, 40))
    p[0, :20] = 0
    found = jensen_shannon_similarity(p)
    for i in range(6):
        for j in range(6):
            assert found[i, j] == pytest.approx(1 - jensenshannon(p[i], p[j], base=2), abs=1e-7)


def test_the_similarity_of_samples_is_that_of_their_true_densities():
    rng = np.random.default_rng(0)
    true = [(0.0, 1.0), (1.0, 1.0), (0.0, 2.0), (6.0, 0.5)]
    samples = [rng.normal(mean, spread, 20_000) for mean, spread in true]
    grid = np.linspace(-10, 10, 4001)
    densities = [norm(mean, spread).pdf(grid) for mean, spread in true]
    found = distribution_similarity(samples)
    for i in range(4):
        for j in range(4):
            expected = 1 - jensenshannon(densities[i], densities[j], base=2)
            assert found[i, j] == pytest.approx(expected, abs=0.03)


samples = st.lists(
    st.lists(st.floats(-1e3, 1e3, width=32), min_size=5, max_size=30, unique=True),
    min_size=2,
    max_size=5,
)


@settings(max_examples=40, deadline=None)
@given(samples, st.randoms(use_true_random=False))
def test_similarity_is_symmetric_bounded_and_follows_the_order_of_regions(regions, random):
    regions = [np.array(r) + np.linspace(0, 1, len(r)) for r in regions]
    found = distribution_similarity(regions)
    np.testing.assert_array_equal(found, found.T)
    assert (found >= 0).all()
    assert (found <= 1).all()
    assert (np.diag(found) == 1).all()
    order = list(range(len(regions)))
    random.shuffle(order)
    np.testing.assert_allclose(
        distribution_similarity([regions[i] for i in order]), found[np.ix_(order, order)], atol=1e-6
    )


def test_identical_regions_are_wholly_similar():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal(50), rng.standard_normal(80)
    assert distribution_similarity([a, b, a[::-1]])[0, 2] == pytest.approx(1, abs=1e-6)
    assert distribution_similarity([a, b, a])[0, 2] == 1
    assert distribution_similarity([a, b, a])[0, 1] < 1
    features = rng.standard_normal((5, 4))
    features[3] = features[1]
    assert morphometric_similarity(features)[1, 3] == pytest.approx(1)
    values = rng.standard_normal((20, 3))
    values[:, 2] = values[:, 0]
    assert group_covariance(values)[0, 2] == pytest.approx(1)


def test_a_region_without_a_distribution_is_refused():
    good = np.arange(5.0)
    for bad in ([1.0], [2.0, 2.0, 2.0], [1.0, np.nan]):
        with pytest.raises(BadSeries, match="region 2 has no distribution"):
            distribution_similarity([good, bad])
