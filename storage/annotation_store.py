"""tiatoolbox's annotation store (SQLite), so that its viewer shows our results, and back.

A store's coordinates are x, y in level-0 pixels of the whole image: OpenSlide's bounds are not
cropped there. Its viewer colours by the property ``type`` and by any that is a number.

Written and read with Python's own ``sqlite3``: tiatoolbox's class needs a Python that may load
extensions of SQLite, which many are built without, and takes seconds to import. The layout is
that of its version 1.0.1 (Pocock et al. 2022, TIAToolbox, Communications Medicine 2:120).
"""

from __future__ import annotations

import json
import math
import sqlite3
import uuid
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import shapely
from shapely.geometry.base import BaseGeometry

from .commit import writable
from .errors import BadProduct, MissingFile
from .qupath_objects import OBJECT_TYPES, Annotation, PathClass, Tiles

SUFFIX = ".db"
_OWN = ("type", "color", "name", "object_type", "is_locked")
"""Properties that are no measurement and no text of the user's."""

_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "microtome/annotation-store")
_LEVEL = 6
_LAYOUT = """
CREATE TABLE metadata (key TEXT UNIQUE, value TEXT);
CREATE VIRTUAL TABLE rtree USING rtree(id, min_x, max_x, min_y, max_y);
CREATE TABLE annotations(
    id INTEGER PRIMARY KEY, key TEXT UNIQUE, objtype TEXT, cx FLOAT NOT NULL, cy FLOAT NOT NULL,
    geometry BLOB, properties TEXT, area FLOAT NOT NULL
);
"""
_FACTS = {"version": "1.0.1", "compression": "zlib", "compression_level": _LEVEL}

Stored = tuple[BaseGeometry, dict[str, Any]]


