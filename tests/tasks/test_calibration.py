"""Calibration against scikit-learn and closed forms; nothing is fitted on what it is told of."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import logit
from sklearn.calibration import calibration_curve
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, roc_curve

from microtome.storage.errors import LabelError
from microtome.tasks.calibration import (
    by_isotonic,
    by_temperature,
    least_certainty,
    on_other_folds,
    operating_point,
    platt_targets,
    reliability,
    temperature,
    tempered,
)
from microtome.tasks.evaluation import brier_score, calibration_error
from microtome.tasks.mil.targets import Target
from microtome.tasks.mil.usable import usable
from microtome.tasks.mil.versus import Said


def overconfident(n: int = 400, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    z = rng.normal(0, 1.2, n)
    labels = (rng.random(n) < 1 / (1 + np.exp(-z))).astype(int)
    return labels, 1 / (1 + np.exp(-3 * z))


def test_temperature_is_a_logistic_regression_without_intercept() -> None:
    labels, p = overconfident()
    z = np.log(p / (1 - p))[:, None]
    slope = LogisticRegression(C=1e12, fit_intercept=False, tol=1e-10).fit(z, labels).coef_[0, 0]
    assert temperature(labels, p) == pytest.approx(1 / slope, rel=1e-3)
    assert temperature(labels, p) == pytest.approx(3, rel=0.25)


def test_a_temperature_solves_its_equation_and_keeps_order() -> None:
    labels, p = overconfident()
    changed = by_temperature(labels, p)(p)
    z = np.log(p / (1 - p))
    assert np.sum((changed - labels) * z) == pytest.approx(0, abs=1e-3)
    assert np.array_equal(np.argsort(changed), np.argsort(p))
    assert by_temperature(labels, p)(np.array([0.5])) == 0.5
    sure = np.where(labels == 1, 0.9, 0.1)
    assert temperature(labels, sure) == pytest.approx(np.exp(-6))
    assert temperature(1 - labels, sure) == pytest.approx(np.exp(6))


def test_isotonic_is_scikit_learns() -> None:
    labels, p = overconfident()
    new = np.linspace(0, 1, 50)
    theirs = IsotonicRegression(out_of_bounds="clip").fit(p, labels).predict(new)
    np.testing.assert_allclose(by_isotonic(labels, p)(new), theirs)


def test_calibration_mends_what_was_too_sure() -> None:
    labels, p = overconfident()
    fold = np.arange(400) % 5
    for fit in (by_temperature, by_isotonic):
        changed = on_other_folds(labels, p, fold, fit)
        assert calibration_error(labels, changed) < calibration_error(labels, p) / 1.5
        assert brier_score(labels, changed) < brier_score_loss(labels, p)


def test_a_fold_is_not_calibrated_by_its_own_labels() -> None:
    labels, p = overconfident()
    fold = np.arange(400) % 5
    other = np.where(fold == 2, 1 - labels, labels)
    for fit in (by_temperature, by_isotonic):
        before = on_other_folds(labels, p, fold, fit)
        after = on_other_folds(other, p, fold, fit)
        np.testing.assert_array_equal(before[fold == 2], after[fold == 2])
        assert not np.array_equal(before[fold == 1], after[fold == 1])


def test_the_reliability_plot_is_scikit_learns_and_adds_up_to_the_error() -> None:
    labels, p = overconfident()
    found = reliability(labels, p)
    share, said = calibration_curve(labels, p, n_bins=10)
    np.testing.assert_allclose([point.found for point in found], share)
    np.testing.assert_allclose([point.said for point in found], said)
    error = sum(point.n * abs(point.said - point.found) for point in found) / 400
    assert error == pytest.approx(calibration_error(labels, p))


@given(
    st.lists(st.tuples(st.integers(0, 1), st.integers(0, 9)), min_size=1, max_size=30),
    st.sampled_from([0.5, 0.8, 0.9, 0.95, 1.0]),
)
def test_the_operating_point_is_the_highest_of_the_roc_curve(
    rows: list[tuple[int, int]], wanted: float
) -> None:
    labels, scores = (np.array(column) for column in zip(*rows, strict=True))
    if not labels.any():
        with pytest.raises(LabelError):
            operating_point(labels, scores, wanted)
        return
    reached = [t for t in scores if np.mean(scores[labels == 1] >= t) >= wanted - 1e-12]
    assert operating_point(labels, scores, wanted) == max(reached)


def test_the_operating_point_is_on_scikit_learns_curve() -> None:
    labels, p = overconfident()
    _, tpr, thresholds = roc_curve(labels, p, drop_intermediate=False)
    assert operating_point(labels, p, 0.9) == thresholds[np.flatnonzero(tpr >= 0.9)[0]]


def test_what_a_model_is_good_for() -> None:
    labels, p = overconfident()
    said = Said(
        ids=tuple(map(str, range(400))),
        target=Target("classes", ("no", "yes"), labels),
        outputs=np.stack([1 - p, p], axis=1),
        patients=np.arange(400).astype(str),
        fold=np.arange(400) % 5,
        splits="",
    )
    found = usable(said, sensitivity=0.9, abstain=0.3)
    assert found.sensitivity.value == pytest.approx(0.9, abs=0.05)
    assert found.spoken.value == pytest.approx(0.7, abs=0.05)
    assert found.accuracy.value > np.mean((p > 0.5) == labels)
    assert found.calibration["temperature"]["calibration_error"].high > 0
    least = least_certainty(p, 0.3)
    assert np.mean(np.abs(p - 0.5) < least) == pytest.approx(0.3, abs=0.01)


def test_three_classes_have_no_threshold() -> None:
    said = Said(
        ("a",), Target("classes", ("a", "b", "c"), np.array([0])), np.ones((1, 3)) / 3,
        np.array(["p"]), np.array([0]), "",
    )  # fmt: skip
    with pytest.raises(LabelError, match="two classes"):
        usable(said)


def test_tempering_is_the_logit_divided_and_keeps_the_order_of_classes() -> None:
    p = np.array([0.03, 0.5, 0.98])
    pairs = np.stack([1 - p, p], axis=1)
    np.testing.assert_allclose(tempered(pairs, 1.0), pairs)
    np.testing.assert_allclose(logit(tempered(pairs, 2.5)[:, 1]), logit(p) / 2.5, atol=1e-9)
    np.testing.assert_allclose(tempered([0.2, 0.5, 0.3], 3.0).argsort(), [0, 2, 1])


def test_few_slides_without_error_do_not_make_certainty() -> None:
    """Platt's targets: 0.9 of 8 positives, and so a temperature that is no limit."""
    labels, p = np.repeat([0, 1], 8), np.repeat([0.2, 0.8], 8)
    np.testing.assert_allclose(platt_targets(labels), np.repeat([0.1, 0.9], 8))
    sure = tempered(np.stack([1 - p, p], 1), temperature(platt_targets(labels), p))
    np.testing.assert_allclose(sure[:, 1], np.repeat([0.1, 0.9], 8), atol=1e-6)
