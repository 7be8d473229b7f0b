"""Tissue masks at rest."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...storage import ngff
from ...storage.commit import (
    file_identity,
    is_done,
    new_product,
    product_key,
    read_commit,
    require_commit,
)
from ...storage.errors import BadGeometry, BadProduct
from ...storage.files import writable, write_bytes, write_text
from ...storage.ngff04 import is_container
from ...storage.stored_slides import SUFFIX as IMAGE_SUFFIX
from ...storage.stored_slides import StoredSlide, open_stored_slide
from ..schedule import Skipped
from ..slides import Mpp, open_slide
from ..slides.base import Slide
from ..slides.stored_reader import is_ours as is_stored_slide
from ..staging import unless_known
from .detect import DEFAULT_MPP, VERSION, find_tissue
from .exchange import require_replaceable, write_tissue_annotations
from .label_zarr import label_metadata, label_pyramid, write_label
from .mask import TissueMask, tissue_picture
from .methods import method_key

KIND = "tissue mask"
SUFFIX = ".tissue.zarr"
LABEL_NAME = "tissue"


def tissue_key(
    slide: Slide, *, mpp: float = DEFAULT_MPP, method: str = "auto", artefacts: bool = True
) -> str:
    """Key of the mask that :func:`find_tissue` makes of a slide."""
    info = slide.info
    return product_key(
        kind=KIND,
        version=VERSION,
        slide=file_identity(info.path),
        slide_mpp=info.mpp,
        mpp=mpp,
        method=method_key(method),
        artefacts=artefacts,
    )


def write_tissue(
    path: Path,
    mask: TissueMask,
    *,
    key: str,
    about: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> None:
    """Keep a mask as an OME-Zarr 0.5 label image of one level, with its scale in micrometres.

    Parameters
    ----------
    about
        What else the record shall say, such as how the mask came about.

    Raises
    ------
    StaleProduct
        A mask made with another key is there and ``overwrite`` is false.
    """
    slide_mpp = (mask.mpp[0] / mask.downsample[0], mask.mpp[1] / mask.downsample[1])
    ome = label_metadata(slide_mpp, mask.downsample, 1, inside_image=False)
    record = {**(about or {}), **_record(mask)}
    with new_product(path, kind=KIND, key=key, about=record, overwrite=overwrite) as folder:
        write_label(folder, [mask.labels], ome)


def write_slide_label(
    image: Path,
    mask: TissueMask,
    *,
    key: str,
    about: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> None:
    """Keep a mask in ``labels/tissue`` of a slide's OME-Zarr, with as many levels as the image.

    The label is a product of its own, whole or absent; the image beside it is not touched, and
    its key and its identity stay what they are.

    Parameters
    ----------
    image
        The ``.ome.zarr`` that ``microtome ingest`` made of the slide.

    Raises
    ------
    MissingFile, BadProduct
        No such image, or none of ours.
    BadGeometry
        The mask is for a slide of another size.
    StaleProduct
        A mask made with another key is there and ``overwrite`` is false.
    """
    stored = _require_room(image)
    height, width = stored.levels[0].shape[1:]
    require_fit(mask, (height, width), where=image)
    levels = label_pyramid(mask.labels, len(stored.levels))
    ome = label_metadata(stored.mpp, mask.downsample, len(levels), inside_image=True)
    record = {**(about or {}), **_record(mask)}
    path = slide_label_path(image)
    with new_product(path, kind=KIND, key=key, about=record, overwrite=overwrite) as folder:
        write_label(folder, levels, ome)
        # Before the label is there: were it after, a kill between would leave it unlisted.
        _list_label(path.parent)


def _require_room(image: Path) -> StoredSlide:
    """The image that a label is to go into; BadProduct where it is none, or of OME-Zarr 0.4."""
    stored = open_stored_slide(image)
    if is_container(image):
        raise BadProduct(
            "labels are written in OME-Zarr 0.5, and this image is of 0.4",
            where=image,
            remedy="Ingest the slide with --profile archive or compatible for its labels",
        )
    return stored


def slide_label_path(image: Path) -> Path:
    """Where the mask lies in a slide's OME-Zarr."""
    return image / "labels" / LABEL_NAME


