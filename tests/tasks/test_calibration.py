"""Calibration against scikit-learn and closed forms; nothing is fitted on what it is told of."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import logit
from sklearn.calibration import calibration_curve
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, roc_curve

from microtome.storage.errors import BadProduct, LabelError
from microtome.tasks.calibration import (
    by_fold,
    by_isotonic,
    by_temperature,
    least_certainty,
    operating_point,
    platt_targets,
    reliability,
    temperature,
    tempered,
)
from microtome.tasks.evaluation import brier_score, calibration_error
from microtome.tasks.mil.inner import Inner
from microtome.tasks.mil.targets import Target
from microtome.tasks.mil.usable import Binary, reliability_plot, usable


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
    assert np.sum((changed - platt_targets(labels)) * z) == pytest.approx(0, abs=1e-3)
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


def binary(n: int = 400, n_folds: int = 5) -> Binary:
    """Too sure, in each fold as within it; what is said within a fold is drawn apart."""
    labels, p = overconfident(n)
    fold = np.arange(n) % n_folds
    rng, inner = np.random.default_rng(1), {}
    for k in range(n_folds):
        rows = np.flatnonzero(fold != k)
        said = 1 / (1 + np.exp(-logit(p[rows]) - rng.normal(0, 0.1, len(rows))))
        inner[k] = Inner(rows, np.stack([1 - said, said], axis=1))
    target = Target("classes", ("no", "yes"), labels)
    return Binary(target, p, fold, np.arange(n).astype(str), inner)


def test_calibration_mends_what_was_too_sure() -> None:
    said = binary()
    labels = said.target.truth
    before, *others = said.versions().values()
    for changed in others:
        assert calibration_error(labels, changed) < calibration_error(labels, before) / 1.5
        assert brier_score(labels, changed) < brier_score_loss(labels, before)


def test_a_fold_goes_through_the_map_of_its_own_inner_slides_and_no_other() -> None:
    """Against a loop over the folds; other truth in a fold moves the maps of the others alone."""
    said = binary()
    labels, found = said.target.truth, said.changed(by_isotonic)
    for k, part in said.inner.items():
        here = said.fold == k
        theirs = IsotonicRegression(out_of_bounds="clip").fit(part.outputs[:, 1], labels[part.rows])
        np.testing.assert_allclose(found[here], theirs.predict(said.probabilities[here]))
    flipped = replace(said.target, truth=np.where(said.fold == 2, 1 - labels, labels))
    other = replace(said, target=flipped)
    for fit in (by_temperature, by_isotonic):
        before, after = said.changed(fit), other.changed(fit)
        np.testing.assert_array_equal(before[said.fold == 2], after[said.fold == 2])
        assert not np.array_equal(before[said.fold == 1], after[said.fold == 1])


def test_each_fold_has_a_map_of_its_own() -> None:
    fitted = {0: lambda p: p / 2, 1: lambda p: p * 0 + 1}
    np.testing.assert_array_equal(by_fold([0.2, 0.4, 0.6], [0, 1, 0], fitted), [0.1, 1, 0.3])


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
    said = binary()
    labels, p = said.target.truth, said.probabilities
    found = usable(said, sensitivity=0.9, abstain=0.3)
    assert found.sensitivity.value == pytest.approx(0.9, abs=0.05)
    assert found.spoken.value == pytest.approx(0.7, abs=0.05)
    assert found.accuracy.value > np.mean((p > 0.5) == labels)
    assert found.calibration["temperature"]["calibration_error"].high > 0
    for name, values in said.versions().items():
        assert found.reliability[name] == reliability(labels, values)
    assert reliability_plot(found.reliability).startswith(b"\x89PNG")
    least = least_certainty(p, 0.3)
    assert np.mean(np.abs(p - 0.5) < least) == pytest.approx(0.3, abs=0.01)


def test_three_classes_have_no_threshold_and_old_predictions_none_either() -> None:
    three = Target("classes", ("a", "b", "c"), np.array([0]))
    with pytest.raises(LabelError, match="two classes"):
        Binary(three, np.array([0.5]), np.array([0]), np.array(["p"]), {})
    two = Target("classes", ("a", "b"), np.array([0]))
    with pytest.raises(BadProduct, match="train again"):
        Binary(two, np.array([0.5]), np.array([0]), np.array(["p"]), {})


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
