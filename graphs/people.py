"""Who is compared: the subjects of a cohort, matched with the rows of a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ..storage.connectomes import ConnectomeCohort
from ..storage.errors import CohortError
from .design import Design
from .matrices import Array
from .subject_table import code_columns, person_of, read_rows


@dataclass(frozen=True)
class Columns:
    """Columns of the table, and which of its rows to use.

    Attributes
    ----------
    group, subject, covariates, person, blocks
        Names of columns. Words among covariates become one regressor for each but the first. The
        networks of a person with several rows are averaged. People are exchanged within their block
        only, as of one site or family.
    groups
        Labels to compare, in this order: the second minus the first. All by default, sorted.
    drop_missing
        Leave out subjects without a row or a value, and list them, in place of refusing.
    """

    group: str
    subject: str = "subject"
    covariates: tuple[str, ...] = ()
    person: str | None = None
    blocks: str | None = None
    groups: tuple[str, ...] = ()
    drop_missing: bool = False

    @property
    def needed(self) -> tuple[str, ...]:
        """Columns that each subject must have a value in."""
        own = (self.group, *self.covariates, self.person, self.blocks)
        return tuple(name for name in own if name is not None)


@dataclass(frozen=True, eq=False)
class People:
    """Whom the table lets compare: networks [s, r, r], a group and covariates [s, c] each."""

    names: tuple[str, ...]
    networks: Array
    labels: tuple[str, ...]
    groups: tuple[str, ...]
    covariates: Array
    excluded: Mapping[str, str] = field(default_factory=dict)
    blocks: tuple[str, ...] = ()

    @property
    def design(self) -> Design:
        """The linear model, groups in the order asked for."""
        number = np.array([self.groups.index(label) for label in self.labels])
        return Design.between(number, self.covariates, self.blocks or None)


def read_people(table: Path, cohort: ConnectomeCohort, columns: Columns) -> People:
    """Match the cohort's subjects with the rows of the table.

    Raises
    ------
    MissingFile, CohortError
        No such table or column, a value missing, an unknown group, sessions of one person.
    """
    rows = read_rows(table, columns.subject, columns.needed, person_option="--person")
    excluded: dict[str, str] = {}
    for subject in cohort.subjects:
        if subject not in rows:
            excluded[subject] = "not in the table"
        else:
            empty = [name for name in columns.needed if not rows[subject][name]]
            if empty:
                excluded[subject] = f"no {empty[0]}"
    if excluded and (not columns.drop_missing or len(excluded) == len(cohort)):
        first = next(iter(excluded))
        raise CohortError(
            f"{len(excluded)} of {len(cohort)} subjects cannot be used; {first!r}: "
            f"{excluded[first]}",
            where=table,
            remedy="Fill the table in, name its column of subjects with --subject, or leave them "
            "out with --drop-missing",
        )
    label_of = {s: rows[s][columns.group] for s in cohort.subjects if s not in excluded}
    groups = columns.groups or tuple(sorted(set(label_of.values())))
    absent = [name for name in groups if name not in label_of.values()]
    if absent or len(groups) < 2:
        listing = ", ".join(f"{k} ({n})" for k, n in sorted(Counter(label_of.values()).items()))
        raise CohortError(
            f"nobody is in group {absent[0]!r}" if absent else "two groups are needed to compare",
            where=table,
            remedy=f"The column {columns.group!r} has: {listing}",
        )
    excluded |= {s: f"group {label}" for s, label in label_of.items() if label not in groups}
    kept = [s for s in cohort.subjects if s not in excluded]
    coded = code_columns([[rows[s][name] for s in kept] for name in columns.covariates])
    whole = People(
        tuple(kept),
        cohort.adjacency[[cohort.subjects.index(s) for s in kept]],
        tuple(label_of[s] for s in kept),
        groups,
        coded.reshape(len(kept), -1),
        excluded,
        () if columns.blocks is None else tuple(rows[s][columns.blocks] for s in kept),
    )
    if columns.person is None:
        _refuse_sessions(whole.names)
        return whole
    return _averaged(whole, [rows[s][columns.person] for s in kept])


def _refuse_sessions(names: Sequence[str]) -> None:
    people = Counter(person for person in map(person_of, names) if person)
    several = [person for person, n in people.items() if n > 1]
    if several:
        raise CohortError(
            f"{len(several)} people have several sessions, as {several[0]}, and sessions of a "
            "person are not exchanged with those of others",
            remedy="Name the person's column with --person: their networks are averaged",
        )


def _averaged(people: People, person: Sequence[str]) -> People:
    names, number = np.unique(np.array(person), return_inverse=True)
    mean = np.eye(len(names))[:, number]
    mean /= mean.sum(axis=1, keepdims=True)

    def one_each(words: tuple[str, ...], what: str) -> tuple[str, ...]:
        if not words:
            return ()
        found = []
        for i, name in enumerate(names):
            own = {words[row] for row in np.flatnonzero(number == i)}
            if len(own) > 1:
                raise CohortError(f"{name} is in several {what}: {', '.join(sorted(own))}")
            found.append(own.pop())
        return tuple(found)

    return replace(
        people,
        names=tuple(str(name) for name in names),
        networks=np.tensordot(mean, people.networks, 1),
        labels=one_each(people.labels, "groups"),
        blocks=one_each(people.blocks, "blocks"),
        covariates=mean @ people.covariates,
    )