def slide_image(slide_path: Path, id_: str, into: Path | None) -> Path | None:
    """The OME-Zarr that a slide's mask belongs into: ``into``, the one in it, or the slide itself.

    None where the slide is no OME-Zarr of ours and ``into`` is not given.
    """
    if into is None:
        # Labels are written in OME-Zarr 0.5; an image of 0.4 has no zarr.json.
        ours = (slide_path / "zarr.json").is_file() and is_stored_slide(slide_path)
        return slide_path if ours else None
    return into if into.name.endswith(IMAGE_SUFFIX) else into / f"{id_}{IMAGE_SUFFIX}"


def _list_label(folder: Path) -> None:
    """Name the mask in the group ``labels``, beside what others have put there."""
    file = folder / "zarr.json"
    try:
        stated = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
        names = [] if stated is None else [*stated["attributes"]["ome"]["labels"]]
    except (KeyError, TypeError, ValueError) as error:
        raise BadProduct(
            f"the list of labels is damaged ({error!r})",
            where=file,
            remedy="Mend it, or delete it where there are no labels but ours",
        ) from error
    if LABEL_NAME not in names:
        group = ngff.group({"ome": ngff.labels([*names, LABEL_NAME])})
        write_text(file, json.dumps(group, indent=1))


def require_fit(mask: TissueMask, slide_px: tuple[int, int], *, where: Path) -> None:
    """Raise BadGeometry where a mask does not cover a slide of (height, width) pixels."""
    covered = [n * d for n, d in zip(mask.labels.shape, mask.downsample, strict=True)]
    # Pyramids leave off, or fill up, what does not make a whole pixel of a level.
    off = [abs(c - px) / d for c, px, d in zip(covered, slide_px, mask.downsample, strict=True)]
    if max(off) > 1:
        raise BadGeometry(
            f"the mask is for a slide of {covered[0]:.0f} x {covered[1]:.0f} px, this one has "
            f"{slide_px[0]} x {slide_px[1]} px",
            where=where,
            remedy="Give each slide the mask that was made of it",
        )


def _record(mask: TissueMask) -> dict[str, Any]:
    return {
        "downsample": mask.downsample,
        "mpp": mask.mpp,
        "fraction": mask.fraction,
        "area_mm2": mask.area_mm2,
    }


def read_tissue(path: str | Path) -> TissueMask:
    """Read a mask.

    Parameters
    ----------
    path
        A ``.tissue.zarr``, or a slide's ``.ome.zarr`` in which the mask lies as label.

    Raises
    ------
    MissingFile, BadProduct
        Nothing is there; or it is unfinished, damaged or no tissue mask.
    """
    import zarr

    path = Path(path)
    if slide_label_path(path).is_dir():
        path = slide_label_path(path)
    about: dict[str, Any] = dict(require_commit(path, KIND).about)
    try:
        array: Any = zarr.open_group(path, mode="r")["0"]
        labels = np.asarray(array[...], np.uint8)
    except (KeyError, ValueError, OSError) as error:
        raise BadProduct(
            f"the mask is damaged ({error})", where=path, remedy="Delete it and make it again"
        ) from error
    (down_y, down_x), (mpp_y, mpp_x) = about["downsample"], about["mpp"]
    return TissueMask(labels, (down_y, down_x), (mpp_y, mpp_x))


@dataclass(frozen=True)
class TissueMade:
    """A mask that was made, or was there.

    Attributes
    ----------
    warning
        What the ledger says of a mask that was not made of all that was given.
    """

    path: Path
    fraction: float
    area_mm2: float
    warning: str = ""


