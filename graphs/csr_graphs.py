"""Messages on large sparse graphs: a slide of tiles or cells, where a dense matrix would not fit.

:class:`CsrGraphs` is a third form of :class:`~microtome.graphs.batches.Graphs`, beside the dense
and DGL's, and gives their numbers. Sums over neighbours are products with a sparse matrix, so that
nothing is as long as the list of edges and as wide as the features.

This module imports torch: import it inside functions.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import block_diag, csr_array, eye_array
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .batches import Readout, edge_scores, softmax_by

AT_ONCE = 2**19
"""Edges that attention looks at together."""

Edges = tuple[Tensor, Tensor, Tensor]
"""Of each edge the node that it comes from, that it goes to (among those looked at), its weight."""


@dataclass(frozen=True, eq=False)
class CsrGraphs:
    """Graphs as one sparse matrix with a block for each.

    Weights are data: no gradient goes to them, as it does in the dense batch and in DGL's.

    Attributes
    ----------
    features
        float [n, f], a row for each node of the batch.
    adjacency
        Sparse [n, n]: weight of the edge from node i to node j.
    sizes
        Nodes of each graph; they sum to n.
    """

    features: Tensor
    adjacency: csr_array
    sizes: tuple[int, ...]

    def neighbour_sum(self, h: Tensor) -> Tensor:
        return self._sums(h)

    def neighbour_mean(self, h: Tensor) -> Tensor:
        return self._means(h)

    def convolve(self, h: Tensor) -> Tensor:
        return self._convolutions(h)

    def propagate(self, h: Tensor) -> Tensor:
        return self._propagations(h)

    @cached_property
    def _sums(self) -> Messages:
        return self._messages(self.adjacency)

    @cached_property
    def _means(self) -> Messages:
        neighbours = np.bincount(self.adjacency.indices, minlength=len(self.features))
        return self._messages(scaled(self.adjacency, None, 1 / np.maximum(neighbours, 1)))

    @cached_property
    def _convolutions(self) -> Messages:
        outgoing, incoming = (1 / np.sqrt(1 + strength) for strength in self._strengths)
        looped = csr_array(self.adjacency + eye_array(len(self.features)))
        return self._messages(scaled(looped, outgoing, incoming))

    @cached_property
    def _propagations(self) -> Messages:
        with np.errstate(divide="ignore"):
            roots = [1 / np.sqrt(strength) for strength in self._strengths]
        outgoing, incoming = (np.where(np.isfinite(root), root, 0) for root in roots)
        return self._messages(scaled(self.adjacency, outgoing, incoming))

    @cached_property
    def _strengths(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Of each node, outgoing and incoming."""
        strength = abs(self.adjacency).astype(np.float64)
        return strength.sum(axis=1), strength.sum(axis=0)

    def _messages(self, weights: csr_array) -> Messages:
        return Messages.along(weights, self.features)

    def attend(self, source: Tensor, target: Tensor, edge: Tensor, vector: Tensor) -> Tensor:
        """See :class:`~microtome.graphs.batches.Graphs`; for :data:`AT_ONCE` edges at a time.

        Where there are more, what is as long as these edges is made again on the way back.
        """
        again = len(self._incoming) > 1 and torch.is_grad_enabled()
        parts = []
        for nodes, edges in self._incoming:
            given = (source, target[nodes], edge, vector, edges)
            if again:
                parts.append(checkpoint(_attended, *given, use_reentrant=False))
            else:
                parts.append(_attended(*given))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    @cached_property
    def _incoming(self) -> list[tuple[slice, Edges]]:
        """Nodes, some at a time, and the edges into them."""
        incoming = csr_array(self.adjacency.T)
        return [
            (slice(start, stop), self._edges(incoming, start, stop))
            for start, stop in pieces(incoming.indptr, AT_ONCE)
        ]

    def _edges(self, incoming: csr_array, start: int, stop: int) -> Edges:
        rows = incoming.indptr[start : stop + 1].astype(np.int64)
        here = slice(rows[0], rows[-1])
        to = np.repeat(np.arange(stop - start), np.diff(rows))
        device = self.features.device
        weights = torch.from_numpy(incoming.data[here]).to(device, self.features.dtype)
        origin = torch.from_numpy(incoming.indices[here].astype(np.int64))
        return origin.to(device), torch.from_numpy(to).to(device), weights

    def readout(self, h: Tensor, how: Readout) -> Tensor:
        """See :class:`~microtome.graphs.batches.Graphs`; ``concat`` needs graphs of one size."""
        if how == "concat":
            if len(set(self.sizes)) > 1:
                raise ValueError("graphs of several sizes cannot be read out node by node")
            return h.reshape(len(self.sizes), -1)
        graphs = torch.split_with_sizes(h, list(self.sizes))
        match how:
            case "mean":
                return torch.stack([graph.mean(0) for graph in graphs])
            case "sum":
                return torch.stack([graph.sum(0) for graph in graphs])
            case "max":
                return torch.stack([graph.amax(0) for graph in graphs])


