"""The two message-passing paths against each other, the equation, DGL's own layers, symmetry."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from microtome.graphs.batches import DenseGraphs, dgl_graphs
from microtome.graphs.dgl_backend import has_dgl, import_dgl
from microtome.graphs.layers import (
    Chebyshev,
    GraphAttention,
    GraphConvolution,
    GraphIsomorphism,
    GraphNetwork,
    RootedConvolution,
    SampleAndAggregate,
)

needs_dgl = pytest.mark.skipif(not has_dgl(), reason="DGL does not import here")
LAYERS = ("gcn", "gcn-root", "gin", "sage", "gat", "cheb")
READOUTS = ("concat", "mean", "sum", "max")


def batch(
    b: int = 5, r: int = 12, f: int = 7, *, seed: int = 0, dtype: torch.dtype = torch.float32
) -> DenseGraphs:
    """Signed sparse symmetric graphs; one region of the first graph has no edge at all."""
    rng = np.random.default_rng(seed)
    upper = np.triu(rng.normal(size=(b, r, r)) * (rng.random((b, r, r)) < 0.3), 1)
    adjacency = upper + upper.transpose(0, 2, 1)
    adjacency[0, 3] = adjacency[0, :, 3] = 0
    features = rng.normal(size=(b, r, f))
    return DenseGraphs(torch.tensor(features, dtype=dtype), torch.tensor(adjacency, dtype=dtype))


def with_gradients(graphs: DenseGraphs) -> DenseGraphs:
    return DenseGraphs(
        graphs.features.clone().requires_grad_(), graphs.adjacency.clone().requires_grad_()
    )


@needs_dgl
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("readout", READOUTS)
def test_dgl_and_dense_agree_in_outputs_and_all_gradients(layer, readout) -> None:
    torch.manual_seed(1)
    net = GraphNetwork(12, 7, layer=layer, widths=(6, 4), readout=readout)
    outputs, gradients = [], []
    for through in (lambda g: g, dgl_graphs):
        leaf = with_gradients(batch())
        net.zero_grad()
        logits = net(through(leaf))
        (logits * torch.arange(1.0, 6.0)).sum().backward()
        edges = leaf.adjacency.detach() != 0
        outputs.append(logits.detach())
        # A missing edge has no weight in DGL, hence no gradient: compare on the edges.
        gradients.append(
            [p.grad.clone() for p in net.parameters()]
            + [leaf.features.grad, leaf.adjacency.grad[edges]]
        )
    assert outputs[0].abs().max() > 1e-3
    torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-5, atol=1e-5)
    for dense, dgl in zip(*gradients, strict=True):
        assert dense.abs().max() > 0
        torch.testing.assert_close(dense, dgl, rtol=1e-5, atol=1e-5 * float(dense.abs().max()))


@needs_dgl
def test_one_training_run_goes_the_same_way_through_both_paths() -> None:
    finals = []
    for through in (lambda g: g, dgl_graphs):
        torch.manual_seed(3)
        net = GraphNetwork(12, 7, layer="gcn-root", dropout=0.4)
        graphs, optimiser = through(batch()), torch.optim.SGD(net.parameters(), lr=0.05)
        for _ in range(5):
            optimiser.zero_grad()
            net(graphs).square().mean().backward()
            optimiser.step()
        finals.append(net.state_dict())
    for name, value in finals[0].items():
        torch.testing.assert_close(value, finals[1][name], rtol=1e-4, atol=1e-5)


def paths() -> list:
    return [
        pytest.param(lambda g: g, id="dense"),
        pytest.param(dgl_graphs, id="dgl", marks=needs_dgl),
    ]


def gcn_in_numpy(adjacency: np.ndarray, h: np.ndarray, w: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Kipf & Welling (2017), equation 2, with the signed degree."""
    with_loops = adjacency + np.eye(len(adjacency))
    root = np.diag(1 / np.sqrt(np.abs(with_loops).sum(1)))
    return root @ with_loops @ root @ h @ w + b


@pytest.mark.parametrize("through", paths())
def test_graph_convolution_is_its_equation(through) -> None:
    graphs = batch(dtype=torch.float64)
    plain, rooted = GraphConvolution(7, 3).double(), RootedConvolution(7, 3).double()
    torch.nn.init.normal_(plain.bias)
    rooted.load_state_dict({**rooted.state_dict(), **plain.state_dict()})
    through_graphs = through(graphs)
    got = plain(through_graphs, through_graphs.features).detach().numpy().reshape(5, 12, 3)
    with_root = rooted(through_graphs, through_graphs.features).detach().numpy().reshape(5, 12, 3)
    w, b, own = (p.detach().numpy() for p in (plain.weight, plain.bias, rooted.root))
    for i in range(5):
        h = graphs.features[i].numpy()
        expected = gcn_in_numpy(graphs.adjacency[i].numpy(), h, w, b)
        np.testing.assert_allclose(got[i], expected, rtol=1e-10)
        np.testing.assert_allclose(with_root[i], expected + h @ own, rtol=1e-10)


