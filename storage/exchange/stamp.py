"""Bags as STAMP keeps them: h5 with ``feats`` and ``coords`` in micrometres.

The layout is that of ``stamp.preprocessing.extract_`` and ``stamp.modeling.data.get_coords``:
``coords`` [n, 2] as (x, y) of a tile's top left corner in micrometres, ``unit`` "um", the tile's
size in ``tile_size_um`` (``tile_size`` before 2.1) and ``tile_size_px``.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..bags import Bag
from ..errors import NoResolution
from .facts import (
    Facts,
    checked_coords,
    checked_features,
    first,
    needed,
    require_inside,
    whole_pixels,
)
from .hdf5 import array, attributes, new_h5, number, opened, put

FEATURES, COORDS = "feats", "coords"
STATED = ("tile_size_um", "tile_size", "unit", "tile_size_px", "extractor")
LAYOUT = "2.1.0"
"""The version of STAMP that this layout is of; STAMP refuses files of a newer one than itself."""


def export_stamp(bag: Bag, path: Path, *, key: str = "") -> None:
    """Write a bag as STAMP does, with features in float32 where STAMP itself keeps float16.

    Parameters
    ----------
    path
        ``<id>.h5``.
    key
        Of the bag as a product, kept as the file's attribute ``microtome_key``.

    Raises
    ------
    UnwritableOutput
        Permission denied, read-only or full file system.
    """
    coords_um = (bag.coords_px * np.array(bag.slide_mpp))[:, ::-1]
    with new_h5(path) as file:
        put(file, COORDS, np.asarray(coords_um, np.float32))
        put(file, FEATURES, np.asarray(bag.features, np.float32))
        file.attrs["stamp_version"] = LAYOUT
        file.attrs["extractor"] = bag.encoder
        file.attrs["unit"] = "um"
        file.attrs["tile_size_um"] = bag.mpp * bag.tile_px
        file.attrs["tile_size_px"] = bag.tile_px
        file.attrs["feat_type"] = "tile"
        file.attrs["microtome_key"] = key


def read_stamp(path: Path, facts: Facts) -> Bag:
    """Read an h5 file of STAMP; see :func:`~microtome.storage.exchange.import_bag`.

    A level-0 pixel's size is not in the file: it is the slide's, or given.

    Raises
    ------
    NoResolution
        Among others, for files of STAMP 1, whose coordinates have no unit.
    """
    with opened(path) as file:
        features = checked_features(array(file, FEATURES, path), path)
        places = checked_coords(array(file, COORDS, path), len(features), path)
        stated = attributes(file, STATED)
    tile_um = number(stated, "tile_size_um", path)
    if tile_um is None and stated.get("unit") == "um":
        tile_um = number(stated, "tile_size", path)
    if tile_um is None:
        raise NoResolution(
            "the coordinates have no unit: this is of STAMP 1, or not of STAMP",
            where=path,
            remedy="Run stamp preprocess of STAMP 2 again",
        )
    side = number(stated, "tile_size_px", path)
    tile_px = facts.tile_px or (None if side is None else round(side))
    tile_px = needed(tile_px, "how many pixels wide its tiles are", "--tile-px", path)
    mpp = tile_um / tile_px
    by_user = None if facts.mpp is None else (facts.mpp, facts.mpp)
    first("the resolution of the tiles (µm/px)", path, (mpp, mpp), by_user)
    what = "how large the slide's pixels are"
    slide_mpp = needed(facts.slide_mpp, what, "--slides or --slide-mpp", path)
    encoder = str(stated["extractor"]) if stated.get("extractor") else facts.encoder
    bag = Bag(
        id=path.stem,
        features=features,
        coords_px=whole_pixels(places[:, ::-1] / np.array(slide_mpp), path),
        footprint_px=(tile_um / slide_mpp[0], tile_um / slide_mpp[1]),
        slide_px=needed(facts.slide_px, "how large the slide is", "--slides", path),
        mpp=mpp,
        slide_mpp=slide_mpp,
        tile_px=tile_px,
        encoder=needed(encoder, "which encoder made it", "--encoder", path),
        bounds_px=facts.bounds_px,
        source=facts.source,
    )
    return require_inside(bag, path)
