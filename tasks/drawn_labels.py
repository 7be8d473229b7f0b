"""What people drew or corrected in QuPath, as labels of tiles and as a label image."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import shapely
from numpy.typing import NDArray

from ..storage.annotations import ReadAnnotation
from ..storage.commit import writable, write_bytes, write_text
from ..storage.polygons import fill
from .camel.bridge import covered_share
from .rasters import Placed

MOST_CLASSES = 255


@dataclass(frozen=True)
class TileLabels:
    """A class for each tile, or none.

    Attributes
    ----------
    classes
        Their names in QuPath, sorted.
    index
        int64 [n]: which class; -1 for none.
    share
        float64 [n]: how much of the tile lies in it; 1 where the tile itself was given the class.
    """

    classes: tuple[str, ...]
    index: NDArray[np.int64]
    share: NDArray[np.float64]

    def names(self) -> list[str]:
        """The class of each tile in words; empty for none."""
        return [self.classes[i] if i >= 0 else "" for i in self.index.tolist()]


def label_tiles(
    tiles: Placed, drawn: Sequence[ReadAnnotation], *, least: float = 0.5
) -> TileLabels:
    """Label tiles by the regions that they lie in, and by classes that tiles themselves were given.

    A tile takes the class that covers most of it, of two as large the first by name. What was
    said of a tile (an object of type tile, detection or cell that its centre lies in) counts more
    than a region around it; where several were, the last one.

    Parameters
    ----------
    drawn
        As read from QuPath; those without a class say nothing.
    least
        Share of a tile that has to lie in regions of one class.
    """
    named = [(a, a.path_class.name) for a in drawn if a.path_class is not None]
    classes = tuple(sorted({name for _, name in named}))
    n = len(tiles.coords_px)
    index, share = np.full(n, -1, np.int64), np.zeros(n)
    for number, name in enumerate(classes):
        regions = [a.geometry for a, c in named if c == name and a.object_type == "annotation"]
        if regions:
            covered = covered_share(tiles, shapely.unary_union(regions))
            better = (covered >= least) & (covered > share + 1e-9)
            index[better], share[better] = number, covered[better]
    said = [(a.geometry, classes.index(c)) for a, c in named if a.object_type != "annotation"]
    if said:
        y, x = (tiles.coords_px + np.array(tiles.footprint_px) / 2).T
        tree = shapely.STRtree([geometry for geometry, _ in said])
        tile, which = tree.query(shapely.points(x, y), predicate="intersects")
        order = np.argsort(which, kind="stable")
        numbers = np.array([number for _, number in said])
        # Of several objects over one tile the last one written stays.
        index[tile[order]], share[tile[order]] = numbers[which[order]], 1.0
    return TileLabels(classes, index, share)


def label_image(
    drawn: Sequence[ReadAnnotation], slide_px: tuple[int, int], side_px: float
) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """Paint classes into an image of the whole of level 0; the later object lies on top.

    Parameters
    ----------
    side_px
        Level-0 pixels per pixel.

    Returns
    -------
    codes : uint8 [h, w]
        0 for none, else the number of the class from 1.
    classes : tuple of str
        Sorted names.

    Raises
    ------
    ValueError
        More than 255 classes.
    """
    classes = tuple(sorted({a.path_class.name for a in drawn if a.path_class is not None}))
    if len(classes) > MOST_CLASSES:
        raise ValueError(f"{len(classes)} classes do not fit into 8 bits")
    height, width = (max(1, round(side / side_px)) for side in slide_px)
    pixel_px = (slide_px[0] / height, slide_px[1] / width)
    codes = np.zeros((height, width), np.uint8)
    for annotation in drawn:
        if annotation.path_class is not None:
            fill(
                codes, annotation.geometry, pixel_px, classes.index(annotation.path_class.name) + 1
            )
    return codes, classes


def write_labels(path: Path, tiles: Placed, labels: TileLabels) -> None:
    """Write ``y_px, x_px, class, share`` of every tile as CSV, in the order of the tiles."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["y_px", "x_px", "class", "share"])
    rows = zip(tiles.coords_px.tolist(), labels.names(), labels.share.tolist(), strict=True)
    table.writerows([y, x, name, f"{share:.6g}"] for (y, x), name, share in rows)
    with writable(path):
        write_text(path, text.getvalue())


def write_label_image(path: Path, codes: NDArray[np.uint8], classes: Sequence[str]) -> None:
    """Write codes as an 8-bit PNG, and ``<name>.csv`` with ``code, class`` beside it."""
    from PIL import Image

    packed = io.BytesIO()
    Image.fromarray(codes).save(packed, format="PNG")
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerows([("code", "class"), (0, ""), *enumerate(classes, start=1)])
    with writable(path):
        write_bytes(path, packed.getvalue())
        write_text(path.with_suffix(".csv"), text.getvalue())
