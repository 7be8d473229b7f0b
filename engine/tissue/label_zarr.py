"""Label images in OME-Zarr 0.5: the arrays and metadata of a mask, alone or inside a slide's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...storage import ngff
from .mask import LABELS

Labels = NDArray[np.uint8]

_CHUNK_PX = 2048
_ALPHA = 120


def label_pyramid(labels: Labels, levels: int) -> list[Labels]:
    """Levels of a label image, each every other pixel of the one before.

    Labels are names: a mean of two would be a third. Of the four pixels around the centre of a
    coarse one, which are equally near, the upper left is taken.

    Parameters
    ----------
    labels
        uint8 [h, w].
    levels
        How many; the last ones of a small mask are of one pixel.

    Returns
    -------
    list of uint8 [ceil(h / 2^i), ceil(w / 2^i)]
    """
    step = [2**level for level in range(levels)]
    return [np.ascontiguousarray(labels[::n, ::n]) for n in step]


def label_metadata(
    mpp: tuple[float, float] | None,
    downsample: tuple[float, float],
    levels: int,
    *,
    inside_image: bool,
) -> dict[str, Any]:
    """The ``ome`` attribute: scales and translations in the frame of the slide's image.

    Parameters
    ----------
    mpp
        (y, x) micrometres per level-0 pixel as the image states it, or None.
    downsample
        (y, x) level-0 pixels per pixel of the finest level of the mask.
    inside_image
        The label lies in ``labels/<name>`` of the image that it is for.
    """
    downsamples = [(downsample[0] * 2**i, downsample[1] * 2**i) for i in range(levels)]
    colours = {value: (*style.colour, _ALPHA) for value, style in LABELS.items()}
    ome = ngff.slide_label("tissue", mpp, downsamples, colours)
    ome["image-label"]["properties"] = [
        {"label-value": value, "name": style.name} for value, style in LABELS.items()
    ]
    if not inside_image:
        del ome["image-label"]["source"]
    return ome


def write_label(folder: Path, levels: Sequence[Labels], ome: dict[str, Any]) -> None:
    """Write a group with one array for each level into an empty folder."""
    import zarr

    group = zarr.open_group(folder, mode="w", zarr_format=3, attributes={"ome": ome})
    for level, labels in enumerate(levels):
        array = group.create_array(
            str(level),
            shape=labels.shape,
            dtype=np.uint8,
            chunks=tuple(min(side, _CHUNK_PX) for side in labels.shape),
            dimension_names=("y", "x"),
        )
        array[...] = labels