def write_annotation_store(
    path: Path, *, tiles: Tiles | None = None, annotations: Iterable[Annotation] = ()
) -> int:
    """Write tiles and annotations as a store that ``tiatoolbox`` and its viewer open.

    Parameters
    ----------
    path
        Ends in ``.db``. Written whole or not at all; a file that is there is replaced.
    tiles
        As rectangles, streamed; measurements that are not finite are left out.
    annotations
        With the nucleus of a cell as an object of its own, for a store has no cells.

    Returns
    -------
    int
        How many objects there are.

    Raises
    ------
    UnwritableOutput
        The file system refuses.
    """
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    with writable(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with closing(sqlite3.connect(partial)) as database:
                database.executescript(_LAYOUT)
                facts = [(name, json.dumps(value)) for name, value in _FACTS.items()]
                database.executemany("INSERT INTO metadata VALUES (?, ?)", facts)
                count = 0
                for count, stored in enumerate(_objects(tiles, annotations), start=1):
                    _insert(database, count, *stored)
                database.commit()
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    return count


def _insert(
    database: sqlite3.Connection, number: int, geometry: BaseGeometry, properties: dict[str, Any]
) -> None:
    wkb, centre = shapely.to_wkb(geometry), geometry.centroid
    key = str(uuid.uuid5(_NAMESPACE, f"{number}|{wkb.hex()}"))
    point = geometry.geom_type == "Point"
    packed = None if point else zlib.compress(wkb, _LEVEL)
    text = json.dumps(properties, allow_nan=False, separators=(",", ":"))
    row = (number, key, geometry.geom_type, centre.x, centre.y, packed, text, geometry.area)
    database.execute("INSERT INTO annotations VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
    left, top, right, bottom = geometry.bounds
    database.execute("INSERT INTO rtree VALUES (?, ?, ?, ?, ?)", (number, left, right, top, bottom))


def _objects(tiles: Tiles | None, annotations: Iterable[Annotation]) -> Iterator[Stored]:
    if tiles is not None:
        yield from _tiles(tiles)
    for annotation in annotations:
        yield annotation.geometry, _properties(annotation)
        if annotation.nucleus is not None:
            yield annotation.nucleus, {**_properties(annotation), "object_type": "nucleus"}


def _tiles(tiles: Tiles) -> Iterator[Stored]:
    tall, wide = tiles.footprint_px
    names, columns = list(tiles.measurements), list(tiles.measurements.values())
    for index, (y, x) in enumerate(tiles.coords_px.tolist()):
        values = {name: float(column[index]) for name, column in zip(names, columns, strict=True)}
        properties: dict[str, Any] = {"object_type": "tile", **_finite(values)}
        if tiles.class_index is not None and tiles.class_index[index] >= 0:
            properties |= _class(tiles.classes[tiles.class_index[index]])
        yield shapely.box(x, y, x + wide, y + tall), properties


def _properties(annotation: Annotation) -> dict[str, Any]:
    properties: dict[str, Any] = {**annotation.metadata, **_finite(annotation.measurements)}
    properties["object_type"] = annotation.object_type
    if annotation.path_class is not None:
        properties |= _class(annotation.path_class)
    if annotation.name:
        properties["name"] = annotation.name
    if annotation.is_locked:
        properties["is_locked"] = True
    return properties


def _class(path_class: PathClass) -> dict[str, Any]:
    color = {} if path_class.color is None else {"color": list(path_class.color)}
    return {"type": path_class.name, **color}


def _finite(values: Mapping[str, float]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items() if math.isfinite(value)}


def read_annotation_store(path: str | Path) -> tuple[Annotation, ...]:
    """Read a store that tiatoolbox, or we, wrote.

    Returns
    -------
    tuple of Annotation
        In the order of the store, in (x, y) level-0 pixels of the whole image. Numbers among the
        properties are measurements, ``type`` is the class, texts are metadata; what is neither
        number nor text is left out.

    Raises
    ------
    MissingFile, BadProduct
        Nothing is there; or it is no annotation store.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingFile("no such annotation store", where=path, remedy="Check the path")
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database:
            stated = dict(database.execute("SELECT key, value FROM metadata"))
            compressed = json.loads(stated["compression"]) == "zlib"
            rows = database.execute(
                "SELECT cx, cy, geometry, properties FROM annotations ORDER BY id"
            )
            return tuple(_annotation(row, compressed=compressed) for row in rows)
    except (sqlite3.DatabaseError, shapely.GEOSException, zlib.error, KeyError, TypeError,
            ValueError) as error:  # fmt: skip
        raise BadProduct(
            f"no annotation store of tiatoolbox, or a damaged one ({error})", where=path
        ) from error


def _annotation(row: Sequence[Any], *, compressed: bool) -> Annotation:
    x, y, packed, text = row
    if packed is None:
        geometry: BaseGeometry = shapely.Point(x, y)
    else:
        plain = zlib.decompress(packed) if compressed else packed
        geometry = shapely.from_wkt(plain) if isinstance(plain, str) else shapely.from_wkb(plain)
    said = dict(json.loads(text))
    kind, name, color = said.get("object_type"), said.get("type"), said.get("color")
    others = {key: value for key, value in said.items() if key not in _OWN}
    named = isinstance(name, str | int) and str(name).strip() and "\n" not in str(name)
    return Annotation(
        geometry=geometry,
        path_class=PathClass(str(name), _color(color)) if named else None,
        name=said["name"] if isinstance(said.get("name"), str) else "",
        measurements={
            key: float(value)
            for key, value in others.items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        },
        object_type=str(kind) if kind in OBJECT_TYPES else "annotation",
        is_locked=said.get("is_locked") is True,
        metadata={key: value for key, value in others.items() if isinstance(value, str)},
    )


def _color(stated: Any) -> tuple[int, int, int] | None:
    match stated:
        case [int() as red, int() as green, int() as blue, *_]:
            parts = (red, green, blue)
            return parts if all(0 <= part <= 255 for part in parts) else None
    return None
