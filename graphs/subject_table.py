"""A table with a row a subject, as it stands in the file: all values are text."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..storage.errors import CohortError, MissingFile
from .matrices import Array

_SESSION = re.compile(r"(?P<person>sub-[A-Za-z0-9]+)_ses-[A-Za-z0-9]+")
_SHOWN = 5


def person_of(subject: str) -> str | None:
    """Whose session a subject is that is named as in BIDS, ``sub-01`` of ``sub-01_ses-2``."""
    session = _SESSION.fullmatch(subject)
    return None if session is None else session["person"]


def read_rows(
    table: Path, subject: str, needed: Iterable[str], *, person_option: str
) -> dict[str, dict[str, str]]:
    """Read a table, CSV or (``.tsv``) TSV, by the subjects that it names.

    Parameters
    ----------
    subject
        Column of the subjects.
    needed
        Further columns that must be there.
    person_option
        What names the column of the person to whom several sessions belong, for an error.

    Raises
    ------
    MissingFile, CohortError
        No such table or column; it cannot be read, or a subject has several rows.
    """
    import pandas as pd

    if not table.is_file():
        raise MissingFile("no such table", where=table, remedy="Check the path")
    separator = "\t" if table.suffix == ".tsv" else ","
    try:
        frame: Any = pd.read_csv(table, dtype=str, sep=separator).fillna("")
    except (ValueError, UnicodeDecodeError) as error:
        raise CohortError(
            f"this table cannot be read ({error})", where=table, remedy="Give CSV or TSV, in UTF-8"
        ) from error
    for name in (subject, *needed):
        if name not in frame.columns:
            raise CohortError(
                f"no column {name!r}",
                where=table,
                remedy=f"The table has: {', '.join(map(str, frame.columns))}",
            )
    records: list[dict[str, str]] = frame.map(str.strip).to_dict("records")
    count = Counter(record[subject] for record in records)
    doubled = [name for name, n in count.items() if n > 1 and name]
    if doubled:
        more = " …" if len(doubled) > _SHOWN else ""
        raise CohortError(
            f"subjects have several rows: {', '.join(doubled[:_SHOWN])}{more}",
            where=table,
            remedy="Give each session a row and a name of its own, and the person with "
            f"{person_option}",
        )
    return {record[subject]: record for record in records}


def code_columns(columns: Sequence[Sequence[str]]) -> Array:
    """Numbers as they are, words as one column for each but the first: float64 [s, c]."""
    made: list[Array] = []
    for column in columns:
        try:
            made.append(np.array(column, np.float64)[:, None])
        except ValueError:
            names, number = np.unique(np.array(column), return_inverse=True)
            made.append(np.eye(len(names))[number][:, 1:])
    return np.hstack(made) if made else np.empty(0)
