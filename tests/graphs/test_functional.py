"""Functional networks equal NumPy's and nilearn's, and what cannot be correlated is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from microtome.graphs.functional import (
    covariance,
    fisher_z,
    functional_connectome,
    partial,
    pearson,
)
from microtome.graphs.tables import read_series
from microtome.storage.errors import BadSeries


@pytest.fixture(scope="module")
def series(shared_data) -> np.ndarray:
    path = shared_data / "brain" / "sc_bold" / "gw_NAP_001_BOLD_rsfMRI.mat"
    return read_series(path, rows="regions", key="tc")


def test_pearson_and_covariance_are_those_of_numpy(series):
    assert series.shape == (355, 94)
    np.testing.assert_allclose(pearson(series), np.corrcoef(series.T), rtol=1e-10)
    np.testing.assert_allclose(covariance(series), np.cov(series.T, ddof=1), rtol=1e-10)


def test_nilearn_agrees(series):
    from nilearn.connectome import ConnectivityMeasure
    from sklearn.covariance import EmpiricalCovariance, LedoitWolf

    ours = series[:, :40]
    # nilearn shrinks the covariance of series as they are, which depends on each region's gain.
    standard = (ours - ours.mean(axis=0)) / ours.std(axis=0)

    def theirs(kind, estimator):
        measure = ConnectivityMeasure(estimator, kind=kind, standardize="zscore_sample")
        return measure.fit_transform([standard])[0]

    empirical = EmpiricalCovariance(store_precision=False)
    np.testing.assert_allclose(pearson(ours), theirs("correlation", empirical), atol=1e-10)
    shrunk = LedoitWolf(store_precision=False)
    np.testing.assert_allclose(partial(ours), theirs("partial correlation", shrunk), atol=1e-10)
    np.testing.assert_allclose(
        partial(ours, shrink=False), theirs("partial correlation", empirical), atol=1e-8
    )


def test_partial_correlation_is_that_of_what_a_regression_leaves():
    rng = np.random.default_rng(0)
    series = rng.standard_normal((200, 5)) @ rng.standard_normal((5, 5))
    rest = np.column_stack([np.ones(200), series[:, 2:]])
    left = series[:, :2] - rest @ np.linalg.lstsq(rest, series[:, :2], rcond=None)[0]
    expected = np.corrcoef(left.T)[0, 1]
    assert partial(series, shrink=False)[0, 1] == pytest.approx(expected)


def test_partial_correlation_takes_an_indirect_link_away():
    rng = np.random.default_rng(1)
    middle = rng.standard_normal(4000)
    series = np.stack([middle + rng.standard_normal(4000) for _ in range(2)] + [middle], axis=1)
    assert pearson(series)[0, 1] > 0.45
    assert abs(partial(series)[0, 1]) < 0.05


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 8), st.integers(20, 60))
def test_networks_are_symmetric_bounded_and_follow_the_order_of_regions(seed, r, t):
    rng = np.random.default_rng(seed)
    series = rng.standard_normal((t, r)) + rng.standard_normal((t, 1))
    order = rng.permutation(r)
    for measure in (pearson, partial):
        found = measure(series)
        np.testing.assert_allclose(found, found.T, atol=1e-15)
        assert (np.abs(found) <= 1).all()
        np.testing.assert_allclose(
            measure(series[:, order]), found[np.ix_(order, order)], atol=1e-10
        )
        np.testing.assert_allclose(measure(series * 7 + 100), found, atol=1e-8)


def test_fisher_z_is_arctanh_without_a_diagonal():
    r = np.array([[1.0, 0.5], [0.5, 1.0]])
    np.testing.assert_allclose(fisher_z(r), np.array([[0, 1], [1, 0]]) * 0.5493061443340549)
    with pytest.raises(BadSeries, match="regions 1 and 2 are the same"):
        fisher_z(np.ones((2, 2)))


def test_identical_regions_correlate_perfectly():
    series = np.random.default_rng(0).standard_normal((30, 3))
    series[:, 2] = series[:, 0]
    assert pearson(series)[0, 2] == pytest.approx(1)


def spoil(column: int, value: float) -> np.ndarray:
    series = np.random.default_rng(0).standard_normal((30, 3)) + 1000
    series[:, column] = value
    return series


@pytest.mark.parametrize(
    ("series", "message"),
    [
        (spoil(1, 1000.0), "same at all time points: amygdala"),
        (spoil(2, np.nan), "not finite: pons"),
        (np.random.default_rng(0).standard_normal((9, 3)), "9 time points are too few, 10"),
        (np.zeros(5), "shape"),
    ],
)
def test_series_that_cannot_be_correlated_are_refused_by_name(series, message):
    with pytest.raises(BadSeries, match=message):
        functional_connectome(series, ("cuneus", "amygdala", "pons"))


def test_too_few_time_points_have_no_exact_precision():
    series = np.random.default_rng(0).standard_normal((12, 20))
    with pytest.raises(BadSeries, match="no precision matrix"):
        partial(series, shrink=False)
    assert np.isfinite(partial(series)).all()


def test_a_connectome_says_what_it_is(series):
    names = tuple(f"r{i}" for i in range(94))
    found = functional_connectome(series, names, subject="NAP_001", method="pearson", fisher=True)
    assert (found.measure, found.modality, found.subject) == ("fisher-z-pearson", "fMRI", "NAP_001")
    assert not np.diag(found.adjacency).any()
    np.testing.assert_allclose(np.tanh(found.adjacency)[0, 1], np.corrcoef(series.T)[0, 1])
