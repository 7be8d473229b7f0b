"""Label enrichment that adapts to how much of an image is positive. Imports torch.

docs/concepts/camel.md tells what is done and why. Everything is decided by scores of images that
the scoring network was not fitted on, and by labels of images alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from torch import nn

from ..evaluation import Fold, grouped_folds
from .density import (
    at_least_one,
    expected_jaccard,
    mixture_posterior,
    moved_prior,
    negative_share,
    platt,
)
from .faithful import retrained
from .fitting import fit_targets, logits_of
from .lattice import Lattice
from .settings import EnrichSettings
from .stages import Stages

Floats = NDArray[np.floating]
Levels = Sequence[Lattice]
Fit = Callable[["_Across", NDArray[np.int64], EnrichSettings, str], nn.Module | None]


_MARGIN = 0.02
"""The adaptive candidate stands unless another is expected to be better by more than this."""


@dataclass(frozen=True)
class Candidate:
    """A way to label the instances of positive images, fitted on all folds but one in turn.

    Attributes
    ----------
    networks
        One a fold.
    slope, offset
        expit(slope · logit + offset) is its probability for images whose label is not known.
    probability
        [n, m]: of each instance, were its image positive, by the network that did not see it.
    score
        Expected Jaccard index of calling positive what is at least one half.
    """

    name: str
    networks: tuple[nn.Module, ...]
    slope: float
    offset: float
    probability: Floats
    score: float = 0.0


@dataclass(frozen=True)
class RobustResult:
    """The candidate chosen, all of them, and the share π of positives in positive images."""

    chosen: Candidate
    candidates: tuple[Candidate, ...]
    positive_share: float


def robust(levels: Levels, settings: EnrichSettings, stages: Stages) -> RobustResult:
    """Fit all candidates across folds; take the one whose expected Jaccard index is highest.

    The adaptive one is taken unless another is better by a margin.
    """
    final = levels[-1]
    across = _Across(levels, inner_folds(final, settings), settings, stages)
    naive, scores = _naive(across)
    share = _share(scores, final)
    painted = replace(naive, name="image label", probability=np.ones_like(naive.probability))
    candidates = [painted, naive]
    if settings.rounds:
        adaptive, share = _adaptive(across, scores, share)
        candidates.append(adaptive)
    scores, networks = across.fitted("faithful", _fit_faithful)
    candidates.append(Candidate("faithful", networks, 1.0, 0.0, expit(scores)))

    rated = tuple(_rated(candidate, final, share) for candidate in candidates)
    chosen = max(rated, key=lambda c: c.score + _MARGIN * (c.name == "adaptive"))
    return RobustResult(chosen, rated, 1 - share)


def refined(parts: Lattice, settings: EnrichSettings, stages: Stages) -> NDArray[np.float64]:
    """Say which parts of labelled instances are positive: enrichment, one level further down.

    Parameters
    ----------
    parts
        Each instance as an image of its own, with the label that it was given.

    Returns
    -------
    float64 [n, m]
        Probability of each part, were its instance positive.
    """
    across = _Across([parts], inner_folds(parts, settings), settings, stages, "refine-")
    _, scores = _naive(across)
    found, _ = _adaptive(across, scores, _share(scores, parts))
    return np.asarray(found.probability, np.float64)


def _naive(across: _Across) -> tuple[Candidate, Floats]:
    """A classifier of image labels, and its logits."""
    final = across.levels[-1]
    fit = _soft(_image_labels(final), _even(final), constraint=False)
    scores, networks = across.fitted("naive", fit)
    return Candidate("naive", networks, 1.0, 0.0, expit(scores)), scores


def _adaptive(across: _Across, scores: Floats, share: float) -> tuple[Candidate, float]:
    """Label by Bayes' rule with the share of negatives, fit on that, and again.

    Starts at the logits and the share of a classifier of image labels; also returns the share
    that was found last.
    """
    final = across.levels[-1]
    even = _even(final)
    slope, offset = platt(scores, _image_labels(final), even)
    probability = mixture_posterior(slope * scores + offset, share)
    networks: tuple[nn.Module, ...] = ()
    for number in range(max(across.settings.rounds, 1)):
        soft = _targets(probability, final)
        weights = even * np.abs(2 * soft - 1)
        scores, networks = across.fitted(f"adaptive-{number + 1}", _soft(soft >= 0.5, weights))
        slope, offset = platt(scores, soft, even)
        share = _share(scores, final)
        pooled = expit(slope * scores + offset)
        probability = moved_prior(pooled, (1 - share) / 2, 1 - share)
    return Candidate("adaptive", networks, slope, offset, probability), share


def inner_folds(lattice: Lattice, settings: EnrichSettings) -> list[Fold]:
    """Folds by group; by image where a label has fewer than two groups."""
    groups = lattice.groups
    if _scarcest(lattice.labels, groups) < 2:
        groups = np.arange(len(lattice)).astype(str)
    count = min(settings.members, _scarcest(lattice.labels, groups))
    return grouped_folds(lattice.labels.astype(np.int64), groups, count, seed=settings.seed)


def _scarcest(labels: NDArray[np.bool_], groups: NDArray[np.str_]) -> int:
    """Number of groups of the label that has the fewest."""
    return min(len(np.unique(groups[labels == value])) for value in (False, True))


@dataclass(frozen=True)
class _Across:
    levels: Levels
    folds: Sequence[Fold]
    settings: EnrichSettings
    stages: Stages
    prefix: str = ""

    def fitted(self, name: str, fit: Fit) -> tuple[Floats, tuple[nn.Module, ...]]:
        """Logits [n, m] of each image by the network that was not fitted on it; the networks."""
        final = self.levels[-1]
        scores = np.zeros((len(final), final.count))
        networks = []
        for number, fold in enumerate(self.folds):
            settings = replace(self.settings, seed=self.settings.seed + 1000 * number)
            network = fit(self, fold.train, settings, f"{self.prefix}{name}-fold-{number}")
            if network is not None:
                networks.append(network)
                scores[fold.test] = logits_of(network, final.subset(fold.test), settings)
        return scores, tuple(networks)


def _soft(targets: NDArray[Any], weights: Floats, *, constraint: bool = True) -> Fit:
    """Fit on the soft labels of all instances."""

    def fit(
        across: _Across, rows: NDArray[np.int64], settings: EnrichSettings, name: str
    ) -> nn.Module:
        part = across.levels[-1].subset(rows)
        settings = replace(settings, constraint=constraint and settings.constraint)
        soft, weight = (a[rows].astype(np.float32) for a in (targets, weights))
        return across.stages.network(
            name,
            part,
            settings,
            lambda: fit_targets(part, soft, weight, settings, seed=settings.seed),
        )

    return fit


def _fit_faithful(
    across: _Across, rows: NDArray[np.int64], settings: EnrichSettings, name: str
) -> nn.Module | None:
    levels = [level.subset(rows) for level in across.levels]
    return retrained(levels, settings, across.stages, name=name)


def _share(scores: Floats, lattice: Lattice) -> float:
    """Share of negatives in positive images; each of these holds one positive at least."""
    found = negative_share(scores[~lattice.labels], scores[lattice.labels])
    return min(found, 1 - 1 / lattice.count)


def _targets(probability: Floats, lattice: Lattice) -> Floats:
    """Soft labels: the posterior in positive images, 0 for the true negatives of the others."""
    return np.where(lattice.labels[:, None], at_least_one(probability), 0.0)


def _image_labels(lattice: Lattice) -> Floats:
    """The image's label on every instance: [n, m]."""
    return np.repeat(lattice.labels[:, None], lattice.count, axis=1).astype(np.float64)


def _even(lattice: Lattice) -> Floats:
    """Weights [n, m] with which positive and negative images count the same."""
    share = lattice.labels.mean()
    weight = np.where(lattice.labels, 0.5 / share, 0.5 / (1 - share))
    return np.repeat(weight[:, None], lattice.count, axis=1)


def _rated(candidate: Candidate, lattice: Lattice, share: float) -> Candidate:
    positive = candidate.probability >= 0.5
    score = expected_jaccard(positive[lattice.labels], positive[~lattice.labels], share)
    return replace(candidate, score=score if candidate.networks else 0.0)
