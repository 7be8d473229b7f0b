"""Masks that a person made or edited in QuPath, as products."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from ...storage.annotations import AnnotationFile, read_annotations
from ...storage.commit import file_identity, product_key
from ...storage.errors import CohortError, LabelError, MicrotomeError, MissingFile, NoTissue
from ...storage.qupath import SUFFIXES
from ..schedule import Skipped
from ..slides import Mpp, open_slide
from .detect import DEFAULT_MPP
from .exchange import blank_mask, mask_from_annotations, tissue_frame
from .mask import tissue_picture
from .store import KIND, TissueMade, keep_tissue, kept_tissue

SOURCE = "annotations"
VERSION = 1
"""Goes up with every change that alters a mask made of annotations."""

_PROBLEMS_SAID = 3


def import_tissue(
    slide_path: Path,
    annotations_path: Path,
    path: Path,
    *,
    mpp: float = DEFAULT_MPP,
    slide_mpp: Mpp | None = None,
    classes: Mapping[str, str] | None = None,
    crop: bool = True,
    into: Path | None = None,
    overwrite: bool = False,
) -> TissueMade | Skipped[TissueMade]:
    """Make the mask of one slide from annotations, at ``path``, and a picture beside it.

    The mask has the pixels that :func:`~microtome.engine.tissue.make_tissue` would give it. Its
    record says ``"source": "annotations"``, and its key follows the content of the file.

    Parameters
    ----------
    annotations_path
        GeoJSON that QuPath exported.
    mpp, slide_mpp, into
        As in :func:`~microtome.engine.tissue.make_tissue`.
    classes
        What classes are that are not ours; see
        :func:`~microtome.engine.tissue.exchange.mask_from_annotations`.
    crop
        False where the slide was imported into QuPath with ``--no-crop``.

    Raises
    ------
    LabelError, NoTissue, BadGeometry
        What is wrong with the annotations.
    StaleProduct
        Another mask is there and ``overwrite`` is false.
    NoResolution, UnreadableFile, MissingFile
        The slide or the file cannot be used.
    """
    with open_slide(slide_path, mpp=slide_mpp) as slide:
        info = slide.info
        read = read_annotations(annotations_path, frame=tissue_frame(info, crop=crop))
        digest = hashlib.sha256(annotations_path.read_bytes()).hexdigest()
        key = product_key(
            kind=KIND,
            source=SOURCE,
            version=VERSION,
            slide=file_identity(info.path),
            slide_mpp=info.mpp,
            mpp=mpp,
            annotations=digest,
            classes=dict(classes or {}),
            crop=crop,
        )
        made = kept_tissue(path, key=key, into=into, overwrite=overwrite)
        if made is not None:
            return made
        try:
            mask = mask_from_annotations(
                read.annotations, blank_mask(info, mpp=mpp), classes=classes
            )
        except (LabelError, NoTissue) as error:
            raise _in_file(error, annotations_path) from error
        picture = tissue_picture(slide, mask)
    about = {
        "source": SOURCE,
        "annotations": annotations_path.name,
        "annotations_sha256": digest,
        "warning": _warning(read),
    }
    return keep_tissue(mask, picture, path, key=key, about=about, into=into, overwrite=overwrite)


def annotations_of(place: Path, id_: str) -> Path:
    """The GeoJSON of a slide: a file as it is, in a folder the one of the slide's name.

    That is ``<id>.geojson``, as QuPath proposes, or ``<id>.tissue.geojson``, as the mask's was
    called; ``.json`` and ``.gz`` are taken as well.

    Raises
    ------
    MissingFile
        There is none.
    CohortError
        There are several.
    """
    if not place.is_dir():
        return place
    names = [f"{id_}{middle}{suffix}" for middle in ("", ".tissue") for suffix in SUFFIXES]
    found = [place / name for name in names if (place / name).is_file()]
    if len(found) > 1:
        raise CohortError(
            f"{len(found)} files of annotations for one slide: "
            + ", ".join(file.name for file in found),
            where=place,
            remedy="Leave only the one that counts",
        )
    if not found:
        raise MissingFile(
            f"no annotations of {id_}",
            where=place,
            remedy=f"Export them from QuPath as {id_}.geojson",
        )
    return found[0]


def _in_file(error: MicrotomeError, path: Path) -> MicrotomeError:
    return type(error)(error.what, where=path, remedy=error.remedy)


def _warning(read: AnnotationFile) -> str:
    """What was left out or mended, in one line."""
    problems = [str(problem) for problem in read.problems]
    more = len(problems) - _PROBLEMS_SAID
    said = problems[:_PROBLEMS_SAID] + ([f"and {more} more"] if more > 0 else [])
    return "; ".join(said)
