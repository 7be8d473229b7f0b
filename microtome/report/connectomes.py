"""The report of a cohort of connectomes: pictures, measures, and who is not in it."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..graphs import cohort_plots
from ..graphs.cohorts import choose_network
from ..graphs.comparison import read_results
from ..graphs.matrices import without_diagonal
from ..graphs.summary import measures_over_densities
from ..storage.connectomes import SUFFIX, Connectome, ConnectomeCohort
from ..storage.errors import CohortError
from ..storage.files import writable, write_bytes
from ..storage.ledger import Entry, read_ledger
from .model import BrainSection, KeyFigure, Picture, Rejection, Report, Table, View
from .render import versions

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

CURVES = (
    "clustering_weighted",
    "path_length_weighted",
    "global_efficiency_weighted",
    "local_efficiency_binary",
    "modularity_weighted",
    "assortativity_binary",
)
LIMITS = (
    "A network is a model of what was measured: what an edge means depends on how it was made.",
    "Measures change with density; a difference at one density may be one of density alone.",
    "For research; not for diagnosis.",
)
MODULES = "found in the mean network (Leiden, consensus of 50 searches)"


@dataclass(frozen=True, eq=False)
class Curves:
    """Measures of one subject at each density: {measure: float64 [d]}."""

    subject: str
    values: Mapping[str, NDArray[np.float64]]


def curves_of(network: Connectome, *, densities: Sequence[float], seed: int) -> Curves:
    """Measure one network at each density; raises where it has too few edges for one of them."""
    values = measures_over_densities(network.adjacency, densities, seed=seed)
    return Curves(network.subject, values)


@dataclass(frozen=True)
class Request:
    """What the report is to say.

    Attributes
    ----------
    cohort
        Path of the cohort; its ledger is looked for beside it.
    densities
        Ascending.
    networks
        Name of the network of each region; empty: modules of the mean.
    comparison
        Folder of a comparison of this cohort, or None.
    max_edges
        Drawn in a picture.
    """

    cohort: Path
    densities: tuple[float, ...]
    networks: tuple[str, ...] = ()
    comparison: Path | None = None
    max_edges: int = 150
    seed: int = 0


def connectome_report(
    request: Request,
    cohort: ConnectomeCohort,
    curves: Sequence[Curves],
    failed: Sequence[Rejection],
    folder: Path,
) -> Report:
    """Draw, count and say it all; pictures are written into ``folder``.

    Parameters
    ----------
    curves
        Of the subjects that could be measured.
    failed
        Those that could not.

    Raises
    ------
    CohortError
        ``networks`` does not name one for each region; the comparison is of another cohort.
    """
    results = None if request.comparison is None else read_results(request.comparison)
    if results is not None and results["request"]["cohort"] != request.cohort.name:
        raise CohortError(
            f"the comparison is of {results['request']['cohort']}", where=request.comparison
        )
    rejected = [*rejections(request.cohort), *failed]
    if results is not None:
        rejected += [
            Rejection(who, "not_compared", why) for who, why in results["excluded"].items()
        ]
    about = f"{cohort.modality} {cohort.measure}"
    return Report(
        title=f"Connectomes: {request.cohort.name.removesuffix(SUFFIX)}",
        summary=f"{len(cohort)} networks of {len(cohort.regions)} regions, {about}.",
        made=datetime.now(UTC).strftime("%d %B %Y, %H:%M UTC"),
        key_figures=_key_figures(cohort, results, len(rejected)),
        brain=_section(request, cohort, curves, results, folder),
        rejected=tuple(rejected),
        parameters={
            "densities": ", ".join(f"{d:g}" for d in request.densities),
            "networks": "as given" if request.networks else MODULES,
            "edges drawn": str(request.max_edges),
            "seed": str(request.seed),
        },
        versions=versions(("microtome", "nilearn", "numpy", "networkx")),
        limits=LIMITS,
    )


def rejections(cohort: Path) -> list[Rejection]:
    """Whom building left out, by the ledger beside the cohort: what each item came to last."""
    ledger = cohort.with_name(cohort.name.removesuffix(SUFFIX) + ".ledger.jsonl")
    if not ledger.is_file():
        return []
    last: dict[str, Entry] = {entry.item: entry for entry in read_ledger(ledger)}
    return [
        Rejection(entry.item, entry.reason, entry.detail)
        for entry in last.values()
        if entry.state in ("rejected", "failed")
    ]


def _key_figures(
    cohort: ConnectomeCohort, results: Mapping[str, Any] | None, n_rejected: int
) -> tuple[KeyFigure, ...]:
    figures = [
        KeyFigure("networks", str(len(cohort)), cohort.modality),
        KeyFigure("regions", str(len(cohort.regions)), cohort.measure),
        KeyFigure("left out", str(n_rejected), "listed below" if n_rejected else ""),
    ]
    if results is not None:
        found = f"{results['edges_significant']} of {results['edges_tested']}"
        note = " / ".join(results["groups"])
        figures.append(KeyFigure("edges that differ", found, note))
    return tuple(figures)


def _section(
    request: Request,
    cohort: ConnectomeCohort,
    curves: Sequence[Curves],
    results: Mapping[str, Any] | None,
    folder: Path,
) -> BrainSection:
    import numpy as np

    mean = choose_network(cohort, None)
    weights, regions, places = without_diagonal(mean.adjacency), cohort.regions, cohort.centroids_mm
    networks = request.networks or _modules(weights, request.seed)
    if len(networks) != len(regions):
        raise CohortError(f"{len(networks)} networks are named for {len(regions)} regions")
    names = list(dict.fromkeys(networks))
    colours = np.array([names.index(name) for name in networks])
    n = request.max_edges
    drawn = {
        "Mean network, regions ordered by network": cohort_plots.matrix_figure(
            weights, networks, cohort.measure
        ),
        f"The {n} strongest edges of the mean": cohort_plots.circle_figure(
            weights, regions, networks, max_edges=n
        ),
    }
    views: tuple[View, ...] = ()
    if places is not None:
        drawn["Glass brain; colours are networks, sizes are strengths"] = (
            cohort_plots.glass_brain_figure(weights, places, colours, max_edges=n)
        )
        page = cohort_plots.interactive_view(weights, places)
        views = (View("Turn it, zoom it", page, "The 300 strongest edges of the mean network."),)
    strength = np.abs(weights).sum(axis=0)
    drawn["Hubs: strength in the mean network"] = cohort_plots.hub_figure(
        strength, regions, "strength", places
    )
    if curves:
        groups = _groups(curves, results)
        drawn["Measures over densities: mean and standard deviation of subjects"] = (
            cohort_plots.curves_figure(request.densities, groups)
        )
    if results is not None and request.comparison is not None:
        statistic, square = read_statistics(request.comparison, regions)
        drawn[f"Group difference, {' / '.join(results['groups'])}: {statistic} of every edge"] = (
            cohort_plots.matrix_figure(square, networks, statistic)
        )
    pictures = [_kept(folder, words, figure) for words, figure in drawn.items()]
    if request.comparison is not None:
        edges = request.comparison / "edges.png"
        words = "Edges that differ, corrected"
        pictures.append(Picture(edges, words, words, wide=True))
    return BrainSection(
        summary=f"{len(names)} networks of regions: {', '.join(names)}.",
        pictures=tuple(pictures),
        views=views,
        tables=(*_measures(curves, request.densities), *_components(results)),
        facts={} if places is not None else {"centroids": "not known: no glass brain, no view"},
    )


def _kept(folder: Path, words: str, figure: Figure) -> Picture:
    path = folder / f"{len(list(folder.iterdir())):02d}.png"
    with writable(path):
        write_bytes(path, cohort_plots.png_of(figure))
    width, height = figure.get_size_inches()
    return Picture(path, words, words, wide=width > 1.5 * height)


def _modules(weights: NDArray[np.float64], seed: int) -> tuple[str, ...]:
    import numpy as np

    from ..graphs.communities import consensus

    found = consensus(np.maximum(weights, 0.0), seed=seed)
    return tuple(f"module {number + 1}" for number in found)


def _groups(
    curves: Sequence[Curves], results: Mapping[str, Any] | None
) -> dict[str, dict[str, NDArray[np.float64]]]:
    """{measure: {group: [s, d]}}; one group of all where nothing was compared."""
    import numpy as np

    known = {} if results is None else results
    label = dict(zip(known.get("people", ()), known.get("labels", ()), strict=False))
    # The people of a comparison may be averages of several networks, with names of their own.
    other = "not compared" if any(one.subject in label for one in curves) else "all"
    members: dict[str, list[Curves]] = {}
    for one in curves:
        members.setdefault(label.get(one.subject, other), []).append(one)
    return {
        measure: {
            group: np.stack([one.values[measure] for one in some])
            for group, some in members.items()
        }
        for measure in CURVES
    }


def _measures(curves: Sequence[Curves], densities: Sequence[float]) -> tuple[Table, ...]:
    import numpy as np

    if not curves:
        return ()
    middle = len(densities) // 2
    rows = []
    for name in curves[0].values:
        each = np.stack([one.values[name] for one in curves])
        at, area = each[:, middle], np.trapezoid(each, densities, axis=1)
        row = [np.mean(at), np.std(at), np.min(at), np.max(at), np.mean(area)]
        rows.append((name.replace("_", " "), *(f"{value:.4g}" for value in row)))
    header = ("measure", "mean", "standard deviation", "least", "most", "area, mean")
    title = f"Measures at density {densities[middle]:g}, of {len(curves)} networks"
    caption = f"Area under each measure over densities {densities[0]:g} to {densities[-1]:g}."
    return (Table(title, header, tuple(rows), caption),)


def _components(results: Mapping[str, Any] | None) -> tuple[Table, ...]:
    if results is None or not results["components"]:
        return ()
    rows = tuple(
        (
            str(one["component"]),
            str(one["edges"]),
            str(one["regions"]),
            f"{one['size']:.4g}",
            f"{one['p']:.4f}",
        )
        for one in results["components"][:10]
    )
    header = ("network of edges", "edges", "regions", "size", "corrected p")
    return (Table("Networks of edges that differ", header, rows),)


def read_statistics(comparison: Path, regions: Sequence[str]) -> tuple[str, NDArray[np.float64]]:
    """Name of a comparison's statistic, and its value at every edge: float64 [r, r]."""
    import numpy as np

    place = {name: number for number, name in enumerate(regions)}
    square = np.zeros((len(regions), len(regions)))
    with (comparison / "edges.csv").open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        statistic = "t" if "t" in (reader.fieldnames or ()) else "F"
        for row in reader:
            i, j = place[row["region_a"]], place[row["region_b"]]
            square[i, j] = square[j, i] = float(row[statistic])
    return statistic, square
