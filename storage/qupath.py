"""QuPath GeoJSON, written so that QuPath 0.4 to 0.7 import every object of it.

QuPath loses the whole file for one bad feature and drops what it does not know without a word. So
nothing is written here that its importer refuses in any of these versions: rings are closed and
valid on QuPath's own grid of 0.01 px, values are finite or left out, a classification always has
a colour, one-part multipolygons are polygons. :mod:`.qupath_check` holds files to the same rules.

The file's coordinates are x right and y down, in level-0 pixels of the image *as QuPath shows
it*: OpenSlide's bounds are cropped away where a slide states them.
"""

from __future__ import annotations

import gzip
import json
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from .commit import new_file, writable
from .errors import BadGeometry, LabelError, UnwritableOutput
from .polygons import fit, on_grid
from .qupath_coarse import coarsen
from .qupath_objects import Annotation, Frame, PathClass, Tiles

__all__ = [
    "MANY_OBJECTS", "SUFFIXES", "Annotation", "Export", "Frame", "PathClass", "Tiles",
    "write_annotations", "write_tiles",
]  # fmt: skip

MANY_OBJECTS = 500_000
"""Above this, QuPath needs minutes and gigabytes to open a file."""

SUFFIXES = (".geojson.gz", ".geojson", ".json.gz", ".json")
"""QuPath goes by the name, not by the content."""

_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "microtome/qupath")
_CHUNK = 4096


@dataclass(frozen=True)
class Export:
    """What was written.

    Attributes
    ----------
    objects
        How many were written; of tiles without the regions beside them.
    outside
        How many were left out because nothing of them lies on the shown image.
    coarsened
        How many tiles a side were made one, because there were too many; 1 where none were.
    """

    path: Path
    objects: int
    outside: int
    coarsened: int = 1


def write_tiles(
    path: Path,
    tiles: Tiles,
    frame: Frame,
    *,
    slide: str,
    kind: str,
    about: Mapping[str, str | int | float] | None = None,
    regions: Sequence[Annotation] = (),
    at_most: int | None = MANY_OBJECTS,
) -> Export:
    """Write tiles as QuPath tile objects, streamed: memory does not grow with their number.

    Parameters
    ----------
    path
        Ends in one of :data:`SUFFIXES`. Written whole or not at all; equal input gives equal
        bytes.
    tiles
        Clipped to the frame where they overhang it.
    frame
        Which image the coordinates are for.
    slide, kind
        Identity of the slide and of the product. Together with the coordinates they decide the
        objects' UUIDs, so that a second export updates the objects of the first.
    about
        Written into the top-level ``metadata``.
    regions
        Annotations to go into the same file, after the tiles.
    at_most
        More tiles than this are coarsened (:func:`~.qupath_coarse.coarsen`), which
        :attr:`Export.coarsened` and the file's ``metadata`` say; None writes them all.

    Raises
    ------
    BadGeometry
        Two tiles lie at the same place.
    UnwritableOutput
        QuPath would not read a file of this name; or the file system refuses.
    """
    if len(np.unique(tiles.coords_px, axis=0)) != len(tiles):
        raise BadGeometry("two tiles lie at the same place", where=slide)
    shown, side = (tiles, 1) if at_most is None else coarsen(tiles, at_most)
    key, facts = f"{slide}|{kind}", {"slide": slide, "kind": kind, **(about or {})}
    if side > 1:
        facts |= {"tiles": len(tiles), "coarsened": side}
    beside = list(_features(regions, frame, key))
    features = chain(_tile_features(shown, frame, key), beside)
    written = _write(path, frame, features, facts) - len(beside)
    return Export(path, written, len(shown) - written, side)


def write_annotations(
    path: Path,
    annotations: Sequence[Annotation],
    frame: Frame,
    *,
    slide: str,
    kind: str,
    about: Mapping[str, str | int | float] | None = None,
) -> Export:
    """Write annotations, detections and cells; parameters and errors as :func:`write_tiles`.

    Geometry is made valid (parts united, holes kept), clipped to the frame and put on QuPath's
    grid; a region that vanishes on the way is counted in :attr:`Export.outside`. What has an id,
    having come from QuPath, keeps its coordinates as they are where nothing is to be mended.

    Raises
    ------
    BadGeometry
        A geometry that QuPath has no object for, or coordinates that are not finite.
    LabelError
        A class with two colours.
    """
    features = _features(annotations, frame, f"{slide}|{kind}")
    written = _write(path, frame, features, {"slide": slide, "kind": kind, **(about or {})})
    return Export(path, written, len(annotations) - written)


