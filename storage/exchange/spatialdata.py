"""Bags as SpatialData in Zarr, as wsidata and LazySlide lay it out: outlines of tiles, a table.

Written with zarr alone, in the formats that need nothing else and that every version of
spatialdata reads: container, shapes (ragged arrays in place of GeoParquet) and tables 0.1, Zarr
v2. https://spatialdata.scverse.org/en/stable/design_doc.html
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..bags import Bag
from ..commit import new_product
from .anndata import put_anndata, put_array

KIND = "spatialdata"
TILES = "tiles"
"""Name of the outlines, as LazySlide calls them by default."""

_VERSION = "0.1"
_REGION_KEY, _INSTANCE_KEY = "library_id", "tile_id"
_AXES = ("x", "y")
_POLYGON = {"name": "POLYGON", "type": 3}


def export_spatialdata(bag: Bag, path: Path, *, key: str = "", overwrite: bool = False) -> None:
    """Write a bag as SpatialData: ``shapes/tiles``, and a table of their features.

    The table is called ``<encoder>_tiles`` and has what
    :func:`~microtome.storage.exchange.anndata.export_anndata` writes. Places are (x, y) in level-0
    pixels, the coordinate system ``global``. The attribute ``tile_spec`` says of the tiles what
    wsidata's ``TileSpec`` has, where they are as many pixels wide as high.

    Parameters
    ----------
    path
        ``<id>.zarr``, a folder: what ``wsidata.open_wsi`` takes as ``store``.
    key
        Of the export as a product.

    Raises
    ------
    InputError
        A quality column has the name of a coordinate or of a key.
    StaleProduct, UnwritableOutput
        Something else is there; or it cannot be written.
    """
    import zarr

    about = {"id": bag.id, "instances": len(bag)}
    with new_product(path, kind=KIND, key=key, about=about, overwrite=overwrite) as folder:
        root = zarr.open_group(folder, mode="w", zarr_format=2)
        root.attrs.update({"spatialdata_attrs": {"version": _VERSION}, **_tile_spec(bag)})
        _put_outlines(root.create_group("shapes").create_group(TILES), bag)
        table = root.create_group("tables").create_group(table_name(bag))
        _put_table(table, bag, key)
        # Readers then need not list folders, whose order is not said.
        for place in (f"shapes/{TILES}", ""):
            zarr.consolidate_metadata(root.store, path=place or None, zarr_format=2)


def table_name(bag: Bag) -> str:
    """``<encoder>_tiles``, of letters, digits, dots, hyphens and underscores."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", bag.encoder.partition("@")[0]) + f"_{TILES}"


def _put_outlines(group: Any, bag: Bag) -> None:
    """The tiles' rectangles, as shapely's ragged arrays have polygons of one ring."""
    n = len(bag)
    height, width = bag.footprint_px
    corners = np.array([[1, 0], [1, 1], [0, 1], [0, 0], [1, 0]]) * (width, height)
    points = bag.coords_px[:, None, ::-1] + corners
    put_array(group, "coords", points.reshape(-1, 2), kind=None)
    put_array(group, "offset0", np.arange(n + 1) * len(corners), kind=None)
    put_array(group, "offset1", np.arange(n + 1), kind=None)
    put_array(group, "Index", np.arange(n), kind=None)
    space = [{"name": name, "type": "space", "unit": "unit"} for name in _AXES]
    group.attrs.update(
        {
            "encoding-type": "ngff:shapes",
            "axes": list(_AXES),
            "spatialdata_attrs": {"geos": _POLYGON, "version": _VERSION},
            "coordinateTransformations": [
                {
                    "type": "identity",
                    "input": {"name": "".join(_AXES), "axes": space},
                    "output": {"name": "global", "axes": space},
                }
            ],
        }
    )


def _put_table(group: Any, bag: Bag, key: str) -> None:
    keys = {"region": TILES, "region_key": _REGION_KEY, "instance_key": _INSTANCE_KEY}
    ids: dict[str, NDArray[Any]] = {_INSTANCE_KEY: np.arange(len(bag))}
    put_anndata(
        group,
        bag,
        key,
        columns=ids,
        categories={_REGION_KEY: TILES},
        uns={"spatialdata_attrs": keys},
    )
    group.attrs.update(
        {**keys, "spatialdata-encoding-type": "ngff:regions_table", "version": _VERSION}
    )


def _tile_spec(bag: Bag) -> dict[str, Any]:
    """What wsidata keeps of how tiles were laid; nothing where it has no words for it."""
    height, width = bag.footprint_px
    if height != width:
        return {}
    downsample = height / bag.tile_px
    strides = [round(_step_px(places, height) / downsample) for places in bag.coords_px.T]
    spec = {
        "height": bag.tile_px,
        "width": bag.tile_px,
        "stride_height": strides[0],
        "stride_width": strides[1],
        "mpp": bag.mpp,
        "ops_level": 0,
        "ops_downsample": downsample,
        "base_level": 0,
        "base_downsample": downsample,
        "tissue_name": None,
    }
    return {"tile_spec": {TILES: spec}}


def _step_px(places: NDArray[np.int64], side_px: float) -> float:
    """The smallest step between rows, or columns; of a single one the side of a tile."""
    steps = np.diff(np.unique(places))
    return float(steps.min()) if len(steps) else side_px
