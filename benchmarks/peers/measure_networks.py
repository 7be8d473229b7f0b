"""One measure of one network with one tool, timed: ``TOOL TASK INPUT.npz OUTPUT.npz``.

Prints seconds, processor seconds and MiB as JSON. Runs under the Python of the tool's environment,
so it imports nothing else than that tool and NumPy.
"""

from __future__ import annotations

import json
import resource
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

Function = Callable[..., Any]
REPEAT_S, REPEATS = 1.0, 7


def of_microtome() -> dict[str, Function]:
    from microtome.graphs import nulls, paths, statistics
    from microtome.graphs.paths import Lengths

    def network_based(networks: Any, groups: Any, threshold: float, permutations: int) -> Any:
        design = statistics.Design.between(groups)
        found = statistics.network_based_statistic(
            networks, design, threshold=threshold, n_permutations=permutations
        )
        return sorted(len(part.edges) for part in found.components)

    return {
        "distances": lambda w: paths.distances(Lengths.from_weights(w)),
        "global efficiency": lambda w: paths.global_efficiency(
            paths.distances(Lengths.from_weights(w))
        ),
        "betweenness": lambda w: paths.betweenness(Lengths.from_weights(w)),
        "local efficiency": paths.local_efficiency_weighted,
        "rewiring": nulls.rewire,
        "NBS": network_based,
    }


def of_bctpy() -> dict[str, Function]:
    warnings.simplefilter("ignore")
    import bct

    def lengths(w: Any) -> Any:
        return np.divide(1, w, out=np.zeros_like(w), where=w > 0)

    def network_based(networks: Any, groups: Any, threshold: float, permutations: int) -> Any:
        first, second = (networks[groups == g].transpose(1, 2, 0) for g in np.unique(groups))
        _, parts, _ = bct.nbs_bct(second, first, threshold, permutations, "both", seed=0)
        return sorted(int((parts == k).sum()) // 2 for k in np.unique(parts[parts > 0]))

    return {
        "distances": lambda w: bct.distance_wei(lengths(w))[0],
        "global efficiency": bct.efficiency_wei,
        "betweenness": lambda w: bct.betweenness_wei(lengths(w)) / 2,
        "local efficiency": lambda w: bct.efficiency_wei(w, local=True),
        "rewiring": lambda w: bct.randmio_und(w, 10, seed=0)[0],
        "NBS": network_based,
    }


def of_networkx() -> dict[str, Function]:
    import networkx as nx

    def distances(graph: Any) -> Any:
        found = np.full((len(graph), len(graph)), np.inf)
        for source, lengths in nx.all_pairs_dijkstra_path_length(graph, weight="length"):
            found[source, list(lengths)] = list(lengths.values())
        return found

    def global_efficiency(graph: Any) -> float:
        pairs = distances(graph)[~np.eye(len(graph), dtype=bool)]
        return float((1 / pairs).mean())

    def rewiring(graph: Any) -> Any:
        swaps = 10 * graph.number_of_edges()
        return nx.double_edge_swap(graph, swaps, 20 * swaps, seed=0)

    return {
        "distances": distances,
        "global efficiency": global_efficiency,
        "betweenness": lambda g: list(
            nx.betweenness_centrality(g, weight="length", normalized=False).values()
        ),
        "rewiring": rewiring,
    }


TOOLS = {"Microtome": of_microtome, "bctpy": of_bctpy, "networkx": of_networkx}


def prepared(tool: str, given: dict[str, Any]) -> list[Any]:
    """What the tool is called with: making a graph of a matrix is not timed."""
    if tool != "networkx":
        return [value.copy() if np.ndim(value) else value.item() for value in given.values()]
    import networkx as nx

    graph = nx.from_numpy_array(given["weights"])
    for _, _, edge in graph.edges(data=True):
        edge["length"] = 1 / edge["weight"]
    return [graph]


def small(task: str) -> dict[str, Any]:
    """Twelve regions: code is compiled, and libraries are loaded, before time counts."""
    rng = np.random.default_rng(0)
    networks = rng.uniform(0.1, 1, (8, 12, 12))
    networks += networks.transpose(0, 2, 1)
    networks[:, np.arange(12), np.arange(12)] = 0
    if task == "NBS":
        groups = np.arange(8) % 2
        networks[groups == 1, 0, 1:4] += 5
        networks[groups == 1, 1:4, 0] += 5
        return {
            "networks": networks,
            "groups": groups,
            "threshold": np.array(1.0),
            "permutations": np.array(2),
        }
    if task == "rewiring":
        networks[0][networks[0] < 1.2] = 0
    return {"weights": networks[0]}


def main() -> None:
    tool, task, source, target = sys.argv[1:]
    function = TOOLS[tool]()[task]
    given = dict(np.load(source))
    function(*prepared(tool, small(task)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Whoever stops this knows how long the call itself had been going.
    print(json.dumps({"started": time.time()}), flush=True)
    best, spent, n = (np.inf, np.inf), 0.0, 0
    while n == 0 or (spent < REPEAT_S and n < REPEATS):
        arguments = prepared(tool, given)
        wall, cpu = time.perf_counter(), time.process_time()
        found = function(*arguments)
        took = time.perf_counter() - wall, time.process_time() - cpu
        best, spent, n = min(best, took), spent + took[0], n + 1
    if task == "rewiring" and tool == "networkx":
        import networkx as nx

        found = nx.to_numpy_array(found, nodelist=range(len(found)), weight=None)
    mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    np.savez(target, found=np.asarray(found, np.float64))
    print(json.dumps({"wall_s": best[0], "cpu_s": best[1], "mib": mib}))


if __name__ == "__main__":
    main()
