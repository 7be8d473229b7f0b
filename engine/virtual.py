"""Views of slides: made without a look at the pixels, and compared with the file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..storage import ngff
from ..storage.archive import KeptLevel
from ..storage.commit import product_key
from ..storage.errors import NoJpegTiles
from ..storage.jpeg import FILL
from ..storage.shards import ShardedArray
from ..storage.virtual import KIND, Json, Original, view_files
from .profiles import archive_plan
from .slides import Slide
from .slides.base import JpegSpanned


@dataclass(frozen=True)
class PlannedView:
    """What a view of a slide will be: its files, and what its commit record says."""

    files: Mapping[str, bytes]
    key: str
    about: Mapping[str, Any]


def plan_view(
    slide: Slide, product: Path, *, name: str, provenance: Mapping[str, Any]
) -> PlannedView:
    """Plan a view of a slide.

    Parameters
    ----------
    product
        Where it will lie.
    name
        The image's.
    provenance
        Goes into the image's attribute ``microtome``.

    Raises
    ------
    NoJpegTiles
        A level is not made of JPEG tiles of RGB, or they do not lie in one file.
    """
    info = slide.info
    levels = archive_plan(slide).kept
    if not isinstance(slide, JpegSpanned):
        raise NoJpegTiles(
            "no view can be made of it: where in the file its tiles lie is not known",
            where=info.path,
            remedy="Ingest it with --profile archive, which copies its tiles as they are",
        )
    original = Original.of(info.path, product)
    documents = _documents(levels, name, info.mpp, provenance)
    spans = [slide.tile_spans(number) for number in range(len(levels))]
    key = product_key(
        kind=KIND,
        input=original.identity,
        reader=info.backend,
        mpp=info.mpp,
        layout=[documents[f"{number}/zarr.json"] for number in range(len(levels))],
    )
    about = {
        "id": name,
        "view_of": original.path,
        "size_px": [info.height_px, info.width_px],
        "levels": len(levels),
        "mpp": info.mpp,
        "profile": "virtual",
    }
    return PlannedView(view_files(documents, spans, original), key, about)


def _documents(
    levels: tuple[KeptLevel, ...],
    name: str,
    mpp: tuple[float, float] | None,
    provenance: Mapping[str, Any],
) -> dict[str, Json]:
    """Zarr's metadata of the image and its levels, by their keys."""
    downsamples = [level.downsample for level in levels]
    about = [{"kept": True, "downsample": list(downsample)} for downsample in downsamples]
    ome = ngff.slide_image(name, mpp, downsamples, None)
    group = ngff.group({"ome": ome, "microtome": {**provenance, "levels": about}})
    arrays = {f"{n}/zarr.json": _array(level) for n, level in enumerate(levels)}
    return {"zarr.json": group, **arrays}


def _array(level: KeptLevel) -> Json:
    """The metadata of a level of which every tile is a chunk by itself, in no shard."""
    shape, chunk = (3, level.height_px, level.width_px), (3, *level.tile_px)
    dtype, names = np.dtype(np.uint8), ("c", "y", "x")
    array = ShardedArray(shape, dtype, chunk, chunk, names, level.codec, FILL)
    return array.metadata() | {"codecs": level.codec.metadata()}