@pytest.mark.parametrize("through", paths())
def test_graph_isomorphism_is_its_equation(through) -> None:
    graphs, layer = batch(dtype=torch.float64), GraphIsomorphism(7, 3).double()
    torch.nn.init.constant_(layer.eps, 0.3)
    through_graphs = through(graphs)
    got = layer(through_graphs, through_graphs.features).detach().numpy().reshape(5, 12, 3)
    first, second = (
        (layer.f[i].weight.detach().numpy(), layer.f[i].bias.detach().numpy()) for i in (0, 2)
    )
    for i in range(5):
        h = graphs.features[i].numpy()
        summed = 1.3 * h + graphs.adjacency[i].numpy() @ h
        hidden = np.maximum(summed @ first[0].T + first[1], 0)
        np.testing.assert_allclose(got[i], hidden @ second[0].T + second[1], rtol=1e-10)


@needs_dgl
def test_on_positive_weights_it_is_dgls_own_weighted_gcn() -> None:
    dgl = import_dgl()
    graphs = batch(b=1, dtype=torch.float64)
    positive = DenseGraphs(graphs.features, graphs.adjacency.abs())
    ours = GraphConvolution(7, 3).double()
    source, target = torch.nonzero(positive.adjacency[0], as_tuple=True)
    loops = torch.arange(12)
    graph = dgl.graph((torch.cat([source, loops]), torch.cat([target, loops])), num_nodes=12)
    weights = torch.cat([positive.adjacency[0][source, target], torch.ones(12).double()])
    theirs = dgl.nn.GraphConv(7, 3, norm="none", bias=False).double()
    theirs.weight.data = ours.weight.data
    expected = theirs(
        graph, positive.features[0], edge_weight=dgl.nn.EdgeWeightNorm("both")(graph, weights)
    )
    torch.testing.assert_close(ours(positive, positive.features)[0], expected)


@needs_dgl
def test_weighted_sage_is_dgls_own() -> None:
    dgl, graphs = import_dgl(), dgl_graphs(batch(dtype=torch.float64))
    ours = SampleAndAggregate(7, 3).double()
    theirs = dgl.nn.SAGEConv(7, 3, "mean").double()
    theirs.fc_neigh.weight.data = ours.neighbours.weight.data
    theirs.fc_self.weight.data, theirs.fc_self.bias.data = (
        ours.root.weight.data,
        ours.root.bias.data,
    )
    expected = theirs(graphs.graph, graphs.features, edge_weight=graphs.weights)
    torch.testing.assert_close(ours(graphs, graphs.features), expected)


@needs_dgl
def test_attention_that_does_not_see_weights_is_dgls_own_gatv2() -> None:
    dgl, graphs = import_dgl(), dgl_graphs(batch(dtype=torch.float64))
    ours = GraphAttention(7, 4).double()
    torch.nn.init.zeros_(ours.edge)
    theirs = dgl.nn.GATv2Conv(7, 2, 2, residual=True, allow_zero_in_degree=True).double()
    pairs = ((theirs.fc_src, ours.source), (theirs.fc_dst, ours.target), (theirs.res_fc, ours.root))
    torch.nn.init.zeros_(ours.root.bias)
    for their_map, our_map in pairs:
        their_map.weight.data = our_map.weight.data
        if their_map.bias is not None:
            their_map.bias.data = our_map.bias.data
    theirs.attn.data = ours.vector.data[None]
    expected = theirs(graphs.graph, graphs.features).flatten(1)
    torch.testing.assert_close(ours(graphs, graphs.features), expected)


@needs_dgl
def test_on_unweighted_graphs_chebyshev_is_dgls_own() -> None:
    dgl, weighted = import_dgl(), batch(dtype=torch.float64)
    binary = dgl_graphs(DenseGraphs(weighted.features, (weighted.adjacency != 0).double()))
    ours, theirs = Chebyshev(7, 3).double(), dgl.nn.ChebConv(7, 3, 3, activation=None).double()
    theirs.linear.load_state_dict(ours.linear.state_dict())
    expected = theirs(binary.graph, binary.features, lambda_max=[2] * 5)
    torch.testing.assert_close(ours(binary, binary.features), expected)


