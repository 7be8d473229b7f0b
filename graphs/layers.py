"""Message passing on connectomes: layers, and a network of them that says one number a graph.

A layer knows only a batch of graphs (:mod:`~microtome.graphs.batches`) that it can ask for sums
over neighbours; how these are made, through DGL or dense, is the batch's business. Parameters
belong to the layers alone, so one ``state_dict`` serves both.

This module imports torch: import it inside functions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal, cast

import torch
from torch import Tensor, nn

from .batches import Graphs, Readout

Layer = Literal["gcn", "gcn-root", "gin", "sage", "gat", "cheb"]


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
        first = cast(nn.Linear, self.f[0])
        # What is linear may change places: neighbours are summed where nodes are narrower.
        if first.out_features < first.in_features:
            mapped = h @ first.weight.T
            summed = (1 + self.eps) * mapped + graphs.neighbour_sum(mapped) + first.bias
        else:
            summed = first((1 + self.eps) * h + graphs.neighbour_sum(h))
        updated: Tensor = self.f[1:](summed)
        return updated


class SampleAndAggregate(nn.Module):
    r"""GraphSAGE with the mean of neighbours, :math:`H' = H R + \mathrm{mean}_i(A_{ij} H_i) W + b`.

    References
    ----------
    Hamilton et al. (2017), Inductive representation learning on large graphs, NeurIPS; without the
    sampling, which graphs of some hundred regions do not need.
    """

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.root = nn.Linear(n_in, n_out)
        self.neighbours = nn.Linear(n_in, n_out, bias=False)

    def forward(self, graphs: Graphs, h: Tensor) -> Tensor:
        if self.neighbours.out_features < self.neighbours.in_features:
            gathered: Tensor = graphs.neighbour_mean(self.neighbours(h))
        else:
            gathered = self.neighbours(graphs.neighbour_mean(h))
        updated: Tensor = self.root(h) + gathered
        return updated


class GraphAttention(nn.Module):
    r"""Attention over neighbours (GATv2) that sees the weights of edges, and a region's own part.

    :math:`H'_j = \sum_i \alpha_{ij} S H_i + R H_j + b`, with :math:`\alpha` the softmax over
    neighbours i of :math:`v \cdot f(S H_i + T H_j + A_{ij} e)`. Two heads side by side where the
    width is even.

    References
    ----------
    Brody et al. (2022), How attentive are graph attention networks?, ICLR, equation 7.
    """

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.heads = 1 if n_out % 2 else 2
        width = n_out // self.heads
        self.source = nn.Linear(n_in, n_out)
        self.target = nn.Linear(n_in, n_out)
        self.root = nn.Linear(n_in, n_out)
        self.edge = nn.Parameter(torch.empty(self.heads, width))
        self.vector = nn.Parameter(torch.empty(self.heads, width))
        nn.init.xavier_uniform_(self.edge)
        nn.init.xavier_uniform_(self.vector)

    def forward(self, graphs: Graphs, h: Tensor) -> Tensor:
        split = (*h.shape[:-1], self.heads, -1)
        source, target = self.source(h).reshape(split), self.target(h).reshape(split)
        gathered = graphs.attend(source, target, self.edge, self.vector)
        updated: Tensor = gathered.flatten(-2) + self.root(h)
        return updated


class Chebyshev(nn.Module):
    r"""ChebNet of order 2: :math:`H' = [H, \tilde{L} H, 2 \tilde{L}^2 H - H] W + b`.

    :math:`\tilde{L} = L - I = -D^{-1/2} A D^{-1/2}`, as the largest eigenvalue of the normalised
    Laplacian L is taken for 2, its bound.

    References
    ----------
    Defferrard et al. (2016), Convolutional neural networks on graphs with fast localized spectral
    filtering, NeurIPS.
    """

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.linear = nn.Linear(3 * n_in, n_out)

    def forward(self, graphs: Graphs, h: Tensor) -> Tensor:
        first = -graphs.propagate(h)
        second = -2 * graphs.propagate(first) - h
        updated: Tensor = self.linear(torch.cat([h, first, second], -1))
        return updated


_LAYERS: dict[Layer, Callable[[int, int], nn.Module]] = {
    "gcn": GraphConvolution,
    "gcn-root": RootedConvolution,
    "gin": GraphIsomorphism,
    "sage": SampleAndAggregate,
    "gat": GraphAttention,
    "cheb": Chebyshev,
}


class GraphNetwork(nn.Module):
    """Message passing, a readout, and one linear unit: a logit for each graph.

    Parameters
    ----------
    n_regions, n_features
        Regions of a graph, and features of a region.
    layer
        ``gcn``, ``gcn-root``, ``gin``, ``sage``, ``gat`` or ``cheb``.
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
            h = torch.relu(layer(graphs, self._dropped(h)))
        logits: Tensor = self.head(self.dropout(graphs.readout(h, self.how)))
        return logits.squeeze(1)

    def _dropped(self, h: Tensor) -> Tensor:
        if not (self.training and self.dropout.p):
            return h
        dropped: Tensor = h * self.dropout(h.new_ones(h.shape[-1]))
        return dropped
