"""What is to be learnt of a cohort: classes, labels that may be several, a value, survival."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...storage.errors import CohortError, LabelError
from ..cohort import Cohort
from ..evaluation import Fold, balanced_folds, grouped_folds, some
from .names import Kind

UNKNOWN = ("", "na", "nan")
"""How a cell says that nobody knows."""
_TRUTHS = {"0": 0.0, "1": 1.0, "false": 0.0, "true": 1.0, "no": 0.0, "yes": 1.0}
_BINS = 3


@dataclass(frozen=True)
class Target:
    """The truth of n slides, and of what kind it is.

    Attributes
    ----------
    kind
        See :data:`~microtome.tasks.mil.names.Kind`.
    names
        Of the outputs: classes, labels, or the column of the value or of the time.
    truth
        classes: int [n], index into ``names``. labels: float [n, c]: 1, 0, or nan where nobody
        knows. regression: float [n]. survival: float [n, 2]: time, and 1 for an event or 0.
    """

    kind: Kind
    names: tuple[str, ...]
    truth: NDArray[Any]

    def __len__(self) -> int:
        return len(self.truth)

    def take(self, rows: NDArray[np.int64]) -> Target:
        """The truth of some rows, as often as they are named."""
        return replace(self, truth=self.truth[rows])

    def strata(self) -> NDArray[np.int64]:
        """What folds are balanced over, int [n].

        Classes; the rarest label that a slide has; thirds of a value; whether there was an event.
        """
        if self.kind == "classes":
            return np.asarray(self.truth, np.int64)
        if self.kind == "survival":
            return self.truth[:, 1].astype(np.int64)
        if self.kind == "regression":
            cuts = np.quantile(self.truth, np.arange(1, _BINS) / _BINS)
            return np.searchsorted(cuts, self.truth).astype(np.int64)
        has = self.truth == 1
        rarity = np.where(has, has.sum(0), np.inf)
        return np.where(has.any(1), rarity.argmin(1), -1)

    def folds(self, patients: NDArray[Any], n_folds: int, *, seed: int) -> list[Fold]:
        """Folds by patient, balanced over :meth:`strata`; raises as the two ways of drawing."""
        draw = grouped_folds if self.kind == "classes" else balanced_folds
        return draw(self.strata(), patients, n_folds, seed=seed)

    def scarcest(self, patients: NDArray[Any]) -> int:
        """Number of patients of whatever has the fewest and must be learnt.

        Of every class; of each label those with and those without; all; those with an event.
        """
        if self.kind == "classes":
            parts = [self.truth == k for k in range(len(self.names))]
        elif self.kind == "labels":
            parts = [self.truth[:, k] == value for k in range(len(self.names)) for value in (0, 1)]
        elif self.kind == "survival":
            parts = [self.truth[:, 1] == 1]
        else:
            parts = [np.ones(len(self), bool)]
        return min(len(np.unique(patients[part])) for part in parts)

    def words(self, row: int) -> str:
        """The truth of a row, for a table."""
        truth = self.truth[row]
        if self.kind == "classes":
            return self.names[int(truth)]
        if self.kind == "labels":
            return ";".join(name for name, has in zip(self.names, truth, strict=True) if has == 1)
        if self.kind == "regression":
            return f"{truth:g}"
        return f"{truth[0]:g}" + ("" if truth[1] else "+")


def as_target(truth: NDArray[np.int64] | Target) -> Target:
    """Labels [n] as a target of nameless classes 0 … c - 1; a target as it is."""
    if isinstance(truth, Target):
        return truth
    names = tuple(str(k) for k in range(int(np.max(truth)) + 1))
    return Target("classes", names, np.asarray(truth, np.int64))


def read_target(
    cohort: Cohort, kind: Kind, columns: Sequence[str] = (), *, positive: str | None = None
) -> Target:
    """Take what is to be learnt from a cohort.

    Parameters
    ----------
    cohort
        Read with these columns as ``extra``, but for classes.
    columns
        classes: none, they are the cohort's labels. labels: one column of label sets such as
        ``a;b``, or several of 0 and 1. regression: the value's. survival: the time's and the
        event's.
    positive
        Class that comes last.

    Raises
    ------
    LabelError
        A cell is empty or no number, or there is nothing to tell apart. A label may be unknown
        (empty) in columns of 0 and 1.
    """
    if kind == "classes":
        names = cohort.classes(positive)
        return Target(kind, names, cohort.labels(names))
    if kind == "labels" and len(columns) == 1:
        return _label_sets(cohort, columns[0])
    if kind == "labels":
        truth = np.stack([_numbers(cohort, name, truths=True) for name in columns], axis=1)
        return _checked(Target(kind, tuple(columns), truth), cohort)
    if kind == "regression":
        (name,) = columns
        return _checked(Target(kind, (name,), _numbers(cohort, name)), cohort)
    time_column, event_column = columns
    time, event = _numbers(cohort, time_column), _numbers(cohort, event_column, truths=True)
    _refuse_rows(cohort, event_column, np.isnan(event), "nothing", "Say 1 for an event, 0 if none")
    _refuse_rows(
        cohort, time_column, time <= 0, "no time above 0", "Leave out who has no follow-up"
    )
    return _checked(Target(kind, (time_column,), np.stack([time, event], axis=1)), cohort)


def _cells(cohort: Cohort, column: str) -> list[str]:
    return [case.extra[column] for case in cohort.cases]


def _numbers(cohort: Cohort, column: str, *, truths: bool = False) -> NDArray[np.float64]:
    """Numbers of a column; with ``truths`` 0 and 1 as they may be spelt, nan where unknown."""
    found = np.full(len(cohort), np.nan)
    wrong = np.zeros(len(cohort), bool)
    for i, cell in enumerate(_cells(cohort, column)):
        try:
            if not truths:
                found[i] = float(cell)
            elif cell.casefold() not in UNKNOWN:
                found[i] = _TRUTHS[cell.casefold()]
        except (ValueError, KeyError):
            wrong[i] = True
    if not truths:
        wrong |= ~np.isfinite(found)
    what = "neither 0 nor 1" if truths else "no number"
    _refuse_rows(cohort, column, wrong, what, "Fill it in, or leave these rows out")
    return found


def _refuse_rows(
    cohort: Cohort, column: str, wrong: NDArray[np.bool_], what: str, remedy: str
) -> None:
    if wrong.any():
        names = [f"row {i + 2} ({cohort.ids[i]})" for i in np.flatnonzero(wrong)]
        raise LabelError(
            f"column {column}: {some(names)}: {what}", where=cohort.source, remedy=remedy
        )


def _label_sets(cohort: Cohort, column: str) -> Target:
    sets = [{part.strip() for part in cell.split(";")} - {""} for cell in _cells(cohort, column)]
    names = tuple(sorted(set().union(*sets)))
    truth = np.array([[float(name in found) for name in names] for found in sets])
    return _checked(Target("labels", names, truth.reshape(len(sets), len(names))), cohort)


def _checked(target: Target, cohort: Cohort) -> Target:
    if not target.names:
        raise LabelError("no slide has a label", where=cohort.source)
    if target.kind == "labels":
        lonely = [
            name
            for name, column in zip(target.names, target.truth.T, strict=True)
            if len(np.unique(column[~np.isnan(column)])) < 2
        ]
        if lonely:
            raise LabelError(
                f"every slide, or none, has the label {some(lonely)}",
                where=cohort.source,
                remedy="Leave it out: there is nothing to tell apart",
            )
    if target.kind == "regression" and np.ptp(target.truth) == 0:
        raise LabelError(
            f"column {target.names[0]}: every slide has the value {target.truth[0]:g}",
            where=cohort.source,
            remedy="A value that does not vary cannot be learnt",
        )
    if target.kind == "survival" and not target.truth[:, 1].any():
        raise LabelError("nobody had an event", where=cohort.source)
    _one_outcome_a_patient(target, cohort)
    return target


def _one_outcome_a_patient(target: Target, cohort: Cohort) -> None:
    """Survival is a patient's: two slides of one cannot have two ends."""
    if target.kind != "survival":
        return
    seen: dict[str, tuple[float, ...]] = {}
    for case, truth in zip(cohort.cases, target.truth.tolist(), strict=True):
        if seen.setdefault(case.patient, tuple(truth)) != tuple(truth):
            raise CohortError(
                f"slides of patient {case.patient} have different times or events",
                where=cohort.source,
                remedy="Survival is the patient's: give all slides of one the same",
            )
