"""Splits: which slides of a cohort are tested together, kept in a file that names itself."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..storage.commit import writable, write_text
from ..storage.errors import CohortError, LeakError, MissingFile
from .cohort import Cohort
from .evaluation import Fold, grouped_folds, some

if TYPE_CHECKING:
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
    """

    folds: tuple[tuple[str, ...], ...]
    seed: int | None = None

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
    ids = np.array(cohort.ids)
    return Splits(tuple(tuple(sorted(ids[fold.test].tolist())) for fold in folds), seed)


def write_splits(path: Path, splits: Splits) -> None:
    """Keep splits as JSON, to be reused by every model that is compared."""
    record = {"format": 1, "seed": splits.seed, "hash": splits.hash, "folds": splits.folds}
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
        splits = Splits(folds, record.get("seed"))
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
