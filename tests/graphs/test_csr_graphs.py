"""Messages on sparse matrices beside the dense and DGL's; large graphs in pieces."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from microtome.graphs import csr_graphs as csr
from microtome.graphs.batches import DenseGraphs, dgl_graphs
from microtome.graphs.csr_graphs import CsrGraphs, csr_graphs, pieces
from microtome.graphs.dgl_backend import has_dgl, import_dgl
from microtome.graphs.layers import GraphNetwork, SampleAndAggregate
from microtome.graphs.tissue import neighbour_graph

needs_dgl = pytest.mark.skipif(not has_dgl(), reason="DGL does not import here")
LAYERS = ("gcn", "gcn-root", "gin", "sage", "gat", "cheb")
READOUTS = ("concat", "mean", "sum", "max")


def batch(b: int = 4, r: int = 12, f: int = 7, *, seed: int = 0, dtype=torch.float32):
    """Signed sparse directed graphs; one node of the first has no edge at all."""
    rng = np.random.default_rng(seed)
    adjacency = rng.normal(size=(b, r, r)) * (rng.random((b, r, r)) < 0.3)
    adjacency[:, np.arange(r), np.arange(r)] = 0
    adjacency[0, 3] = adjacency[0, :, 3] = 0
    features = rng.normal(size=(b, r, f))
    return DenseGraphs(torch.tensor(features, dtype=dtype), torch.tensor(adjacency, dtype=dtype))


def sparse(dense: DenseGraphs) -> CsrGraphs:
    members = [csr_array(matrix.numpy()) for matrix in dense.adjacency]
    return csr_graphs(members, dense.features.flatten(0, 1))


@needs_dgl
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("readout", READOUTS)
def test_sparse_dense_and_dgl_agree_in_outputs_and_gradients(layer, readout) -> None:
    torch.manual_seed(1)
    net = GraphNetwork(12, 7, layer=layer, widths=(6, 4), readout=readout)
    outputs, gradients = [], []
    for through in (lambda g: g, dgl_graphs, sparse):
        plain = batch()
        leaf = DenseGraphs(plain.features.clone().requires_grad_(), plain.adjacency)
        net.zero_grad()
        logits = net(through(leaf))
        (logits * torch.arange(1.0, 5.0)).sum().backward()
        outputs.append(logits.detach())
        gradients.append([p.grad.clone() for p in net.parameters()] + [leaf.features.grad])
    assert outputs[0].abs().max() > 1e-3
    for other, found in zip(outputs[:2], gradients[:2], strict=True):
        torch.testing.assert_close(outputs[2], other, rtol=1e-5, atol=1e-5)
        for ours, theirs in zip(gradients[2], found, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5 * theirs.abs().max())


@needs_dgl
def test_on_a_graph_of_tiles_the_layer_is_dgls_own() -> None:
    """Beside ``dgl.nn.SAGEConv`` with the same weights, on the eight neighbours of 400 cells."""
    places = np.random.default_rng(0).uniform(0, 1000, (400, 2))
    graph = neighbour_graph(places, 8)
    features = torch.randn(400, 6)
    ours, dgl = SampleAndAggregate(6, 3), import_dgl()
    theirs = dgl.nn.SAGEConv(6, 3, "mean")
    theirs.fc_neigh.weight.data = ours.neighbours.weight.data
    theirs.fc_self.weight.data = ours.root.weight.data
    theirs.fc_self.bias.data = ours.root.bias.data
    both = torch.from_numpy(np.concatenate([graph.edges, graph.edges[:, ::-1]]).copy())
    expected = theirs(dgl.graph((both[:, 0], both[:, 1]), num_nodes=400), features)
    found = ours(csr_graphs([graph.adjacency()], features), features)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), layer=st.sampled_from(LAYERS))
def test_renaming_nodes_moves_their_values(seed: int, layer: str) -> None:
    rng = np.random.default_rng(seed)
    places, features = rng.uniform(0, 100, (30, 2)), torch.randn(30, 5, dtype=torch.float64)
    order = rng.permutation(30)
    torch.manual_seed(seed)
    unit = GraphNetwork(30, 5, layer=layer, widths=(4,)).double().layers[0]

    def said(places: np.ndarray, features: torch.Tensor) -> torch.Tensor:
        adjacency = neighbour_graph(places, 4).adjacency("gaussian")
        return unit(csr_graphs([adjacency], features), features)

    torch.testing.assert_close(
        said(places[order], features[order]), said(places, features)[torch.from_numpy(order)]
    )


@pytest.mark.parametrize("layer", LAYERS)
def test_slopes_are_those_of_finite_differences(layer: str) -> None:
    graphs = sparse(batch(2, 6, 3, dtype=torch.float64))
    torch.manual_seed(0)
    net = GraphNetwork(6, 3, layer=layer, widths=(4,), readout="mean").double()
    unit = net.layers[0]
    h = graphs.features.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: unit(graphs, x).tanh(), (h,))
    if layer != "gat":
        assert torch.autograd.gradgradcheck(lambda x: unit(graphs, x).tanh().sum(), (h,))


@pytest.mark.parametrize("layer", LAYERS)
def test_graphs_of_several_sizes_do_not_touch(layer: str) -> None:
    torch.manual_seed(0)
    net = GraphNetwork(0, 7, layer=layer, readout="mean")
    members = [batch(1, r, seed=r) for r in (5, 12, 8)]
    matrices = [csr_array(member.adjacency[0].numpy()) for member in members]
    together = csr_graphs(matrices, torch.cat([member.features[0] for member in members]))
    alone = torch.cat([net(member) for member in members])
    torch.testing.assert_close(net(together), alone, rtol=1e-5, atol=1e-6)
    assert together.sizes == (5, 12, 8)
    with pytest.raises(ValueError, match="several sizes"):
        together.readout(together.features, "concat")


def test_attention_in_pieces_is_that_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    net = GraphNetwork(12, 7, layer="gat", readout="mean")
    found = []
    for most in (10**6, 7, 1):
        monkeypatch.setattr(csr, "AT_ONCE", most)
        net.zero_grad()
        logits = net(sparse(batch()))
        logits.square().sum().backward()
        with torch.no_grad():
            torch.testing.assert_close(net(sparse(batch())), logits)
        found.append([p.grad.clone() for p in net.parameters()])
    for whole, *others in zip(*found, strict=True):
        for parts in others:
            torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-6)


@given(
    counts=st.lists(st.integers(0, 9), max_size=30),
    most=st.integers(1, 12),
)
def test_pieces_are_all_rows_in_order_and_small(counts: list[int], most: int) -> None:
    starts = np.concatenate([[0], np.cumsum(counts, dtype=int)])
    parts = pieces(starts, most)
    rows = [row for start, stop in parts for row in range(start, stop)]
    assert rows == list(range(len(counts)))
    assert all(stop - start == 1 or starts[stop] - starts[start] <= most for start, stop in parts)


def test_a_node_without_neighbours_keeps_to_itself() -> None:
    alone = csr_graphs([csr_array((3, 3), dtype=np.float32)], torch.eye(3))
    for how in ("neighbour_sum", "neighbour_mean", "propagate"):
        assert getattr(alone, how)(alone.features).abs().sum() == 0
    torch.testing.assert_close(alone.convolve(alone.features), torch.eye(3))
