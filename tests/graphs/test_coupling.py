"""Information, rhythm and delay between series, against scikit-learn and SciPy pair by pair."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nilearn.connectome import ConnectivityMeasure
from scipy import signal
from scipy.linalg import logm, sqrtm
from sklearn.covariance import GraphicalLasso, LedoitWolf
from sklearn.metrics import normalized_mutual_info_score

from microtome.graphs.coupling import coherence, lagged, mutual_information
from microtome.graphs.functional import (
    Coupling,
    functional_connectome,
    pearson,
    precision,
    sparse_partial,
)
from microtome.graphs.tables import read_series
from microtome.graphs.tangent import TangentSpace
from microtome.storage.errors import BadSeries


@pytest.fixture(scope="module")
def series(shared_data) -> np.ndarray:
    path = shared_data / "brain" / "sc_bold" / "gw_NAP_001_BOLD_rsfMRI.mat"
    return read_series(path, rows="regions", key="tc")[:, :12]


def test_mutual_information_is_scikit_learns(series):
    found = mutual_information(series, n_bins=6)
    t = len(series)
    bins = series.argsort(axis=0).argsort(axis=0) * 6 // t
    for i in range(12):
        for j in range(12):
            expected = normalized_mutual_info_score(
                bins[:, i], bins[:, j], average_method="geometric"
            )
            assert found[i, j] == pytest.approx(expected, abs=1e-10)


def test_information_sees_what_correlation_does_not():
    rng = np.random.default_rng(0)
    x = rng.standard_normal(2000)
    both = np.column_stack([x, x**2 + 0.1 * rng.standard_normal(2000), rng.standard_normal(2000)])
    assert abs(pearson(both)[0, 1]) < 0.1
    found = mutual_information(both)
    assert found[0, 1] > 0.3
    assert found[0, 2] < 0.03


def test_coherence_is_scipys(series):
    tr = 2.0
    found = coherence(series, tr_s=tr, band_hz=(0.01, 0.1))
    width = 2 * len(series) // 9
    for i in range(12):
        for j in range(i):
            f, c = signal.coherence(series[:, i], series[:, j], fs=1 / tr, nperseg=width)
            expected = c[(f >= 0.01) & (f <= 0.1)].mean()
            assert found[i, j] == pytest.approx(expected, abs=1e-10)
    unrelated = np.random.default_rng(0).standard_normal((2000, 20))
    chance = coherence(unrelated, tr_s=1.0, band_hz=(0.01, 0.4))[np.triu_indices(20, 1)]
    assert chance.mean() == pytest.approx(1 / 6, abs=0.05)


def test_coherence_needs_a_band_that_the_series_has(series):
    with pytest.raises(BadSeries, match=r"between 0\.3 and 0\.4 Hz"):
        coherence(series, tr_s=2.0, band_hz=(0.3, 0.4))
    names = [f"r{i}" for i in range(12)]
    with pytest.raises(BadSeries, match="--band-hz"):
        functional_connectome(series, names, method="coherence")
    made = functional_connectome(
        series, names, method=Coupling("coherence", band_hz=(0.01, 0.1), tr_s=2.0)
    )
    assert made.measure == "coherence"


def test_a_delay_is_found_with_its_sign():
    rng = np.random.default_rng(0)
    source = rng.standard_normal(505)
    both = np.column_stack([source[5:], source[2:-3], -source[:-5], rng.standard_normal(500)])
    peak, lag = lagged(both, max_lag=6)
    assert lag[0, 1] == 3
    assert lag[1, 0] == -3
    assert lag[0, 2] == 5
    assert peak[0, 1] == pytest.approx(1)
    assert peak[0, 2] == pytest.approx(-1)
    assert abs(peak[0, 3]) < 0.25
    np.testing.assert_allclose(lagged(both, max_lag=0)[0], pearson(both), atol=1e-12)
    by_hand = np.corrcoef(both[:-2, 3], both[2:, 0])[0, 1]
    _, later = lagged(both[:, [3, 0]], max_lag=2)
    assert abs(by_hand) <= abs(lagged(both[:, [3, 0]], max_lag=2)[0][0, 1]) + 1e-12
    assert abs(later[0, 1]) <= 2
    with pytest.raises(BadSeries, match="leaves too little"):
        lagged(both[:10], max_lag=8)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_networks_are_symmetric_bounded_and_one_for_identical_regions(seed):
    rng = np.random.default_rng(seed)
    array = np.cumsum(rng.standard_normal((60, 5)), axis=0)
    array[:, 4] = array[:, 1]
    order = rng.permutation(5)
    for method in (
        Coupling("mutual-information"),
        Coupling("coherence", band_hz=(0.05, 0.4), tr_s=1.0),
        Coupling("lagged", max_lag=4),
    ):
        found = method.matrix(array)
        np.testing.assert_allclose(found, found.T, atol=1e-12)
        assert (np.abs(found) <= 1).all()
        assert found[1, 4] == pytest.approx(1)
        moved = method.matrix(array[:, order])
        np.testing.assert_allclose(moved, found[np.ix_(order, order)], atol=1e-9)


def test_precision_and_its_sparse_form_are_scikit_learns(series):
    standard = (series - series.mean(axis=0)) / series.std(axis=0)
    theirs = LedoitWolf(assume_centered=True).fit(standard).precision_
    np.testing.assert_allclose(precision(series), theirs, atol=1e-8)
    sparse = GraphicalLasso(0.2, assume_centered=True).fit(standard).precision_
    d = np.sqrt(np.diag(sparse))
    expected = -sparse / np.outer(d, d)
    found = sparse_partial(series, alpha=0.2)
    off = ~np.eye(12, dtype=bool)
    np.testing.assert_allclose(found[off], ((expected + expected.T) / 2)[off], atol=1e-8)
    assert (found[off] == 0).any()


def test_the_sparse_network_finds_a_chain():
    rng = np.random.default_rng(0)
    chain = np.eye(6) * 1.2 - 0.5 * (np.eye(6, k=1) + np.eye(6, k=-1))
    series = rng.multivariate_normal(np.zeros(6), np.linalg.inv(chain), size=800)
    found = sparse_partial(series)
    assert np.diag(found, 1).min() > 0.2
    assert np.abs(found[np.abs(np.subtract.outer(range(6), range(6))) > 1]).max() < 0.15


def people(n: int, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((80, 5)) @ rng.standard_normal((5, 5)) for _ in range(n)]


def test_tangents_are_logarithms_at_a_reference_of_training_people_only():
    train, test = people(8), people(3, seed=1)
    space = TangentSpace.fit(train)
    found = space.transform(test)
    np.testing.assert_allclose(space.transform(test[1:2])[0], found[1], atol=1e-10)
    root = np.linalg.inv(sqrtm(space.reference).real)
    covariances = [LedoitWolf().fit((x - x.mean(0)) / x.std(0)).covariance_ for x in test]
    for tangent, covariance in zip(found, covariances, strict=True):
        np.testing.assert_allclose(tangent, logm(root @ covariance @ root).real, atol=1e-6)
    np.testing.assert_allclose(space.transform(train).mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(space.covariances(found), covariances, atol=1e-10)
    # The gain of a region plays no part.
    np.testing.assert_allclose(space.transform([test[0] * 7 + 3])[0], found[0], atol=1e-9)
    theirs = ConnectivityMeasure(kind="tangent", standardize="zscore_sample").fit(
        [(x - x.mean(0)) / x.std(0) for x in train]
    )
    np.testing.assert_allclose(
        theirs.transform([(x - x.mean(0)) / x.std(0) for x in test]), found, atol=1e-8
    )
    with pytest.raises(BadSeries, match="two subjects or more"):
        TangentSpace.fit(train[:1])
    with pytest.raises(BadSeries, match="not of the 5 regions"):
        space.transform([train[0][:, :4]])
