"""A graph network over several connectomes of a person, of which some may be missing.

This module imports torch: import it inside functions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .batches import DenseGraphs
from .layers import RootedConvolution


@dataclass(frozen=True)
class MultiplexGraphs:
    """Graphs over the same regions, one a layer, of a batch of people.

    Attributes
    ----------
    layers
        A batch [b, r, f] each; zeros where a person lacks the layer.
    present
        bool [b, l]: who has which layer.
    """

    layers: Sequence[DenseGraphs]
    present: Tensor


class MultiplexNetwork(nn.Module):
    r"""Messages within layers, then from each region to itself in the layers that are there.

    Layer m passes messages with weights of its own, :math:`H_m = f(\mathrm{conv}_m(X_m))`. A region
    then hears what the other layers made of it, :math:`Z_m = f(H_m + U \bar{H})` with the mean
    :math:`\bar{H}` over the person's layers, and each layer says a logit :math:`y_m` from all its
    regions. The person's logit is :math:`\sum_m \alpha_m y_m`, with α the softmax of one learnt
    number a layer over the layers that are there: nothing is made up for a missing one. In
    training, layers are dropped at random, so that any of them can be missing later.

    Parameters
    ----------
    n_layers, n_regions, n_features
        Layers; regions of each, and features of a region.
    width
        Features of a region after messages.
    dropout
        In training, probability of dropping a value that is read out.
    layer_dropout
        In training, probability of dropping a layer; a person's last one stays.

    References
    ----------
    Kipf & Welling (2017) within layers; coupling of replicas after De Domenico et al. (2013), Phys.
    Rev. X 3:041022; dropped modalities after Neverova et al. (2016), ModDrop, IEEE TPAMI 38.
    """

    def __init__(
        self,
        n_layers: int,
        n_regions: int,
        n_features: int,
        *,
        width: int = 8,
        dropout: float = 0.5,
        layer_dropout: float = 0.2,
    ) -> None:
        super().__init__()
        self.within = nn.ModuleList(RootedConvolution(n_features, width) for _ in range(n_layers))
        self.between = nn.Linear(width, width, bias=False)
        self.heads = nn.ModuleList(nn.Linear(n_regions * width, 1) for _ in range(n_layers))
        self.weights = nn.Parameter(torch.zeros(n_layers))
        self.dropout = nn.Dropout(dropout)
        self.layer_dropout = layer_dropout

    def forward(self, graphs: MultiplexGraphs) -> Tensor:
        """Logits [b] of the positive class."""
        present = self.kept(graphs.present) if self.training else graphs.present
        own = [
            torch.relu(layer(batch, batch.features))
            for layer, batch in zip(self.within, graphs.layers, strict=True)
        ]
        there = present.to(own[0].dtype)
        heard = torch.einsum("bl,lbrf->brf", there / there.sum(1, keepdim=True), torch.stack(own))
        update = self.between(heard)
        said = [
            head(self.dropout(torch.relu(h + update).flatten(1)))
            for head, h in zip(self.heads, own, strict=True)
        ]
        return (torch.cat(said, 1) * self.shares(present)).sum(1)

    def shares(self, present: Tensor) -> Tensor:
        """How much each layer counts for a person: [b, l], 0 for a missing one, 1 in all."""
        return self.weights.expand(present.shape).masked_fill(~present, -torch.inf).softmax(1)

    def kept(self, present: Tensor) -> Tensor:
        """The layers of each person that are not dropped, at least one: bool [b, l]."""
        kept = present & (torch.rand(present.shape) >= self.layer_dropout)
        return torch.where(kept.any(1, keepdim=True), kept, present)
