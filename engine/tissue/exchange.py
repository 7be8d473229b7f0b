"""Tissue masks as annotations for QuPath, and annotations as masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import shapely

from ...storage.errors import EmptyFile, LabelError, NoTissue, StaleProduct, UnreadableFile
from ...storage.polygons import fill, outline
from ...storage.qupath import Annotation, Export, Frame, PathClass, write_annotations
from ...storage.qupath_check import read_metadata
from ..grid import without_mpp
from ..slides.base import SlideInfo
from ..tiles import overview_layout
from .mask import LABELS, TISSUE, TissueMask

GEOJSON_KIND = "tissue annotations"
AREA = "Area mm^2"
"""QuPath's own way to write a unit in a measurement's name."""

UNCLASSIFIED = "Unclassified"
"""What QuPath calls objects that have no class."""

IGNORE = "ignore"
"""In place of a label: leave the objects of a class out."""

CLASSES: Mapping[int, PathClass] = {
    label: PathClass("Tissue" if label == TISSUE else f"Artefact: {style.name}", style.colour)
    for label, style in LABELS.items()
}
"""The class in QuPath of each label of the mask."""


def tissue_frame(info: SlideInfo, *, crop: bool = True) -> Frame:
    """The slide as QuPath shows it, cropped to its bounds unless imported with ``--no-crop``."""
    bounds = info.bounds
    box = None if bounds is None else (bounds.y_px, bounds.x_px, bounds.height_px, bounds.width_px)
    return Frame((info.height_px, info.width_px), box, crop)


def tissue_annotations(mask: TissueMask) -> tuple[Annotation, ...]:
    """One annotation for each connected piece of each label: tissue first, then artefacts.

    Outlines follow the edges of the mask's pixels, holes included. Pieces that touch in a corner
    are two, as QuPath itself splits annotations.

    Returns
    -------
    tuple of Annotation
        In (x, y) level-0 pixels, with the area in mm² as measurement :data:`AREA`.
    """
    pixel_mm2 = mask.mpp[0] * mask.mpp[1] / 1e6
    pixel_area_px = mask.downsample[0] * mask.downsample[1]
    return tuple(
        Annotation(piece, path_class, "", {AREA: round(piece.area / pixel_area_px) * pixel_mm2})
        for label, path_class in CLASSES.items()
        for piece in shapely.get_parts(outline(mask.labels == label, mask.downsample))
    )


def write_tissue_annotations(
    mask: TissueMask, info: SlideInfo, path: Path, *, slide: str | None = None, crop: bool = True
) -> Export:
    """Write a mask as QuPath GeoJSON that a person may edit.

    Parameters
    ----------
    path
        As :func:`~microtome.storage.qupath.write_annotations` takes it.
    slide
        Identity of the slide; by default its file's stem.
    crop
        See :func:`tissue_frame`. What lies outside of the shown image is left out.

    Raises
    ------
    StaleProduct
        A GeoJSON that is not ours is there: perhaps what a person edited.
    UnwritableOutput
        The file system refuses.
    """
    require_replaceable(path)
    return write_annotations(
        path,
        tissue_annotations(mask),
        tissue_frame(info, crop=crop),
        slide=slide or info.path.stem,
        kind=GEOJSON_KIND,
    )


def require_replaceable(path: Path) -> None:
    """Raise StaleProduct where a GeoJSON lies that we did not write."""
    try:
        replaceable = not path.exists() or read_metadata(path).get("kind") == GEOJSON_KIND
    except (EmptyFile, UnreadableFile):
        replaceable = False
    if not replaceable:
        raise StaleProduct(
            "annotations that were not written by Microtome are in the way; someone may have "
            "edited them",
            where=path,
            remedy="Move them away, or choose another output: --overwrite does not replace them",
        )


def blank_mask(info: SlideInfo, *, mpp: float) -> TissueMask:
    """A mask of nothing, on the pixels that ``find_tissue`` would label.

    Raises
    ------
    NoResolution
        The slide has no mpp.
    """
    if info.mpp is None:
        raise without_mpp(info)
    shape, _, downsample = overview_layout(info, mpp=max(mpp, *info.mpp))
    mpp_mask = (info.mpp[0] * downsample[0], info.mpp[1] * downsample[1])
    return TissueMask(np.zeros(shape, np.uint8), downsample, mpp_mask)


def mask_from_annotations(
    annotations: Sequence[Annotation],
    like: TissueMask,
    *,
    classes: Mapping[str, str] | None = None,
) -> TissueMask:
    """Make the mask that annotations stand for.

    A pixel gets a label where its centre lies in an annotation of it
    (:func:`~microtome.storage.polygons.fill`). Artefacts override tissue; of two artefacts
    the later one counts. What :func:`tissue_annotations` made comes back bit for bit.

    Parameters
    ----------
    annotations
        In (x, y) level-0 pixels of the whole image.
    like
        A mask of the same slide, which says how large it is; its labels play no part.
    classes
        Label name (or ``ignore``) by class name, for classes that are not ours;
        ``Unclassified`` stands for objects without a class. Names count in any case.

    Raises
    ------
    LabelError
        There are classes of which nobody said what they are, or a label that does not exist.
    NoTissue
        Nothing of the mask is tissue.
    """
    meaning = _meaning(classes or {})
    names = [_class_name(annotation) for annotation in annotations]
    unknown = sorted({name for name in names if name.casefold() not in meaning})
    if unknown:
        raise LabelError(
            f"what these classes are to the mask is not known: {', '.join(unknown)}; known are "
            + ", ".join(path_class.name for path_class in CLASSES.values()),
            remedy=f"Say it, as in --class '{unknown[0]}=tissue' or --class '{unknown[0]}=ignore'",
        )
    labels = np.zeros(like.labels.shape, np.uint8)
    found = [(meaning[name.casefold()], a) for name, a in zip(names, annotations, strict=True)]
    wanted = [(label, a.geometry) for label, a in found if label is not None]
    for label, geometry in sorted(wanted, key=lambda item: item[0] != TISSUE):
        fill(labels, geometry, like.downsample, label)
    mask = TissueMask(labels, like.downsample, like.mpp)
    if not mask.tissue.any():
        raise NoTissue(
            "no annotation of class Tissue covers a pixel of the mask",
            remedy="Look at the file in QuPath; is it for this slide?",
        )
    return mask


def _class_name(annotation: Annotation) -> str:
    return UNCLASSIFIED if annotation.path_class is None else annotation.path_class.name


def _meaning(classes: Mapping[str, str]) -> dict[str, int | None]:
    """Label by class name in lower case; None for what is left out."""
    labels: dict[str, int | None] = {style.name: label for label, style in LABELS.items()}
    labels[IGNORE] = None
    meaning: dict[str, int | None] = {c.name.casefold(): label for label, c in CLASSES.items()}
    for name, label in classes.items():
        if label not in labels:
            raise LabelError(
                f"class {name!r} is said to be {label!r}, which is no label of a tissue mask",
                remedy=f"Take one of {', '.join(labels)}",
            )
        meaning[name.casefold()] = labels[label]
    return meaning
