"""From the files of a subject, or the table of a group, to connectomes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from ..engine.volumes import Volume, open_volume
from ..storage.connectomes import Connectome
from ..storage.errors import BadConnectome, BadSeries, CohortError, LostRegion, blaming
from .confounds import Cleaning, clean_series
from .coupling import Band
from .freesurfer import read_vertices
from .functional import MIN_TIMEPOINTS, Coupling, Method, functional_connectome
from .matrices import Array, without_diagonal
from .metabolic import (
    effect_size_network,
    jsse,
    klse,
    metabolic_covariance,
    perturbation_network,
    suvr,
)
from .mind import morphometric_inverse_divergence, standardised_vertices
from .regions import LabelAtlas, Parcellation, SphereAtlas, lay_over
from .scans import names_beside, read_atlas, read_coordinates, region_samples, region_series
from .structural import distribution_similarity, group_covariance, morphometric_similarity
from .tables import RegionTable, Rows, read_centroids, read_names, read_series

GROUP = "group"
"""Subject of a network that a whole group makes."""

Distribution = Literal["jsse", "klse", "jsd", "kls"]
Individual = Literal["effect-size", "perturbation"]

_OF_SERIES = (".csv", ".tsv", ".txt", ".1D", ".npy", ".mat", ".tac", ".voistat", ".dft")
_SUFFIXES = (".gz", ".nii", ".hdr", *_OF_SERIES)

_OF_DISTRIBUTIONS: dict[Distribution, tuple[str, Callable[[Sequence[ArrayLike]], Array]]] = {
    "jsse": ("PET", jsse),
    "klse": ("PET", klse),
    "jsd": ("sMRI", distribution_similarity),
    "kls": ("sMRI", partial(distribution_similarity, divergence="kullback-leibler")),
}
_OF_ONE: dict[Individual, Callable[[ArrayLike, ArrayLike], Array]] = {
    "effect-size": effect_size_network,
    "perturbation": perturbation_network,
}


@dataclass(frozen=True)
class SeriesRecipe:
    """How the time series of a subject become a network.

    Attributes
    ----------
    method, fisher, min_timepoints, band_hz, max_lag
        See :func:`.functional.functional_connectome` and :class:`.functional.Coupling`.
    cleaning
        Confounds, scrubbing, filters; and the time between two points.
    rows, key
        See :func:`.tables.read_series`.
    detrend
        Take a straight line out of each series first.
    regions, centroids
        Files with the names of the regions and their positions; else they are numbered.
    """

    method: Method = "pearson"
    fisher: bool = False
    min_timepoints: int = MIN_TIMEPOINTS
    detrend: bool = False
    rows: Rows | None = None
    key: str | None = None
    regions: Path | None = None
    centroids: Path | None = None
    band_hz: Band | None = None
    max_lag: int = 3
    cleaning: Cleaning = field(default_factory=Cleaning)


@dataclass(frozen=True, eq=False)
class RegionSeries:
    """Time series of the regions of one subject, cleaned.

    Attributes
    ----------
    values
        float64 [t, r].
    regions, centroids_mm
        Names and, where they are known, positions of the regions.
    tr_s
        Time between two points, where it is known.
    """

    values: Array
    regions: tuple[str, ...]
    centroids_mm: Array | None
    tr_s: float | None


@dataclass(frozen=True)
class AtlasRecipe:
    """Which regions a scan is divided into.

    Attributes
    ----------
    atlas, names
        See :func:`.scans.read_atlas`.
    coordinates, radius_mm
        See :func:`.scans.read_coordinates`; instead of ``atlas``.
    resample, drop_lost
        See :func:`.regions.lay_over`.
    leave_out
        Names of regions that are not wanted: outside the scan, or no tissue.
    """

    atlas: Path | None = None
    names: Path | None = None
    coordinates: Path | None = None
    radius_mm: float = 5.0
    resample: bool = False
    leave_out: tuple[str, ...] = ()
    drop_lost: bool = False

    def resolved(self) -> AtlasRecipe:
        """The same, with the file of names that lies beside the atlas where none is given."""
        if self.atlas is None or self.names is not None:
            return self
        return replace(self, names=names_beside(self.atlas))

    def read(self) -> LabelAtlas | SphereAtlas:
        """Read the atlas or the coordinates.

        Raises
        ------
        CohortError
            Neither or both are given.
        """
        if self.atlas is not None and self.coordinates is None:
            return read_atlas(self.atlas, self.names).without(self.leave_out)
        if self.coordinates is not None and self.atlas is None:
            atlas = read_coordinates(self.coordinates, radius_mm=self.radius_mm)
            return atlas.without(self.leave_out)
        raise CohortError(
            "a scan needs regions, from one source",
            remedy="Pass --atlas with a label image, or --coordinates with a table",
        )

    def over(self, volume: Volume) -> Parcellation:
        """Lay the regions over a scan; see :func:`.regions.lay_over`."""
        return lay_over(
            self.read(),
            volume.shape[-3:],
            volume.affine,
            resample=self.resample,
            drop_lost=self.drop_lost,
        )


def subject_of(path: Path) -> str:
    """Identity of the subject that a file is of: its name without endings."""
    name = path.name
    while (suffix := Path(name).suffix) in _SUFFIXES:
        name = name.removesuffix(suffix)
    return name


def series_of(path: Path, recipe: SeriesRecipe, regions: AtlasRecipe | None = None) -> RegionSeries:
    """Series of one subject: from a file of them, or from a scan and its ``regions``.

    Raises
    ------
    BadSeries, CohortError
        See :func:`.confounds.clean_series`.
    """
    tr_s = recipe.cleaning.tr_s
    if regions is None:
        series = read_series(path, rows=recipe.rows, key=recipe.key)
        names, centroids = _labels(recipe, series.shape[1])
    else:
        volume = open_volume(path)
        parcellation = regions.over(volume)
        series = region_series(volume, parcellation)
        names, centroids = parcellation.names, parcellation.centroids_mm
        tr_s = tr_s or volume.repetition_time_s
    if recipe.detrend and np.isfinite(series).all() and len(series) > 1:
        from scipy.signal import detrend

        series = detrend(series, axis=0) + series.mean(axis=0)
    if recipe.cleaning.changes:
        series = clean_series(series, recipe.cleaning, path=path, tr_s=tr_s)
    return RegionSeries(series, names, centroids, tr_s)


def from_series(path: Path, recipe: SeriesRecipe, regions: AtlasRecipe | None = None) -> Connectome:
    """Functional network of one subject; see :func:`series_of`."""
    with blaming(path):
        found = series_of(path, recipe, regions)
        return functional_connectome(
            found.values,
            found.regions,
            subject=subject_of(path),
            method=Coupling(recipe.method, recipe.band_hz, found.tr_s, recipe.max_lag),
            fisher=recipe.fisher,
            centroids_mm=found.centroids_mm,
            min_timepoints=recipe.min_timepoints,
        )


def from_distributions(path: Path, regions: AtlasRecipe, *, method: Distribution) -> Connectome:
    """Network of one subject from the distributions of voxel values in the regions of a volume.

    ``jsse`` and ``klse`` of the uptake of PET, ``jsd`` and ``kls`` of the intensities of structural
    MRI, by Jensen and Shannon's or by Kullback and Leibler's divergence.
    """
    modality, likeness = _OF_DISTRIBUTIONS[method]
    with blaming(path):
        volume = open_volume(path)
        parcellation = regions.over(volume)
        samples = region_samples(volume, parcellation)
        even = [n for n, s in zip(parcellation.names, samples, strict=True) if np.ptp(s) == 0]
        if even:
            raise BadSeries(
                f"all voxels are equal in {len(even)} regions: {', '.join(even[:5])}",
                remedy="Leave them out with --leave-out",
            )
        matrix = likeness(samples)
    return Connectome(
        without_diagonal(matrix),
        parcellation.names,
        method,
        modality,
        subject_of(path),
        parcellation.centroids_mm,
    )


def from_group(
    table: RegionTable,
    *,
    modality: str = "sMRI",
    reference: Sequence[int] | None = None,
    centroids_mm: Array | None = None,
) -> Connectome:
    """One network of a whole group: correlation of regional values over subjects.

    Parameters
    ----------
    reference
        For uptake: regions to divide by first; see :func:`.metabolic.metabolic_covariance`.
    """
    matrix = (
        group_covariance(table.values, table.regions)
        if reference is None
        else metabolic_covariance(table.values, table.regions, reference=reference)
    )
    return Connectome(
        without_diagonal(matrix),
        table.regions,
        "group-covariance",
        modality,
        GROUP,
        _fitting(centroids_mm, len(table.regions)),
    )


def from_controls(
    table: RegionTable,
    subject: str,
    controls: RegionTable,
    *,
    method: Individual,
    modality: str = "PET",
    reference: Sequence[int] | None = None,
    centroids_mm: Array | None = None,
) -> Connectome:
    """Network of one subject of a table of uptake beside a table of controls.

    A subject who is among the controls, by name, is left out of them.

    Parameters
    ----------
    reference
        Regions to divide by first, in both tables. A single one does not vary then, and is refused.

    Raises
    ------
    CohortError
        The tables have different regions.
    BadSeries
        See :func:`.metabolic.effect_size_network`.
    """
    if table.regions != controls.regions:
        differ = sorted(set(table.regions) ^ set(controls.regions)) or ["their order"]
        raise CohortError(
            f"regions differ from those of the controls: {', '.join(differ[:5])}",
            remedy="Give the same ones, in the same order, with --regions",
        )
    others = [i for i, name in enumerate(controls.subjects) if name != subject]
    one, group = table.values[table.subjects.index(subject)], controls.values[others]
    if reference is not None:
        one, group = suvr(one, reference), suvr(group, reference)
    return Connectome(
        without_diagonal(_OF_ONE[method](one, group)),
        table.regions,
        method,
        modality,
        subject,
        _fitting(centroids_mm, len(table.regions)),
    )


def from_morphometry(
    tables: Mapping[str, RegionTable], subject: str, *, centroids_mm: Array | None = None
) -> Connectome:
    """Morphometric similarity network of one subject of FreeSurfer's tables."""
    first = next(iter(tables.values()))
    row = first.subjects.index(subject)
    features = np.stack([table.values[row] for table in tables.values()], axis=1)
    return Connectome(
        without_diagonal(morphometric_similarity(features)),
        first.regions,
        "msn",
        "sMRI",
        subject,
        _fitting(centroids_mm, len(first.regions)),
    )


