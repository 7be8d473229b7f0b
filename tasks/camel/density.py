"""How much of a positive image is positive: said by scores of instances that nobody labelled.

The instances of negative images are a sample of the negatives. Those of positive images are a
mixture: a share π of positives, 1 - π of negatives. Scores alone tell π, and with it how many
instances to take; nothing here sees the truth of an instance.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

Floats = NDArray[np.floating]
Bools = NDArray[np.bool_]

_DELTA = 0.1
_LEAST_BIN = 0.1
_TINY = 1e-6


def negative_share(negative: Floats, mixture: Floats) -> float:
    """Share 1 - π of negatives in a mixture.

    Best bin estimation (Garg et al. 2021, Mixture proportion estimation and PU learning, NeurIPS,
    algorithm 1): the least ratio, over thresholds c, of the parts of mixture and negatives that
    score at most c, at the c where its upper confidence bound is least.

    Parameters
    ----------
    negative, mixture
        Scores [a, m], [b, m] of the instances of a and b images, higher for positives. The bound
        counts images: the instances of one are no independent witnesses.

    Returns
    -------
    float
        0 … 1.
    """
    cuts = np.unique(negative)
    below_negative, below_mixture = (
        np.searchsorted(np.sort(s, axis=None), cuts, side="right") / s.size
        for s in (negative, mixture)
    )
    slack = sum(np.sqrt(np.log(4 / _DELTA) / (2 * len(s))) for s in (negative, mixture))
    wide = below_negative >= _LEAST_BIN
    ratio = below_mixture[wide] / below_negative[wide]
    bound = ratio + slack / below_negative[wide]
    return float(min(ratio[np.argmin(bound)], 1.0))


def mixture_posterior(mixture_logit: Floats, share: float) -> Floats:
    """Probability that an instance of a positive image is positive.

    ``mixture_logit`` is log f_mixture(x) / f_negative(x), what a classifier of image labels
    learns when both sides weigh the same. As f_mixture = π f₊ + (1 - π) f₋, the posterior is
    1 - (1 - π) f₋ / f_mixture, here with ``share`` = 1 - π, within 0 … 1.
    """
    return np.clip(1 - share * np.exp(-np.clip(mixture_logit, -30, 30)), 0, 1)


def moved_prior(probability: Floats, prior: float, other: float) -> Floats:
    """Posterior under another prior (Saerens et al. 2002, eq. 4): odds times the ratio of odds."""
    shift = float(logit(np.clip(other, _TINY, 1 - _TINY)) - logit(np.clip(prior, _TINY, 1 - _TINY)))
    return np.asarray(expit(logit(np.clip(probability, _TINY, 1 - _TINY)) + shift))


def at_least_one(posterior: Floats) -> Floats:
    """Posterior [n, m] given that every image holds a positive: p / (1 - Π_j (1 - p_j)).

    Instances are taken as independent given their scores; the most suspicious one of an image has
    probability one half at least.
    """
    none = np.prod(1 - posterior, axis=1, keepdims=True)
    given = posterior / np.maximum(1 - none, _TINY)
    highest = posterior >= posterior.max(axis=1, keepdims=True)
    return np.asarray(np.clip(np.where(highest, np.maximum(given, 0.5), given), 0, 1))


def platt(scores: Floats, targets: Floats, weights: Floats) -> tuple[float, float]:
    """Slope a and offset b such that expit(a s + b) is calibrated: Platt scaling.

    The slope is one over the temperature, and positive. ``targets`` are 0 … 1 and may be soft;
    all arguments have one shape.
    """
    from scipy.optimize import minimize

    values, truth, weight = (np.ravel(a).astype(np.float64) for a in (scores, targets, weights))
    weight = weight / weight.sum()

    def loss(parameters: Floats) -> float:
        z = np.exp(parameters[0]) * values + parameters[1]
        return float((weight * (np.logaddexp(0, z) - truth * z)).sum())

    best = minimize(loss, np.zeros(2), method="BFGS").x
    return float(np.exp(best[0])), float(best[1])


def expected_jaccard(in_positive: Bools, in_negative: Bools, share: float) -> float:
    """Jaccard index of labels of positive images, expected without the truth of any instance.

    With h the share labelled positive in positive images and e that in negative images (all of
    them errors, of the same rule), the true positives are t = h - (1 - π) e of the instances of
    positive images, and the union is h + π - t.

    Parameters
    ----------
    in_positive, in_negative
        Labels given to the instances of positive and of negative images, any shape.
    share
        1 - π.

    Returns
    -------
    float
        0 … 1.
    """
    labelled, wrong = float(in_positive.mean()), float(in_negative.mean())
    positives = 1 - share
    true = min(max(labelled - share * wrong, 0.0), positives, labelled)
    united = labelled + positives - true
    return true / united if united > 0 else 0.0
