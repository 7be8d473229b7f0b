"""Epoch time and memory of graph networks, on connectomes and on tissue, beside PyTorch Geometric.

Run: ``python benchmarks/graph_speed.py [--quick]`` (about eight minutes; writes docs/benchmarks).
Every figure is of a process of its own, taken in turns; ``--quick`` takes one turn, a smaller graph
of tissue and no million of tiles, and writes nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch
from graph_peers import DENSE, WEIGHTED, Edges, Matrices, Peer, copy_weights, edges_of, normalised
from tables import measured_on, table, verdict, write_report
from torch import Tensor, nn

from microtome.graphs.batches import DenseGraphs
from microtome.graphs.csr_graphs import csr_graphs
from microtome.graphs.layers import GraphNetwork
from microtome.graphs.tissue import neighbour_graph

SUBJECTS, REGIONS, DENSITY, BATCH, WIDTHS = 200, 200, 0.2, 50, (16, 8)
TILE_FEATURES, TILE_WIDTHS = 64, (64, 64)
SIDE, QUICK_SIDE, MILLION = 224, 100, 1000
LAYERS, TISSUE_LAYERS = ("gcn", "gin", "sage", "gat", "cheb"), ("gcn", "sage", "gat")
FORMS = ("ours", "edges", "matrices")
SECONDS, ROUNDS = 2.0, 5
ABOUT = (
    "Written by `benchmarks/graph_speed.py`: one thread, one run, each figure of a process of its "
    f"own, median of {ROUNDS} turns. An epoch is a step of losses, gradients and AdamW for each "
    "batch of all graphs; batches are made beforehand on both sides. The same network on both "
    "sides; with weights copied, logits differ by no more than the column says. Theirs is the "
    "quicker of its two forms, each timed: on lists of edges, where GCN's normalisation is "
    "made beforehand, and on matrices, where it has the layer. Weights of edges for gcn, gat "
    "and cheb, edges without weights for gin and sage. Memory is the process's peak above what it "
    "held with the graphs as arrays. Theirs is without compiled extensions (`torch_scatter`, "
    "`pyg_lib`)."
)


@dataclass(frozen=True)
class Case:
    """What is measured.

    ``form`` is ours, edges or matrices; ``side`` tiles of a square of tissue, 0 for connectomes.
    """

    form: str
    layer: str
    side: int = 0


@dataclass(frozen=True)
class Cost:
    """Seconds an epoch, MiB above the start, largest difference of a logit from ours."""

    seconds: float
    mib: float
    apart: float


def connectomes(layer: str) -> Matrices:
    """Symmetric positive matrices with the strongest fifth of pairs, and rows as features."""
    rng = np.random.default_rng(0)
    whole = rng.random((SUBJECTS, REGIONS, REGIONS), dtype=np.float32)
    whole = np.triu(whole, 1)
    kept = np.where(whole > 1 - DENSITY, whole if layer in WEIGHTED else np.float32(1), 0)
    both = [torch.from_numpy(a + a.transpose(0, 2, 1)) for a in (whole, kept)]
    return Matrices(both[0] - 0.5, both[1])


def batches(form: str, layer: str, given: Matrices) -> list[Any]:
    """Batches of all connectomes, as a side takes them."""
    parts = [
        Matrices(given.features[k : k + BATCH], given.adjacency[k : k + BATCH])
        for k in range(0, SUBJECTS, BATCH)
    ]
    if form == "ours":
        return [DenseGraphs(part.features, part.adjacency) for part in parts]
    return parts if form == "matrices" else [edges_of(layer, part) for part in parts]


def tissue(form: str, layer: str, side: int) -> list[Any]:
    """One graph of tiles and their eight neighbours."""
    places = 128.0 * np.stack(np.mgrid[:side, :side], -1).reshape(-1, 2)
    graph = neighbour_graph(places, 8, longest_um=200.0)
    features = np.random.default_rng(0).random((side * side, TILE_FEATURES), dtype=np.float32)
    adjacency = graph.adjacency("gaussian" if layer in WEIGHTED else "binary")
    x = torch.from_numpy(features)
    if form == "ours":
        return [csr_graphs([adjacency], x)]
    listed = adjacency.tocoo()
    index = torch.from_numpy(np.stack([listed.row, listed.col]).astype(np.int64))
    return [normalised(layer, Edges(x, index, torch.from_numpy(listed.data), 1))]


def networks(case: Case) -> tuple[nn.Module, nn.Module]:
    """Ours, and the one to measure, with the same weights."""
    torch.manual_seed(0)
    if case.side:
        features, widths, read, n_read = TILE_FEATURES, TILE_WIDTHS, "mean", TILE_WIDTHS[-1]
    else:
        features, widths, read, n_read = REGIONS, WIDTHS, "concat", REGIONS * WIDTHS[-1]
    ours = GraphNetwork(REGIONS, features, layer=case.layer, widths=widths, readout=read)
    if case.form == "ours":
        return ours, ours
    theirs = Peer(case.layer, features, widths, n_read, dense=case.form == "matrices")
    copy_weights(ours, theirs)
    return ours, theirs


def mib() -> float:
    """Peak of this process, since :func:`forget_peak` if that was called."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def forget_peak() -> None:
    """Begin to count the peak from what is held now."""
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def epoch(network: nn.Module, optimiser: torch.optim.Optimizer, data: Sequence[Any]) -> None:
    for batch in data:
        optimiser.zero_grad()
        logits: Tensor = network(batch)
        target = (torch.arange(len(logits)) % 2).to(logits.dtype)
        loss = nn.functional.binary_cross_entropy_with_logits(logits, target)
        loss.backward()
        optimiser.step()


