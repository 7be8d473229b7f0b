"""Atlases from files, and what a scan shows in their regions."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from ..engine.volumes import Volume, open_volume
from ..storage.errors import BadGeometry, CohortError, UnreadableFile
from .matrices import Array
from .regions import LabelAtlas, Parcellation, SphereAtlas
from .tables import read_table

_NAME_FILES = (".xml", ".tsv", ".csv", ".txt")


def read_atlas(path: Path, names: Path | None = None) -> LabelAtlas:
    """Read an atlas drawn as labels.

    Parameters
    ----------
    path
        A scan of whole numbers; 0 is no region.
    names
        Which label is which region: SPM's ``.xml``, or a table with columns ``index`` and ``name``
        (BIDS ``_dseg.tsv``; also ``.csv`` and ``.txt``). By default the file beside the atlas that
        is called the same. Labels that it does not name are no regions. Without any such file,
        regions are called ``label-4``.

    Raises
    ------
    BadGeometry
        Not one volume.
    UnreadableFile
        Values that are no labels; a file of names that cannot be understood, or has one twice.
    """
    volume = open_volume(path)
    if len(volume.shape) != 3:
        raise BadGeometry(f"an atlas is one volume, not {volume.shape}", where=path)
    values = np.asarray(volume.data)
    labels = np.rint(values).astype(np.int64)
    if not np.array_equal(labels, values) or labels.min() < 0:
        raise UnreadableFile(
            "the values are no labels: they are not whole numbers from 0 on",
            where=path,
            remedy="Give a label image, not a probability map or a scan",
        )
    found = names or names_beside(path)
    if found is None:
        named = {int(label): f"label-{label}" for label in np.unique(labels) if label}
    else:
        named = read_label_names(found)
    if not named:
        raise UnreadableFile("no region is in it", where=found or path)
    return LabelAtlas(labels, volume.affine, named)


def names_beside(path: Path) -> Path | None:
    """The file of names that is called as the atlas is, if there is one."""
    stem = path.name.removesuffix(".gz").removesuffix(".nii")
    beside = (path.with_name(stem + suffix) for suffix in _NAME_FILES)
    return next((file for file in beside if file.is_file()), None)


def read_label_names(path: Path) -> dict[int, str]:
    """Label -> name of region, in the order of the file; see :func:`read_atlas`."""
    pairs = _names_in_xml(path) if path.suffix == ".xml" else _names_in_table(path)
    labels, names = [label for label, _ in pairs], [name for _, name in pairs]
    if len(set(labels)) < len(labels) or len(set(names)) < len(names):
        raise UnreadableFile(
            "a label or a name occurs twice", where=path, remedy="Give every region its own name"
        )
    return {label: name for label, name in pairs if label != 0}


def _names_in_xml(path: Path) -> list[tuple[int, str]]:
    try:
        root = ElementTree.parse(path).getroot()
        pairs = [
            (int(label.findtext("index", "")), label.findtext("name", "").strip())
            for label in root.iter("label")
        ]
    except (ElementTree.ParseError, ValueError) as error:
        raise UnreadableFile(f"no list of labels ({error})", where=path) from error
    return pairs


def _names_in_table(path: Path) -> list[tuple[int, str]]:
    table = read_table(path)
    columns = {str(name).strip().lower(): name for name in table.columns}
    if "index" not in columns or "name" not in columns:
        raise UnreadableFile(
            f"a table of labels needs the columns index and name, not {', '.join(columns)}",
            where=path,
        )
    try:
        indices = [int(value) for value in table[columns["index"]]]
    except ValueError as error:
        raise UnreadableFile(f"an index is no whole number ({error})", where=path) from error
    return list(zip(indices, (str(n).strip() for n in table[columns["name"]]), strict=True))


def read_coordinates(path: Path, *, radius_mm: float = 5.0) -> SphereAtlas:
    """Read regions given as coordinates: Power, Dosenbach, Seitzman, or a table like theirs.

    Parameters
    ----------
    path
        A table with columns ``x``, ``y``, ``z`` (RAS mm) and, where there is one, ``name`` and
        ``radius`` (``radius(mm)``); separated by commas, tabs or blanks. Regions are called by
        their number and name.
    radius_mm
        Of spheres for which the table gives none.

    Raises
    ------
    UnreadableFile
        A column is missing, or not of numbers.
    """
    table = read_table(path)
    columns = {re.sub(r"\W.*", "", str(name).strip().lower()): name for name in table.columns}
    if not {"x", "y", "z"} <= set(columns):
        raise UnreadableFile(
            f"coordinates need the columns x, y and z, not {', '.join(columns)}", where=path
        )
    try:
        centres = table[[columns[axis] for axis in "xyz"]].to_numpy(np.float64)
        radii = (
            table[columns["radius"]].to_numpy(np.float64)
            if "radius" in columns
            else np.full(len(table), radius_mm)
        )
    except ValueError as error:
        raise UnreadableFile(f"a coordinate is no number ({error})", where=path) from error
    if not (np.isfinite(centres).all() and (radii > 0).all()) or not len(centres):
        raise UnreadableFile("coordinates or radii are missing or not positive", where=path)
    width = len(str(len(centres)))
    numbers = [f"{i + 1:0{width}d}" for i in range(len(centres))]
    if "name" in columns:
        numbers = [f"{n}-{name}" for n, name in zip(numbers, table[columns["name"]], strict=True)]
    return SphereAtlas(tuple(numbers), centres, radii)


def choose_regions(names: tuple[str, ...], wanted: str) -> list[int]:
    """Positions of the regions with a name, or all whose name contains it, ignoring case.

    Raises
    ------
    CohortError
        There is none.
    """
    exact = [i for i, name in enumerate(names) if name.lower() == wanted.lower()]
    found = exact or [i for i, name in enumerate(names) if wanted.lower() in name.lower()]
    if not found:
        raise CohortError(f"no region is called {wanted!r}", remedy=f"There are {names[:5]} …")
    return found


def region_series(volume: Volume, parcellation: Parcellation) -> Array:
    """Mean time course of each region: float64 [t, r].

    Read one time point at a time. Voxels that are not finite at any time are left out of all.

    Raises
    ------
    BadGeometry
        The scan has no time axis.
    LostRegion
        A region has no voxel with finite values.
    """
    if len(volume.shape) != 4:
        raise BadGeometry(
            "the scan has no time axis",
            where=volume.path,
            remedy="Give a BOLD series, or use --method jsse for a single volume",
        )
    usable = _always_finite(volume)
    rows = []
    for time in range(volume.shape[0]):
        moment = np.where(usable, volume.data[time], np.nan)
        rows.append(parcellation.means(moment))
    return np.stack(rows)


def _always_finite(volume: Volume) -> NDArray[np.bool_]:
    usable = np.ones(volume.shape[-3:], bool)
    if np.issubdtype(volume.stored.dtype, np.floating):
        for time in range(volume.shape[0]):
            usable &= np.isfinite(volume.stored[time])
    return usable


def region_samples(volume: Volume, parcellation: Parcellation) -> list[Array]:
    """Values of the voxels of each region of a single volume: r arrays."""
    if len(volume.shape) == 4 and volume.shape[0] > 1:
        raise BadGeometry(
            f"the scan has {volume.shape[0]} time points, one is wanted",
            where=volume.path,
            remedy="Average the frames first",
        )
    return parcellation.samples(np.asarray(volume.data))
