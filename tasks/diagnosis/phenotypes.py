"""The table beside the connectomes: who is ill, who is who, who was scanned where."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...graphs.subject_table import code_columns, person_of, read_rows
from ...storage.errors import CohortError, LabelError, MissingFile
from ..evaluation import some


@dataclass(frozen=True)
class Columns:
    """Names of the columns to read.

    Attributes
    ----------
    label, subject
        The diagnosis; the name that the cohort knows the row by.
    group
        The person, where a person has several rows. Without it, sessions named as in BIDS
        (``sub-01_ses-2``) belong to ``sub-01``, and every other name is a person.
    site
        The scanner or centre.
    split
        Each value of this column is held out once, in place of random folds.
    covariates
        What else is known of a person and might tell the diagnosis by itself: age, sex, motion.
    """

    label: str
    subject: str = "subject"
    group: str | None = None
    site: str | None = None
    split: str | None = None
    covariates: tuple[str, ...] = ()

    @property
    def needed(self) -> tuple[str, ...]:
        """Columns that the table must have, beside that of the subjects."""
        named = (self.label, self.group, self.site, self.split, *self.covariates)
        return tuple(name for name in named if name is not None)


@dataclass(frozen=True, eq=False)
class Phenotypes:
    """What the table says of the subjects of a cohort, row by row.

    Attributes
    ----------
    subjects, groups, sites, splits
        As asked for by :class:`Columns`.
    labels
        int64 [s]: index into ``classes``.
    classes
        The two classes; the second is the positive one.
    covariates
        float64 [s, k]: words as one column for each but the first; None where none are asked for.
    excluded
        Subjects of the cohort that are left out, with the reason.
    """

    subjects: tuple[str, ...]
    labels: NDArray[np.int64]
    classes: tuple[str, str]
    groups: tuple[str, ...]
    sites: tuple[str, ...] | None = None
    splits: tuple[str, ...] | None = None
    covariates: NDArray[np.float64] | None = None
    excluded: Mapping[str, str] = field(default_factory=dict)


def read_phenotypes(
    table: Path,
    subjects: Sequence[str],
    columns: Columns,
    *,
    classes: Sequence[str] | None = None,
    positive: str | None = None,
    drop_missing: bool = False,
) -> Phenotypes:
    """Read labels, people and sites of a cohort's subjects from a CSV or TSV table.

    Rows of people who are not in the cohort are of no concern. All values are read as text.

    Parameters
    ----------
    subjects
        The cohort's subjects; the result keeps their order.
    classes
        The two labels to tell apart; subjects with another label are left out and listed. By
        default the column must hold two.
    positive
        The class that scores speak of; by default the one that sorts last.
    drop_missing
        Leave out subjects without a row or a label, and list them, instead of refusing.

    Raises
    ------
    MissingFile, CohortError
        No such table or column; a subject twice, or (without ``drop_missing``) not in the table.
    LabelError
        A label is missing, there is a single class, or there are more than two.
    """
    rows = read_rows(table, columns.subject, columns.needed, person_option="--group")
    absent = [subject for subject in subjects if subject not in rows]
    if absent and (not drop_missing or len(absent) == len(subjects)):
        raise CohortError(
            f"{len(absent)} of {len(subjects)} subjects are not in the table: {some(absent)}",
            where=table,
            remedy=f"Name the column that identifies them with --subject, now {columns.subject!r}, "
            "or leave them out with --drop-missing",
        )
    unlabelled = [s for s in subjects if s in rows and not rows[s][columns.label]]
    if unlabelled and not drop_missing:
        raise LabelError(
            f"{len(unlabelled)} subjects have no {columns.label}: {some(unlabelled)}",
            where=table,
            remedy="Fill the column in, or leave them out with --drop-missing",
        )
    excluded = dict.fromkeys(absent, "not in the table") | dict.fromkeys(unlabelled, "no label")
    label_of = {s: rows[s][columns.label] for s in subjects if s not in excluded}
    pair = _two_classes(label_of, classes, positive, where=f"{table}: {columns.label}")
    excluded |= {s: f"label {label}" for s, label in label_of.items() if label not in pair}
    kept = tuple(s for s in subjects if s not in excluded)

    def values(column: str | None) -> tuple[str, ...] | None:
        return None if column is None else tuple(_value(rows[s], column, s, table) for s in kept)

    return Phenotypes(
        subjects=kept,
        labels=np.array([pair.index(label_of[s]) for s in kept], np.int64),
        classes=pair,
        groups=values(columns.group) or tuple(person_of(s) or s for s in kept),
        sites=values(columns.site),
        splits=values(columns.split),
        covariates=_covariates([values(name) or () for name in columns.covariates], table),
        excluded=excluded,
    )


def file_key(table: Path) -> str:
    """Identity of a table by all of its content.

    Raises
    ------
    MissingFile
        No such table.
    """
    if not table.is_file():
        raise MissingFile("no such table", where=table, remedy="Check the path")
    return hashlib.sha256(table.read_bytes()).hexdigest()


def _two_classes(
    label_of: Mapping[str, str], classes: Sequence[str] | None, positive: str | None, where: str
) -> tuple[str, str]:
    found = Counter(label_of.values())
    names = sorted(found) if classes is None else list(dict.fromkeys(classes))
    listing = ", ".join(f"{name} ({n})" for name, n in sorted(found.items())) or "none"
    if len(names) != 2:
        raise LabelError(
            f"a diagnosis tells two classes apart, not {len(names)}; labels: {listing}",
            where=where,
            remedy="Choose another --label column, or name two of them: --classes A,B",
        )
    chosen = max(names) if positive is None else positive
    absent = [name for name in (*names, chosen) if name not in found or name not in names]
    if absent:
        raise LabelError(
            f"no subject to learn from is of class {absent[0]!r}; labels: {listing}",
            where=where,
            remedy="Write the classes as they stand in the table",
        )
    return (names[0] if names[1] == chosen else names[1], chosen)


def _covariates(columns: Sequence[Sequence[str]], table: Path) -> NDArray[np.float64] | None:
    if not columns:
        return None
    coded: NDArray[np.float64] = code_columns(columns)
    if not np.isfinite(coded).all():
        raise CohortError(
            "a covariate is not a finite number", where=table, remedy="Fill the column in"
        )
    return coded


def _value(row: Mapping[str, str], column: str, subject: str, table: Path) -> str:
    if not row[column]:
        raise CohortError(f"{subject} has no {column}", where=table, remedy="Fill the column in")
    return row[column]