def measure(case: Case) -> Cost:
    torch.set_num_threads(1)
    ours, network = networks(case)
    given = None if case.side else connectomes(case.layer)
    forget_peak()
    before = mib()
    data = make(case.form, case, given)
    optimiser = torch.optim.AdamW(network.parameters(), fused=True)
    state = {name: value.clone() for name, value in network.state_dict().items()}
    epoch(network, optimiser, data)
    seconds = []
    while sum(seconds) < SECONDS or len(seconds) < 3:
        start = time.perf_counter()
        epoch(network, optimiser, data)
        seconds.append(time.perf_counter() - start)
    peak = mib() - before
    network.load_state_dict(state)
    return Cost(statistics.median(seconds), peak, apart(case, ours, network, data, given))


def make(form: str, case: Case, given: Matrices | None) -> list[Any]:
    if given is None:
        return tissue(form, case.layer, case.side)
    return batches(form, case.layer, given)


def apart(
    case: Case, ours: nn.Module, network: nn.Module, data: Sequence[Any], given: Matrices | None
) -> float:
    """Largest difference of a logit from ours, over all graphs."""
    if case.form == "ours":
        return 0.0
    with torch.no_grad():
        pairs = zip(make("ours", case, given), data, strict=True)
        return max(float((ours(a) - network(b)).abs().max()) for a, b in pairs)


def alone(case: Case) -> Cost:
    """Measure in a process of its own."""
    command = [sys.executable, __file__, "--one", json.dumps(asdict(case))]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    return Cost(**json.loads(ended.stdout.splitlines()[-1]))


def row(layer: str, side: int, rounds: int) -> tuple[list[str], float, float]:
    """A row of the table, how many times quicker ours is, and the difference of logits."""
    forms = FORMS if layer in DENSE and not side else FORMS[:2]
    turns = [{form: alone(Case(form, layer, side)) for form in forms} for _ in range(rounds)]

    def median(of: Callable[[dict[str, Cost]], float]) -> float:
        return statistics.median(of(turn) for turn in turns)

    time_of = {form: median(lambda t, f=form: t[f].seconds) for form in forms}
    best = min(forms[1:], key=lambda form: time_of[form])
    ratio = median(lambda t: t[best].seconds / t["ours"].seconds)
    differs = max(turn[form].apart for turn in turns for form in forms)
    cells = [layer, f"{side * side:,} tiles" if side else f"{SUBJECTS} × {REGIONS} regions"]
    cells += [f"{1000 * time_of[f]:,.3g}" if f in forms else "–" for f in FORMS]
    cells.append(f"{ratio:.2f} ×")
    cells.append(" / ".join(f"{median(lambda t, f=f: t[f].mib):,.0f}" for f in ("ours", best)))
    cells.append(f"{differs:.0e}")
    return cells, ratio, differs


def million() -> float:
    """Peak GiB of a whole process that trains one epoch on a graph of a million tiles."""
    case = json.dumps(asdict(Case("ours", "sage", MILLION)))
    command = [sys.executable, __file__, "--peak", case]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(ended.stdout.splitlines()[-1])


def peak(case: Case) -> float:
    torch.set_num_threads(1)
    network = networks(case)[0]
    epoch(network, torch.optim.AdamW(network.parameters()), tissue("ours", case.layer, case.side))
    return mib() / 1024


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.one:
        print(json.dumps(asdict(measure(Case(**json.loads(given.one))))))
        return
    if given.peak:
        print(peak(Case(**json.loads(given.peak))))
        return
    side, rounds = (QUICK_SIDE, 1) if given.quick else (SIDE, ROUNDS)
    asked = [(layer, 0) for layer in LAYERS] + [(layer, side) for layer in TISSUE_LAYERS]
    rows, bars = [], []
    for layer, tiles in asked:
        cells, ratio, differs = row(layer, tiles, rounds)
        print(" | ".join(cells), flush=True)
        rows.append(cells)
        bars.append(verdict(f"{layer}, {cells[1]}: theirs over ours", ratio, 1, unit=" ×"))
        bars.append(verdict(f"{layer}, {cells[1]}: difference of logits", differs, -1e-5))
    header = ("layer", "graphs", "epoch, ms: ours", "PyG, edges", "PyG, matrices", "ratio",
              "MiB: ours / theirs", "logits differ by")  # fmt: skip
    lines = ["# Speed of graph networks", "", ABOUT, "", *table(header, rows), "", *bars]
    if not given.quick:
        said = "a graph of 1,000,000 tiles, one epoch, peak of the process"
        lines.append(verdict(said, million(), -8, unit=" GiB"))
    lines += ["", measured_on("torch", "torch_geometric", "scipy")]
    print("\n".join(lines))
    if not given.quick:
        write_report("graph_speed.md", lines)


if __name__ == "__main__":
    main()
