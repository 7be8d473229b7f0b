"""Which connections a fitted model's diagnosis rests on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...graphs.matrices import networks_of
from .examples import Examples
from .graph_model import FittedGraphModel
from .models import Fitted, FittedLinear, moments
from .multiplex_model import FittedMultiplex
from .steps import seen_by

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
    :math:`\\operatorname{mean}_s |g_s (a_s - \\bar a)|`. Behind harmonisation or in tangent space,
    of the edges as the model sees them. With layers [l, r, r]. A model that sees no edge has none.

    References
    ----------
    Haufe et al. (2014), On the interpretation of weight vectors, NeuroImage 87. Shrikumar et al.
    (2017), Learning important features, ICML: gradient times input.
    """
    fitted, examples = seen_by(fitted, examples)
    match fitted:
        case FittedLinear():
            *shape, n_regions, _ = examples.adjacency.shape
            return networks_of(_pattern(fitted, examples).reshape(*shape[1:], -1), n_regions)
        case FittedGraphModel() | FittedMultiplex():
            away = examples.adjacency - moments(examples.adjacency)[0]
            slope = fitted.gradient(examples)
            return moments(np.abs(slope * away))[0]
        case _:
            return None


def node_importance(importance: Array) -> Array:
    """Importance of every region, half of that of its edges: [.., r, r] to float64 [.., r].

    Those of all regions add up to those of all edges.
    """
    found: Array = importance.sum(-1) / 2
    return found


def top_edges(importance: Array, k: int) -> list[Edge]:
    """The k most important edges, i < j, the first the most important; ties by position."""
    rows, columns = np.triu_indices(len(importance), 1)
    values = importance[rows, columns]
    best = np.argsort(-values, kind="stable")[:k]
    return [Edge(int(rows[e]), int(columns[e]), float(values[e])) for e in best]


def _pattern(fitted: FittedLinear, examples: Examples) -> Array:
    edges, logits = examples.edges, fitted.decision(examples)
    edges = np.nan_to_num(edges - moments(edges)[0])
    logits = logits - logits.mean()
    scale = np.sqrt((edges**2).sum(0) * (logits**2).sum())
    moved = np.abs(logits @ edges)
    pattern: Array = np.divide(moved, scale, out=np.zeros_like(moved), where=scale > 1e-12)
    return pattern
