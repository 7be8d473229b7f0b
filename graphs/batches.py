"""Batches of connectomes that messages can be passed on: through DGL, or dense in PyTorch.

:class:`DglGraphs` passes messages along the edges of a batched DGL graph, :class:`DenseGraphs`
multiplies batched matrices, which is faster for a few hundred regions and runs on any device. Both
give the same numbers.

This module imports torch: import it inside functions.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from torch.nn.functional import leaky_relu, leaky_relu_

from .dgl_backend import import_dgl

Readout = Literal["concat", "mean", "sum", "max"]

SLOPE = 0.2
"""Of the leaky rectifier within attention."""


class Graphs(Protocol):
    """A batch of weighted graphs over the same number of regions.

    Node values ``h`` are [b, r, f] in the dense batch and [b · r, f] in DGL's.
    """

    @property
    def features(self) -> Tensor:
        """Node features that the first layer reads."""

    def neighbour_sum(self, h: Tensor) -> Tensor:
        r"""Sum over in-neighbours, :math:`\sum_i A_{ij} h_i` for region j; no self-loop."""

    def convolve(self, h: Tensor) -> Tensor:
        r"""Normalised sum with self-loops, :math:`(D^{-1/2} (A + I) D^{-1/2})^T h`."""

    def neighbour_mean(self, h: Tensor) -> Tensor:
        """The same, over the number of in-neighbours; 0 where there are none."""

    def propagate(self, h: Tensor) -> Tensor:
        r"""Normalised sum without self-loops, :math:`(D^{-1/2} A D^{-1/2})^T h`; 0 off edges."""

    def attend(self, source: Tensor, target: Tensor, edge: Tensor, vector: Tensor) -> Tensor:
        r"""Attention over in-neighbours, :math:`\sum_i \alpha_{ij} s_i` for region j.

        :math:`\alpha_{ij}` is the softmax over i of :math:`v \cdot f(s_i + t_j + A_{ij} e)`, with f
        the leaky rectifier; ``source`` s and ``target`` t are node values [.., k, f] for k heads,
        ``edge`` e and ``vector`` v are [k, f]. 0 where there are no in-neighbours.
        """

    def readout(self, h: Tensor, how: Readout) -> Tensor:
        """Node values [.., f] to graph values: [b, r · f] for ``concat``, else [b, f]."""


@dataclass(frozen=True)
class DenseGraphs:
    """Graphs as batched matrices.

    Attributes
    ----------
    features
        float [b, r, f].
    adjacency
        float [b, r, r]: weight of the edge from region i to region j, 0 where there is none and
        on the diagonal.
    """

    features: Tensor
    adjacency: Tensor

    @cached_property
    def _normalised(self) -> tuple[Tensor, Tensor]:
        strength = self.adjacency.abs()
        outgoing, incoming = 1 + strength.sum(2), 1 + strength.sum(1)
        scale = (outgoing[:, :, None] * incoming[:, None, :]).rsqrt()
        return self.adjacency * scale, (outgoing * incoming).rsqrt()[..., None]

    def neighbour_sum(self, h: Tensor) -> Tensor:
        return self.adjacency.transpose(1, 2) @ h

    def neighbour_mean(self, h: Tensor) -> Tensor:
        return self.neighbour_sum(h) / self._neighbours

    @cached_property
    def _neighbours(self) -> Tensor:
        return (self.adjacency != 0).sum(1).clamp(min=1)[..., None]

    @cached_property
    def _edges(self) -> tuple[Tensor, Tensor, Tensor]:
        """Of each edge: where from and where to among all nodes, and its place in the matrices."""
        regions = self.adjacency.shape[-1]
        place = torch.nonzero(self.adjacency.detach().flatten()).squeeze(1)
        origin = place // regions
        return origin, origin // regions * regions + place % regions, place

    def convolve(self, h: Tensor) -> Tensor:
        weights, self_loop = self._normalised
        return weights.transpose(1, 2) @ h + self_loop * h

    def propagate(self, h: Tensor) -> Tensor:
        strength = self.adjacency.abs()
        outgoing, incoming = inverse_root(strength.sum(2)), inverse_root(strength.sum(1))
        scaled = self.adjacency * outgoing[:, :, None] * incoming[:, None, :]
        return scaled.transpose(1, 2) @ h

    def attend(self, source: Tensor, target: Tensor, edge: Tensor, vector: Tensor) -> Tensor:
        (b, r, heads, _), (origin, to, place) = source.shape, self._edges
        ahead = source.reshape(b * r, -1).index_select(0, origin)
        pairs = target.reshape(b * r, -1).index_select(0, to).add_(ahead)
        weights = self.adjacency.flatten().index_select(0, place)
        shares = softmax_by(to, edge_scores(pairs, weights, edge, vector), b * r)
        # As matrices again: one product sums over neighbours, and nothing is as long as the edges.
        spread = shares.new_zeros(heads, b * r * r).index_copy(1, place, shares.T)
        gathered = spread.reshape(heads, b, r, r).transpose(2, 3) @ source.permute(2, 0, 1, 3)
        return gathered.permute(1, 2, 0, 3)

    def readout(self, h: Tensor, how: Readout) -> Tensor:
        match how:
            case "concat":
                return h.flatten(1)
            case "mean":
                return h.mean(1)
            case "sum":
                return h.sum(1)
            case "max":
                return h.amax(1)


@dataclass(frozen=True)
class DglGraphs:
    """Graphs as one batched DGL graph.

    Attributes
    ----------
    graph
        ``dgl.DGLGraph`` made by ``dgl.batch``; nodes of one graph are consecutive, in region order.
    features
        float [n, f], a row for each node of the batch.
    weights
        float [e], a weight for each edge of the batch.
    """

    graph: Any
    features: Tensor
    weights: Tensor

    @cached_property
    def _strengths(self) -> tuple[Tensor, Tensor]:
        """Of each node, outgoing and incoming."""
        dgl, strength = import_dgl(), self.weights.abs()
        outgoing: Tensor = dgl.ops.copy_e_sum(dgl.reverse(self.graph), strength)
        incoming: Tensor = dgl.ops.copy_e_sum(self.graph, strength)
        return outgoing, incoming

    @cached_property
    def _normalised(self) -> tuple[Tensor, Tensor]:
        outgoing, incoming = (1 + strength for strength in self._strengths)
        source, target = self.graph.edges()
        scale = (outgoing[source] * incoming[target]).rsqrt()
        return self.weights * scale, (outgoing * incoming).rsqrt()[:, None]

    def neighbour_sum(self, h: Tensor) -> Tensor:
        return self._pass(h, self.weights)

    def neighbour_mean(self, h: Tensor) -> Tensor:
        neighbours: Tensor = self.graph.in_degrees().clamp(min=1)
        return self.neighbour_sum(h) / neighbours[:, None]

    def convolve(self, h: Tensor) -> Tensor:
        weights, self_loop = self._normalised
        return self._pass(h, weights) + self_loop * h

    def propagate(self, h: Tensor) -> Tensor:
        outgoing, incoming = (inverse_root(strength) for strength in self._strengths)
        source, target = self.graph.edges()
        return self._pass(h, self.weights * outgoing[source] * incoming[target])

    def attend(self, source: Tensor, target: Tensor, edge: Tensor, vector: Tensor) -> Tensor:
        dgl = import_dgl()
        i, j = self.graph.edges()
        pairs = source[i] + target[j] + self.weights[:, None, None] * edge
        scores = (leaky_relu(pairs, SLOPE) * vector).sum(-1, keepdim=True)
        shares = dgl.ops.edge_softmax(self.graph, scores)
        passed: Tensor = dgl.ops.u_mul_e_sum(self.graph, source, shares)
        return passed

    def _pass(self, h: Tensor, weights: Tensor) -> Tensor:
        width = h.shape[1]
        layer = import_dgl().nn.GraphConv(
            width, width, norm="none", weight=False, bias=False, allow_zero_in_degree=True
        )
        passed: Tensor = layer(self.graph, h, edge_weight=weights)
        return passed

    def readout(self, h: Tensor, how: Readout) -> Tensor:
        if how == "concat":
            return h.reshape(self.graph.batch_size, -1)
        with self.graph.local_scope():
            self.graph.ndata["h"] = h
            pooled: Tensor = import_dgl().readout_nodes(self.graph, "h", op=how)
            return pooled


def dgl_graphs(dense: DenseGraphs) -> DglGraphs:
    """Turn batched matrices into a batched DGL graph: an edge wherever the weight is not 0."""
    dgl = import_dgl()
    b, r = dense.adjacency.shape[:2]
    members = []
    for matrix in dense.adjacency.detach():
        source, target = torch.nonzero(matrix, as_tuple=True)
        members.append(dgl.graph((source, target), num_nodes=r))
    present = dense.adjacency.detach() != 0
    return DglGraphs(
        dgl.batch(members), dense.features.reshape(b * r, -1), dense.adjacency[present]
    )


def inverse_root(strength: Tensor) -> Tensor:
    """One over the square root; 0 where there is nothing, with a gradient of 0."""
    there = strength > 0
    roots: Tensor = torch.where(there, strength, 1).rsqrt() * there
    return roots


def edge_scores(pairs: Tensor, weights: Tensor, edge: Tensor, vector: Tensor) -> Tensor:
    """Scores [e, k] before the softmax, see :meth:`Graphs.attend`.

    Parameters
    ----------
    pairs
        Sums s + t of the two ends, [e, k · f]; used up. As long as the edges and as wide as the
        features, one such array is dear, and two are twice as dear.
    weights
        [e].
    edge, vector
        [k, f].
    """
    seen = leaky_relu_(pairs.addmm_(weights[:, None], edge.reshape(1, -1)), SLOPE)
    heads = torch.split(seen, vector.shape[1], 1)
    # A product with a vector for each head: a matrix of so few columns is slow on the way back.
    return torch.stack([head @ one for head, one in zip(heads, vector, strict=True)], 1)


def softmax_by(to: Tensor, scores: Tensor, n: int) -> Tensor:
    """Softmax of scores [e, k] over all e that go to the same one of n."""
    least = torch.finfo(scores.dtype).min
    where = to[:, None].expand_as(scores)
    largest = scores.new_full((n, scores.shape[1]), least)
    largest = largest.scatter_reduce(0, where, scores.detach(), "amax")
    raised = (scores - largest[to]).exp()
    total = scores.new_zeros(n, scores.shape[1]).index_add(0, to, raised)
    return raised / total[to]
