"""Measures of networks: Microtome's beside bctpy's and networkx's, equal in the same run.

Run: ``python benchmarks/network_measures.py`` (about eight minutes; writes docs/benchmarks).
bctpy is installed into ``.venv-peers`` the first time, with the NumPy that it needs, from
benchmarks/peers. ``--quick`` takes the smallest network, installs nothing, and writes nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ingest import PEERS, VENVS, install_peers
from numpy.typing import NDArray
from tables import ROOT, measured_on, table, verdict, write_report

BRAIN = ROOT.parent / "shared" / "data" / "brain" / "bct"
WORKER = PEERS / "measure_networks.py"
OURS, BCTPY, NETWORKX = "Microtome", "bctpy", "networkx"
LIMIT_S = {OURS: 120.0, BCTPY: 40.0, NETWORKX: 15.0}
QUICK_S = 8.0
DENSE, DENSITY = (400, 1000), 0.15
NBS_PERMUTATIONS, NBS_PEER_PERMUTATIONS, NBS_THRESHOLD = 5000, 10, 3.0
BARS = {
    "distances": 100.0,
    "global efficiency": 100.0,
    "betweenness": 30.0,
    "local efficiency": 100.0,
    "rewiring": 5.0,
}
WITHOUT_NETWORKX = ("local efficiency", "NBS")
Array = NDArray[np.float64]

ABOUT = (
    "Written by `benchmarks/network_measures.py`. Weighted networks, each measure with each tool "
    "in a process of its own on one thread, one after the other; the quickest of up to seven calls "
    "within a second. Lengths are 1 / weight. Compiling and imports are not counted, for any tool, "
    "nor is making a networkx graph of a matrix. Memory is by how much the call raised the most "
    "that the process held. A tool that was stopped at its limit has taken *more than* that: the "
    "ratio is then a lower bound, and larger networks are not tried. Every result of a peer that "
    "ended was compared with ours (within 1e-7; rewiring: the same degrees, edges moved)."
)


@dataclass(frozen=True)
class Cost:
    """What one call took; ``stopped`` where it was not let end."""

    wall_s: float
    mib: float = 0.0
    stopped: bool = False

    def words(self) -> str:
        """Seconds, in words."""
        return f"> {self.wall_s:,.0f}" if self.stopped else f"{self.wall_s:,.4g}"


def python_of(tool: str) -> str:
    return str(VENVS / "bctpy" / "bin" / "python") if tool == BCTPY else sys.executable


def run(
    tool: str, task: str, given: dict[str, Any], *, limit_s: float, threads: int = 1
) -> tuple[Cost, Array | None]:
    """Call a tool once in a process of its own: what it took, and what it found."""
    with tempfile.TemporaryDirectory() as text:
        source, target = Path(text) / "in.npz", Path(text) / "out.npz"
        np.savez(source, **given)
        command = [python_of(tool), str(WORKER), tool, task, str(source), str(target)]
        names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        environment = os.environ | dict.fromkeys(names, str(threads))
        try:
            done = subprocess.run(
                command, env=environment, timeout=limit_s, capture_output=True, text=True,
                check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired as late:
            if late.stdout is None:
                raise SystemExit(f"{tool} did not start within {limit_s:.0f} s") from late
            started = json.loads(late.stdout.splitlines()[0])["started"]
            return Cost(time.time() - started, stopped=True), None
        if done.returncode:
            raise SystemExit(
                f"{tool}, {task}, ended with {done.returncode}:\n{done.stderr[-2000:]}"
            )
        cost = json.loads(done.stdout.splitlines()[-1])
        return Cost(cost["wall_s"], cost["mib"]), np.load(target)["found"]


def networks(quick: bool) -> dict[str, Array]:
    """Name -> weights [r, r], symmetric, without diagonal."""
    found = {}
    if BRAIN.is_dir():
        found["138 (tracts)"] = np.load(BRAIN / "sample_data.npy")
        found["219 (tracts)"] = np.load(BRAIN / "sample_group_dsi.npy")[:, :, 0]
    for n in DENSE:
        series = np.random.default_rng(n).standard_normal((n, 200))
        found[f"{n:,} (correlations)"] = np.abs(np.corrcoef(series))
    for weights in found.values():
        np.fill_diagonal(weights, 0.0)
        weights[:] = (weights + weights.T) / 2
    return dict(list(found.items())[:1]) if quick else found


def check(task: str, given: Array, ours: Array, theirs: Array, tool: str) -> None:
    """Stop the benchmark where a peer found something else."""
    if task == "rewiring":
        for found in (ours, theirs):
            edges = found != 0
            same = np.array_equal(edges.sum(axis=0), (given != 0).sum(axis=0))
            if not same or np.array_equal(edges, given != 0):
                raise SystemExit(f"{tool}: rewiring changed degrees, or nothing")
    elif not np.allclose(ours, theirs, rtol=1e-7, atol=1e-10):
        raise SystemExit(f"{tool}: another {task} than ours")


def compare(task: str, given: dict[str, Array], tools: Sequence[str], quick: bool) -> list[Any]:
    """Rows of one measure: (network, costs by tool)."""
    rows, over = [], set()
    for name, weights in given.items():
        costs: dict[str, Cost] = {}
        ours = None
        for tool in tools:
            if tool in over or (tool == NETWORKX and task in WITHOUT_NETWORKX):
                continue
            limit = min(LIMIT_S[tool], QUICK_S) if quick and tool != OURS else LIMIT_S[tool]
            costs[tool], found = run(tool, task, {"weights": weights}, limit_s=limit)
            print(task, name, tool, costs[tool], flush=True)
            if found is None:
                over.add(tool)
            elif tool == OURS:
                ours = found
            elif ours is not None:
                check(task, weights, ours, found, tool)
        rows.append((name, costs))
    return rows


def ratio(costs: dict[str, Cost], peer: str) -> float | None:
    """How many times the peer took what ours did; a lower bound where it was stopped."""
    return costs[peer].wall_s / costs[OURS].wall_s if peer in costs else None


def network_based(tools: Sequence[str]) -> list[str]:
    """The network-based statistic on two reconstructions of eight people each, 219 regions."""
    kinds = ("dsi", "qball")
    made = [np.load(BRAIN / f"sample_group_{kind}.npy").transpose(2, 0, 1) for kind in kinds]
    given = {
        "networks": np.concatenate(made),
        "groups": np.repeat([0, 1], 8),
        "threshold": NBS_THRESHOLD,
    }
    rows, sizes, cost = [], {}, {}
    for tool, permutations in ((OURS, NBS_PERMUTATIONS), (BCTPY, NBS_PEER_PERMUTATIONS)):
        if tool not in tools:
            continue
        options = given | {"permutations": permutations}
        cost[tool], found = run(tool, "NBS", options, limit_s=LIMIT_S[OURS], threads=2)
        sizes[tool] = None if found is None else found.tolist()
        rows.append(
            (
                tool, f"{permutations:,}", cost[tool].words(), f"{cost[tool].mib:,.0f}",
                f"{1000 * cost[tool].wall_s / permutations:,.3g}",
            )
        )  # fmt: skip
    if BCTPY in sizes and sizes[BCTPY] != sizes[OURS]:
        raise SystemExit(f"bctpy found networks of {sizes[BCTPY]} edges, ours {sizes[OURS]}")
    header = ("tool", "permutations", "seconds", "memory (MiB)", "ms a permutation")
    lines = ["", "## Network-based statistic, 219 regions, 8 and 8 networks, two threads", ""]
    extent = f"{len(sizes[OURS])} components, the largest of {max(sizes[OURS]):.0f} edges"
    lines += [*table(header, rows), "", f"Both found the same: {extent}.", ""]
    return [*lines, verdict("NBS, 5,000 permutations, seconds", cost[OURS].wall_s, -20.0)]


def measure(tools: Sequence[str], quick: bool) -> list[str]:
    """All tables."""
    given = networks(quick)
    strongest = {name: strongest_of(weights) for name, weights in given.items()}
    lines, bars = ["# Measures of networks", "", ABOUT], []
    for task, bar in BARS.items():
        title = f"{task}, {DENSITY:.0%} of the edges, 10 swaps each" if task == "rewiring" else task
        rows, ratios = [], []
        for name, costs in compare(task, strongest if task == "rewiring" else given, tools, quick):
            row = [name]
            for tool in tools:
                cost = costs.get(tool)
                row += ["–", "–"] if cost is None else [cost.words(), _mib(cost)]
            for peer in tools[1:]:
                times = ratio(costs, peer)
                least = "≥ " if times is not None and costs[peer].stopped else ""
                row.append("–" if times is None else f"{least}{times:,.0f}×")
            rows.append(row)
            times = ratio(costs, BCTPY)
            ratios += [] if times is None else [times]
        header = ["regions"]
        header += [f"{tool}, {unit}" for tool in tools for unit in ("s", "MiB")]
        header += [f"over {peer}" for peer in tools[1:]]
        lines += ["", f"## {title[0].upper()}{title[1:]}", "", *table(header, rows)]
        if ratios:
            bars.append(verdict(f"{task}, times bctpy, the least of all sizes", min(ratios), bar))
    if BRAIN.is_dir():
        lines += network_based(tools)
    return [*lines, *bars]


def _mib(cost: Cost) -> str:
    return "–" if cost.stopped else f"{cost.mib:,.0f}"


def strongest_of(weights: Array) -> Array:
    """The strongest edges, for rewiring."""
    from microtome.graphs.threshold import proportional

    return proportional(weights, DENSITY)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    asked = parser.parse_args()
    if not asked.quick:
        install_peers("bctpy")
    there = (VENVS / "bctpy" / "ready").exists()
    tools = [OURS, *([BCTPY] if there else []), NETWORKX]
    lines = measure(tools, asked.quick)
    about = f"Limits with start: bctpy {LIMIT_S[BCTPY]:.0f} s, networkx {LIMIT_S[NETWORKX]:.0f} s. "
    needs = "bctpy 0.6.1 with numpy 1.26.4. "
    lines += ["", about + needs + measured_on("numpy", "scipy", "numba", "networkx")]
    print("\n".join(lines))
    if not asked.quick:
        write_report("network_measures.md", lines)


if __name__ == "__main__":
    main()
