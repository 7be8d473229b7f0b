"""Paired tests: DeLong's by its structural components, the bootstrap by what it must find."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from microtome.storage.errors import LabelError
from microtome.tasks.evaluation import auc
from microtome.tasks.paired import delong, paired_difference


def components(labels: np.ndarray, s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """DeLong et al. (1988), equations 4 and 5, pair by pair."""
    x, y = s[labels == 1], s[labels == 0]
    psi = np.array([[1.0 if a > b else 0.5 * (a == b) for b in y] for a in x])
    return psi.mean(1), psi.mean(0)


ROWS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=4, max_size=20)


@given(ROWS)
def test_delong_is_its_definition_with_ties(rows: list[tuple[int, int]]) -> None:
    a, b = (np.array(column, float) for column in zip(*rows, strict=True))
    labels = np.arange(len(a)) % 2
    found = delong(labels, a, b)
    v10, v01 = map(np.array, zip(*(components(labels, s) for s in (a, b)), strict=True))
    m, n = v10.shape[1], v01.shape[1]
    expected = np.cov(v10) / m + np.cov(v01) / n
    np.testing.assert_allclose(found.covariance, expected, atol=1e-12)
    np.testing.assert_allclose(found.aucs, [roc_auc_score(labels, s) for s in (a, b)])
    if np.array_equal(a, b):
        assert found.p() == 1


def test_delong_rejects_as_often_as_it_says_where_nothing_differs() -> None:
    """1,200 draws: four binomial deviations around 5 %. The test is asymptotic, n is 200."""
    rng = np.random.default_rng(0)
    labels, rejected = np.arange(200) % 2, 0
    for _ in range(1200):
        signal = labels + rng.normal(size=200)
        noisy = signal + rng.normal(size=(2, 200))
        rejected += delong(labels, *noisy).p() < 0.05
    assert rejected / 1200 == pytest.approx(0.05, abs=4 * np.sqrt(0.05 * 0.95 / 1200))


def test_the_interval_and_p_of_delong_agree() -> None:
    rng = np.random.default_rng(1)
    labels = np.arange(200) % 2
    good, bad = labels * 2 + rng.normal(size=200), rng.normal(size=200)
    found = delong(labels, good, bad)
    assert found.difference().low > 0
    assert found.p() < 1e-6
    assert found.difference().value == pytest.approx(auc(labels, good) - auc(labels, bad))
    with pytest.raises(LabelError, match="two rows of each class"):
        delong([0, 0, 1], [1, 2, 3])


def test_the_paired_bootstrap_is_near_delong_and_sees_patients() -> None:
    """With one row a patient the two agree; doubled rows of a patient are no new evidence."""
    rng = np.random.default_rng(2)
    labels = np.arange(150) % 2
    a, b = labels + rng.normal(size=150), 0.5 * labels + rng.normal(size=150)

    def of(scores: np.ndarray, truth: np.ndarray):
        return lambda rows: auc(truth[rows], scores[rows])

    once, p = paired_difference(of(a, labels), of(b, labels), np.arange(150), n=1000)
    theirs = delong(labels, a, b)
    assert once.low == pytest.approx(theirs.difference().low, abs=0.02)
    assert once.high == pytest.approx(theirs.difference().high, abs=0.02)
    assert p == pytest.approx(theirs.p(), abs=0.02)
    rows = np.arange(150).repeat(2)
    twice, again = paired_difference(
        of(a[rows], labels[rows]), of(b[rows], labels[rows]), rows, n=1000
    )
    assert (twice.low, twice.high, again) == pytest.approx((once.low, once.high, p))


def test_the_same_model_does_not_differ_from_itself() -> None:
    labels, s = np.arange(20) % 2, np.arange(20.0)
    same, p = paired_difference(
        lambda r: auc(labels[r], s[r]) if 0 < labels[r].mean() < 1 else np.nan,
        lambda r: auc(labels[r], s[r]) if 0 < labels[r].mean() < 1 else np.nan,
        np.arange(20),
        n=100,
    )
    assert (same.value, same.low, same.high, p) == (0, 0, 0, 1)
