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
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from .commit import new_file, writable
from .errors import BadGeometry, LabelError, UnwritableOutput
from .polygons import fit

MANY_OBJECTS = 500_000
"""Above this, QuPath needs minutes and gigabytes to open a file."""

SUFFIXES = (".geojson.gz", ".geojson", ".json.gz", ".json")
"""QuPath goes by the name, not by the content."""

_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "microtome/qupath")
_CHUNK = 4096


@dataclass(frozen=True)
class PathClass:
    """QuPath's classification: a name and a colour, which QuPath keeps to one per name.

    Attributes
    ----------
    name
        Not blank, one line. A colon makes QuPath derive a class from what stands before it.
    color
        (red, green, blue), 0 … 255. A class that the user's project already has keeps its own.
        None leaves it to QuPath.
    """

    name: str
    color: tuple[int, int, int] | None

    def __post_init__(self) -> None:
        if not self.name.strip() or "\n" in self.name:
            raise LabelError(
                f"{self.name!r} cannot name a class in QuPath",
                remedy="Use a name of one line that is not blank",
            )
        if self.color is None:
            return
        if len(self.color) != 3 or not all(0 <= c <= 255 for c in self.color):
            raise ValueError(f"class {self.name}: {self.color} is no RGB colour of 0 … 255")

    def as_json(self) -> dict[str, Any]:
        """The ``classification`` member of a feature."""
        color = None if self.color is None else [int(c) for c in self.color]
        return {"name": self.name, "color": color}


@dataclass(frozen=True)
class Frame:
    """Which image the coordinates of a file are for.

    Attributes
    ----------
    slide_px
        (height, width) of level 0.
    bounds_px
        (y, x, height, width) of the scanned area where the slide states one.
    crop
        True: the image as QuPath shows it, its origin at the bounds. False: the whole of level 0,
        for slides that were imported into QuPath with ``--no-crop``.
    """

    slide_px: tuple[int, int]
    bounds_px: tuple[int, int, int, int] | None = None
    crop: bool = True

    @property
    def box_px(self) -> tuple[int, int, int, int]:
        """(y, x, height, width) of the shown image within level 0."""
        if self.crop and self.bounds_px is not None:
            return self.bounds_px
        return (0, 0, *self.slide_px)

    def as_json(self) -> dict[str, Any]:
        """What the file says of its coordinates; QuPath ignores it, a reader need not guess."""
        y, x, height, width = self.box_px
        return {
            "coordinates": "level-0 pixels, x right, y down",
            "origin": "bounds" if self.crop and self.bounds_px is not None else "slide",
            "origin_px": {"x": x, "y": y},
            "size_px": {"width": width, "height": height},
            "slide_px": {"width": self.slide_px[1], "height": self.slide_px[0]},
        }


@dataclass(frozen=True)
class Tiles:
    """Tiles of one slide and what was measured of them.

    Attributes
    ----------
    coords_px
        int64 [n, 2]: (y, x) of the top left corners, in level-0 pixels of the whole image.
    footprint_px
        (y, x) extent of a tile in level-0 pixels.
    measurements
        [n] columns by name. A value that is not finite is left out of its tile, which QuPath then
        does not paint. QuPath keeps 32-bit floats of a tile.
    classes
        The classes that ``class_index`` numbers.
    class_index
        int [n], -1 for a tile without a class; None where no tile has one.
    """

    coords_px: NDArray[np.int64]
    footprint_px: tuple[float, float]
    measurements: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    classes: tuple[PathClass, ...] = ()
    class_index: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        n = len(self.coords_px)
        columns = [*self.measurements.values()]
        if self.class_index is not None:
            columns.append(self.class_index)
        if self.coords_px.shape != (n, 2) or any(column.shape != (n,) for column in columns):
            raise ValueError("tiles: coordinates, measurements and classes do not fit together")
        if len({c.name for c in self.classes}) != len(self.classes):
            raise ValueError("tiles: QuPath keeps one colour for a class; a name occurs twice")

    def __len__(self) -> int:
        return len(self.coords_px)


@dataclass(frozen=True)
class Annotation:
    """A region that a person may look at or edit.

    Attributes
    ----------
    geometry
        A shapely Polygon or MultiPolygon, holes allowed. In **(x, y)**, shapely's own order, in
        level-0 pixels of the whole image.
    path_class, name, measurements
        What QuPath shows of it. Values that are not finite are left out.
    """

    geometry: BaseGeometry
    path_class: PathClass | None = None
    name: str = ""
    measurements: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Export:
    """What was written.

    Attributes
    ----------
    objects
        How many objects the file holds.
    outside
        How many were left out because nothing of them lies on the shown image.
    """

    path: Path
    objects: int
    outside: int


def write_tiles(
    path: Path,
    tiles: Tiles,
    frame: Frame,
    *,
    slide: str,
    kind: str,
    about: Mapping[str, str | int | float] | None = None,
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

    Raises
    ------
    BadGeometry
        Two tiles lie at the same place.
    UnwritableOutput
        QuPath would not read a file of this name; or the file system refuses.
    """
    if len(np.unique(tiles.coords_px, axis=0)) != len(tiles):
        raise BadGeometry("two tiles lie at the same place", where=slide)
    features = _tile_features(tiles, frame, f"{slide}|{kind}")
    written = _write(path, frame, features, {"slide": slide, "kind": kind, **(about or {})})
    return Export(path, written, len(tiles) - written)


def write_annotations(
    path: Path,
    annotations: Sequence[Annotation],
    frame: Frame,
    *,
    slide: str,
    kind: str,
    about: Mapping[str, str | int | float] | None = None,
) -> Export:
    """Write regions as QuPath annotations; parameters and errors as :func:`write_tiles`.

    Geometry is made valid (parts united, holes kept), clipped to the frame and put on QuPath's
    grid; a region that vanishes on the way is counted in :attr:`Export.outside`.

    Raises
    ------
    BadGeometry
        A geometry that is no polygon, or has coordinates that are not finite.
    """
    features = _annotation_features(annotations, frame, f"{slide}|{kind}")
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


def _annotation_features(
    annotations: Iterable[Annotation], frame: Frame, key: str
) -> Iterator[dict[str, Any]]:
    for index, annotation in enumerate(annotations):
        geometry = _geometry(fit(annotation.geometry, frame.box_px))
        if geometry is None:
            continue
        properties: dict[str, Any] = {"objectType": "annotation"}
        if annotation.path_class is not None:
            properties["classification"] = annotation.path_class.as_json()
        if annotation.name:
            properties["name"] = annotation.name
        found = {n: float(v) for n, v in annotation.measurements.items() if np.isfinite(v)}
        if found:
            properties["measurements"] = found
        yield _feature(f"{key}|{index}|{json.dumps(geometry)}", geometry, properties)


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
    return int(value) if value.is_integer() else value


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
