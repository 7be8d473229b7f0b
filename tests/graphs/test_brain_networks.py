"""Networks on whole matrices: their equations, written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from microtome.graphs.batches import DenseGraphs, dgl_graphs
from microtome.graphs.brain_networks import (
    BrainNetCNN,
    BrainTransformer,
    EdgeToEdge,
    OrthonormalClustering,
)
from microtome.graphs.dgl_backend import has_dgl


def people(b: int = 4, r: int = 10) -> DenseGraphs:
    matrices = torch.randn(b, r, r, generator=torch.Generator().manual_seed(0)).double()
    matrices = matrices + matrices.transpose(1, 2)
    return DenseGraphs(matrices, matrices * (1 - torch.eye(r)))


def test_edge_to_edge_is_the_papers_equation() -> None:
    torch.manual_seed(0)
    layer, h = EdgeToEdge(2, 3, 5).double(), torch.randn(1, 2, 5, 5).double()
    got, values = layer(h)[0].detach().numpy(), h[0].numpy()
    row, column = (f.weight.detach().numpy() for f in (layer.row, layer.column))
    for n in range(3):
        for i in range(5):
            for j in range(5):
                crossed = sum(
                    row[n, c, 0, k] * values[c, i, k] + column[n, c, k, 0] * values[c, k, j]
                    for c in range(2)
                    for k in range(5)
                )
                expected = crossed + layer.row.bias[n].item()
                np.testing.assert_allclose(got[n, i, j], expected, rtol=1e-10)


def test_clusters_are_orthonormal_and_share_every_region_out() -> None:
    torch.manual_seed(0)
    read, h = OrthonormalClustering(4, 16).double(), torch.randn(3, 10, 16).double()
    centres = read.centres.numpy()
    np.testing.assert_allclose(centres @ centres.T, np.eye(4), atol=1e-6)
    for b in range(3):
        raw = np.exp(h[b].numpy() @ centres.T)
        shares = raw / raw.sum(1, keepdims=True)
        np.testing.assert_allclose(read(h)[b].numpy(), shares.T @ h[b].numpy(), rtol=1e-9)


def test_attention_is_softmax_of_scaled_products() -> None:
    torch.manual_seed(0)
    network, h = BrainTransformer(10, width=8, n_heads=2).double(), torch.randn(1, 10, 8).double()
    mixed = network.mix(h)[0].detach().numpy()
    query, key, value = (mixed[:, n : n + 8].reshape(10, 2, 4) for n in (0, 8, 16))
    parts = []
    for head in range(2):
        raw = np.exp(query[:, head] @ key[:, head].T / 2)
        parts.append(raw / raw.sum(1, keepdims=True) @ value[:, head])
    joined = np.concatenate(parts, 1) @ network.join.weight.detach().numpy().T
    expected = joined + network.join.bias.detach().numpy()
    np.testing.assert_allclose(network.attention(h)[0].detach().numpy(), expected, rtol=1e-9)


@pytest.mark.parametrize("make", [BrainNetCNN, BrainTransformer])
def test_a_person_does_not_depend_on_the_others_nor_on_the_kind_of_batch(make: type) -> None:
    torch.manual_seed(0)
    network, graphs = make(10).double().eval(), people()
    together = network(graphs)
    alone = [
        network(DenseGraphs(graphs.features[i : i + 1], graphs.adjacency[i : i + 1]))
        for i in range(4)
    ]
    torch.testing.assert_close(torch.cat(alone), together)
    if has_dgl():
        torch.testing.assert_close(network(dgl_graphs(graphs)), together)


def test_the_transformer_does_not_look_at_the_order_of_regions() -> None:
    """Profiles are named by region, so their columns stay; only who speaks first changes."""
    torch.manual_seed(0)
    network, graphs = BrainTransformer(10).double().eval(), people()
    order = torch.randperm(10)
    renamed = DenseGraphs(graphs.features[:, order], graphs.adjacency)
    torch.testing.assert_close(network(renamed), network(graphs))


@pytest.mark.parametrize("make", [BrainNetCNN, BrainTransformer])
def test_gradients_are_those_of_small_steps(make: type) -> None:
    torch.manual_seed(0)
    network, graphs = make(6).double().eval(), people(2, 6)

    def logits(features: torch.Tensor) -> torch.Tensor:
        return network(DenseGraphs(features, graphs.adjacency))

    assert torch.autograd.gradcheck(logits, (graphs.features.requires_grad_(),))
