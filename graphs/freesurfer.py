"""What FreeSurfer says of the regions of a cortex: ``lh.aparc.stats``, a file a hemisphere."""

from __future__ import annotations

from pathlib import Path

import numpy as np

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
