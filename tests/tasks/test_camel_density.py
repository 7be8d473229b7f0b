"""How much of positive images is positive, from scores alone: on mixtures whose share is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from microtome.tasks.camel.density import (
    at_least_one,
    expected_jaccard,
    mixture_posterior,
    moved_prior,
    negative_share,
    platt,
)


def mixture(share: float, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores of a mixture: positives about 3, a share of negatives about 0; and their truth."""
    rng = np.random.default_rng(seed)
    truth = rng.random(n) >= share
    return rng.normal(np.where(truth, 3.0, 0.0)), truth


@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.9])
def test_the_share_of_negatives_is_found(share: float) -> None:
    negative = np.random.default_rng(0).normal(size=(4000, 1))
    scores, _ = mixture(share, 4000, seed=1)
    assert negative_share(negative, scores[:, None]) == pytest.approx(share, abs=0.06)


def test_a_mixture_of_negatives_alone_has_a_share_near_one() -> None:
    rng = np.random.default_rng(0)
    assert negative_share(rng.normal(size=(2000, 1)), rng.normal(size=(2000, 1))) > 0.9


@pytest.mark.parametrize("share", [0.2, 0.8])
def test_the_posterior_of_a_mixture_is_bayes_rule(share: float) -> None:
    x = np.linspace(-2, 5, 50)
    positive, negative = norm.pdf(x, 3), norm.pdf(x)
    mixed = (1 - share) * positive + share * negative
    truth = (1 - share) * positive / mixed
    assert np.allclose(mixture_posterior(np.log(mixed / negative), share), truth)


def test_moving_a_prior_is_bayes_rule_with_the_other_prior() -> None:
    x = np.linspace(-2, 5, 50)
    positive, negative = norm.pdf(x, 3), norm.pdf(x)

    def posterior(prior: float) -> np.ndarray:
        joint = prior * positive
        return np.asarray(joint / (joint + (1 - prior) * negative))

    assert np.allclose(moved_prior(posterior(0.4), 0.4, 0.1), posterior(0.1), atol=1e-5)


def test_at_least_one_is_the_law_of_conditional_probability() -> None:
    p = np.array([[0.2, 0.5, 0.1]])
    outcomes = np.array([[a, b, c] for a in (0, 1) for b in (0, 1) for c in (0, 1)])
    weight = np.prod(np.where(outcomes == 1, p, 1 - p), axis=1) * outcomes.any(axis=1)
    truth = (weight[:, None] * outcomes).sum(axis=0) / weight.sum()
    assert np.allclose(at_least_one(p)[0], truth)


def test_the_most_suspicious_instance_of_a_positive_image_is_never_less_likely_than_not() -> None:
    assert at_least_one(np.full((1, 16), 1e-9)).max() == 0.5


def test_platt_scaling_finds_the_scale_that_scores_were_stretched_by() -> None:
    rng = np.random.default_rng(0)
    z = rng.normal(0, 2, 20000)
    labels = rng.random(20000) < 1 / (1 + np.exp(-z))
    slope, offset = platt(4 * z + 1, labels, np.ones(20000))
    assert slope == pytest.approx(0.25, rel=0.1)
    assert offset == pytest.approx(-0.25, abs=0.1)


@pytest.mark.parametrize("share", [0.25, 0.6, 0.92])
@pytest.mark.parametrize("threshold", [0.5, 1.5, 2.5])
def test_the_expected_jaccard_index_is_the_true_one(share: float, threshold: float) -> None:
    negative = np.random.default_rng(2).normal(size=50000)
    scores, truth = mixture(share, 50000, seed=3)
    said = scores > threshold
    actual = (said & truth).sum() / (said | truth).sum()
    assert expected_jaccard(said, negative > threshold, share) == pytest.approx(actual, abs=0.03)
