"""Networks made for connectomes: they read the whole matrix of a person, not messages on edges.

Both take a batch of graphs whose features are the connection profiles, [b, r, r] (dense) or
[b · r, r] (DGL), and give a logit for each.

This module imports torch: import it inside functions.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu, scaled_dot_product_attention

from .batches import Graphs

_SLOPE = 0.33


def profiles(graphs: Graphs) -> Tensor:
    """The matrices of a batch, [b, r, r]."""
    regions = graphs.features.shape[-1]
    return graphs.features.reshape(-1, regions, regions)


class EdgeToEdge(nn.Module):
    r"""Cross-shaped filter, :math:`H'_{ij} = \sum_c \sum_k (r_{ck} H_{cik} + s_{ck} H_{ckj}) + b`.

    Values are [b, c, r, r].

    References
    ----------
    Kawahara et al. (2017), BrainNetCNN, NeuroImage 146, equation 1.
    """

    def __init__(self, n_in: int, n_out: int, n_regions: int) -> None:
        super().__init__()
        self.row = nn.Conv2d(n_in, n_out, (1, n_regions))
        self.column = nn.Conv2d(n_in, n_out, (n_regions, 1), bias=False)

    def forward(self, h: Tensor) -> Tensor:
        crossed: Tensor = self.row(h) + self.column(h)
        return crossed


class BrainNetCNN(nn.Module):
    """Edge to edge, edge to node, node to graph: convolutions shaped as a connectome is.

    Parameters
    ----------
    widths
        Filters of the three steps.
    dropout
        Of what is read out, in training.

    References
    ----------
    Kawahara et al. (2017), BrainNetCNN, NeuroImage 146. Smaller than theirs (32, 64, 256), which
    was trained on cohorts of thousands of augmented matrices.
    """

    def __init__(
        self, n_regions: int, *, widths: tuple[int, int, int] = (4, 8, 16), dropout: float = 0.5
    ) -> None:
        super().__init__()
        edges, nodes, graph = widths
        self.edge_to_edge = EdgeToEdge(1, edges, n_regions)
        self.edge_to_node = nn.Conv2d(edges, nodes, (1, n_regions))
        self.node_to_graph = nn.Conv2d(nodes, graph, (n_regions, 1))
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(graph, 1)

    def forward(self, graphs: Graphs) -> Tensor:
        """Logits [b] of the positive class."""
        h = profiles(graphs)[:, None]
        for step in (self.edge_to_edge, self.edge_to_node, self.node_to_graph):
            h = leaky_relu(step(h), _SLOPE)
        logits: Tensor = self.head(self.dropout(h.flatten(1)))
        return logits.squeeze(1)


class OrthonormalClustering(nn.Module):
    r"""Readout by clusters, :math:`P^T Z` with :math:`P = \mathrm{softmax}(Z E^T)`.

    The centres E [k, f] are orthonormal, by Gram and Schmidt from a random start, and stay as they
    are; P [r, k] says how far each region belongs to each of them.

    References
    ----------
    Kan et al. (2022), Brain network transformer, NeurIPS, section 3.3.
    """

    centres: Tensor

    def __init__(self, n_clusters: int, width: int) -> None:
        super().__init__()
        start = nn.init.xavier_uniform_(torch.empty(width, n_clusters))
        self.register_buffer("centres", torch.linalg.qr(start).Q.T.contiguous())

    def forward(self, h: Tensor) -> Tensor:
        shares = (h @ self.centres.T).softmax(-1)
        return shares.transpose(1, 2) @ h


class BrainTransformer(nn.Module):
    """Regions attend to each other, whatever the edges; read out by orthonormal clusters.

    Parameters
    ----------
    width
        Features of a region, from its profile by a linear map; the paper keeps the profile, whose
        width is the number of regions.
    n_heads, n_clusters
        Of attention, and of the readout.
    dropout
        Of what is read out, in training.

    References
    ----------
    Kan et al. (2022), Brain network transformer, NeurIPS.
    """

    def __init__(
        self,
        n_regions: int,
        *,
        width: int = 32,
        n_heads: int = 4,
        n_clusters: int = 4,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.embed = nn.Linear(n_regions, width)
        self.mix = nn.Linear(width, 3 * width)
        self.join = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.read = OrthonormalClustering(n_clusters, width)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(n_clusters * width, 1)

    def forward(self, graphs: Graphs) -> Tensor:
        """Logits [b] of the positive class."""
        h = self.embed(profiles(graphs))
        h = self.norm(h + self.attention(h))
        logits: Tensor = self.head(self.dropout(self.read(h).flatten(1)))
        return logits.squeeze(1)

    def attention(self, h: Tensor) -> Tensor:
        """What each region takes from all: [b, r, f]."""
        b, r, width = h.shape
        parts = self.mix(h).reshape(b, r, 3, self.n_heads, -1).permute(2, 0, 3, 1, 4)
        mixed = scaled_dot_product_attention(*parts).transpose(1, 2).reshape(b, r, width)
        joined: Tensor = self.join(mixed)
        return joined
