"""What FreeSurfer says of the regions of a cortex, and of its vertices."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..storage.errors import CohortError, MissingFile, UnreadableFile, blaming
from .matrices import Array
from .tables import RegionTable

MEASURES = {
    "area": "SurfArea",
    "volume": "GrayVol",
    "thickness": "ThickAvg",
    "meancurv": "MeanCurv",
    "gauscurv": "GausCurv",
    "foldind": "FoldInd",
    "curvind": "CurvInd",
}
"""Measure, as ``aparcstats2table`` calls it -> column of a file."""

VERTEX_FEATURES = ("thickness", "curv", "volume", "sulc", "area")
"""Files of ``surf`` with a value a vertex: what MIND was published with (Sebenius et al. 2023)."""

_POSITIVE = [VERTEX_FEATURES.index(name) for name in ("thickness", "volume", "area")]
_NO_CORTEX = (
    "unknown", "Unknown", "corpuscallosum", "Medial_wall", "MedialWall", "???",
    "Background+FreeSurfer_Defined_Medial_Wall",
)  # fmt: skip
_HEMISPHERES = ("lh", "rh")


def read_stats(path: Path) -> dict[str, dict[str, float]]:
    """Read one ``.stats`` file: column -> region -> value, in the order of the file.

    Raises
    ------
    MissingFile, UnreadableFile
        Nothing is there; no ``ColHeaders``, a row that does not fit them, a region twice.
    """
    if not path.is_file():
        raise MissingFile("no such file of FreeSurfer", where=path, remedy="Check the path")
    with blaming(path):
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        heads = [line.split()[2:] for line in lines if line.startswith("# ColHeaders")]
        if not heads or "StructName" not in heads[0]:
            raise UnreadableFile("it has no ColHeaders with StructName")
        head = heads[0]
        rows = [line.split() for line in lines if line.strip() and not line.startswith("#")]
        if not rows or any(len(row) != len(head) for row in rows):
            raise UnreadableFile(f"a row does not have {len(head)} columns, or there is none")
        place = head.index("StructName")
        names = [row[place] for row in rows]
        if len(set(names)) < len(names):
            raise UnreadableFile("a region is there twice")
        try:
            columns = {
                name: [float(row[i]) for row in rows] for i, name in enumerate(head) if i != place
            }
        except ValueError as error:
            raise UnreadableFile(f"no number ({error})") from error
    return {name: dict(zip(names, values, strict=True)) for name, values in columns.items()}


def stats_folders(folder: Path, parcellation: str = "aparc") -> list[Path]:
    """Subjects below a ``SUBJECTS_DIR`` that have been parcellated: folders, in order."""
    found = folder.glob(f"*/stats/lh.{parcellation}.stats")
    return sorted(path.parent.parent for path in found)


def read_subjects(folder: Path, parcellation: str = "aparc") -> dict[str, RegionTable]:
    """Read ``<subject>/stats/{lh,rh}.<parcellation>.stats`` of all subjects in a folder.

    Parameters
    ----------
    folder
        FreeSurfer's ``SUBJECTS_DIR``; subjects are called after their folders.
    parcellation
        ``aparc`` (Desikan-Killiany), ``aparc.a2009s`` …

    Returns
    -------
    dict
        Measure of :data:`MEASURES` -> table. Regions are named ``lh_cuneus``.

    Raises
    ------
    CohortError
        There is no subject; a subject lacks a region that the first has, or has another.
    MissingFile
        A hemisphere is missing.
    """
    subjects = stats_folders(folder, parcellation)
    if not subjects:
        raise CohortError(
            f"no subject has stats/lh.{parcellation}.stats",
            where=folder,
            remedy="Give the folder that holds the folders of the subjects",
        )
    values = [_subject(path, parcellation) for path in subjects]
    regions = tuple(values[0])
    for path, found in zip(subjects, values, strict=True):
        differ = set(regions) ^ set(found)
        if differ:
            raise CohortError(
                f"regions differ from those of {subjects[0].name}: {', '.join(sorted(differ)[:5])}",
                where=path,
            )
    cube = np.array([[found[region] for region in regions] for found in values])
    names = tuple(path.name for path in subjects)
    return {
        measure: RegionTable(cube[:, :, column], names, regions)
        for column, measure in enumerate(MEASURES)
    }


def _subject(folder: Path, parcellation: str) -> dict[str, Array]:
    """Region -> its measures, in the order of :data:`MEASURES`."""
    found: dict[str, Array] = {}
    for side in _HEMISPHERES:
        path = folder / "stats" / f"{side}.{parcellation}.stats"
        columns = read_stats(path)
        missing = [name for name in MEASURES.values() if name not in columns]
        if missing:
            raise UnreadableFile(f"no column {', '.join(missing)}", where=path)
        for region in columns["SurfArea"]:
            measures = [columns[name][region] for name in MEASURES.values()]
            found[f"{side}_{region}"] = np.asarray(measures, np.float64)
    return found


@dataclass(frozen=True, eq=False)
class Vertices:
    """Features of the vertices of one subject's cortex, both hemispheres.

    Attributes
    ----------
    values
        float64 [v, f], in the order of :data:`VERTEX_FEATURES`.
    place
        int64 [v]: number of the region from 0, -1 for none.
    regions
        ``lh_cuneus`` …
    """

    values: Array
    place: NDArray[np.int64]
    regions: tuple[str, ...]


def read_vertices(folder: Path, parcellation: str = "aparc") -> Vertices:
    """Read ``surf/{lh,rh}.<feature>`` and ``label/{lh,rh}.<parcellation>.annot`` of a subject.

    Vertices without thickness, volume or area, which no cortex has, belong to no region; nor do
    those of the medial wall.

    Raises
    ------
    MissingFile, UnreadableFile
        A file is not there, or not FreeSurfer's; or files have other numbers of vertices.
    """
    from nibabel.freesurfer.io import read_annot, read_morph_data

    regions: list[str] = []
    values: list[Array] = []
    place: list[NDArray[np.int64]] = []
    for side in _HEMISPHERES:
        label = folder / "label" / f"{side}.{parcellation}.annot"
        files = [folder / "surf" / f"{side}.{feature}" for feature in VERTEX_FEATURES]
        for file in (label, *files):
            if not file.is_file():
                raise MissingFile("no such file of FreeSurfer", where=file, remedy="Run recon-all")
        with blaming(folder):
            try:
                numbers, _, names = read_annot(label)
                columns = [np.asarray(read_morph_data(file), np.float64) for file in files]
            except (ValueError, IndexError, OSError) as error:
                raise UnreadableFile(f"{side}: {error}") from error
            if any(len(column) != len(numbers) for column in columns):
                raise UnreadableFile(f"{side}: files have different numbers of vertices")
        features = np.stack(columns, axis=1)
        # A colour table may have names that no vertex has.
        used = set(np.unique(numbers).tolist())
        cortex = {i: name.decode() for i, name in enumerate(names) if i in used}
        cortex = {i: name for i, name in cortex.items() if name not in _NO_CORTEX}
        index = np.full(len(names) + 1, -1, np.int64)
        index[list(cortex)] = len(regions) + np.arange(len(cortex))
        own = index[np.clip(numbers, -1, len(names))]
        own[(features[:, _POSITIVE] <= 0).any(axis=1)] = -1
        regions += [f"{side}_{name}" for name in cortex.values()]
        values.append(features)
        place.append(own)
    return Vertices(np.concatenate(values), np.concatenate(place), tuple(regions))
