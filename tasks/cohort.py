"""The cohort: one row per slide, checked before anything is made from it."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..storage.errors import CohortError, LabelError, LeakError, MissingFile
from ..storage.objects import url_of
from .evaluation import some

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("id", "path", "patient", "site", "label", "mpp")
_SEPARATORS = {".csv": ",", ".tsv": "\t"}


@dataclass(frozen=True)
class Case:
    """One slide of a cohort.

    Attributes
    ----------
    id
        Names the slide in every product; usable as a file name.
    patient
        Whom it is of. Slides of one patient are never on both sides of a split.
    path
        The slide, absolute or as resolved against the table's folder, or an URL; None where not
        given.
    site, label
        Where it is from and what is to be learnt; None where not given.
    mpp
        Micrometres per pixel that override the file's own; None to believe the file.
    extra
        Text of the further columns that were asked for, by name; empty where nothing is stated.
    """

    id: str
    patient: str
    path: Path | None = None
    site: str | None = None
    label: str | None = None
    mpp: float | None = None
    extra: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Cohort:
    """Slides in the order of their table.

    Attributes
    ----------
    cases
        At least one.
    source
        The table's path, for messages.
    notes
        What is allowed but worth knowing, in sentences.
    """

    cases: tuple[Case, ...]
    source: str = "the table"
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.cases)

    @property
    def ids(self) -> tuple[str, ...]:
        """Slide ids."""
        return tuple(case.id for case in self.cases)

    @property
    def patients(self) -> NDArray[np.str_]:
        """Patients [n], to group by."""
        return np.array([case.patient for case in self.cases])

    def classes(self, positive: str | None = None) -> tuple[str, ...]:
        """The labels in order of the alphabet, with ``positive`` moved to the end.

        Raises
        ------
        LabelError
            A label is missing, there is only one class, or ``positive`` is none of them.
        """
        unlabelled = [case.id for case in self.cases if case.label is None]
        if unlabelled:
            raise LabelError(
                f"{len(unlabelled)} slides have no label: {some(unlabelled)}",
                where=self.source,
                remedy="Fill in the column label, or leave these rows out",
            )
        found = sorted({case.label for case in self.cases if case.label is not None})
        if len(found) < 2:
            raise LabelError(
                f"every slide has the label {found[0]!r}",
                where=self.source,
                remedy="At least two classes are needed to learn a difference",
            )
        if positive is None:
            return tuple(found)
        if positive not in found:
            raise LabelError(
                f"no slide has the label {positive!r}; there are {some(found)}",
                where=self.source,
                remedy="Name one of these as the positive class",
            )
        return (*(name for name in found if name != positive), positive)

    def labels(self, classes: Sequence[str]) -> NDArray[np.int64]:
        """Labels [n] as indices into ``classes``."""
        index = {name: i for i, name in enumerate(classes)}
        return np.array([index[case.label or ""] for case in self.cases], np.int64)


def read_cohort(
    path: str | Path,
    *,
    needs: Iterable[str] = ("path",),
    extra: Sequence[str] = (),
    label: str = "label",
) -> Cohort:
    """Read a cohort from CSV (.csv, .tsv) or Parquet (.parquet) and check every row.

    Parameters
    ----------
    path
        Columns ``id`` and ``patient``; ``path`` (relative to the table's folder), ``site``,
        ``label`` and ``mpp`` where wanted; others are ignored.
    needs
        Further columns that must be there: ``path`` to read slides, ``label`` to learn.
    extra
        Columns of other names that must be there and are kept as text in :attr:`Case.extra`.

    label
        Column to take as ``label``.

    Raises
    ------
    MissingFile, CohortError
        No such file; or it is no table, or a column or row is wrong. Rows are numbered as a
        spreadsheet shows them, the header being row 1.
    """
    import pandas as pd

    path = Path(path)
    if not path.is_file():
        raise MissingFile("no such cohort table", where=path, remedy="Check the path")
    try:
        if path.suffix.lower() == ".parquet":
            table = pd.read_parquet(path)
        else:
            table = pd.read_csv(
                path,
                sep=_SEPARATORS.get(path.suffix.lower(), ","),
                dtype=str,
                keep_default_na=False,
                skip_blank_lines=False,
                encoding="utf-8-sig",
            )
    except (ValueError, OSError) as error:
        raise CohortError(
            f"cannot be read as a table ({error})",
            where=path,
            remedy="Save it as UTF-8 CSV with commas, or as Parquet",
        ) from error
    if label != "label":
        if label not in table:
            raise CohortError(
                f"columns are missing: {label}; there are {', '.join(map(str, table))}", where=path
            )
        table = table.drop(columns="label", errors="ignore").rename(columns={label: "label"})
    return cohort_from_table(table, folder=path.parent, source=str(path), needs=needs, extra=extra)


def cohort_from_table(
    table: pd.DataFrame,
    *,
    folder: Path | None = None,
    source: str = "the table",
    needs: Iterable[str] = ("path",),
    extra: Sequence[str] = (),
    first_row: int = 2,
) -> Cohort:
    """Check a data frame and make it a cohort; see :func:`read_cohort`.

    Parameters
    ----------
    folder
        What relative paths are relative to; the working directory by default.
    first_row
        Number of the first data row in messages.
    """
    missing = [
        name for name in dict.fromkeys(("id", "patient", *needs, *extra)) if name not in table
    ]
    if missing:
        raise CohortError(
            f"columns are missing: {', '.join(missing)}; there are {', '.join(map(str, table))}",
            where=source,
            remedy="Name the columns in the first row, separated by commas",
        )
    if not len(table):
        raise CohortError("there are no rows", where=source)
    rows = [
        {name: _text(value) for name, value in zip(COLUMNS, values, strict=True)}
        for values in zip(
            *(table[name] if name in table else [None] * len(table) for name in COLUMNS),
            strict=True,
        )
    ]
    check = _Check(source, first_row)
    base = Path.cwd() if folder is None else folder.resolve()
    cases = tuple(
        Case(
            id=check.identity(i, row["id"]),
            patient=check.filled(i, "patient", row["patient"]),
            path=_placed(base, check.filled(i, "path", row["path"])) if "path" in table else None,
            site=row["site"] or None,
            label=row["label"] or None,
            mpp=check.resolution(i, row["mpp"]),
            extra={name: _text(table[name].iloc[i]) for name in extra},
        )
        for i, row in enumerate(rows)
    )
    check.unique("id", [case.id for case in cases], "Give every slide its own id")
    check.unique(
        "path",
        [str(case.path.resolve()) for case in cases if case.path is not None],
        "List every file once",
    )
    check.spelling([case.label for case in cases])
    return Cohort(cases, source, tuple(_notes(cases)))


@dataclass(frozen=True)
class _Check:
    """Refuses a cell by its row and column."""

    source: str
    first_row: int

    def _refuse(self, i: int, column: str, what: str, remedy: str) -> CohortError:
        return CohortError(
            f"row {i + self.first_row}, column {column}: {what}", where=self.source, remedy=remedy
        )

    def filled(self, i: int, column: str, value: str) -> str:
        if not value:
            raise self._refuse(i, column, "empty", "Fill it in")
        return value

    def identity(self, i: int, value: str) -> str:
        name = self.filled(i, "id", value)
        if name.startswith(".") or any(c in name for c in "/\\\0"):
            remedy = "An id becomes a file name: no slash, and no dot at the beginning"
            raise self._refuse(i, "id", f"{name!r} cannot name a file", remedy)
        return name

    def resolution(self, i: int, value: str) -> float | None:
        if not value:
            return None
        remedy = "Micrometres per pixel, as 0.25"
        try:
            mpp = float(value)
        except ValueError:
            raise self._refuse(i, "mpp", f"{value!r} is no number", remedy) from None
        if not (math.isfinite(mpp) and mpp > 0):
            raise self._refuse(i, "mpp", f"{value} cannot be a pixel size", remedy)
        return mpp

    def unique(self, column: str, values: Sequence[str], remedy: str) -> None:
        first: dict[str, int] = {}
        for i, value in enumerate(values):
            if value in first:
                what = f"{value!r} is in row {first[value] + self.first_row} already"
                raise self._refuse(i, column, what, remedy)
            first[value] = i

    def spelling(self, labels: Sequence[str | None]) -> None:
        spelt: dict[str, str] = {}
        for i, label in enumerate(labels):
            usual = spelt.setdefault(label.casefold(), label) if label is not None else None
            if label != usual:
                raise LabelError(
                    f"row {i + self.first_row}, column label: {label!r} is spelt {usual!r} above",
                    where=self.source,
                    remedy="Spell a class in one way",
                )


def _placed(base: Path, text: str) -> Path:
    """Where a slide lies: below the table's folder, or where its URL says."""
    return base / text if url_of(text) is None else Path(text)


def _text(value: Any) -> str:
    import pandas as pd

    if pd.isna(value):
        return ""
    # A column of whole numbers with gaps comes as floats.
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip()


def _notes(cases: Sequence[Case]) -> Iterable[str]:
    labels: defaultdict[str, set[str]] = defaultdict(set)
    for case in cases:
        if case.label is not None:
            labels[case.patient].add(case.label)
    mixed = [patient for patient, found in labels.items() if len(found) > 1]
    if mixed:
        yield (
            f"slides of {len(mixed)} patients have different labels ({some(mixed)}): "
            "taken as labels of the slide, not of the patient"
        )


def telling_names(cohort: Cohort) -> tuple[str, ...]:
    """Slides whose names say the label, as ``tumour_001`` does.

    Names reach reports, viewers and whatever is read beside the slides. A name tells where it
    has the label of its own slide as a word, and all slides but those of one class do so.
    """
    telling: defaultdict[str, list[bool]] = defaultdict(list)
    for case in cohort.cases:
        if case.label is not None:
            words = re.split(r"[\W_]+|(?<=\D)(?=\d)", case.id.casefold())
            telling[case.label].append(case.label.casefold() in words)
    told = [label for label, found in telling.items() if all(found)]
    if len(telling) < 2 or len(told) < len(telling) - 1:
        return ()
    return tuple(case.id for case in cohort.cases if case.label in told)


def heed_telling_names(cohort: Cohort, *, allowed: bool = False) -> Cohort:
    """Refuse a cohort with :func:`telling_names`; where they are allowed, note them.

    Raises
    ------
    LeakError
        Names some of the slides.
    """
    told = telling_names(cohort)
    if not told:
        return cohort
    if not allowed:
        raise LeakError(
            f"names of slides give their labels away: {some(told)}",
            where=cohort.source,
            remedy="Give the slides ids that say nothing, in the table and to their bags; or, if "
            "nobody and nothing but the model (which reads no names) decides what becomes of "
            "them, say so with --allow-telling-names",
        )
    note = (
        f"names of {len(told)} slides give their labels away ({some(told)}); allowed by whoever "
        "trained: the model reads no names, but whoever scanned, sorted or left out slides by "
        "their names knew the labels"
    )
    return replace(cohort, notes=(*cohort.notes, note))
