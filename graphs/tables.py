"""Tables of regional values and time series from files, as they come from other tools."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..storage.commit import writable, write_text
from ..storage.errors import CohortError, MissingFile, UnreadableFile
from .matrices import Array

if TYPE_CHECKING:
    import pandas as pd

Rows = Literal["time", "regions"]

_SUMMARIES = ("MeanThickness", "WhiteSurfArea")
_FREESURFER_CORNER = re.compile(r"(lh|rh)\.(?P<parcellation>.+)\.(?P<measure>[^.]+)")


@dataclass(frozen=True, eq=False)
class RegionTable:
    """One value of each region in each subject.

    Attributes
    ----------
    values
        float64 [s, r].
    subjects, regions
        s and r unique names.
    """

    values: Array
    subjects: tuple[str, ...]
    regions: tuple[str, ...]


def read_table(path: Path) -> pd.DataFrame:
    """Read ``.csv``, or columns separated by tabs or blanks under any other name.

    Raises
    ------
    MissingFile, UnreadableFile
    """
    import pandas as pd

    if not path.is_file():
        raise MissingFile("no such table", where=path, remedy="Check the path")
    separator = {".csv": ",", ".tsv": "\t"}.get(path.suffix.lower(), r"\s+")
    try:
        return pd.read_csv(path, sep=separator)
    except (ValueError, UnicodeDecodeError) as error:
        raise UnreadableFile(f"not a table ({error})", where=path) from error


def read_region_table(
    path: Path, *, subject_column: str | None = None, regions: Sequence[str] | None = None
) -> RegionTable:
    """Read a table with a row for each subject and a column for each region.

    Parameters
    ----------
    subject_column
        Identity of the rows; the first column by default.
    regions
        Which columns are regions, in this order; all others by default, which must be numbers.

    Raises
    ------
    CohortError
        A column is missing, is not of numbers, lacks a value; or a subject occurs twice. Names it.
    """
    table = read_table(path)
    key = table.columns[0] if subject_column is None else subject_column
    if key not in table.columns:
        raise CohortError(f"there is no column {key!r}", where=path, remedy="See --subject-column")
    subjects = tuple(str(value) for value in table[key])
    if len(set(subjects)) < len(subjects):
        raise CohortError(
            f"a subject occurs twice in column {key!r}",
            where=path,
            remedy="Name the column with one identity a row with --subject-column",
        )
    wanted = [c for c in table.columns if c != key] if regions is None else list(regions)
    missing = [name for name in wanted if name not in table.columns]
    if missing:
        raise CohortError(f"regions are missing: {', '.join(missing[:5])}", where=path)
    chosen = table[wanted]
    text = [c for c in wanted if not np.issubdtype(np.asarray(chosen[c]).dtype, np.number)]
    if text:
        raise CohortError(
            f"columns that are not numbers: {', '.join(map(str, text[:5]))}",
            where=path,
            remedy="Say which columns are regions with --regions",
        )
    return RegionTable(_complete(chosen, path), subjects, tuple(map(str, wanted)))


def read_freesurfer(folder: Path) -> dict[str, RegionTable]:
    """Read tables of FreeSurfer's ``aparcstats2table`` in a folder, both hemispheres joined.

    A table is known by its first cell (``lh.aparc.thickness``), whatever its file is called.
    Summaries of a hemisphere (mean thickness, white surface area) and of the head are left out.

    Returns
    -------
    dict
        Measure (``thickness``, ``area``, ``volume`` …) -> table. All have the same subjects, in the
        order of the first, and regions, named ``lh_cuneus``.

    Raises
    ------
    CohortError
        There is none, a hemisphere is missing, or tables disagree on subjects or regions.
    """
    found: dict[str, dict[str, pd.DataFrame]] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        corner = _corner(path)
        if corner is not None:
            side, measure = corner
            found.setdefault(measure, {})[side] = _hemisphere(path, side, measure)
    if not found:
        raise CohortError(
            "no table of FreeSurfer's aparcstats2table is here",
            where=folder,
            remedy="Give the folder with lh and rh tables of thickness, area, volume …",
        )
    joined: dict[str, pd.DataFrame] = {}
    for measure, sides in sorted(found.items()):
        if set(sides) != {"lh", "rh"}:
            raise CohortError(f"{measure} is there for one hemisphere only", where=folder)
        _same(sides["lh"].index, sides["rh"].index, f"subjects of lh and rh {measure}", folder)
        joined[measure] = sides["lh"].join(sides["rh"])
    first = next(iter(joined.values()))
    for measure, table in joined.items():
        _same(first.index, table.index, f"subjects of {measure}", folder)
        _same(first.columns, table.columns, f"regions of {measure}", folder)
    subjects, regions = tuple(map(str, first.index)), tuple(map(str, first.columns))
    return {
        measure: RegionTable(
            _complete(table.loc[first.index, first.columns], folder), subjects, regions
        )
        for measure, table in joined.items()
    }


def _corner(path: Path) -> tuple[str, str] | None:
    """Hemisphere and measure that the first cell of a table speaks of."""
    if path.suffix not in (".tsv", ".txt", ".csv", ".table", ".dat") or not path.is_file():
        return None
    with path.open(encoding="utf-8", errors="replace") as file:
        first = re.split(r"[\t, ]", file.readline(4096))[0]
    match = _FREESURFER_CORNER.fullmatch(first)
    return (match[1], match["measure"]) if match else None


def _hemisphere(path: Path, side: str, measure: str) -> pd.DataFrame:
    table = read_table(path)
    table = table.set_index(table.columns[0])
    if not table.index.is_unique:
        raise CohortError("a subject occurs twice", where=path)
    suffix = f"_{measure}"
    regions = {
        column: column.removesuffix(suffix)
        for column in map(str, table.columns)
        if column.startswith(f"{side}_")
        and column.endswith(suffix)
        and column.removeprefix(f"{side}_").removesuffix(suffix) not in _SUMMARIES
    }
    return table[list(regions)].rename(columns=regions)


def _same(one: pd.Index[Any], other: pd.Index[Any], what: str, folder: Path) -> None:
    differ = one.symmetric_difference(other)
    if len(differ):
        raise CohortError(
            f"the {what} differ from the others: {', '.join(map(str, differ[:5]))}", where=folder
        )


def _complete(table: pd.DataFrame, path: Path) -> Array:
    values = table.to_numpy(np.float64)
    if not np.isfinite(values).all():
        row, column = np.argwhere(~np.isfinite(values))[0]
        raise CohortError(
            f"a value is missing: row {row + 1}, column {table.columns[column]}",
            where=path,
            remedy="Leave out this subject or region",
        )
    return values


def read_series(path: Path, *, rows: Rows | None = None, key: str | None = None) -> Array:
    """Read the regional time series of one subject: float64 [t, r].

    Parameters
    ----------
    path
        ``.npy``; ``.mat`` (MATLAB 5); ``.csv``, ``.tsv``, ``.txt``, ``.1D`` with or without a
        header.
    rows
        What a row of the file is. When it is not said, rows are taken for time points, unless
        there are fewer of them than columns: which axis is time is not guessed then.
    key
        Variable of a ``.mat`` file; the only matrix in it by default.

    Raises
    ------
    MissingFile, UnreadableFile
        Nothing is there, or no matrix of numbers.
    CohortError
        Which axis is time cannot be told, or which variable is meant.
    """
    if not path.is_file():
        raise MissingFile("no such series", where=path, remedy="Check the path")
    try:
        match path.suffix.lower():
            case ".npy":
                array = np.asarray(np.load(path, allow_pickle=False), np.float64)
            case ".mat":
                array = _matlab(path, key)
            case _:
                array = _text(path)
    except (ValueError, TypeError, NotImplementedError, EOFError, UnicodeDecodeError) as error:
        raise UnreadableFile(f"no matrix of numbers ({error})", where=path) from error
    if array.ndim != 2:
        raise UnreadableFile(f"a series has two axes, not {array.ndim}", where=path)
    if rows is None and array.shape[0] < array.shape[1]:
        raise CohortError(
            f"the file does not say whether it holds {array.shape[0]} time points of "
            f"{array.shape[1]} regions or the reverse",
            where=path,
            remedy="Say what a row is with --rows time or --rows regions",
        )
    return array.T if rows == "regions" else array


def _matlab(path: Path, key: str | None) -> Array:
    import zlib

    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        content = {k: v for k, v in loadmat(path).items() if not k.startswith("__")}
    except (MatReadError, OSError, zlib.error) as error:
        raise ValueError(str(error)) from error
    if key is None:
        matrices = [n for n, v in content.items() if v.ndim == 2 and min(v.shape) > 1]
        if len(matrices) != 1:
            raise CohortError(
                f"which variable is the series? There are {', '.join(content) or 'none'}",
                where=path,
                remedy="Name it with --key",
            )
        key = matrices[0]
    if key not in content:
        raise CohortError(
            f"there is no variable {key!r}, only {', '.join(content)}", where=path,
            remedy="Name another with --key",
        )  # fmt: skip
    return np.asarray(content[key], np.float64)


def _text(path: Path) -> Array:
    text = path.read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if not lines:
        raise ValueError("the file is empty")
    separator = "," if "," in lines[0] else "\t" if "\t" in lines[0] else None
    if not _is_number(lines[0].split(separator)[0]):
        lines = lines[1:]
    return np.atleast_2d(np.loadtxt(lines, delimiter=separator, ndmin=2))


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def write_rows(path: Path, rows: Sequence[Mapping[str, str | float]]) -> None:
    """Write a CSV with the columns of the first row; a value that is no number is an empty cell."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
    with writable(path):
        write_text(path, buffer.getvalue())


def _cell(value: str | float) -> str:
    if isinstance(value, str):
        return value
    return "" if np.isnan(value) else repr(float(value))


def read_names(path: Path) -> tuple[str, ...]:
    """Read names of regions, one a line."""
    if not path.is_file():
        raise MissingFile("no such list of names", where=path, remedy="Check the path")
    return tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line)


def read_centroids(path: Path) -> Array:
    """Read centroids, x y z in RAS mm a line, separated by commas or blanks: float64 [r, 3]."""
    if not path.is_file():
        raise MissingFile("no such list of centroids", where=path, remedy="Check the path")
    try:
        text = path.read_text(encoding="utf-8").replace(",", " ").splitlines()
        positions = np.loadtxt(text, ndmin=2)
    except ValueError as error:
        raise UnreadableFile(f"no centroids ({error})", where=path) from error
    if positions.shape[1] != 3:
        raise UnreadableFile(f"centroids have 3 columns, not {positions.shape[1]}", where=path)
    return positions
