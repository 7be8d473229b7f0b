"""Figures agree with scikit-learn and SciPy; no group is ever on both sides."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics

from microtome.storage.errors import LabelError, LeakError
from microtome.tasks.evaluation import (
    assert_no_leak,
    auc,
    balanced_accuracy,
    bootstrap,
    brier_score,
    calibration_error,
    grouped_folds,
    permutation_p,
    permute_labels,
)


def sample(n: int, shift: float = 1.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    return labels, rng.normal(labels * shift, 1.0)


@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=2).filter(
        lambda rows: len({label for label, _ in rows}) == 2
    )
)
def test_auc_is_scikit_learns_with_ties(rows: list[tuple[bool, int]]) -> None:
    labels, scores = np.array(rows).T
    assert auc(labels, scores) == pytest.approx(metrics.roc_auc_score(labels, scores), abs=1e-12)


def test_auc_of_many_classes_is_the_macro_average() -> None:
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 4, 100)
    p = rng.dirichlet(np.ones(4), 100)
    expected = metrics.roc_auc_score(labels, p, multi_class="ovr", average="macro")
    assert auc(labels, p) == pytest.approx(expected, abs=1e-12)


def test_auc_needs_both_classes() -> None:
    with pytest.raises(LabelError, match="one class"):
        auc([1, 1], [0.2, 0.3])
    with pytest.raises(LabelError, match="one class"):
        bootstrap([1, 1], [0.2, 0.3], ["a", "b"])


def test_other_figures_are_scikit_learns() -> None:
    rng = np.random.default_rng(2)
    labels, p = rng.integers(0, 2, 200), rng.random(200)
    assert brier_score(labels, p) == pytest.approx(metrics.brier_score_loss(labels, p))
    assert balanced_accuracy(labels, p) == pytest.approx(
        metrics.balanced_accuracy_score(labels, p > 0.5)
    )
    two = np.stack([1 - p, p], axis=1)
    assert brier_score(labels, two) == pytest.approx(2 * brier_score(labels, p))
    assert balanced_accuracy(labels, two) == balanced_accuracy(labels, p)


def test_calibration_error_by_hand() -> None:
    # One bin holds 0.9 twice, one of them right: |0.9 - 0.5|; another 0.2 and 0.2, none: 0.2.
    assert calibration_error([1, 0, 0, 0], [0.9, 0.9, 0.2, 0.2]) == pytest.approx(0.3)
    two = np.array([[0.1, 0.9], [0.1, 0.9], [0.8, 0.2], [0.8, 0.2]])
    # The predicted class is right in one of two at 0.9, and in both at 0.8.
    assert calibration_error([1, 0, 0, 0], two) == pytest.approx((0.4 + 0.2) / 2)


def test_calibrated_probabilities_have_little_error() -> None:
    rng = np.random.default_rng(3)
    p = rng.random(200_000)
    assert calibration_error(rng.random(200_000) < p, p) < 0.01
    assert calibration_error(rng.random(200_000) < p**3, p) > 0.2


def test_bootstrap_is_scipys_where_every_row_is_a_group() -> None:
    labels, scores = sample(80)
    found = bootstrap(labels, scores, np.arange(80), n=4000, seed=1)
    reference = stats.bootstrap(
        (labels, scores),
        metrics.roc_auc_score,
        paired=True,
        vectorized=False,
        n_resamples=999,
        method="percentile",
        rng=np.random.default_rng(2),
    ).confidence_interval
    assert found.value == auc(labels, scores)
    assert found.n == 80
    assert found.low == pytest.approx(reference.low, abs=0.02)
    assert found.high == pytest.approx(reference.high, abs=0.02)


def test_copies_of_a_row_within_a_group_are_no_new_witnesses() -> None:
    labels, scores = sample(40)
    once = bootstrap(labels, scores, np.arange(40))
    copied = bootstrap(np.repeat(labels, 9), np.repeat(scores, 9), np.repeat(np.arange(40), 9))
    alone = bootstrap(np.repeat(labels, 9), np.repeat(scores, 9), np.arange(360))
    assert copied.high - copied.low == pytest.approx(once.high - once.low, rel=0.01)
    assert alone.high - alone.low < 0.5 * (once.high - once.low)


def test_bootstrap_of_many_classes_and_another_metric() -> None:
    rng = np.random.default_rng(4)
    labels = np.arange(60) % 3
    p = np.eye(3)[labels] * 0.5 + rng.dirichlet(np.ones(3), 60) * 0.5
    estimate = bootstrap(labels, p, np.arange(60), metric=balanced_accuracy, n=200)
    assert estimate.value == balanced_accuracy(labels, p)
    assert estimate.low <= estimate.value <= estimate.high


@given(st.integers(0, 50), st.integers(2, 5), st.integers(5, 12), st.integers(1, 4))
@settings(deadline=None, max_examples=60)
def test_folds_part_the_rows_and_keep_groups_together(
    seed: int, n_folds: int, per_class: int, most: int
) -> None:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, most + 1, 2 * per_class)
    groups = np.repeat(np.arange(2 * per_class), sizes)
    labels = groups % 2

    folds = grouped_folds(labels, groups, n_folds, seed=seed)

    assert len(folds) == n_folds
    assert sorted(np.concatenate([fold.test for fold in folds]).tolist()) == list(
        range(len(labels))
    )
    for fold in folds:
        assert not set(groups[fold.train]) & set(groups[fold.test])
        assert len(fold.train) + len(fold.test) == len(labels)
        assert set(labels[fold.train]) == {0, 1}
        assert set(labels[fold.test]) == {0, 1}


def test_folds_follow_the_seed() -> None:
    labels = np.arange(40) % 2
    first, again, other = (
        [fold.test.tolist() for fold in grouped_folds(labels, np.arange(40), 4, seed=seed)]
        for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other


def test_too_few_patients_of_a_class() -> None:
    with pytest.raises(LabelError, match="class 1 has 2 patients, too few for 3 folds"):
        grouped_folds([0, 0, 0, 1, 1, 1], ["a", "b", "c", "d", "e", "e"], 3)
    with pytest.raises(LabelError, match="only one class"):
        grouped_folds([0, 0, 0], ["a", "b", "c"], 2)


def test_a_patient_on_both_sides_is_refused() -> None:
    assert_no_leak(["a", "b"], ["c"])
    with pytest.raises(LeakError, match="2 patients are in training and in test: a, b"):
        assert_no_leak(["a", "b", "c"], ["b", "a"])


def test_permuted_labels_keep_patients_and_counts() -> None:
    groups = np.repeat(np.arange(30), np.arange(30) % 3 + 1)
    labels = groups % 2
    permuted = permute_labels(labels, groups, np.random.default_rng(0))
    assert permuted.sum() == labels.sum()
    assert (permuted != labels).any()
    for g in range(30):
        assert len(set(permuted[groups == g])) == 1


def test_permutation_p_is_uniform_without_signal_and_small_with() -> None:
    labels, scores = sample(60, shift=1.5)
    assert permutation_p(labels, scores, np.arange(60), n=500) == pytest.approx(1 / 501)
    nulls = [
        permutation_p(labels, sample(60, 0.0, seed)[1], np.arange(60), n=100)
        for seed in range(1, 61)
    ]
    assert stats.kstest(nulls, "uniform").pvalue > 0.001