def _tile_features(tiles: Tiles, frame: Frame, key: str) -> Iterator[dict[str, Any]]:
    names = list(tiles.measurements)
    classes = [path_class.as_json() for path_class in tiles.classes]
    size = f"{tiles.footprint_px[0]:.2f}x{tiles.footprint_px[1]:.2f}"
    for start in range(0, len(tiles), _CHUNK):
        part = slice(start, start + _CHUNK)
        corners, shown = _corners(tiles.coords_px[part], tiles.footprint_px, frame)
        columns = [_shortest(tiles.measurements[name][part]) for name in names]
        values = np.stack(columns, axis=1) if columns else np.empty((len(corners), 0))
        indices = None if tiles.class_index is None else tiles.class_index[part].tolist()
        places, rows = tiles.coords_px[part].tolist(), values.tolist()
        boxes = corners.tolist()
        for i in np.flatnonzero(shown).tolist():
            properties: dict[str, Any] = {"objectType": "tile"}
            if indices is not None and indices[i] >= 0:
                properties["classification"] = classes[indices[i]]
            found = {n: v for n, v in zip(names, rows[i], strict=True) if v == v}  # noqa: PLR0124
            if found:
                properties["measurements"] = found
            ring = _rectangle(*boxes[i])
            identity = f"{key}|{places[i][0]},{places[i][1]}|{size}"
            yield _feature(identity, {"type": "Polygon", "coordinates": [ring]}, properties)


