"""Message passing on connectomes: the same networks through DGL or through dense PyTorch.

A layer knows only a batch of graphs that can *convolve* and *sum over neighbours*; how that is done
is the batch's business. :class:`DglGraphs` passes messages along the edges of a batched DGL graph,
:class:`DenseGraphs` multiplies batched matrices, which is faster for a few hundred regions and runs
on any device. Parameters belong to the layers alone, so one ``state_dict`` serves both.

This module imports torch: import it inside functions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from .dgl_backend import import_dgl

Readout = Literal["concat", "mean", "sum", "max"]
Layer = Literal["gcn", "gcn-root", "gin"]


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

    def convolve(self, h: Tensor) -> Tensor:
        weights, self_loop = self._normalised
        return weights.transpose(1, 2) @ h + self_loop * h

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
    def _normalised(self) -> tuple[Tensor, Tensor]:
        dgl = import_dgl()
        strength = self.weights.abs()
        incoming = 1 + dgl.ops.copy_e_sum(self.graph, strength)
        outgoing = 1 + dgl.ops.copy_e_sum(dgl.reverse(self.graph), strength)
        source, target = self.graph.edges()
        scale = (outgoing[source] * incoming[target]).rsqrt()
        return self.weights * scale, (outgoing * incoming).rsqrt()[:, None]

    def neighbour_sum(self, h: Tensor) -> Tensor:
        return self._pass(h, self.weights)

    def convolve(self, h: Tensor) -> Tensor:
        weights, self_loop = self._normalised
        return self._pass(h, weights) + self_loop * h

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


class GraphConvolution(nn.Module):
    r"""Graph convolution, :math:`H' = \hat{D}^{-1/2} (A + I) \hat{D}^{-1/2} H W + b`.

    Weights may be negative: the degree is :math:`\hat{D}_{ii} = 1 + \sum_j |A_{ij}|`, that of the
    signed Laplacian, and equals the usual one where all weights are positive.

    References
    ----------
    Kipf & Welling (2017), Semi-supervised classification with graph convolutional networks, ICLR.
    Kunegis et al. (2010), Spectral analysis of signed graphs, SDM.
    """

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_in, n_out))
        self.bias = nn.Parameter(torch.zeros(n_out))
        nn.init.xavier_uniform_(self.weight)

    def forward(self, graphs: Graphs, h: Tensor) -> Tensor:
        return graphs.convolve(h @ self.weight) + self.bias


class RootedConvolution(GraphConvolution):
    r"""Graph convolution with a weight for the region itself: :math:`H' = \hat{A} H W + b + H R`.

    Correlated neighbours average a region's own connection profile away; a weight R of its own
    keeps it.

    References
    ----------
    Morris et al. (2019), Weisfeiler and Leman go neural, AAAI. Cui et al. (2022), BrainGB, IEEE TMI
    42: messages that hold the node's own features. Han et al. (2025), arXiv:2501.17207:
    aggregation alone degrades predictions from connectomes.
    """

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__(n_in, n_out)
        self.root = nn.Parameter(torch.empty(n_in, n_out))
        nn.init.xavier_uniform_(self.root)

    def forward(self, graphs: Graphs, h: Tensor) -> Tensor:
        return super().forward(graphs, h) + h @ self.root


class GraphIsomorphism(nn.Module):
    r"""Graph isomorphism layer, :math:`H' = f((1 + \epsilon) H + A H)` with a two-layer f.

    References
    ----------
    Xu et al. (2019), How powerful are graph neural networks?, ICLR.
    """

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.eps = nn.Parameter(torch.zeros(()))
        self.f = nn.Sequential(nn.Linear(n_in, n_out), nn.ReLU(), nn.Linear(n_out, n_out))

    def forward(self, graphs: Graphs, h: Tensor) -> Tensor:
        updated: Tensor = self.f((1 + self.eps) * h + graphs.neighbour_sum(h))
        return updated


_LAYERS: dict[Layer, Callable[[int, int], nn.Module]] = {
    "gcn": GraphConvolution,
    "gcn-root": RootedConvolution,
    "gin": GraphIsomorphism,
}


class GraphNetwork(nn.Module):
    """Message passing, a readout, and one linear unit: a logit for each graph.

    Parameters
    ----------
    n_regions, n_features
        Regions of a graph, and features of a region.
    layer
        ``gcn``, ``gcn-root`` or ``gin``.
    widths
        Features of a region after each layer.
    readout
        ``concat`` keeps regions apart, as fits a common parcellation; ``mean``, ``sum`` and
        ``max`` do not depend on the order of regions.
    dropout
        In training, probability of dropping a feature before each layer, for all regions and
        graphs of a step at once (a fraction of the cost of one by one), and of dropping a value
        that is read out.
    """

    def __init__(
        self,
        n_regions: int,
        n_features: int,
        *,
        layer: Layer = "gcn",
        widths: Sequence[int] = (16, 8),
        readout: Readout = "concat",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            _LAYERS[layer](a, b) for a, b in pairwise((n_features, *widths))
        )
        self.dropout = nn.Dropout(dropout)
        self.how: Readout = readout
        n_read = widths[-1] * (n_regions if readout == "concat" else 1)
        self.head = nn.Linear(n_read, 1)

    def forward(self, graphs: Graphs) -> Tensor:
        """Logits [b] of the positive class."""
        h = graphs.features
        for layer in self.layers:
            h = torch.relu(layer(graphs, h * self.dropout(h.new_ones(h.shape[-1]))))
        logits: Tensor = self.head(self.dropout(graphs.readout(h, self.how)))
        return logits.squeeze(1)
