"""Does a model keep to what multiple-instance learning assumes? Tests by Raff & Holt (2023).

Bags of three made-up problems whose rule is known. Each offers a shortcut in training that the
rule forbids and that points the other way in test: a model that took it has a test AUC below one
half, and one that did not, above.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..evaluation import auc
from .predict import predict_bag
from .train import Features, TrainOptions, fit

N_FEATURES = 16
_SHORTCUT = (-10.0, 0.1)
_CONCEPTS = ((2.0, 0.1), (3.0, 0.1))
_POSITIVES = ((0.0, 3.0), (1.0, 1.0))
_MANY = (35, 45)

Rng = np.random.Generator
Instances = NDArray[np.float64]
Draw = Callable[[Rng, bool, bool], Instances]


@dataclass(frozen=True)
class Verdict:
    """AUC of a model on new bags of a problem.

    Attributes
    ----------
    like_training
        With the shortcut as in training: whether the model learnt anything.
    test
        With the shortcut against the rule.
    """

    like_training: float
    test: float


def standard(rng: Rng, positive: bool, flipped: bool) -> Instances:
    """Draw a bag that is positive if and only if it holds a positive instance.

    Shortcut: all negative bags of training hold an instance that no positive one holds. It says
    nothing by the rule: no instance can make a bag negative.
    """
    parts = [_background(rng)]
    if positive:
        parts += [_draw(rng, _POSITIVES[rng.integers(2)]) for _ in range(rng.integers(1, 4))]
    return np.concatenate([*parts, *_shortcut(rng, positive, flipped)])


def threshold(rng: Rng, positive: bool, flipped: bool) -> Instances:
    """Draw a bag that is positive if and only if it holds instances of two concepts, not of one.

    Shortcut as in :func:`standard`.
    """
    parts = [_background(rng)]
    if positive:
        parts += [_draw(rng, concept, int(rng.integers(1, 4))) for concept in _CONCEPTS]
    else:
        parts.append(_draw(rng, _CONCEPTS[rng.integers(2)]))
    return np.concatenate([*parts, *_shortcut(rng, positive, flipped)])


def false_frequency(rng: Rng, positive: bool, flipped: bool) -> Instances:
    """Draw a bag that is positive if and only if it holds two concepts, however often each.

    Shortcut: in training, positive bags hold more instances of any concept than negative ones
    (two, not one); in test, negative bags hold some forty of a single one.
    """
    if positive:
        parts = [_draw(rng, concept) for concept in _CONCEPTS]
    else:
        count = int(rng.integers(*_MANY)) if flipped else 1
        parts = [_draw(rng, _CONCEPTS[rng.integers(2)], count)]
    return np.concatenate([_background(rng), *parts])


PROBLEMS: Mapping[str, Draw] = {
    "standard": standard,
    "threshold": threshold,
    "false frequency": false_frequency,
}


def draw_bags(
    problem: str, n_bags: int, *, flipped: bool, seed: int
) -> tuple[list[Features], NDArray[np.int64]]:
    """Draw bags of a problem, half of them positive.

    Parameters
    ----------
    problem
        One of :data:`PROBLEMS`.
    flipped
        Whether the shortcut points against the rule, as in test.

    Returns
    -------
    bags, labels
        float32 [n_i, 16] each; int [n_bags].
    """
    rng, labels = np.random.default_rng(seed), np.arange(n_bags) % 2
    draw = PROBLEMS[problem]
    return [draw(rng, bool(y), flipped).astype(np.float32) for y in labels], labels


def check(options: TrainOptions, problem: str, *, n_bags: int, seed: int = 0) -> Verdict:
    """Train a model on a problem and see whether it took the shortcut.

    Parameters
    ----------
    n_bags
        To train on; as many for each AUC.
    seed
        Of the bags; the model's is in the options.

    References
    ----------
    Raff & Holt (2023), Reproducibility in multiple instance learning: a case for algorithmic unit
    tests, NeurIPS, algorithms 1 to 3. Numbers of instances are ours.
    """
    bags, labels = draw_bags(problem, n_bags, flipped=False, seed=3 * seed)
    members = fit(bags, labels, np.arange(n_bags), options)

    def auc_of(tested: Sequence[Features], truth: NDArray[np.int64]) -> float:
        said = [predict_bag(members, bag).probabilities[1] for bag in tested]
        return float(auc(truth, np.array(said)))

    alike = draw_bags(problem, n_bags, flipped=False, seed=3 * seed + 1)
    flipped = draw_bags(problem, n_bags, flipped=True, seed=3 * seed + 2)
    return Verdict(auc_of(*alike), auc_of(*flipped))


def _draw(rng: Rng, concept: tuple[float, float], count: int = 1) -> Instances:
    mean, deviation = concept
    return rng.normal(mean, deviation, (count, N_FEATURES))


def _background(rng: Rng) -> Instances:
    return _draw(rng, (0.0, 1.0), int(rng.integers(1, 11)))


def _shortcut(rng: Rng, positive: bool, flipped: bool) -> list[Instances]:
    return [_draw(rng, _SHORTCUT)] if positive == flipped else []
