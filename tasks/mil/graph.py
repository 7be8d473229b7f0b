"""Tiles that look at their surroundings before they are weighed: a graph network on a slide."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ...graphs.csr_graphs import CsrGraphs, csr_graphs
from ...graphs.layers import SampleAndAggregate
from ...graphs.tissue import neighbour_graph, spacing_um
from .abmil import AttentionPooling
from .model import BagOutput, Shape, by_bag

N_LAYERS = 3
REACH = 1.9
"""Spacings between neighbours at most: on a grid the eight around a tile, nothing beyond a gap."""
LARGE = 2**17
"""Instances beyond which a layer's insides are made again on the way back, in place of kept."""


class TileGraph(AttentionPooling):
    r"""Message passing between neighbouring tiles, then gated attention.

    Nodes are the instances of a bag; each is joined with its eight nearest (26 in space) within
    1.9 times the usual spacing of the training bags. With the embeddings :math:`h^0`,

    .. math::

        h^{l+1}_i = h^l_i + \mathrm{ReLU}(\mathrm{LN}(R_l h^l_i + W_l \bar{h}^l_{N(i)} + b_l)),
        \qquad z_i = \mathrm{ReLU}\Big(c + \sum_{l=0}^{3} J_l h^l_i\Big),

    :math:`\bar{h}_{N(i)}` being the mean over neighbours, 0 where there are none; the :math:`z_i`
    are read by gated attention (:class:`~microtome.tasks.mil.abmil.GatedAttention`), evidence and
    attention too. The evidence of a tile is of the tile and what lies up to three tiles around.

    References
    ----------
    Chen et al. (2021), Whole slide images are 2D point clouds: context-aware survival prediction
    using patch-based graph convolutional networks, MICCAI: eight spatial neighbours, three residual
    layers, all of them joined before gated attention. There messages are a softmax over neighbours
    (GENConv); here their mean (Hamilton et al. 2017).
    """

    gated = True
    reads_places = True
    spacing_um: Tensor

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        self.register_buffer("spacing_um", torch.tensor(torch.inf))
        self.layers = nn.ModuleList(Surroundings(shape.width) for _ in range(N_LAYERS))
        self.join = nn.Linear((1 + N_LAYERS) * shape.width, shape.width)
        self.dropout = nn.Dropout(shape.dropout)

    def see_places(self, places: Sequence[Tensor]) -> None:
        """Take the median over the bags of their spacing; of single instances nothing is known."""
        found = [spacing_um(part.cpu().double().numpy()) for part in places if part.shape[1]]
        known = [spacing for spacing in found if spacing > 0]
        if known:
            self.spacing_um = torch.tensor(float(np.median(known)))

    def typical(self, features: Tensor) -> Tensor:
        """See :class:`~microtome.tasks.mil.model.BagModel`."""
        n_features = len(self.mean)
        mean = self.mean.expand(len(features), n_features)
        return torch.cat([mean, features[:, n_features:]], 1)

    def embedded(self, features: Tensor) -> Tensor:
        """Embed features [n, d], and keep places [n, k] behind them: float [n, width + k]."""
        n_features = len(self.mean)
        embedded = super().embedded(features[:, :n_features])
        if features.shape[1] == n_features:
            return embedded
        return torch.cat([embedded, features[:, n_features:]], 1)

    def aggregate(self, embedded: Tensor, sizes: Sequence[int]) -> BagOutput:
        """See :class:`~microtome.tasks.mil.model.BagModel`."""
        width = self.join.out_features
        h = embedded[:, :width].contiguous()
        return super().aggregate(self._surrounded(h, embedded[:, width:], sizes), sizes)

    def graphs(self, h: Tensor, places: Tensor, sizes: Sequence[int]) -> CsrGraphs:
        """The bags' graphs: nodes [n, width] at places [n, k] µm, k = 0 for no edges at all."""
        from scipy.sparse import csr_array

        if not places.shape[1]:
            return csr_graphs([csr_array((size, size), dtype=np.float32) for size in sizes], h)
        reach, k = REACH * float(self.spacing_um), 3 ** places.shape[1] - 1
        bags = by_bag(places.detach().cpu().double(), sizes)
        found = [neighbour_graph(bag.numpy(), k, longest_um=reach) for bag in bags]
        return csr_graphs([graph.adjacency() for graph in found], h)

    def _surrounded(self, h: Tensor, places: Tensor, sizes: Sequence[int]) -> Tensor:
        graphs, width = self.graphs(h, places, sizes), h.shape[1]
        # Joined layer by layer: all of them side by side would be four times as wide.
        first, *others = torch.split(self.join.weight, width, 1)
        total = torch.addmm(self.join.bias, h, first.T)
        for layer, weight in zip(self.layers, others, strict=True):
            large = len(h) > LARGE and torch.is_grad_enabled()
            h = checkpoint(layer, graphs, h, use_reentrant=False) if large else layer(graphs, h)
            total = torch.addmm(total, h, weight.T)
        surrounded: Tensor = self.dropout(torch.relu(total))
        return surrounded


class Surroundings(nn.Module):
    """A residual layer of messages: see :class:`TileGraph`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.messages = SampleAndAggregate(width, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, graphs: CsrGraphs, h: Tensor) -> Tensor:
        """Node values [n, width] to the same."""
        return h + torch.relu(self.norm(self.messages(graphs, h)))
