"""Tissue masks at rest."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...storage.commit import file_identity, is_done, new_product, product_key, require_commit
from ...storage.errors import BadProduct
from ...storage.files import writable, write_bytes
from ..schedule import Skipped
from ..slides import open_slide
from ..slides.base import Slide
from .detect import DEFAULT_MPP, VERSION, find_tissue
from .mask import LABELS, TissueMask, tissue_picture
from .methods import method_key

KIND = "tissue mask"
SUFFIX = ".tissue.zarr"


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


def write_tissue(path: Path, mask: TissueMask, *, key: str, overwrite: bool = False) -> None:
    """Keep a mask as an OME-Zarr 0.5 label image of one level, with its scale in micrometres.

    Raises
    ------
    StaleProduct
        A mask made with another key is there and ``overwrite`` is false.
    """
    import zarr

    about = {
        "downsample": mask.downsample,
        "mpp": mask.mpp,
        "fraction": mask.fraction,
        "area_mm2": mask.area_mm2,
    }
    with new_product(path, kind=KIND, key=key, about=about, overwrite=overwrite) as folder:
        group = zarr.open_group(folder, mode="w", zarr_format=3, attributes={"ome": _ome(mask)})
        chunks = (min(mask.labels.shape[0], 2048), min(mask.labels.shape[1], 2048))
        array = group.create_array(
            "0", shape=mask.labels.shape, dtype=np.uint8, chunks=chunks, dimension_names=("y", "x")
        )
        array[...] = mask.labels


def _ome(mask: TissueMask) -> dict[str, Any]:
    half = [scale / 2 for scale in mask.mpp]
    return {
        "version": "0.5",
        "multiscales": [
            {
                "name": "tissue",
                "axes": [
                    {"name": name, "type": "space", "unit": "micrometer"} for name in ("y", "x")
                ],
                "datasets": [
                    {
                        "path": "0",
                        "coordinateTransformations": [
                            {"type": "scale", "scale": list(mask.mpp)},
                            {"type": "translation", "translation": half},
                        ],
                    }
                ],
            }
        ],
        "image-label": {
            "version": "0.5",
            "colors": [
                {"label-value": value, "rgba": [*style.colour, 120]}
                for value, style in LABELS.items()
            ],
            "properties": [
                {"label-value": value, "name": style.name} for value, style in LABELS.items()
            ],
        },
    }


def read_tissue(path: str | Path) -> TissueMask:
    """Read a mask that :func:`write_tissue` kept.

    Raises
    ------
    MissingFile, BadProduct
        Nothing is there; or it is unfinished, damaged or no tissue mask.
    """
    import zarr

    path = Path(path)
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
    """A mask that was made, or was there."""

    path: Path
    fraction: float
    area_mm2: float


def make_tissue(
    slide_path: Path,
    path: Path,
    *,
    mpp: float = DEFAULT_MPP,
    method: str = "auto",
    artefacts: bool = True,
    slide_mpp: float | None = None,
    overwrite: bool = False,
) -> TissueMade | Skipped[TissueMade]:
    """Make the mask of one slide file at ``path``, and beside it a picture of it, ``<path>.png``.

    Nothing is done where the mask is there already, made from the same pixels.

    Parameters
    ----------
    method, artefacts
        See :func:`~microtome.engine.tissue.find_tissue`.
    slide_mpp
        Micrometres per level-0 pixel, where the file states none or a wrong one.

    Raises
    ------
    StaleProduct
        A mask made otherwise is there and ``overwrite`` is false.
    NoResolution, NoTissue, UnreadableFile, MissingFile
        The slide has no mask.
    """
    with open_slide(slide_path, mpp=slide_mpp) as slide:
        key = tissue_key(slide, mpp=mpp, method=method, artefacts=artefacts)
        if is_done(path, kind=KIND, key=key, overwrite=overwrite):
            about = require_commit(path, KIND).about
            return Skipped(TissueMade(path, about["fraction"], about["area_mm2"]))
        mask = find_tissue(slide, mpp=mpp, method=method, artefacts=artefacts)
        picture = tissue_picture(slide, mask)
    # The product comes last: where it is, the picture is too.
    with writable(path):
        write_bytes(path.with_name(path.name + ".png"), picture)
    write_tissue(path, mask, key=key, overwrite=overwrite)
    return TissueMade(path, mask.fraction, mask.area_mm2)
