"""Whether an explanation speaks of its model: what becomes of the model without those edges."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from .examples import Examples
from .models import Fitted
from .steps import seen_by

Array = NDArray[np.float64]

FRACTIONS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
"""Of the edges, that are deleted or kept."""

N_RANDOM = 3
_EXTREME = 1e-12


@dataclass(frozen=True, eq=False)
class Curves:
    """How far a model says the same with some edges only: correlations of its log-odds.

    Attributes
    ----------
    deletion, insertion
        float64 [f]: without the given fractions of the edges, the most important ones, and with
        these alone; other edges are held at their mean over the training rows.
    random_deletion, random_insertion
        The same of edges at random, mean of three drawings.
    """

    deletion: Array
    insertion: Array
    random_deletion: Array
    random_insertion: Array

    @property
    def deletion_gap(self) -> float:
        """By how much more deleting important edges changes than random ones: mean over curve."""
        return float(np.mean(self.random_deletion - self.deletion))

    @property
    def insertion_gap(self) -> float:
        """By how much more important edges keep than random ones."""
        return float(np.mean(self.insertion - self.random_insertion))

    @classmethod
    def mean_of(cls, curves: Iterable[Curves]) -> Curves:
        """The mean over folds."""
        parts = zip(*((c.deletion, c.insertion, c.random_deletion, c.random_insertion)
                      for c in curves), strict=True)  # fmt: skip
        return cls(*(np.mean(part, axis=0) for part in parts))


def deletion_curves(
    fitted: Fitted, train: Examples, test: Examples, importance: Array, *, seed: int = 0
) -> Curves:
    """Delete and insert edges of held-out rows in the order of their importance, and at random.

    Parameters
    ----------
    train
        Rows that the model was fitted on, for the means of edges.
    test
        Rows that it has not seen.
    importance
        [.., r, r], of the edges as the model sees them.

    References
    ----------
    Petsiuk, Das & Saenko (2018), RISE, BMVC: deletion and insertion. Samek et al. (2017), IEEE
    TNNLS 28:2660: deletion beside random deletion.
    """
    _, train = seen_by(fitted, train)
    model, test = seen_by(fitted, test)
    i, j = np.triu_indices(importance.shape[-1], 1)
    order = np.argsort(-importance[..., i, j].ravel(), kind="stable")
    rng = np.random.default_rng(seed)
    drawn = [rng.permutation(len(order)) for _ in range(N_RANDOM)]
    whole, typical = _log_odds(model, test), np.nanmean(train.edges, axis=0)
    counts = [max(1, round(fraction * len(order))) for fraction in FRACTIONS]

    def agreement(kept: NDArray[np.int64]) -> float:
        edges = np.where(np.isnan(test.edges), np.nan, typical)
        edges[:, kept] = test.edges[:, kept]
        return _correlation(whole, _log_odds(model, test.with_edges(edges)))

    def both(order: NDArray[np.int64]) -> Array:
        return np.array([[agreement(order[n:]), agreement(order[:n])] for n in counts]).T

    random = np.mean([both(one) for one in drawn], axis=0)
    return Curves(*both(order), *random)


def rank_agreement(importances: Sequence[Array]) -> float:
    """Mean Spearman correlation over all pairs of [.., r, r]; 1 where all rank edges alike."""
    from scipy.stats import rankdata

    i, j = np.triu_indices(importances[0].shape[-1], 1)
    ranks = [rankdata(one[..., i, j].ravel()) for one in importances]
    return float(np.mean([_correlation(a, b) for a, b in combinations(ranks, 2)]))


def _log_odds(fitted: Fitted, examples: Examples) -> Array:
    from scipy.special import logit

    chance = np.clip(fitted.predict_proba(examples), _EXTREME, 1 - _EXTREME)
    return np.asarray(logit(chance), np.float64)


def _correlation(a: Array, b: Array) -> float:
    """Pearson's; 0 where one does not vary."""
    a, b = a - a.mean(), b - b.mean()
    scale = np.sqrt((a**2).sum() * (b**2).sum())
    return float(a @ b / scale) if scale > _EXTREME else 0.0
