"""Labels of one bag's tiles, from a file of QuPath to files for whoever trains on them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from ..engine.tissue import annotations_of
from ..storage.annotations import read_annotations
from ..storage.bags import read_bag
from ..storage.errors import NoResolution
from ..storage.qupath import Frame
from .drawn_labels import label_image, label_tiles, write_label_image, write_labels


@dataclass(frozen=True)
class Labelled:
    """How many tiles have which class, and what was lost or altered of the file."""

    counts: tuple[tuple[str, int], ...]
    problems: tuple[str, ...]

    def __str__(self) -> str:
        said = ", ".join(f"{count:,} {name or 'without a class'}" for name, count in self.counts)
        return "; ".join([said, *self.problems])


def label_bag(
    path: Path,
    *,
    annotations: Path,
    out: Path,
    least: float = 0.5,
    mask_um: float | None = None,
    crop: bool = True,
) -> Labelled:
    """Write ``<id>.labels.csv`` of a bag, and ``<id>.mask.png`` where ``mask_um`` is given.

    Raises
    ------
    MissingFile, CohortError, UnreadableFile, BadGeometry
        What is wrong with the annotations.
    NoResolution
        A mask is asked for, and the slide's pixel size is not known.
    """
    bag = read_bag(path)
    frame = Frame(bag.slide_px, bag.bounds_px, crop)
    read = read_annotations(annotations_of(annotations, bag.id), frame=frame)
    found = label_tiles(bag, read.annotations, least=least)
    write_labels(out / f"{bag.id}.labels.csv", bag, found)
    if mask_um is not None:
        if bag.slide_mpp is None:
            raise NoResolution("the slide's pixel size is not known", where=path)
        codes, classes = label_image(read.annotations, bag.slide_px, mask_um / max(bag.slide_mpp))
        write_label_image(out / f"{bag.id}.mask.png", codes, classes)
    counts = sorted(Counter(found.names()).items(), key=lambda item: (item[0] == "", -item[1]))
    return Labelled(tuple(counts), tuple(str(problem) for problem in read.problems[:3]))
