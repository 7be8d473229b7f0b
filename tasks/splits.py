"""Splits: which slides of a cohort are tested together, kept in a file that names itself."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..storage.commit import writable, write_text
from ..storage.errors import CohortError, LeakError, MissingFile
from .cohort import Cohort
from .evaluation import Fold, balanced_folds, grouped_folds, some

if TYPE_CHECKING:
    from .mil.names import SplitBy
    from .mil.targets import Target


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
    """

    folds: tuple[tuple[str, ...], ...]
    seed: int | None = None
    by: str = "patient"

    @property
    def hash(self) -> str:
        """SHA-256 of the folds: whatever is reported names it."""
        canonical = json.dumps([sorted(fold) for fold in self.folds])
        return hashlib.sha256(canonical.encode()).hexdigest()

    def rows(self, cohort: Cohort) -> list[Fold]:
        """Row numbers of the cohort on each side of each fold."""
        fold_of = {name: k for k, fold in enumerate(self.folds) for name in fold}
        member = np.array([fold_of[name] for name in cohort.ids])
        return [
            Fold(np.flatnonzero(member != k), np.flatnonzero(member == k))
            for k in range(len(self.folds))
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


def _tested(cohort: Cohort, folds: Sequence[Fold]) -> tuple[tuple[str, ...], ...]:
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
        folds = tuple(tuple(str(name) for name in fold) for fold in record["folds"])
        splits = Splits(folds, record.get("seed"), str(record.get("by", "patient")))
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


def _check_splits(splits: Splits, cohort: Cohort, path: Path) -> None:
    times = Counter(name for fold in splits.folds for name in fold)
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
    if len(splits.folds) < 2 or not all(splits.folds):
        raise CohortError("at least two folds with slides are needed", where=path)
    homes: defaultdict[str, set[int]] = defaultdict(set)
    for k, fold in enumerate(splits.rows(cohort)):
        for patient in cohort.patients[fold.test].tolist():
            homes[patient].add(k)
    torn = [patient for patient, found in homes.items() if len(found) > 1]
    if torn:
        raise LeakError(
            f"{len(torn)} patients are in more than one fold: {some(torn)}",
            where=path,
            remedy="Keep all slides of a patient in one fold",
        )
