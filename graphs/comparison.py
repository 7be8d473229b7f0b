"""Two or more groups of people compared edge by edge: from files to a product."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..storage.commit import file_identity, new_product, product_key, require_commit
from ..storage.connectomes import KIND as CONNECTOMES
from ..storage.connectomes import Connectome, ConnectomeCohort, read_connectomes
from ..storage.errors import BadConnectome
from ..storage.files import write_text
from .communities import louvain
from .effects import group_effect
from .enhancement import threshold_free_statistic
from .matrices import Array, edges_of, networks_of
from .people import Columns, People, read_people
from .plots import plot_connectome
from .statistics import (
    Component,
    Size,
    Tail,
    edge_statistics,
    false_discovery_rate,
    family_wise_p,
    network_based_statistic,
    p_values,
    partial_correlation,
)

if TYPE_CHECKING:
    from ..engine.schedule import Pool

KIND = "group comparison"
RESULTS = "results.json"
_METHOD = 2
"""Counts up when the same request gives other results."""
_RESAMPLES = 1000

Method = Literal["nbs", "tfnbs", "fdr", "max"]


@dataclass(frozen=True)
class Request:
    """What to compare, and how.

    Attributes
    ----------
    cohort, table
        A ``NAME.connectomes.zarr``; a CSV or TSV with a row for each of its subjects.
    columns
        See :class:`.people.Columns`.
    method
        ``nbs``: networks of edges; ``tfnbs``: single edges by what hangs together with them, with
        no threshold; ``fdr``: single edges, Benjamini-Hochberg; ``max``: single edges, corrected by
        the largest statistic of each permutation.
    threshold, size, tail, permutations
        See :mod:`.statistics`; the threshold is of the t (or F), for ``nbs``.
    alpha
        Corrected p up to which an edge is counted and drawn.
    """

    cohort: Path
    table: Path
    columns: Columns
    method: Method = "nbs"
    threshold: float = 3.0
    size: Size = "extent"
    tail: Tail = "both"
    permutations: int = 5000
    alpha: float = 0.05
    seed: int = 0

    @property
    def key(self) -> str:
        """Of the product."""
        options = {k: v for k, v in asdict(self).items() if k not in ("cohort", "table")}
        return product_key(
            kind=KIND,
            version=_METHOD,
            cohort=require_commit(self.cohort, CONNECTOMES).key,
            table=file_identity(self.table),
            options=options,
        )


@dataclass(frozen=True, eq=False)
class Comparison:
    """What was found, edge by edge [e], in the order of :func:`.matrices.edges_of`.

    Attributes
    ----------
    statistics, p, corrected, effect
        t or F; its p; the corrected p (for ``nbs`` that of the edge's component, 1 outside);
        the partial correlation.
    component
        int64: number of the edge's component from 1, 0 where it has none.
    """

    request: Request
    people: People
    cohort: ConnectomeCohort
    statistics: Array
    p: Array
    corrected: Array
    effect: Array
    component: NDArray[np.int64]
    components: tuple[Component, ...]

    @property
    def n_significant(self) -> int:
        """Edges whose corrected p is at most alpha."""
        return int((self.corrected <= self.request.alpha).sum())


def compare(request: Request, *, pool: Pool | None = None) -> Comparison:
    """Read a cohort and its table, and compare the groups.

    Parameters
    ----------
    pool
        Where permutations run, in place of this process; it does not change the result.

    Raises
    ------
    MissingFile, CohortError
        No such table or column, a value missing, fewer than two groups.
    BadConnectome
        The networks are directed.
    """
    cohort = read_connectomes(request.cohort)
    if cohort.directed:
        raise BadConnectome("directed networks cannot be compared yet", where=request.cohort)
    n, tail, seed = request.permutations, request.tail, request.seed
    people = read_people(request.table, cohort, request.columns)
    design, values = people.design, edges_of(people.networks)
    statistics = edge_statistics(values, design)
    p = p_values(statistics, design, tail=tail)
    component = np.zeros(len(p), np.int64)
    components: tuple[Component, ...] = ()
    match request.method:
        case "fdr":
            corrected = false_discovery_rate(p)
        case "max":
            corrected = family_wise_p(
                values, design, n_permutations=n, tail=tail, seed=seed, pool=pool
            )
        case "tfnbs":
            enhanced = threshold_free_statistic(
                people.networks, design, n_permutations=n, tail=tail, seed=seed, pool=pool
            )
            corrected = edges_of(enhanced.p[None])[0]
        case "nbs":
            found = network_based_statistic(
                people.networks,
                design,
                threshold=request.threshold,
                size=request.size,
                n_permutations=n,
                tail=tail,
                seed=seed,
                pool=pool,
            )
            components, corrected = found.components, np.ones(len(p))
            place = networks_of(np.arange(len(p)), len(cohort.regions)).astype(np.int64)
            for number, part in enumerate(components, start=1):
                own = place[tuple(part.edges.T)]
                component[own], corrected[own] = number, part.p
    effect = partial_correlation(statistics, design)
    return Comparison(
        request, people, cohort, statistics, p, corrected, effect, component, components
    )


def keep_comparison(out: Path, found: Comparison, *, overwrite: bool = False) -> dict[str, Any]:
    """Write the product: ``results.json``, ``edges.csv``, ``components.csv``, ``edges.png``.

    Returns
    -------
    dict
        What ``results.json`` holds.

    Raises
    ------
    StaleProduct
        Another comparison is there and ``overwrite`` is false.
    """
    request = found.request
    content = _content(found)
    about = {
        "cohort": request.cohort.name,
        "method": request.method,
        "group": request.columns.group,
    }
    with new_product(out, kind=KIND, key=request.key, about=about, overwrite=overwrite) as folder:
        write_text(folder / RESULTS, json.dumps(content, indent=1, allow_nan=False))
        write_text(folder / "edges.csv", _csv(_edge_rows(found)))
        if request.method == "nbs":
            header = ("component", "edges", "regions", "size", "p")
            write_text(folder / "components.csv", _csv(content["components"], header))
        _draw(folder / "edges.png", found)
    return content


def read_results(out: Path) -> dict[str, Any]:
    """What ``results.json`` of a comparison holds."""
    require_commit(out, KIND)
    content: dict[str, Any] = json.loads((out / RESULTS).read_text())
    return content


def _content(found: Comparison) -> dict[str, Any]:
    people, request = found.people, found.request
    options = asdict(request) | {"cohort": request.cohort.name, "table": request.table.name}
    components = [
        {
            "component": number,
            "edges": len(part.edges),
            "regions": len(np.unique(part.edges)),
            "size": part.size,
            "p": part.p,
        }
        for number, part in enumerate(found.components, start=1)
    ]
    return {
        "request": options,
        "groups": {name: people.labels.count(name) for name in people.groups},
        "statistic": "t" if len(people.groups) == 2 else "F",
        "degrees_of_freedom": people.design.df,
        "edges_tested": len(found.statistics),
        "edges_significant": found.n_significant,
        "smallest_corrected_p": float(found.corrected.min()),
        "components": components,
        "people": list(people.names),
        "labels": list(people.labels),
        "excluded": dict(people.excluded),
    }


def _edge_rows(found: Comparison) -> list[dict[str, Any]]:
    """All edges, most significant first."""
    regions = found.cohort.regions
    i, j = np.triu_indices(len(regions), 1)
    values, labels = edges_of(found.people.networks), np.array(found.people.labels)
    means = {f"mean_{g}": values[labels == g].mean(axis=0) for g in found.people.groups}
    columns = {
        "t" if len(found.people.groups) == 2 else "F": found.statistics,
        "p": found.p,
        "p_corrected": found.corrected,
        "partial_correlation": found.effect,
        **means,
        **_sizes(found, values, labels),
    }
    order = np.lexsort((-np.abs(found.statistics), found.corrected))
    return [
        {
            "region_a": regions[i[e]],
            "region_b": regions[j[e]],
            **{name: repr(float(column[e])) for name, column in columns.items()},
            "component": int(found.component[e]) or "",
        }
        for e in order
    ]


def _sizes(
    found: Comparison, values: Array, labels: NDArray[np.str_]
) -> dict[str, NDArray[np.float64]]:
    """Hedges' g with its bootstrap interval, covariates not accounted for; of two groups only."""
    groups = found.people.groups
    if len(groups) != 2 or min(found.people.labels.count(group) for group in groups) < 2:
        return {}
    effect = group_effect(
        values, labels == groups[1], n_resamples=_RESAMPLES, seed=found.request.seed
    )
    return {
        "hedges_g": effect.hedges_g,
        "hedges_g_low": effect.hedges_g_low,
        "hedges_g_high": effect.hedges_g_high,
    }


def _csv(rows: Sequence[Mapping[str, Any]], header: Sequence[str] = ()) -> str:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(header or rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def _draw(path: Path, found: Comparison) -> None:
    """The significant edges, coloured by their statistic; modules are of everybody's mean."""
    cohort, groups = found.cohort, found.people.groups
    shown = np.where(found.corrected <= found.request.alpha, found.statistics, 0.0)
    statistic = f"t, {groups[1]} - {groups[0]}" if len(groups) == 2 else "F"
    network = Connectome(
        networks_of(shown, len(cohort.regions)),
        cohort.regions,
        statistic,
        cohort.modality,
        centroids_mm=cohort.centroids_mm,
    )
    title = f"{' / '.join(groups)}: {found.n_significant} edges, {found.request.method}, corrected"
    modules = louvain(np.maximum(found.people.networks.mean(axis=0), 0.0))
    plot_connectome(network, path, modules=modules, title=f"{title} p ≤ {found.request.alpha:g}")
