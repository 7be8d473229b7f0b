"""What a study is made of: bags in the order of a cohort, what is true of them, and folds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...graphs.tissue import centres_um
from ...storage.commit import product_key
from ...storage.errors import StaleProduct
from ..cohort import Cohort
from ..evaluation import Fold
from ..splits import Splits, draw_splits, nested, read_splits
from .bag_list import TrainingBags
from .choose import Material, Nested
from .names import SplitBy
from .targets import Target
from .train import TrainOptions

INNER_FOLDS = 3
"""Where there is something to choose, and nobody said how many."""


@dataclass(frozen=True)
class StudyData:
    """A cohort to learn from.

    Attributes
    ----------
    views
        For each view, its bags in the order of the cohort.
    """

    cohort: Cohort
    loaded: TrainingBags
    target: Target
    splits: Splits
    views: Sequence[TrainingBags] = ()

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the outputs."""
        return self.target.names

    @property
    def sites(self) -> NDArray[np.str_]:
        """Site of every slide; all the same where one is not named."""
        sites = [case.site or "" for case in self.cohort.cases]
        return np.array(sites if all(sites) else [""] * len(sites))

    @property
    def folds(self) -> list[Fold]:
        """By row numbers of the cohort."""
        return self.splits.rows(self.cohort)

    @property
    def material(self) -> Material:
        """What is learnt from."""
        plain, *views = (
            [bag.features for bag in version.bags] for version in (self.loaded, *self.views)
        )
        places_um = [centres_um(bag) for bag in self.loaded.bags]
        return Material(plain, self.target, self.cohort.patients, places_um, views)

    @property
    def is_binary(self) -> bool:
        """Whether one of two classes is learnt."""
        return self.target.kind == "classes" and len(self.classes) == 2

    def nested(self, candidates: tuple[TrainOptions, ...]) -> TrainOptions | Nested:
        """The one way to learn, or several to choose from in the inner folds."""
        if not self.splits.inner:
            return candidates[0]
        return Nested(candidates, self.splits.inner_rows(self.cohort))

    def key(self, version: int, candidates: Sequence[TrainOptions]) -> str:
        """Of what comes of it."""
        rows = [
            (case.id, case.patient, repr(truth), bag)
            for case, truth, bag in zip(
                self.cohort.cases, self.target.truth.tolist(), self.loaded.keys, strict=True
            )
        ]
        first, *others = (options.record() for options in candidates)
        views = [view.keys for view in self.views]
        return product_key(
            kind="mil-study",
            version=version,
            rows=rows,
            kind_of_target=self.target.kind,
            classes=self.classes,
            splits=self.splits.hash,
            options=first,
            **({"candidates": others} if others else {}),
            **({"views": views} if views else {}),
        )


@dataclass(frozen=True)
class SplitPlan:
    """Which folds are asked for.

    Attributes
    ----------
    folds, by, seed
        As :func:`~microtome.tasks.splits.draw_splits` takes them.
    inner
        Inner folds of each; 0 for none, None for those that a file has.
    given
        A file of folds to use.
    """

    folds: int = 5
    by: SplitBy = "patient"
    seed: int = 0
    inner: int | None = None
    given: Path | None = None

    def splits(self, cohort: Cohort, target: Target, kept: Path | None) -> Splits:
        """Those of the given file; else those kept by an earlier run; else new ones.

        Raises
        ------
        StaleProduct
            What is kept, or the inner folds of what is given, is not what is asked for.
        CohortError, LabelError, LeakError, MissingFile
            As :func:`~microtome.tasks.splits.read_splits` and ``draw_splits``.
        """
        if self.given is not None:
            splits = read_splits(self.given, cohort)
            if splits.inner:
                self._refuse_other_inner(splits, self.given)
                return splits
        elif kept is not None and kept.is_file():
            splits = read_splits(kept, cohort)
            self._refuse_others(splits, kept)
            return splits
        else:
            splits = draw_splits(cohort, self.folds, seed=self.seed, target=target, by=self.by)
        if not self.inner:
            return splits
        return nested(splits, cohort, self.inner, target=target, seed=self.seed)

    def _refuse_others(self, splits: Splits, path: Path) -> None:
        asked = len(splits.folds) if self.by == "each-site" else self.folds
        if (splits.seed, len(splits.folds), splits.by) != (self.seed, asked, self.by):
            raise StaleProduct(
                f"holds {len(splits.folds)} folds by {splits.by}, drawn with seed {splits.seed}",
                where=path,
                remedy="Pass it with --splits to use it, choose another --out, or --overwrite it",
            )
        if bool(splits.inner) != bool(self.inner):
            raise StaleProduct(
                f"holds {'inner' if splits.inner else 'no inner'} folds",
                where=path,
                remedy="Choose another --out, or --overwrite it",
            )
        self._refuse_other_inner(splits, path)

    def _refuse_other_inner(self, splits: Splits, path: Path) -> None:
        found = {len(parts) for parts in splits.inner} or {0}
        if self.inner is not None and found != {self.inner}:
            raise StaleProduct(
                f"holds {min(found)} inner folds, not {self.inner}",
                where=path,
                remedy="Leave --inner-folds out to use them, or choose other folds",
            )
