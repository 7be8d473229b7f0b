"""Which connections a fitted model's diagnosis rests on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .examples import Examples
from .graph_model import FittedGraphModel
from .models import Fitted, FittedLinear

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Edge:
    """A connection and what it weighs in a model."""

    i: int
    j: int
    importance: float


def edge_importance(fitted: Fitted, examples: Examples) -> Array | None:
    """Importance of every edge to a model: float64 [r, r], symmetric, at least 0, or None.

    Linear model: its activation pattern, the correlation of the edge with the model's log-odds over
    ``examples``; unlike the weight, it is not drawn to edges that only cancel noise of others.
    Graph network: gradient times input, with the edge's mean as the baseline,
    :math:`\\operatorname{mean}_s |g_s (a_s - \\bar a)|`. A model that sees no edge has none.

    References
    ----------
    Haufe et al. (2014), On the interpretation of weight vectors, NeuroImage 87. Shrikumar et al.
    (2017), Learning important features, ICML: gradient times input.
    """
    match fitted:
        case FittedLinear():
            return _square(_pattern(fitted, examples), examples.adjacency.shape[1])
        case FittedGraphModel():
            away = examples.adjacency - examples.adjacency.mean(0)
            return np.asarray(np.abs(fitted.gradient(examples) * away).mean(0), np.float64)
        case _:
            return None


def top_edges(importance: Array, k: int) -> list[Edge]:
    """The k most important edges, i < j, the first the most important; ties by position."""
    rows, columns = np.triu_indices(len(importance), 1)
    values = importance[rows, columns]
    best = np.argsort(-values, kind="stable")[:k]
    return [Edge(int(rows[e]), int(columns[e]), float(values[e])) for e in best]


def _pattern(fitted: FittedLinear, examples: Examples) -> Array:
    edges, logits = examples.edges, fitted.decision(examples)
    edges = edges - edges.mean(0)
    logits = logits - logits.mean()
    scale = np.sqrt((edges**2).sum(0) * (logits**2).sum())
    moved = np.abs(logits @ edges)
    pattern: Array = np.divide(moved, scale, out=np.zeros_like(moved), where=scale > 1e-12)
    return pattern


def _square(edges: Array, n_regions: int) -> Array:
    matrix = np.zeros((n_regions, n_regions))
    matrix[np.triu_indices(n_regions, 1)] = edges
    return matrix + matrix.T
