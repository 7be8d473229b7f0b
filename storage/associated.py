"""Label, macro and thumbnail of a slide, stored beside it: small images of one level each.

In OME-Zarr 0.5 each is an image of its own in ``associated/<name>``; in a container of 0.4 they are
its further images. Which is where stands in the slide's attribute ``microtome.associated``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from . import ngff, ngff04
from .ome_xml import OmeImage
from .shards import ShardedArray, is_whole, write_metadata, write_shard
from .stored_slides import Pixels

_FOLDER = "associated"
_CHUNK_PX, _SHARD_PX = 256, 2048


def associated_paths(names: Mapping[str, Pixels], *, is_container: bool) -> dict[str, str]:
    """Where the array of each image lies in the product."""
    if is_container:
        return {name: f"{number}/0" for number, name in enumerate(names, 1)}
    taken: dict[str, str] = {}
    for number, name in enumerate(names):
        plain = re.sub(r"[^\w-]", "_", name, flags=re.ASCII)
        path = f"{_FOLDER}/{plain}/0"
        # Names that differ in odd signs only.
        taken[name] = f"{_FOLDER}/{plain}-{number}/0" if path in taken.values() else path
    return taken


def write_associated(
    folder: Path, images: Mapping[str, Pixels], *, is_container: bool
) -> dict[str, str]:
    """Write the pixels of some images, where they are not there yet; says where each lies.

    Parameters
    ----------
    folder
        Of the product.
    images
        uint8 [h, w, 3] by name.
    is_container
        In OME-Zarr 0.4; its metadata are the container's.
    """
    paths = associated_paths(images, is_container=is_container)
    for name, pixels in images.items():
        place = folder / paths[name]
        array = _layout(pixels, is_container=is_container)
        values = np.ascontiguousarray(pixels).transpose(2, 0, 1)
        for index in array.indices():
            if not is_whole(array, place, index):
                write_shard(array, place, index, values[array.box(index)])
        if not is_container:
            write_metadata(place, array.metadata())
            ome = ngff.slide_image(name, None, [(1.0, 1.0)], None)
            write_metadata(place.parent, ngff.group({"ome": ome}))
            write_metadata(folder / _FOLDER, ngff.group({}))
    return paths


def associated_series(images: Mapping[str, Pixels]) -> list[ngff04.Series]:
    """The same as further images of a container of OME-Zarr 0.4."""
    return [
        ngff04.Series(
            OmeImage(name, *pixels.shape[:2]),
            [_layout(pixels, is_container=True)],
            [(1.0, 1.0)],
        )
        for name, pixels in images.items()
    ]


def _layout(pixels: Pixels, *, is_container: bool) -> ShardedArray:
    shape = (3, *pixels.shape[:2])
    if is_container:
        return ngff04.chunked(shape)
    side = min(_SHARD_PX, _CHUNK_PX * -(-max(shape[1:]) // _CHUNK_PX))
    chunk = (3, _CHUNK_PX, _CHUNK_PX)
    return ShardedArray(shape, np.dtype(np.uint8), (3, side, side), chunk, ("c", "y", "x"))