def from_vertices(path: Path, *, centroids_mm: Array | None = None) -> Connectome:
    """MIND network of one subject, of all vertices that FreeSurfer has in its folder.

    Raises
    ------
    MissingFile, UnreadableFile
        As :func:`.freesurfer.read_vertices`.
    LostRegion
        A region has fewer than two vertices.
    """
    found = read_vertices(path)
    samples = standardised_vertices(found.values, found.place, len(found.regions))
    lost = [name for name, one in zip(found.regions, samples, strict=True) if len(one) < 2]
    if lost:
        raise LostRegion(
            f"fewer than two vertices of the cortex in {', '.join(lost[:5])}", where=path
        )
    return Connectome(
        without_diagonal(morphometric_inverse_divergence(samples)),
        found.regions,
        "mind",
        "sMRI",
        subject_of(path),
        _fitting(centroids_mm, len(found.regions)),
    )


def _labels(recipe: SeriesRecipe, n: int) -> tuple[tuple[str, ...], Array | None]:
    if recipe.regions is None:
        names = tuple(f"region-{i + 1:03d}" for i in range(n))
    else:
        names = read_names(recipe.regions)
    if len(names) != n:
        raise BadConnectome(
            f"{len(names)} names do not fit {n} regions",
            where=recipe.regions,
            remedy="Check --rows, or the list of names",
        )
    centroids = None if recipe.centroids is None else read_centroids(recipe.centroids)
    return names, _fitting(centroids, n)


def _fitting(centroids_mm: Array | None, n: int) -> Array | None:
    if centroids_mm is not None and len(centroids_mm) != n:
        raise BadConnectome(f"{len(centroids_mm)} centroids do not fit {n} regions")
    return centroids_mm
