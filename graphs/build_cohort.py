"""Which networks a set of inputs asks for, building each, and keeping them as one product."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from ..engine.schedule import Skipped
from ..storage.commit import file_identity, is_done, product_key
from ..storage.connectomes import (
    KIND,
    SUFFIX,
    Connectome,
    ConnectomeCohort,
    read_connectomes,
    write_connectomes,
)
from ..storage.errors import CohortError
from .build import (
    GROUP,
    AtlasRecipe,
    Distribution,
    Individual,
    SeriesRecipe,
    from_controls,
    from_distributions,
    from_group,
    from_morphometry,
    from_series,
    from_vertices,
    subject_of,
)
from .freesurfer import read_subjects, stats_folders
from .functional import Method as SeriesMethod
from .matrices import Array
from .regions import LabelAtlas
from .scans import choose_regions
from .tables import RegionTable, read_centroids, read_freesurfer, read_names, read_region_table

Method = SeriesMethod | Distribution | Individual | Literal["msn", "mind", "group-covariance"]

_OF_TABLES = ("msn", "effect-size", "perturbation", "group-covariance")
_VERSION = 1
"""Part of every key; raised when a method's result changes."""


@dataclass(frozen=True)
class BuildOptions:
    """What to build.

    Attributes
    ----------
    method
        One of :class:`.functional.Coupling`, of time series, or of a scan with a time axis when
        ``regions`` has an atlas; ``jsse``, ``klse`` (PET) and ``jsd``, ``kls`` (MRI) of a volume
        and an atlas; ``msn`` of a folder of FreeSurfer's tables or subjects; ``mind`` of
        each subject's folder; ``effect-size`` and ``perturbation`` of a table of uptake, beside
        that of controls; ``group-covariance`` of one table for the whole group.
    series, regions
        How series become a network, the method apart; which regions a scan is divided into.
    subject_column, reference, modality
        Of a table: which column names the rows; which region's values to divide by; what the values
        were measured with.
    controls
        Table of people to compare each subject with.
    """

    method: Method = "pearson"
    series: SeriesRecipe = field(default_factory=SeriesRecipe)
    regions: AtlasRecipe = field(default_factory=AtlasRecipe)
    subject_column: str | None = None
    reference: str | None = None
    modality: str = "sMRI"
    controls: Path | None = None

    @property
    def of_scans(self) -> bool:
        """Whether series are to be taken from scans, divided by an atlas."""
        return self.regions.atlas is not None or self.regions.coordinates is not None

    def files(self) -> list[Path]:
        """Files that the networks depend on, beside the inputs."""
        r, s = self.regions, self.series
        of_series = (s.regions, s.centroids, s.cleaning.confounds)
        named = (r.atlas, r.names, r.coordinates, *of_series, self.controls)
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
    if options.method in _OF_TABLES and len(inputs) != 1:
        raise CohortError(f"--method {options.method} takes one input, not {len(inputs)}")
    tables = _tables(inputs[0], options)
    if tables:
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
        options=by_content(asdict(options)),
    )
    about = {
        "method": options.method,
        "inputs": [path.name for path in inputs],
        "files": {path.name: file_identity(path) for path in options.files()},
    }
    return Plan(sources, options, key, about, tables)


def by_content(value: Any) -> Any:
    """Options with every file replaced by its identity."""
    if isinstance(value, dict):
        return {name: by_content(part) for name, part in value.items()}
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
    return _BUILDERS[plan.options.method](source, plan)


def _of_series(method: SeriesMethod, source: Source, plan: Plan) -> Connectome:
    options = plan.options
    recipe = replace(options.series, method=method)
    return from_series(source.path, recipe, options.regions if options.of_scans else None)


def _of_distributions(method: Distribution, source: Source, plan: Plan) -> Connectome:
    return from_distributions(source.path, plan.options.regions, method=method)