def make_tissue(
    slide_path: Path,
    path: Path,
    *,
    mpp: float = DEFAULT_MPP,
    method: str = "auto",
    artefacts: bool = True,
    slide_mpp: Mpp | None = None,
    into: Path | None = None,
    overwrite: bool = False,
) -> TissueMade | Skipped[TissueMade]:
    """Make the mask of one slide file at ``path``, and beside it what people look at.

    That is a picture, ``<path>.png``, and annotations for QuPath,
    ``<path without .zarr>.geojson``. Nothing is done where the mask is there already, made from
    the same pixels. A slide that lies in an object store is fetched first, unless the mask is known
    to be of it.

    Parameters
    ----------
    method, artefacts
        See :func:`~microtome.engine.tissue.find_tissue`.
    slide_mpp
        Micrometres per level-0 pixel, where the file states none or a wrong one.
    into
        The slide's OME-Zarr, to keep the mask in as well (:func:`write_slide_label`).

    Raises
    ------
    StaleProduct
        A mask made otherwise is there and ``overwrite`` is false; or annotations are there that
        someone edited.
    NoResolution, NoTissue, UnreadableFile, MissingFile
        The slide has no mask.
    """
    request = product_key(
        version=VERSION,
        method=method_key(method),
        slide_mpp=slide_mpp,
        mpp=mpp,
        artefacts=artefacts,
        into=into is not None,
    )

    def known() -> TissueMade | None:
        is_labelled = into is None or read_commit(slide_label_path(into)) is not None
        return _made(path) if is_labelled and annotations_path(path).is_file() else None

    def work(local: Path) -> TissueMade | Skipped[TissueMade]:
        with open_slide(local, mpp=slide_mpp) as slide:
            key = tissue_key(slide, mpp=mpp, method=method, artefacts=artefacts)
            made = kept_tissue(path, key=key, into=into, overwrite=overwrite)
            if made is not None:
                return made
            require_replaceable(annotations_path(path))
            mask = find_tissue(slide, mpp=mpp, method=method, artefacts=artefacts)
            picture = tissue_picture(slide, mask)
            # The product comes last: where it is, what people look at is too.
            write_tissue_annotations(mask, slide.info, annotations_path(path))
        return keep_tissue(mask, picture, path, key=key, into=into, overwrite=overwrite)

    return unless_known(slide_path, path, request, known=known, work=work)


def _made(path: Path) -> TissueMade:
    """What is to be told of the mask that is there."""
    about = require_commit(path, KIND).about
    return TissueMade(path, about["fraction"], about["area_mm2"], about.get("warning", ""))


def annotations_path(path: Path) -> Path:
    """Where the annotations for QuPath lie of the mask at ``path``."""
    return path.with_suffix(".geojson")


def kept_tissue(
    path: Path, *, key: str, into: Path | None, overwrite: bool
) -> TissueMade | Skipped[TissueMade] | None:
    """The mask that is there already, put into the slide's OME-Zarr where it lacks; or None."""
    labelled = True
    if into is not None:
        _require_room(into)
        labelled = is_done(slide_label_path(into), kind=KIND, key=key, overwrite=overwrite)
    if not is_done(path, kind=KIND, key=key, overwrite=overwrite):
        return None
    made = _made(path)
    if into is None or labelled:
        return Skipped(made)
    about = require_commit(path, KIND).about
    write_slide_label(into, read_tissue(path), key=key, about=about, overwrite=overwrite)
    return made


def keep_tissue(
    mask: TissueMask,
    picture: bytes,
    path: Path,
    *,
    key: str,
    about: Mapping[str, Any] | None = None,
    into: Path | None = None,
    overwrite: bool = False,
) -> TissueMade:
    """Write a mask, its picture beside it, and where asked the label in the slide's OME-Zarr."""
    with writable(path):
        write_bytes(path.with_name(path.name + ".png"), picture)
    if into is not None:
        write_slide_label(into, mask, key=key, about=about, overwrite=overwrite)
    write_tissue(path, mask, key=key, about=about, overwrite=overwrite)
    warning = str((about or {}).get("warning", ""))
    return TissueMade(path, mask.fraction, mask.area_mm2, warning)
