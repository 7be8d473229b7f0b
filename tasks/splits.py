"""Splits: which slides of a cohort are tested together, kept in a file that names itself."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..storage.commit import writable, write_text
from ..storage.errors import CohortError, LabelError, LeakError, MissingFile
from .cohort import Cohort
from .evaluation import Fold, balanced_folds, grouped_folds, some

if TYPE_CHECKING:
    from .mil.names import SplitBy
    from .mil.targets import Target


Ids = tuple[str, ...]


@dataclass(frozen=True)
class Splits:
    """Which slides are tested together, by id.

    Attributes
    ----------
    folds
        Test slides of each fold; every slide is in one. The rest is what the fold trains on.
    seed
        What the folds were drawn with; None where they came from elsewhere.
    by
        What is never on both sides; see :data:`~microtome.tasks.mil.names.SplitBy`.
    inner
        For each fold, inner folds of the slides that it trains on, by patient; none where nothing
        is chosen within the folds.
    """

    folds: tuple[Ids, ...]
    seed: int | None = None
    by: str = "patient"
    inner: tuple[tuple[Ids, ...], ...] = ()

    @property
    def hash(self) -> str:
        """SHA-256 of the folds, and of the inner ones: whatever is reported names it."""
        named: Any = [sorted(fold) for fold in self.folds]
        if self.inner:
            named = [named, [[sorted(part) for part in parts] for parts in self.inner]]
        return hashlib.sha256(json.dumps(named).encode()).hexdigest()

    def rows(self, cohort: Cohort) -> list[Fold]:
        """Row numbers of the cohort on each side of each fold."""
        return _rows(self.folds, cohort)

    def inner_rows(self, cohort: Cohort) -> tuple[tuple[Fold, ...], ...]:
        """For each fold, its inner folds; by row numbers of the cohort."""
        return tuple(tuple(_rows(parts, cohort)) for parts in self.inner)


def _rows(folds: Sequence[Ids], cohort: Cohort) -> list[Fold]:
    """Each of the folds to test on, the others to train on; slides of none are on neither side."""
    fold_of = {name: k for k, fold in enumerate(folds) for name in fold}
    member = np.array([fold_of.get(name, -1) for name in cohort.ids])
    return [
        Fold(np.flatnonzero((member != k) & (member >= 0)), np.flatnonzero(member == k))
        for k in range(len(folds))
    ]


def make_splits(
    cohort: Cohort, n_folds: int, *, seed: int = 0, target: Target | None = None
) -> Splits:
    """Draw folds: grouped by patient, classes (or what else is learnt) balanced.

    Parameters
    ----------
    target
        What is learnt; the cohort's labels by default.

    Raises
    ------
    LabelError
        Labels that cannot be learnt from, or a class with fewer patients than folds.
    """
    if target is None or target.kind == "classes":
        # By name, not by index: which class comes last does not move the folds.
        classes = cohort.classes()
        labels = np.array(classes)[cohort.labels(classes)]
        folds = grouped_folds(labels, cohort.patients, n_folds, seed=seed)
    else:
        folds = target.folds(cohort.patients, n_folds, seed=seed)
    return Splits(_tested(cohort, folds), seed)


def _tested(cohort: Cohort, folds: Sequence[Fold]) -> tuple[Ids, ...]:
    ids = np.array(cohort.ids)
    return tuple(tuple(sorted(ids[fold.test].tolist())) for fold in folds)


def draw_splits(
    cohort: Cohort, n_folds: int, *, target: Target, by: SplitBy = "patient", seed: int = 0
) -> Splits:
    """Draw folds of patients (:func:`make_splits`), or of sites.

    Parameters
    ----------
    by
        ``site``: ``n_folds`` folds of whole sites, what is learnt balanced as far as sites allow
        (preserved-site). ``each-site``: leave one site out, whatever ``n_folds`` is.

    Raises
    ------
    LabelError
        As :func:`make_splits`.
    CohortError
        A slide has no site, or there are fewer sites than folds.
    LeakError
        A patient has slides of two sites, and so would be on both sides.

    References
    ----------
    Howard et al. (2021), The impact of site-specific digital histology signatures on deep
    learning model accuracy and bias, Nature Communications 12: preserved-site cross-validation.
    """
    if by == "patient":
        return make_splits(cohort, n_folds, seed=seed, target=target)
    sites = _sites(cohort)
    names = np.unique(sites)
    asked = max(2, len(names)) if by == "each-site" else n_folds
    if len(names) < asked:
        raise CohortError(
            f"{len(names)} sites are too few for {asked} folds of sites",
            where=cohort.source,
            remedy="Use fewer folds with --folds, or split by patient",
        )
    if by == "each-site":
        rows = [np.flatnonzero(sites == name) for name in names]
        folds = [Fold(np.setdiff1d(np.arange(len(sites)), row), row) for row in rows]
    else:
        folds = balanced_folds(target.strata(), sites, n_folds, seed=seed)
    return Splits(_tested(cohort, folds), seed, by)


def nested(
    splits: Splits, cohort: Cohort, n_inner: int, *, target: Target, seed: int = 0
) -> Splits:
    """Draw inner folds within the training part of every fold: by patient, as far as balanced.

    By patient even where the folds are of sites: a setting is chosen for patients of sites that
    are known, and reported on those of others.

    Raises
    ------
    LabelError
        Too few patients of a class for so many inner folds, or for so few.
    """
    inner = []
    for fold in splits.rows(cohort):
        patients, ids = cohort.patients[fold.train], np.array(cohort.ids)[fold.train]
        truth = target.take(fold.train)
        parts = truth.folds(patients, n_inner, seed=seed)
        if any(truth.take(part.train).scarcest(patients[part.train]) < 2 for part in parts):
            raise LabelError(
                "an inner fold leaves fewer than two patients of a class, label or event to learn",
                remedy="Use more --inner-folds or fewer --folds, or more patients",
            )
        inner.append(tuple(tuple(sorted(ids[part.test].tolist())) for part in parts))
    return replace(splits, inner=tuple(inner))


def _sites(cohort: Cohort) -> NDArray[np.str_]:
    """Site of every slide; patients are of one."""
    nowhere = [case.id for case in cohort.cases if case.site is None]
    if nowhere:
        raise CohortError(
            f"{len(nowhere)} slides have no site: {some(nowhere)}",
            where=cohort.source,
            remedy="Fill in the column site, or split by patient",
        )
    homes: defaultdict[str, set[str]] = defaultdict(set)
    for case in cohort.cases:
        homes[case.patient].add(case.site or "")
    torn = [patient for patient, found in homes.items() if len(found) > 1]
    if torn:
        raise LeakError(
            f"{len(torn)} patients have slides of several sites: {some(torn)}",
            where=cohort.source,
            remedy="Name these sites as one, or split by patient",
        )
    return np.array([case.site for case in cohort.cases])


def write_splits(path: Path, splits: Splits) -> None:
    """Keep splits as JSON, to be reused by every model that is compared."""
    record = {
        "format": 1,
        "seed": splits.seed,
        "by": splits.by,
        "hash": splits.hash,
        "folds": splits.folds,
        **({"inner": splits.inner} if splits.inner else {}),
    }
    with writable(path):
        write_text(path, json.dumps(record, indent=1))


def read_splits(path: Path, cohort: Cohort) -> Splits:
    """Read splits and hold them against the cohort.

    A file made elsewhere needs ``folds`` only, a list of lists of slide ids.

    Raises
    ------
    MissingFile, CohortError
        No such file; no split file; altered since it was written; slides that the cohort does
        not have, or has and the file has not, or that are in two folds.
    LeakError
        A patient is in two folds.
    """
    if not path.is_file():
        raise MissingFile("no such split file", where=path, remedy="Check the path")
    try:
        record: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        inner = tuple(_ids(parts) for parts in record.get("inner", ()))
        by = str(record.get("by", "patient"))
        splits = Splits(_ids(record["folds"]), record.get("seed"), by, inner)
        stated = record.get("hash", splits.hash)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CohortError(
            f"not a split file ({error})", where=path, remedy="Delete it to draw new folds"
        ) from error
    if stated != splits.hash:
        raise CohortError(
            "the folds were altered after they were written",
            where=path,
            remedy="Delete the line hash if that was meant",
        )
    _check_splits(splits, cohort, path)
    return splits


def _ids(folds: Sequence[Sequence[object]]) -> tuple[Ids, ...]:
    return tuple(tuple(str(name) for name in fold) for fold in folds)


def _check_splits(splits: Splits, cohort: Cohort, path: Path) -> None:
    _check_folds(splits.folds, cohort, path)
    if not splits.inner:
        return
    if len(splits.inner) != len(splits.folds):
        raise CohortError("not every fold has inner folds", where=path)
    for fold, parts in zip(splits.rows(cohort), splits.inner, strict=True):
        train = replace(cohort, cases=tuple(cohort.cases[i] for i in fold.train))
        _check_folds(parts, train, path)


def _check_folds(folds: Sequence[Ids], cohort: Cohort, path: Path) -> None:
    times = Counter(name for fold in folds for name in fold)
    complaints = {
        "in two folds": [name for name, n in times.items() if n > 1],
        "not in the cohort": sorted(set(times) - set(cohort.ids)),
        "in no fold": sorted(set(cohort.ids) - set(times)),
    }
    for complaint, names in complaints.items():
        if names:
            raise CohortError(
                f"{len(names)} slides are {complaint}: {some(names)}",
                where=path,
                remedy=f"Draw new folds for {cohort.source}, or mend the file",
            )
    if len(folds) < 2 or not all(folds):
        raise CohortError("at least two folds with slides are needed", where=path)
    homes: defaultdict[str, set[int]] = defaultdict(set)
    for k, fold in enumerate(_rows(folds, cohort)):
        for patient in cohort.patients[fold.test].tolist():
            homes[patient].add(k)
    torn = [patient for patient, found in homes.items() if len(found) > 1]
    if torn:
        raise LeakError(
            f"{len(torn)} patients are in more than one fold: {some(torn)}",
            where=path,
            remedy="Keep all slides of a patient in one fold",
        )