def _of_morphometry(source: Source, plan: Plan) -> Connectome:
    centroids = _centroids(plan.options)
    return from_morphometry(plan.tables, source.subject, centroids_mm=centroids)


def _of_vertices(source: Source, plan: Plan) -> Connectome:
    return from_vertices(source.path, centroids_mm=_centroids(plan.options))


def _of_controls(method: Individual, source: Source, plan: Plan) -> Connectome:
    table, options = plan.tables["subjects"], plan.options
    return from_controls(
        table,
        source.subject,
        plan.tables["controls"],
        method=method,
        modality=options.modality,
        reference=_reference(table, options),
        centroids_mm=_centroids(options),
    )


def _of_group(source: Source, plan: Plan) -> Connectome:
    options = plan.options
    table = _table(source.path, options)
    return from_group(
        table,
        modality=options.modality,
        reference=_reference(table, options),
        centroids_mm=_centroids(options),
    )


_BUILDERS: dict[Method, Callable[[Source, Plan], Connectome]] = {
    "pearson": partial(_of_series, "pearson"),
    "partial": partial(_of_series, "partial"),
    "covariance": partial(_of_series, "covariance"),
    "precision": partial(_of_series, "precision"),
    "lasso": partial(_of_series, "lasso"),
    "mutual-information": partial(_of_series, "mutual-information"),
    "coherence": partial(_of_series, "coherence"),
    "lagged": partial(_of_series, "lagged"),
    "jsse": partial(_of_distributions, "jsse"),
    "klse": partial(_of_distributions, "klse"),
    "jsd": partial(_of_distributions, "jsd"),
    "kls": partial(_of_distributions, "kls"),
    "msn": _of_morphometry,
    "mind": _of_vertices,
    "effect-size": partial(_of_controls, "effect-size"),
    "perturbation": partial(_of_controls, "perturbation"),
    "group-covariance": _of_group,
}


def _tables(path: Path, options: BuildOptions) -> dict[str, RegionTable]:
    """Tables whose rows are the subjects, where a method is of such."""
    if options.method == "msn":
        return read_subjects(path) if stats_folders(path) else read_freesurfer(path)
    if options.method not in ("effect-size", "perturbation"):
        return {}
    if options.controls is None:
        raise CohortError(
            f"--method {options.method} compares each subject with controls",
            remedy="Give their table with --controls",
        )
    return {"subjects": _table(path, options), "controls": _table(options.controls, options)}


def _table(path: Path, options: BuildOptions) -> RegionTable:
    names = options.series.regions
    return read_region_table(
        path,
        subject_column=options.subject_column,
        regions=None if names is None else read_names(names),
    )


def _reference(table: RegionTable, options: BuildOptions) -> list[int] | None:
    return choose_regions(table.regions, options.reference) if options.reference else None


def _centroids(options: BuildOptions) -> Array | None:
    path = options.series.centroids
    return None if path is None else read_centroids(path)


def keep_networks(
    out: Path, plan: Plan, networks: Sequence[Connectome], *, overwrite: bool = False
) -> ConnectomeCohort:
    """Write the networks of a plan as one product, with the names of the regions they lost."""
    cohort = ConnectomeCohort.of(networks)
    lost = lost_regions(plan.options.regions, cohort.regions)
    about = {**plan.about, "lost": list(lost)} if lost else plan.about
    write_connectomes(out, cohort, key=plan.key, about=about, overwrite=overwrite)
    return cohort


def lost_regions(atlas: AtlasRecipe, regions: Sequence[str]) -> tuple[str, ...]:
    """Regions of an atlas that networks do without because no scan reaches them."""
    if not atlas.drop_lost:
        return ()
    read = atlas.read()
    names = read.names.values() if isinstance(read, LabelAtlas) else read.names
    return tuple(name for name in names if name not in regions)


def cohort_path(out: Path) -> Path:
    """``out`` with the ending of a cohort of connectomes."""
    return out if out.name.endswith(SUFFIX) else out.with_name(out.name + SUFFIX)
