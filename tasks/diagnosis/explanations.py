"""What can be said of a family beside its scores: what it rests on, and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..evaluation import Estimate, bootstrap
from .evaluate import FoldModel, OutOfFold
from .examples import Examples
from .explain import edge_importance
from .faithfulness import FRACTIONS, Curves, deletion_curves, rank_agreement
from .models import Fitted, Model
from .multiplex_model import FittedMultiplex
from .steps import seen_by

Array = NDArray[np.float64]

N_SEEDS = 5


@dataclass(frozen=True, eq=False)
class Explanation:
    """Connections that a model rests on, and whether they can be relied upon.

    Attributes
    ----------
    importance
        float64 [r, r], or [l, r, r] with layers: of the model fitted on all rows.
    curves
        Deletion and insertion in rows that were held out, mean over the folds.
    seeds
        Mean rank correlation of importance between fits on the same rows with other seeds.
    folds
        The same between the models of the folds, which share most of their people.
    """

    importance: Array
    curves: Curves
    seeds: float
    folds: float

    def as_json(self) -> dict[str, Any]:
        """Figures for ``results.json``."""
        curves = self.curves
        return {
            "fractions": list(FRACTIONS),
            **{name: values.tolist() for name, values in vars(curves).items()},
            "deletion_gap": curves.deletion_gap,
            "insertion_gap": curves.insertion_gap,
            "rank_correlation_seeds": self.seeds,
            "rank_correlation_folds": self.folds,
        }


@dataclass(frozen=True)
class LayerUse:
    """What a layer does for a model, by rows that were held out and have more than one.

    Attributes
    ----------
    whole, without, alone
        AUC of these rows as they are, when the layer is taken from them, and when it is all that
        they are left; the model stays the same.
    share
        Mean weight of the layer in a multiplex network; None for other models.
    """

    layer: str
    whole: Estimate
    without: Estimate
    alone: Estimate
    share: float | None


def explain(
    model: Model, fitted: Fitted, examples: Examples, folds: Sequence[FoldModel], seed: int
) -> Explanation | None:
    """Explain a model; None if it sees no connection.

    Parameters
    ----------
    fitted
        ``model`` fitted on all rows with ``seed``.
    folds
        The models that were scored.
    """
    importance = edge_importance(fitted, examples)
    if importance is None:
        return None
    others = [model.fit(examples, seed=seed + n) for n in range(1, N_SEEDS)]
    seeds = [importance, *(_importance(one, examples) for one in others)]
    curves, of_folds = [], []
    for number, one in enumerate(folds):
        train, test = examples.take(one.fold.train), examples.take(one.fold.test)
        of_folds.append(_importance(one.fitted, train))
        curves.append(deletion_curves(one.fitted, train, test, of_folds[-1], seed=seed + number))
    return Explanation(
        importance, Curves.mean_of(curves), rank_agreement(seeds), rank_agreement(of_folds)
    )


def layer_use(
    end: OutOfFold, examples: Examples, folds: Sequence[FoldModel], names: Sequence[str], seed: int
) -> list[LayerUse]:
    """Take each layer away from held-out rows, and leave it alone, with the folds' own models.

    Raises
    ------
    LabelError
        The rows with more than one layer are all of one class.
    """
    several = examples.present.sum(1) > 1
    whole = _auc(end.scores, end, examples, several, seed)
    found = []
    for layer, name in enumerate(names):
        others = np.arange(len(names)) != layer
        without, alone = (
            _auc(_scores(hidden(examples, gone), folds), end, examples, several, seed)
            for gone in (~others, others)
        )
        found.append(LayerUse(name, whole, without, alone, _share(examples, folds, layer)))
    return found


def layers_as_json(used: Sequence[LayerUse]) -> list[dict[str, Any]]:
    """Figures for ``results.json``."""
    return [asdict(one) for one in used]


def hidden(examples: Examples, layers: NDArray[np.bool_]) -> Examples:
    """The same rows without the given layers, bool [l]."""
    adjacency = examples.layers.copy()
    adjacency[:, layers] = np.nan
    return replace(examples, adjacency=adjacency)


def _importance(fitted: Fitted, examples: Examples) -> Array:
    found = edge_importance(fitted, examples)
    assert found is not None
    return found


def _scores(examples: Examples, folds: Sequence[FoldModel]) -> Array:
    """Held-out probabilities; nan for rows that have no layer left."""
    scores = np.full(len(examples), np.nan)
    for one in folds:
        rows = one.fold.test[examples.present[one.fold.test].any(1)]
        if len(rows):
            scores[rows] = one.fitted.predict_proba(examples.take(rows))
    return scores


def _auc(
    scores: Array, end: OutOfFold, examples: Examples, several: NDArray[np.bool_], seed: int
) -> Estimate:
    rows = several & np.isfinite(scores)
    return bootstrap(end.labels[rows], scores[rows], examples.groups[rows], seed=seed)


def _share(examples: Examples, folds: Sequence[FoldModel], layer: int) -> float | None:
    shares = []
    for one in folds:
        model, rows = seen_by(one.fitted, examples.take(one.fold.test))
        if not isinstance(model, FittedMultiplex):
            return None
        shares.append(model.shares(rows)[:, layer])
    return float(np.concatenate(shares).mean())
