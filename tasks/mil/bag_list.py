"""Bags to learn from: one for every slide of a cohort, made alike, whole and distinct."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...storage.bags import KIND, Bag, find_bags, read_bag
from ...storage.commit import require_commit
from ...storage.errors import BadProduct, CohortError, MissingFile
from ..cohort import Cohort
from ..evaluation import some
from .store import BagNeeds


@dataclass(frozen=True)
class TrainingBags:
    """The bags of a cohort, in its order.

    Attributes
    ----------
    keys
        Of the bags as products.
    """

    bags: tuple[Bag, ...]
    keys: tuple[str, ...]

    @property
    def needs(self) -> BagNeeds:
        """What all of them are."""
        return BagNeeds.of(self.bags[0])


def read_training_bags(cohort: Cohort, folder: Path) -> TrainingBags:
    """Read the bag of every slide of a cohort.

    Raises
    ------
    MissingFile
        Slides have no bag.
    BadProduct
        A bag is damaged, empty, has numbers that are none, was made in another way than the first,
        or is a view.
    CohortError
        Two slides have the same bag.
    """
    found = _read(cohort, folder)
    for bag in found.bags:
        if bag.view:
            raise BadProduct(
                f"the bag of {bag.id} is a view of it, for --views alone",
                where=folder,
                remedy="Name the folder that has the folders of views in it",
            )
    return found


def _read(cohort: Cohort, folder: Path) -> TrainingBags:
    there = find_bags(folder)
    missing = [name for name in cohort.ids if name not in there]
    if missing:
        raise MissingFile(
            f"{len(missing)} of {len(cohort)} slides have no bag: {some(missing)}",
            where=folder,
            remedy=f"Encode them with microtome encode, or take their rows out of {cohort.source}",
        )
    paths = [there[name] for name in cohort.ids]
    bags = tuple(read_bag(path) for path in paths)
    needs = BagNeeds.of(bags[0])
    for bag, path in zip(bags, paths, strict=True):
        _check(bag, path, needs)
    _check_distinct(bags, folder)
    return TrainingBags(bags, tuple(require_commit(path, KIND).key for path in paths))


def _check(bag: Bag, path: Path, needs: BagNeeds) -> None:
    if not len(bag):
        raise BadProduct("the bag has no tiles", where=path, remedy="Take its row out")
    if not np.isfinite(bag.features).all():
        column = int(np.argmin(np.isfinite(bag.features).all(axis=0)))
        name = bag.feature_names[column] if bag.feature_names else column
        raise BadProduct(f"feature {name} is not finite", where=path, remedy="Encode it again")
    if (difference := needs.difference(bag)) is not None:
        raise BadProduct(
            f"made in another way than the first bag: {difference}",
            where=path,
            remedy="Encode all slides with one encoder and one set of options",
        )


def _check_distinct(bags: Sequence[Bag], folder: Path) -> None:
    first: dict[bytes, str] = {}
    for bag in bags:
        content = hashlib.sha256(bag.features.tobytes()).digest()
        if content in first:
            raise CohortError(
                f"{first[content]} and {bag.id} are the same slide, tile for tile",
                where=folder,
                remedy="Take one of the two rows out: it may be trained on and tested on at once",
            )
        first[content] = bag.id


def read_views(
    cohort: Cohort, folders: Sequence[Path], plain: TrainingBags
) -> tuple[TrainingBags, ...]:
    """Read views of bags: the same tiles, altered, of every slide.

    Raises
    ------
    MissingFile, BadProduct, CohortError
        As :func:`read_training_bags`; or a bag is no view, or one of other tiles.
    """
    return tuple(_read_view(cohort, folder, plain) for folder in folders)


def _read_view(cohort: Cohort, folder: Path, plain: TrainingBags) -> TrainingBags:
    found = _read(cohort, folder)
    for bag, own in zip(found.bags, plain.bags, strict=True):
        if not bag.view:
            raise BadProduct(
                f"the bag of {bag.id} is no view",
                where=folder,
                remedy="Make views with microtome encode --views",
            )
        if not np.array_equal(bag.coords_px, own.coords_px) or plain.needs.difference(bag):
            raise BadProduct(
                f"the view of {bag.id} is of other tiles, or of another encoder, than its bag",
                where=folder,
                remedy="Encode bags and views together, with one set of options",
            )
    return found
