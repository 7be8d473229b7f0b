"""PyTorch Geometric's form of our graph networks: the same layers, readout and weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.nn import (
    ChebConv,
    DenseGCNConv,
    DenseGINConv,
    DenseSAGEConv,
    GATv2Conv,
    GCNConv,
    GINConv,
    SAGEConv,
)
from torch_geometric.nn.conv.gcn_conv import gcn_norm

from microtome.graphs.layers import GraphNetwork

WEIGHTED = ("gcn", "gat", "cheb")
"""Layers that see weights in both; for the others graphs have edges of weight 1."""
DENSE = ("gcn", "gin", "sage")
"""Layers that theirs has on matrices too."""


@dataclass(frozen=True)
class Edges:
    """A batch of b graphs as theirs takes it: features [n, f], edges [2, e], weights [e]."""

    features: Tensor
    index: Tensor
    weights: Tensor
    graphs: int


@dataclass(frozen=True)
class Matrices:
    """The same as features [b, r, f] and matrices [b, r, r]."""

    features: Tensor
    adjacency: Tensor


def edges_of(layer: str, matrices: Matrices) -> Edges:
    """Matrices as a list of edges, normalised beforehand where the layer allows that."""
    b, r = matrices.adjacency.shape[:2]
    graph, i, j = torch.nonzero(matrices.adjacency, as_tuple=True)
    index, weights = torch.stack([graph * r + i, graph * r + j]), matrices.adjacency[graph, i, j]
    return normalised(layer, Edges(matrices.features.reshape(b * r, -1), index, weights, b))


def normalised(layer: str, edges: Edges) -> Edges:
    """What :func:`edges_of` does beforehand."""
    if layer != "gcn":
        return edges
    index, weights = gcn_norm(edges.index, edges.weights, len(edges.features))
    return replace(edges, index=index, weights=weights)


def perceptron(n_in: int, n_out: int) -> nn.Module:
    return nn.Sequential(nn.Linear(n_in, n_out), nn.ReLU(), nn.Linear(n_out, n_out))


def attention(n_in: int, n_out: int) -> nn.Module:
    conv: nn.Module = GATv2Conv(
        n_in, n_out // 2, heads=2, edge_dim=1, add_self_loops=False, residual=True
    )
    return conv


SPARSE_LAYERS: dict[str, Callable[[int, int], nn.Module]] = {
    # Their quickest way: edges are normalised once (torch_geometric.transforms.GCNNorm's function).
    "gcn": lambda n_in, n_out: GCNConv(n_in, n_out, normalize=False),
    "gin": lambda n_in, n_out: GINConv(perceptron(n_in, n_out), train_eps=True),
    "sage": SAGEConv,
    "gat": attention,
    "cheb": lambda n_in, n_out: ChebConv(n_in, n_out, K=3),
}
DENSE_LAYERS: dict[str, Callable[[int, int], nn.Module]] = {
    "gcn": DenseGCNConv,
    "gin": lambda n_in, n_out: DenseGINConv(perceptron(n_in, n_out), train_eps=True),
    "sage": DenseSAGEConv,
}


class Peer(nn.Module):
    """What :class:`~microtome.graphs.layers.GraphNetwork` is, in theirs."""

    def __init__(
        self, layer: str, n_features: int, widths: Sequence[int], n_read: int, *, dense: bool
    ) -> None:
        super().__init__()
        self.layer, self.dense = layer, dense
        make = (DENSE_LAYERS if dense else SPARSE_LAYERS)[layer]
        self.layers = nn.ModuleList(make(a, b) for a, b in pairwise((n_features, *widths)))
        self.head = nn.Linear(n_read, 1)

    def forward(self, batch: Any) -> Tensor:
        h: Tensor = batch.features
        for layer in self.layers:
            h = torch.relu(self._apply(layer, h, batch))
        graphs = len(h) if self.dense else batch.graphs
        nodes = h.reshape(graphs, -1, h.shape[-1])
        read = nodes.mean(1) if self.head.in_features == h.shape[-1] else nodes.flatten(1)
        logits: Tensor = self.head(read)
        return logits.squeeze(1)

    def _apply(self, layer: nn.Module, h: Tensor, batch: Any) -> Tensor:
        found: Tensor
        if self.dense:
            found = layer(h, batch.adjacency)
        elif self.layer == "gat":
            found = layer(h, batch.index, batch.weights[:, None])
        elif self.layer in WEIGHTED:
            found = layer(h, batch.index, batch.weights)
        else:
            found = layer(h, batch.index)
        return found


def copy_weights(ours: GraphNetwork, theirs: Peer) -> None:
    """Give theirs the weights of ours, so that the same is computed."""
    with torch.no_grad():
        for one, other in zip(ours.layers, theirs.layers, strict=True):
            {"gcn": _gcn, "gin": _gin, "sage": _sage, "gat": _gat, "cheb": _cheb}[theirs.layer](
                one, other
            )
        theirs.head.load_state_dict(ours.head.state_dict())


def _gcn(one: Any, other: Any) -> None:
    other.lin.weight.copy_(one.weight.T)
    other.bias.copy_(one.bias)


def _gin(one: Any, other: Any) -> None:
    other.nn.load_state_dict(one.f.state_dict())
    other.eps.fill_(one.eps)


def _sage(one: Any, other: Any) -> None:
    if isinstance(other, DenseSAGEConv):
        neighbours, root, bias = other.lin_rel, other.lin_root, other.lin_root.bias
    else:
        neighbours, root, bias = other.lin_l, other.lin_r, other.lin_l.bias
    neighbours.weight.copy_(one.neighbours.weight)
    root.weight.copy_(one.root.weight)
    bias.copy_(one.root.bias)


def _gat(one: Any, other: Any) -> None:
    other.lin_l.load_state_dict(one.source.state_dict())
    other.lin_r.load_state_dict(one.target.state_dict())
    other.lin_edge.weight.copy_(one.edge.flatten()[:, None])
    other.att.copy_(one.vector[None])
    other.res.weight.copy_(one.root.weight)
    other.bias.copy_(one.root.bias)


def _cheb(one: Any, other: Any) -> None:
    for part, linear in zip(one.linear.weight.chunk(3, 1), other.lins, strict=True):
        linear.weight.copy_(part)
    other.bias.copy_(one.linear.bias)