def test_attention_sees_the_weights_of_edges_as_its_equation_says() -> None:
    graphs, layer = batch(dtype=torch.float64), GraphAttention(7, 4).double()
    got = layer(graphs, graphs.features).detach().numpy()
    values = {name: value.detach().numpy() for name, value in layer.named_parameters()}
    for b in range(5):
        a, h = graphs.adjacency[b].numpy(), graphs.features[b].numpy()
        maps = {n: h @ values[f"{n}.weight"].T + values[f"{n}.bias"] for n in ("source", "target")}
        s, t = (maps[n].reshape(12, 2, 2) for n in ("source", "target"))
        for j in range(12):
            expected = (h[j] @ values["root.weight"].T + values["root.bias"]).reshape(2, 2)
            there = np.flatnonzero(a[:, j])
            for head in range(2):
                raw = [s[i, head] + t[j, head] + a[i, j] * values["edge"][head] for i in there]
                scores = np.array(
                    [np.where(v > 0, v, 0.2 * v) @ values["vector"][head] for v in raw]
                )
                shares = np.exp(scores) / np.exp(scores).sum()
                expected[head] += sum(x * s[i, head] for x, i in zip(shares, there, strict=True))
            np.testing.assert_allclose(got[b, j], expected.ravel(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("through", paths())
def test_messages_run_from_row_to_column(through) -> None:
    adjacency = torch.zeros(1, 3, 3)
    adjacency[0, 0, 1] = 2.0
    graphs = through(DenseGraphs(torch.tensor([[[1.0], [10.0], [100.0]]]), adjacency))
    assert graphs.neighbour_sum(graphs.features).flatten().tolist() == [0.0, 2.0, 0.0]


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), layer=st.sampled_from(LAYERS))
def test_renaming_regions_moves_node_values_and_leaves_pooled_values(seed, layer) -> None:
    graphs = batch(dtype=torch.float64, seed=seed)
    order = torch.tensor(np.random.default_rng(seed).permutation(12))
    renamed = DenseGraphs(graphs.features[:, order], graphs.adjacency[:, order][:, :, order])
    torch.manual_seed(seed)
    pooled = GraphNetwork(12, 7, layer=layer, readout="mean").double()
    torch.testing.assert_close(pooled(renamed), pooled(graphs))
    unit = pooled.layers[0]
    moved = unit(graphs, graphs.features)[:, order]
    torch.testing.assert_close(unit(renamed, renamed.features), moved)
    for how in ("mean", "sum", "max"):
        torch.testing.assert_close(renamed.readout(moved, how), graphs.readout(moved, how))
    together = moved.reshape(5, -1)
    torch.testing.assert_close(renamed.readout(moved, "concat"), together)


@needs_dgl
@pytest.mark.parametrize("how", READOUTS)
def test_dgl_reads_out_graph_by_graph(how) -> None:
    dense = batch()
    torch.testing.assert_close(
        dgl_graphs(dense).readout(dense.features.flatten(0, 1), how),
        dense.readout(dense.features, how),
    )


@pytest.mark.parametrize("through", paths())
@pytest.mark.parametrize("layer", LAYERS)
def test_a_graph_does_not_know_its_batch(through, layer) -> None:
    torch.manual_seed(0)
    graphs, net = batch(), GraphNetwork(12, 7, layer=layer)
    alone = [
        net(through(DenseGraphs(graphs.features[i : i + 1], graphs.adjacency[i : i + 1])))
        for i in range(5)
    ]
    torch.testing.assert_close(torch.cat(alone), net(through(graphs)), rtol=1e-5, atol=1e-6)


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    root = str(Path(__file__).parents[2])
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": root, **environment},
    )


def test_without_dgl_the_error_says_what_to_do_and_the_dense_path_works() -> None:
    done = run_python("""
        import sys
        sys.modules["dgl"] = None
        import torch
        from microtome.graphs.batches import DenseGraphs, dgl_graphs
        from microtome.graphs.layers import GraphNetwork
        from microtome.storage.errors import MissingDependency
        graphs = DenseGraphs(torch.ones(2, 4, 3), torch.ones(2, 4, 4) - torch.eye(4))
        assert GraphNetwork(4, 3)(graphs).shape == (2,)
        try:
            dgl_graphs(graphs)
        except MissingDependency as error:
            print(error)
    """)
    assert done.returncode == 0, done.stderr
    assert "DGL does not import here" in done.stdout
    assert "--backend dense" in done.stdout


@needs_dgl
def test_dgl_opens_silently_and_leaves_the_home_directory_alone(tmp_path) -> None:
    done = run_python(
        "from microtome.graphs.dgl_backend import import_dgl; import_dgl()",
        HOME=str(tmp_path),
        DGLBACKEND="",
    )
    assert done.returncode == 0, done.stderr
    assert "backend" not in done.stderr + done.stdout
    assert not (tmp_path / ".dgl").exists()
