"""Bags as AnnData in Zarr, for scanpy, squidpy, LazySlide and what else reads that.

Written by the published on-disk format (AnnData 0.1.0, dataframe, array, string-array, scalars
0.2.0, dict 0.1.0; anndata's documentation, fileformat-prose) in Zarr v2, with zarr alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arrays import get_array
from ..bags import Bag
from ..commit import new_product
from ..errors import BadProduct, InputError, MissingFile, UnreadableFile
from .clam import OWN_FACTS, restored

KIND = "anndata"
SUFFIX = ".zarr"
OWN = "microtome"

_ROWS = 4096
_CORNER = ("y_px", "x_px")
_MAPPINGS = ("layers", "obsm", "varm", "obsp", "varp", "uns")


def export_anndata(bag: Bag, path: Path, *, key: str = "", overwrite: bool = False) -> None:
    """Write a bag as AnnData: a tile is an observation, a feature a variable.

    ``X`` [n, d] has the features; ``obs`` the top left corner of each tile (``y_px``, ``x_px`` in
    level-0 pixels) and its quality; ``obsm/spatial`` [n, 2] its centre as (x, y) in level-0
    pixels; ``uns/microtome`` what holds of all: ``mpp``, ``tile_px``, ``slide_mpp``, ``encoder``,
    ``key``, and in ``record`` all of it as JSON.

    Parameters
    ----------
    path
        ``<id>.zarr``, a folder.
    key
        Of the export as a product.

    Raises
    ------
    InputError
        A quality column has the name of a coordinate.
    StaleProduct, UnwritableOutput
        Something else is there; or it cannot be written.
    """
    import zarr

    about = {"id": bag.id, "instances": len(bag)}
    with new_product(path, kind=KIND, key=key, about=about, overwrite=overwrite) as folder:
        root = zarr.open_group(folder, mode="w", zarr_format=2)
        put_anndata(root, bag, key)
        # Readers then need not list the folder, and do not stumble over its commit record.
        zarr.consolidate_metadata(root.store, zarr_format=2)


def put_anndata(
    root: Any,
    bag: Bag,
    key: str,
    *,
    columns: Mapping[str, NDArray[Any]] = MappingProxyType({}),
    categories: Mapping[str, str] = MappingProxyType({}),
    uns: Mapping[str, Mapping[str, str]] = MappingProxyType({}),
) -> None:
    """Write a bag into an empty group, as :func:`export_anndata` says.

    Parameters
    ----------
    columns, categories
        Further columns of ``obs``: values [n], and a word that holds of all.
    uns
        Further words, by group and name.

    Raises
    ------
    InputError
        A quality column has the name of another column.
    """
    taken = {*_CORNER, "_index", *columns, *categories} & set(bag.quality)
    if taken:
        raise InputError(f"quality may not be called {', '.join(sorted(taken))}", where=bag.id)
    root.attrs.update(encoding("anndata", "0.1.0"))
    groups = {name: _mapping(root, name) for name in _MAPPINGS}
    put_array(root, "X", np.asarray(bag.features, np.float32))
    ids = [f"{bag.id}:{i}" for i in range(len(bag))]
    _frame(root, "obs", ids, {**_columns(bag), **columns}, categories)
    names = bag.feature_names or tuple(f"feature_{i}" for i in range(bag.features.shape[1]))
    _frame(root, "var", list(names), {})
    centres = bag.coords_px[:, ::-1] + np.array(bag.footprint_px[::-1]) / 2
    put_array(groups["obsm"], "spatial", centres)
    _facts(_mapping(groups["uns"], OWN), bag, key)
    for name, words in uns.items():
        group = _mapping(groups["uns"], name)
        for word, value in words.items():
            _put_scalar(group, word, value)


def _columns(bag: Bag) -> dict[str, NDArray[Any]]:
    corner = dict(zip(_CORNER, np.asarray(bag.coords_px, np.int64).T, strict=True))
    return corner | {name: np.asarray(c, np.float32) for name, c in bag.quality.items()}


def _facts(group: Any, bag: Bag, key: str) -> None:
    for name in ("mpp", "tile_px", "corrupt_tiles"):
        _put_scalar(group, name, getattr(bag, name))
    for name in ("id", "encoder", "source"):
        _put_scalar(group, name, getattr(bag, name))
    for name in ("slide_mpp", "slide_px", "footprint_px"):
        # (y, x), as everywhere inside.
        put_array(group, name, np.array(getattr(bag, name)))
    _put_scalar(group, "key", key)
    record = {name: getattr(bag, name) for name in OWN_FACTS} | {"quality": list(bag.quality)}
    _put_scalar(group, "record", json.dumps(record))


def encoding(kind: str, version: str) -> dict[str, str]:
    """Attributes of an element."""
    return {"encoding-type": kind, "encoding-version": version}


def _mapping(parent: Any, name: str) -> Any:
    return parent.create_group(name, attributes=encoding("dict", "0.1.0"))


def _frame(
    parent: Any,
    name: str,
    index: list[str],
    columns: Mapping[str, NDArray[Any]],
    categories: Mapping[str, str] = MappingProxyType({}),
) -> None:
    order = [*columns, *categories]
    about = {**encoding("dataframe", "0.2.0"), "_index": "_index", "column-order": order}
    frame = parent.create_group(name, attributes=about)
    put_array(frame, "_index", np.array(index, object), kind="string-array")
    for column, values in columns.items():
        put_array(frame, column, values)
    for column, word in categories.items():
        kind = {**encoding("categorical", "0.2.0"), "ordered": False}
        group = frame.create_group(column, attributes=kind)
        put_array(group, "categories", np.array([word], object), kind="string-array")
        put_array(group, "codes", np.zeros(len(index), np.int8))


def _put_scalar(group: Any, name: str, value: float | int | str) -> None:
    is_text = isinstance(value, str)
    values = (
        np.array(value, f"<U{max(1, len(value))}") if isinstance(value, str) else np.array(value)
    )
    put_array(group, name, values, kind="string" if is_text else "numeric-scalar")


def put_array(group: Any, name: str, values: NDArray[Any], kind: str | None = "array") -> None:
    """Write an array, or a scalar, of a kind of element; of none without such attributes."""
    from numcodecs import Zstd

    rows = min(max(1, _ROWS), max(1, len(values))) if values.ndim else 0
    array = group.create_array(
        name,
        shape=values.shape,
        dtype=str if values.dtype == object else values.dtype,
        chunks=(rows, *(max(1, side) for side in values.shape[1:])) if values.ndim else (),
        compressors=Zstd(level=1, checksum=True),
        attributes=None if kind is None else encoding(kind, "0.2.0"),
        config={"write_empty_chunks": True},
    )
    if values.size:
        array[...] = values


def read_anndata(path: Path) -> Bag:
    """Read a bag that :func:`export_anndata` wrote, or one as SpatialData.

    AnnData of others do not say whether ``spatial`` is a tile's centre or its corner, nor in
    what unit, so they are refused.

    Raises
    ------
    MissingFile, UnreadableFile
        Nothing is there; or it is damaged.
    BadProduct
        No AnnData, or not from a bag.
    """
    import zarr

    if not path.exists():
        raise MissingFile("no such folder", where=path, remedy="Check the path")
    try:
        root: Any = zarr.open_group(path, mode="r", zarr_format=2, use_consolidated=False)
        if "spatialdata_attrs" in root.attrs:
            root = next((t for _, t in root["tables"].groups() if f"uns/{OWN}" in t), root)
        if root.attrs.get("encoding-type") != "anndata":
            raise BadProduct("this Zarr is no AnnData", where=path)
        if f"uns/{OWN}/record" not in root:
            raise BadProduct(
                "this AnnData is not from a bag: nothing says what its coordinates are",
                where=path,
                remedy="Import the h5 files of the tool that made it",
            )
        stated = {OWN: str(root[f"uns/{OWN}/record"][()])}
        names = json.loads(stated[OWN]).pop("quality")
        quality = {name: get_array(root, f"obs/{name}") for name in names}
        corner = np.stack([get_array(root, f"obs/{name}") for name in ("x_px", "y_px")], axis=1)
        features = get_array(root, "X")
    except (KeyError, TypeError, ValueError, RuntimeError, OSError) as error:
        raise UnreadableFile(
            f"this AnnData is damaged, or is none ({error})", where=path, remedy="Copy it again"
        ) from error
    return restored(features, corner, stated, path, quality=quality)
