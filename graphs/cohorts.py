"""Whole cohorts: which networks a set of inputs asks for, building each, measuring each."""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from ..engine.schedule import Skipped
from ..storage.commit import file_identity, is_done, product_key, writable, write_text
from ..storage.connectomes import (
    KIND,
    SUFFIX,
    Connectome,
    ConnectomeCohort,
    read_connectomes,
    write_connectomes,
)
from ..storage.errors import BadConnectome, CohortError
from .build import (
    GROUP,
    AtlasRecipe,
    SeriesRecipe,
    from_bold,
    from_distributions,
    from_group,
    from_morphometry,
    from_series,
    subject_of,
)
from .matrices import Array, without_diagonal
from .scans import choose_regions
from .summary import area_over_densities, global_measures, nodal_measures, null_measures
from .tables import RegionTable, read_centroids, read_freesurfer, read_names, read_region_table
from .threshold import proportional, tree_and_strongest

Method = Literal["pearson", "partial", "covariance", "jsse", "jsd", "msn", "group-covariance"]
Keep = Literal["strongest", "tree", "all"]

_VERSION = 1
"""Part of every key; raised when a method's result changes."""


@dataclass(frozen=True)
class BuildOptions:
    """What to build.

    Attributes
    ----------
    method
        ``pearson``, ``partial``, ``covariance`` of time series, or of a scan with a time axis when
        ``regions`` has an atlas; ``jsse`` (PET) and ``jsd`` (MRI) of a volume and an atlas; ``msn``
        of a folder of FreeSurfer tables; ``group-covariance`` of one table for the whole group.
    series, regions
        How series become a network, the method apart; which regions a scan is divided into.
    subject_column, reference, modality
        Of a table: which column names the rows; which region's values to divide by; what the values
        were measured with.
    """

    method: Method = "pearson"
    series: SeriesRecipe = field(default_factory=SeriesRecipe)
    regions: AtlasRecipe = field(default_factory=AtlasRecipe)
    subject_column: str | None = None
    reference: str | None = None
    modality: str = "sMRI"

    @property
    def of_scans(self) -> bool:
        """Whether series are to be taken from scans, divided by an atlas."""
        return self.regions.atlas is not None or self.regions.coordinates is not None

    def files(self) -> list[Path]:
        """Files that the networks depend on, beside the inputs."""
        r, s = self.regions, self.series
        named = (r.atlas, r.names, r.coordinates, s.regions, s.centroids)
        return [path for path in named if path is not None]


@dataclass(frozen=True)
class Source:
    """One network to be built."""

    subject: str
    path: Path


@dataclass(frozen=True)
class Plan:
    """What a set of inputs asks for.

    Attributes
    ----------
    sources
        In the order of the cohort.
    key, about
        Of the product.
    """

    sources: tuple[Source, ...]
    options: BuildOptions
    key: str
    about: Mapping[str, Any]
    tables: Mapping[str, RegionTable] = field(default_factory=dict)


def plan_build(inputs: Sequence[Path], options: BuildOptions) -> Plan:
    """Say which networks inputs ask for, without building one.

    Raises
    ------
    CohortError
        Two inputs are of the same subject; or a method that takes one input is given several.
    MissingFile
        An input, or a file that an option names, is not there.
    """
    tables: dict[str, RegionTable] = {}
    if options.method in ("msn", "group-covariance") and len(inputs) != 1:
        raise CohortError(f"--method {options.method} takes one input, not {len(inputs)}")
    if options.method == "msn":
        tables = read_freesurfer(inputs[0])
        subjects = next(iter(tables.values())).subjects
        sources = tuple(Source(subject, inputs[0]) for subject in subjects)
    elif options.method == "group-covariance":
        sources = (Source(GROUP, inputs[0]),)
    else:
        sources = tuple(Source(subject_of(path), path) for path in inputs)
    doubled = [s for s, n in Counter(source.subject for source in sources).items() if n > 1]
    if doubled:
        raise CohortError(
            f"inputs of the same name: {', '.join(doubled[:5])}",
            remedy="Subjects are called after their files: give each its own name",
        )
    options = replace(options, regions=options.regions.resolved())
    key = product_key(
        kind=KIND,
        version=_VERSION,
        inputs=[file_identity(path) for path in inputs],
        subjects=[source.subject for source in sources],
        options=_by_content(asdict(options)),
    )
    about = {
        "method": options.method,
        "inputs": [path.name for path in inputs],
        "files": {path.name: file_identity(path) for path in options.files()},
    }
    return Plan(sources, options, key, about, tables)


def _by_content(value: Any) -> Any:
    """Options with every file replaced by its identity."""
    if isinstance(value, dict):
        return {name: _by_content(part) for name, part in value.items()}
    return file_identity(value) if isinstance(value, Path) else value


def stored_networks(plan: Plan, out: Path, *, overwrite: bool = False) -> dict[str, Connectome]:
    """Networks that an earlier run of the same plan kept at ``out``, by subject.

    Raises
    ------
    StaleProduct
        What is there was made from other inputs or with other options.
    """
    if not is_done(out, kind=KIND, key=plan.key, overwrite=overwrite):
        return {}
    cohort = read_connectomes(out)
    return {subject: cohort[i] for i, subject in enumerate(cohort.subjects)}


def build_network(
    source: Source, plan: Plan, stored: Mapping[str, Connectome]
) -> Connectome | Skipped[Connectome]:
    """Build the network of one source, or take it from those stored."""
    if source.subject in stored:
        return Skipped(stored[source.subject])
    options = plan.options
    match options.method:
        case "jsse" | "jsd":
            return from_distributions(source.path, options.regions, method=options.method)
        case "msn":
            return from_morphometry(plan.tables, source.subject, centroids_mm=_centroids(options))
        case "group-covariance":
            return _group_network(source.path, options)
        case "pearson" | "partial" | "covariance":
            recipe = replace(options.series, method=options.method)
            if options.of_scans:
                return from_bold(source.path, options.regions, recipe)
            return from_series(source.path, recipe)