def csr_graphs(adjacencies: Sequence[Any], features: Tensor) -> CsrGraphs:
    """Batch graphs, each a sparse [n_i, n_i]; features [n, f] have a row for each node of all."""
    sizes = tuple(int(graph.shape[0]) for graph in adjacencies)
    whole = adjacencies[0] if len(adjacencies) == 1 else block_diag(adjacencies, format="csr")
    return CsrGraphs(features, csr_array(whole), sizes)


@dataclass(frozen=True, eq=False)
class Messages:
    """A sum over in-neighbours with fixed weights, as a function of node values [n, f].

    Attributes
    ----------
    there, back
        Sparse CSR [n, n]: row j of ``there`` has the weights of the edges into j; ``back`` is its
        transpose, which gradients go through.
    """

    there: Tensor
    back: Tensor

    @classmethod
    def along(cls, weights: csr_array, like: Tensor) -> Messages:
        """For weights [n, n] from row to column, with the type and device of a tensor."""
        return cls(_to_torch(csr_array(weights.T), like), _to_torch(weights, like))

    def __call__(self, h: Tensor) -> Tensor:
        passed: Tensor = _Pass.apply(self.there, self.back, h)  # type: ignore[no-untyped-call]
        return passed


class _Pass(torch.autograd.Function):
    """Product with a constant sparse matrix, whose transpose is at hand."""

    @staticmethod
    def forward(ctx: Any, there: Tensor, back: Tensor, h: Tensor) -> Tensor:
        ctx.matrices = there, back
        return there @ h

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[None, None, Tensor]:
        there, back = ctx.matrices
        return None, None, _Pass.apply(back, there, slopes[0])  # type: ignore[no-untyped-call]


def scaled(
    weights: csr_array, rows: NDArray[np.float64] | None, columns: NDArray[np.float64]
) -> csr_array:
    """Weights [n, n] times a number for each row, and one for each column."""
    data = weights.data * columns[weights.indices]
    if rows is not None:
        data = data * np.repeat(rows, np.diff(weights.indptr))
    return csr_array((data, weights.indices, weights.indptr), shape=weights.shape)


def pieces(starts: NDArray[Any], most: int) -> list[tuple[int, int]]:
    """Part rows, whose entries begin at ``starts`` [n + 1], so that a part has few entries.

    A row with more than ``most`` is a part of its own.
    """
    parts, first, n = [], 0, len(starts) - 1
    while first < n:
        last = int(np.searchsorted(starts, starts[first] + most, side="right")) - 1
        last = min(max(last, first + 1), n)
        parts.append((first, last))
        first = last
    return parts


def _to_torch(matrix: csr_array, like: Tensor) -> Tensor:
    # 32 bits where they do, as the library behind the product wants them.
    short = np.int32 if matrix.nnz < np.iinfo(np.int32).max else np.int64
    rows = torch.from_numpy(matrix.indptr.astype(short))
    columns = torch.from_numpy(matrix.indices.astype(short))
    values = torch.from_numpy(matrix.data).to(like.dtype)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse (CSR tensor support|invariant checks)")
        return torch.sparse_csr_tensor(
            rows,
            columns,
            values,
            list(matrix.shape),
            device=like.device,
            check_invariants=False,
        )


def _attended(
    source: Tensor,
    target: Tensor,
    edge: Tensor,
    vector: Tensor,
    edges: Edges,
) -> Tensor:
    """Attention [m, k, f] of m nodes over the edges into them."""
    origin, to, weights = edges
    ahead = source.flatten(1).index_select(0, origin)
    pairs = target.flatten(1).index_select(0, to).add_(ahead)
    shares = softmax_by(to, edge_scores(pairs, weights, edge, vector), len(target))
    taken = shares[..., None] * ahead.reshape(-1, *edge.shape)
    return torch.zeros_like(target).index_add(0, to, taken)
