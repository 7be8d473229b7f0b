"""Which slides a user means: files, patterns, and cohort tables."""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..engine.slides import Mpp
from ..storage.errors import CohortError, MissingFile
from ..storage.objects import url_of
from .cohort import read_cohort

_TABLES = (".csv", ".tsv", ".parquet")
_MAGIC = frozenset("*?[")


@dataclass(frozen=True)
class SlideItem:
    """One slide to work on.

    Attributes
    ----------
    id
        Names what is made of it.
    path
        The slide file; or, of one in an object store, its URL.
    mpp
        Micrometres per level-0 pixel, where the file states none or a wrong one.
    patient
        Whom it is of, where a table says it.
    origin
        Of a file that was fetched to be worked on: where the slide lies for good.
    """

    id: str
    path: Path
    mpp: Mpp | None = None
    patient: str | None = None
    origin: str | None = None

    @classmethod
    def fetched(cls, item: SlideItem, path: Path) -> SlideItem:
        """The item as it is at hand, at a path of this machine."""
        return item if path == item.path else replace(item, path=path, origin=url_of(item.path))

    @property
    def group(self) -> str:
        """What splits keep together: the patient, or the slide where none is named."""
        return self.patient or self.id


def list_slides(inputs: Sequence[str], *, mpp: Mpp | None = None) -> list[SlideItem]:
    """Slides to work on, in the order given.

    Parameters
    ----------
    inputs
        Slide files; folders of one DICOM slide each; patterns such as ``slides/*.svs``, sorted;
        URLs such as ``s3://bucket/a.svs``; cohort tables
        (:func:`~microtome.tasks.cohort.read_cohort`). A file's id is its name without the suffix.
    mpp
        Micrometres per level-0 pixel of all slides for which no table says it.

    Raises
    ------
    MissingFile
        No such table, or nothing matches a pattern.
    CohortError
        Two slides of one id, or a table that cannot be used.
    """
    items = [item for name in inputs for item in _slides_of(name, mpp)]
    for identity, count in Counter(item.id for item in items).items():
        if count > 1:
            paths = ", ".join(str(item.path) for item in items if item.id == identity)
            raise CohortError(
                f"{count} slides have the id {identity!r}",
                where=paths,
                remedy="Give each its own id in a cohort table",
            )
    return items


def _slides_of(name: str, mpp: Mpp | None) -> Iterator[SlideItem]:
    path = Path(name)
    if path.suffix.lower() in _TABLES:
        for case in read_cohort(path).cases:
            assert case.path is not None
            yield SlideItem(case.id, case.path, case.mpp or mpp, case.patient)
    elif path.exists() or not _MAGIC.intersection(name):
        yield SlideItem(slide_id(path), path, mpp)
    else:
        found = sorted(glob.glob(name, recursive=True))  # noqa: PTH207 - absolute patterns too
        if not found:
            raise MissingFile("nothing matches this pattern", where=name, remedy="Check the path")
        for match in found:
            yield SlideItem(slide_id(Path(match)), Path(match), mpp)


def slide_id(path: Path) -> str:
    """Identity of a slide that no table names: its file's name, without what says its format."""
    return path.absolute().stem.removesuffix(".ome")