def _corners(
    coords_px: NDArray[np.int64], footprint_px: tuple[float, float], frame: Frame
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """(top, left, bottom, right) on the grid and within the frame; and whether any is left."""
    y, x, height, width = frame.box_px
    start = coords_px - np.array([y, x])
    limit = np.array([height, width])
    low = np.round(np.clip(start, 0, limit), 2)
    high = np.round(np.clip(start + np.array(footprint_px), 0, limit), 2)
    shown: NDArray[np.bool_] = (high > low).all(axis=1)
    return np.concatenate([low, high], axis=1), shown


def _rectangle(top: float, left: float, bottom: float, right: float) -> list[list[float]]:
    t, le, b, r = _plain(top), _plain(left), _plain(bottom), _plain(right)
    return [[le, t], [r, t], [r, b], [le, b], [le, t]]


def _shortest(column: NDArray[Any]) -> NDArray[np.float64]:
    """Values with the fewest digits that a 32-bit float, which QuPath keeps, reads back equal."""
    values = np.asarray(column, np.float32)
    values = np.where(np.isfinite(values), values, np.float32(np.nan))
    return values.astype("U32").astype(np.float64)


def _features(
    annotations: Iterable[Annotation], frame: Frame, key: str
) -> Iterator[dict[str, Any]]:
    colors: dict[str, tuple[int, int, int]] = {}
    for index, annotation in enumerate(annotations):
        _require_one_color(annotation.path_class, colors)
        geometry = _shown(annotation.geometry, frame, kept=bool(annotation.id))
        if geometry is None:
            continue
        if annotation.is_ellipse:
            geometry["isEllipse"] = True
        identity = f"{key}|{index}|{json.dumps(geometry)}"
        feature = _feature(identity, geometry, dict(_properties(annotation)))
        if annotation.id:
            feature["id"] = str(uuid.UUID(annotation.id))
        if annotation.nucleus is not None:
            nucleus = _shown(annotation.nucleus, frame, kept=bool(annotation.id))
            feature |= {} if nucleus is None else {"nucleusGeometry": nucleus}
        yield feature


def _require_one_color(
    path_class: PathClass | None, colors: dict[str, tuple[int, int, int]]
) -> None:
    if path_class is None or path_class.color is None:
        return
    if colors.setdefault(path_class.name, path_class.color) != path_class.color:
        raise LabelError(
            f"class {path_class.name!r} has two colours; QuPath keeps one for a class",
            remedy="Give all objects of a class the same colour",
        )


def _properties(annotation: Annotation) -> Iterator[tuple[str, Any]]:
    yield "objectType", annotation.object_type
    if annotation.path_class is not None:
        yield "classification", annotation.path_class.as_json()
    if annotation.name:
        yield "name", annotation.name
    if annotation.color is not None:
        yield "color", list(annotation.color)
    if annotation.is_locked:
        yield "isLocked", True
    found = {n: float(v) for n, v in annotation.measurements.items() if np.isfinite(v)}
    if found:
        yield "measurements", found
    if annotation.metadata:
        yield "metadata", dict(annotation.metadata)


def _shown(geometry: BaseGeometry, frame: Frame, *, kept: bool) -> dict[str, Any] | None:
    """A geometry as the file has it; None where nothing of it is on the shown image.

    ``kept`` leaves the order of its coordinates alone where nothing is to be mended.
    """
    y, x, height, width = frame.box_px
    if geometry.geom_type not in _AREAS:
        return _points_or_lines(geometry, frame)
    if kept and geometry.is_valid:
        moved = shapely.transform(geometry, lambda xy: np.round(xy - np.array([x, y]), 2))
        inside = shapely.box(0, 0, width, height).covers(moved)
        if inside and moved.is_valid and not on_grid(moved).is_empty:
            return _geometry(moved)
    return _geometry(fit(geometry, frame.box_px))


def _points_or_lines(geometry: BaseGeometry, frame: Frame) -> dict[str, Any] | None:
    coordinates = shapely.get_coordinates(geometry)
    if geometry.geom_type not in _NO_AREAS or not np.isfinite(coordinates).all():
        raise BadGeometry(f"QuPath has no object for a {geometry.geom_type} such as this")
    y, x, height, width = frame.box_px
    if not shapely.box(x, y, x + width, y + height).intersects(geometry):
        return None
    moved = shapely.transform(geometry, lambda xy: np.round(xy - np.array([x, y]), 2))
    return json.loads(shapely.to_geojson(moved))  # type: ignore[no-any-return]


_AREAS = ("Polygon", "MultiPolygon")
# A MultiLineString is not among them: QuPath 0.5 to 0.7 cannot write one again.
_NO_AREAS = ("Point", "MultiPoint", "LineString")


def _geometry(geometry: BaseGeometry) -> dict[str, Any] | None:
    polygons = [_rings(polygon) for polygon in shapely.get_parts(geometry)]
    if not polygons:
        return None
    if len(polygons) == 1:
        return {"type": "Polygon", "coordinates": polygons[0]}
    return {"type": "MultiPolygon", "coordinates": polygons}


def _rings(polygon: Any) -> list[list[list[float]]]:
    rings = [polygon.exterior, *polygon.interiors]
    return [
        [[_plain(x), _plain(y)] for x, y in np.round(shapely.get_coordinates(ring), 2).tolist()]
        for ring in rings
    ]


def _plain(value: float) -> float | int:
    return int(value) if float(value).is_integer() else value


def _feature(identity: str, geometry: dict[str, Any], properties: dict[str, Any]) -> dict[str, Any]:
    name = str(uuid.uuid5(_NAMESPACE, identity))
    return {"type": "Feature", "id": name, "geometry": geometry, "properties": properties}


def _write(
    path: Path, frame: Frame, features: Iterator[dict[str, Any]], about: Mapping[str, Any]
) -> int:
    head = {**frame.as_json(), **about}
    written = 0
    encode = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode
    with _open(path) as file:
        file.write(f'{{"type":"FeatureCollection","metadata":{encode(head)},"features":['.encode())
        while lines := [encode(feature) for feature in islice(features, _CHUNK)]:
            file.write((",\n" if written else "\n").encode() + ",\n".join(lines).encode())
            written += len(lines)
        file.write(b"\n]}\n")
    return written


@contextmanager
def _open(path: Path) -> Iterator[BinaryIO | gzip.GzipFile]:
    if not path.name.lower().endswith(SUFFIXES):
        raise UnwritableOutput(
            "QuPath would not read a file of this name",
            where=path,
            remedy="End the name in .geojson.gz or .geojson",
        )
    with writable(path), new_file(path) as file:
        if path.name.lower().endswith(".gz"):
            # No name and no time in the header: equal input gives equal bytes.
            with gzip.GzipFile("", "wb", compresslevel=6, fileobj=file, mtime=0) as packed:
                yield packed
        else:
            yield file