def _group_network(path: Path, options: BuildOptions) -> Connectome:
    names = options.series.regions
    table = read_region_table(
        path,
        subject_column=options.subject_column,
        regions=None if names is None else read_names(names),
    )
    reference = options.reference and choose_regions(table.regions, options.reference)
    return from_group(
        table,
        modality=options.modality,
        reference=reference or None,
        centroids_mm=_centroids(options),
    )


def _centroids(options: BuildOptions) -> Array | None:
    path = options.series.centroids
    return None if path is None else read_centroids(path)


def keep_networks(
    out: Path, plan: Plan, networks: Sequence[Connectome], *, overwrite: bool = False
) -> ConnectomeCohort:
    """Write the networks of a plan as one product."""
    cohort = ConnectomeCohort.of(networks)
    write_connectomes(out, cohort, key=plan.key, about=plan.about, overwrite=overwrite)
    return cohort


def cohort_path(out: Path) -> Path:
    """``out`` with the ending of a cohort of connectomes."""
    return out if out.name.endswith(SUFFIX) else out.with_name(out.name + SUFFIX)


def choose_network(cohort: ConnectomeCohort, subject: str | None) -> Connectome:
    """One subject's network, or the mean over all where none is named and there are several.

    Raises
    ------
    CohortError
        There is no such subject.
    """
    if subject is None and len(cohort) == 1:
        return cohort[0]
    if subject is None:
        mean = replace(cohort[0], adjacency=cohort.adjacency.mean(axis=0))
        return replace(mean, subject=f"mean of {len(cohort)}")
    if subject not in cohort.subjects:
        raise CohortError(
            f"there is no subject {subject!r}", remedy=f"The first is {cohort.subjects[0]!r}"
        )
    return cohort[cohort.subjects.index(subject)]


@dataclass(frozen=True)
class Measured:
    """Measures of one network; ``nodal`` is empty unless asked for."""

    subject: str
    regions: tuple[str, ...]
    whole: Mapping[str, float]
    nodal: Mapping[str, Array]


def measure_network(
    connectome: Connectome,
    *,
    density: float = 0.15,
    keep: Keep = "strongest",
    nodal: bool = False,
    n_nulls: int = 0,
    densities: Sequence[float] = (),
    seed: int = 0,
) -> Measured:
    """Threshold a network and measure it.

    Parameters
    ----------
    keep
        ``strongest``: :func:`.threshold.proportional`; ``tree``:
        :func:`.threshold.tree_and_strongest`; ``all``: every edge, whatever ``density``.
    n_nulls
        Compare with so many random networks: :func:`.summary.null_measures`.
    densities
        Also the area of each measure over these, named ``…_area``:
        :func:`.summary.area_over_densities`. Not with ``all``.

    Raises
    ------
    BadConnectome
        A density cannot be reached, or densities are asked for of all edges.
    """
    if densities and keep == "all":
        raise BadConnectome(
            "all edges are kept, so there is one density and no area over several",
            remedy="Keep the strongest or the tree, or leave the densities out",
        )
    weights = _KEPT[keep](connectome.adjacency, density)
    whole = global_measures(weights, seed=seed)
    if n_nulls:
        whole |= null_measures(weights, n_nulls, seed=seed)
    if densities:
        areas = area_over_densities(connectome.adjacency, densities, keep=_KEPT[keep], seed=seed)
        whole |= {f"{name}_area": value for name, value in areas.items()}
    return Measured(
        connectome.subject,
        connectome.regions,
        whole,
        nodal_measures(weights, seed=seed) if nodal else {},
    )


def density_range(text: str) -> tuple[float, ...]:
    """Densities that ``LOW:HIGH:STEP`` stands for, both ends included.

    Raises
    ------
    BadConnectome
        It is not of that form, or names no range between 0 and 1.
    """
    try:
        low, high, step = (float(part) for part in text.split(":"))
    except ValueError:
        low = high = step = math.nan
    if not (0 < low < high <= 1 and 0 < step <= high - low + 1e-9):
        raise BadConnectome(
            f"{text!r} is no range of densities", remedy="Write LOW:HIGH:STEP, as 0.05:0.3:0.05"
        )
    n = math.floor((high - low) / step + 1e-9)
    return tuple(round(low + i * step, 10) for i in range(n + 1))


def _all_edges(weights: ArrayLike, _density: float) -> Array:
    return without_diagonal(weights)


_KEPT: dict[Keep, Callable[[ArrayLike, float], Array]] = {
    "strongest": proportional,
    "tree": tree_and_strongest,
    "all": _all_edges,
}


def write_global_table(path: Path, measured: Iterable[Measured]) -> None:
    """Write a CSV with a row for each subject."""
    rows = [{"subject": m.subject, **_words(m.whole)} for m in measured]
    _write_csv(path, rows)


def write_nodal_table(path: Path, measured: Iterable[Measured]) -> None:
    """Write a CSV with a row for each region of each subject."""
    rows = [
        {"subject": m.subject, "region": region, **_words({k: v[i] for k, v in m.nodal.items()})}
        for m in measured
        for i, region in enumerate(m.regions)
    ]
    _write_csv(path, rows)


def _words(values: Mapping[str, float]) -> dict[str, str]:
    return {name: "" if np.isnan(v) else repr(float(v)) for name, v in values.items()}


def _write_csv(path: Path, rows: Sequence[Mapping[str, str]]) -> None:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(rows[0]) if rows else ["subject"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    with writable(path):
        write_text(path, buffer.getvalue())
