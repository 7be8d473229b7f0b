"""Read GeoJSON as QuPath does, and say which feature breaks which of its rules.

QuPath's own dialog never says which feature stopped an import. The rules are those that its
importer was seen to keep from v0.4.4 to v0.7.0.
"""

from __future__ import annotations

import gzip
import json
import sys
import uuid
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import shapely
from shapely.geometry import shape
from shapely.geometry.base import BaseGeometry

from .errors import EmptyFile, MissingFile, UnreadableFile
from .polygons import GRID_PX, on_grid
from .qupath import SUFFIXES

Effect = Literal["refused", "lost", "altered"]
"""``refused``: some version of QuPath imports nothing of the whole file. ``lost``: this part is
dropped without a word. ``altered``: it is read as something other than what is written."""

_TYPES = ("annotation", "detection", "tile", "cell", "tmaCore", "root")
_KEPT = (
    "objectType", "object_type", "type", "classification", "name", "color", "isLocked",
    "measurements", "metadata", "childObjects", "children", "nucleusGeometry",
)  # fmt: skip
DEPTH = {
    "Point": 0, "MultiPoint": 1, "LineString": 1, "MultiLineString": 2, "Polygon": 2,
    "MultiPolygon": 3,
}  # fmt: skip
"""How many lists deep the positions of a geometry lie."""

_LINE_BYTES = 1 << 20


@dataclass(frozen=True)
class Problem:
    """One broken rule.

    Attributes
    ----------
    feature
        Position in the file, from 0; None where the file as a whole is concerned.
    id
        The feature's id where it has one.
    rule
        Short name of the rule (``ring-closed``, ``class-color`` …).
    """

    feature: int | None
    id: str
    rule: str
    what: str
    effect: Effect

    def __str__(self) -> str:
        place = "file" if self.feature is None else f"feature {self.feature} ({self.id or 'no id'})"
        return f"{place}: {self.rule}: {self.what} [{self.effect}]"


Finding = tuple[str, str, Effect]


def read_features(path: str | Path) -> list[Any]:
    """Features of a GeoJSON file.

    Takes what QuPath writes: a FeatureCollection, an array, a single Feature, a bare geometry
    (given back as a Feature); gzip by the name; and ``metadata`` twice in one object, of which the
    last counts. The whole file is held in memory, some 3 KB for a tile.

    Raises
    ------
    MissingFile, EmptyFile, UnreadableFile
    """
    return read_document(path)[1]


def read_document(path: str | Path) -> tuple[dict[str, Any], list[Any]]:
    """The members of a GeoJSON file that stand beside its features; and :func:`read_features`."""
    return _split(_load(Path(path)))


def read_metadata(path: str | Path) -> dict[str, Any]:
    """The top-level ``metadata`` of a file, in which ours state their frame; empty without one.

    Raises
    ------
    MissingFile, EmptyFile, UnreadableFile
    """
    path = Path(path)
    opened = gzip.open if path.name.lower().endswith(".gz") else open
    try:
        with opened(path, "rb") as file:
            # Ours have it in the first line, before a million features.
            document = json.loads(file.readline(_LINE_BYTES) + b"]}")
    except (FileNotFoundError, gzip.BadGzipFile, EOFError, zlib.error, ValueError):
        document = _load(path)
    found = _split(document)[0].get("metadata")
    return found if isinstance(found, dict) else {}


def check_geojson(path: str | Path) -> list[Problem]:
    """Hold a file to the rules of QuPath's importer.

    Returns
    -------
    list of Problem
        In the order of the file; empty where QuPath 0.4.4 to 0.7.0 import all of it as written.

    Raises
    ------
    MissingFile
        Nothing is there.
    """
    path = Path(path)
    problems = [Problem(None, "", *finding) for finding in _check_name(path)]
    try:
        head, features = _split(_load(path))
    except (EmptyFile, UnreadableFile) as error:
        return [*problems, Problem(None, "", "json", error.what, "refused")]
    problems += [Problem(None, "", *finding) for finding in _check_head(head)]
    seen = _Seen(size_px=_size(head))
    for index, feature in enumerate(features):
        name = feature.get("id") if isinstance(feature, dict) else None
        found = _check_feature(feature, seen)
        problems += [Problem(index, str(name or ""), *finding) for finding in found]
    return problems


def _load(path: Path) -> Any:
    if not path.is_file():
        raise MissingFile("no such file", where=path, remedy="Check the path")
    try:
        data = path.read_bytes()
        if path.name.lower().endswith(".gz"):
            data = gzip.decompress(data)
        if not data.strip():
            raise EmptyFile("the file is empty", where=path)
        return json.loads(data.decode("utf-8"))
    except (gzip.BadGzipFile, EOFError, zlib.error, ValueError) as error:
        raise UnreadableFile(f"not one JSON document in UTF-8 ({error})", where=path) from error


def _split(document: Any) -> tuple[dict[str, Any], list[Any]]:
    """The document's head, without its features; and its features."""
    if isinstance(document, list):
        return {"type": "FeatureCollection"}, document
    if not isinstance(document, dict):
        return {}, []
    if document.get("type") == "Feature":
        return {"type": "Feature"}, [document]
    if document.get("type") in (*DEPTH, "GeometryCollection"):
        return {"type": "Feature"}, [{"type": "Feature", "geometry": document, "properties": {}}]
    features = document.get("features")
    head = {name: value for name, value in document.items() if name != "features"}
    return head, features if isinstance(features, list) else []


@dataclass
class _Seen:
    """What one feature must know of the others."""

    size_px: tuple[float, float] | None
    ids: set[str] = field(default_factory=set)
    colors: dict[str, Any] = field(default_factory=dict)


def _size(head: Mapping[str, Any]) -> tuple[float, float] | None:
    """(width, height) of the image where the file states it, as ours do."""
    match head.get("metadata"):
        case {"size_px": {"width": int() as width, "height": int() as height}}:
            return width, height
    return None


def _check_name(path: Path) -> Iterator[Finding]:
    if not path.name.lower().endswith(SUFFIXES):
        yield "file-name", f"QuPath reads only names that end in {', '.join(SUFFIXES)}", "lost"


def _check_head(head: Mapping[str, Any]) -> Iterator[Finding]:
    if head.get("type") not in ("FeatureCollection", "Feature"):
        yield "file-type", 'there is no top-level "type":"FeatureCollection": 0 objects', "lost"


def _check_feature(feature: Any, seen: _Seen) -> Iterator[Finding]:
    if not isinstance(feature, dict):
        yield "feature", "this is no JSON object", "refused"
        return
    yield from _check_id(feature, seen)
    yield from _check_geometry(feature.get("geometry"), seen)
    properties = feature.get("properties", {})
    if not isinstance(properties, dict):
        yield "properties", "must be an object", "refused"
        return
    yield from _check_nucleus(feature, properties, seen)
    yield from _check_type(feature, properties)
    if properties.get("classification") is not None:
        yield from _check_class(properties["classification"], seen)
    if "measurements" in properties:
        yield from _check_measurements(properties["measurements"])
    yield from _check_rest(properties)
    children = properties.get("childObjects") or properties.get("children") or []
    for child in children if isinstance(children, list) else [children]:
        yield from _check_feature(child, seen)


def _check_id(feature: Mapping[str, Any], seen: _Seen) -> Iterator[Finding]:
    if "id" not in feature:
        return
    name = feature["id"]
    if name is None:
        yield "id", "null", "refused"
    elif not is_uuid(name):
        yield "id", f"{name!r} is no UUID; QuPath makes up another", "altered"
    elif name in seen.ids:
        yield "id-unique", "another feature has the same id", "altered"
    else:
        seen.ids.add(name)


def is_uuid(name: object) -> bool:
    """Whether QuPath would keep this as an object's id."""
    try:
        return isinstance(name, str) and str(uuid.UUID(name)) == name.lower()
    except ValueError:
        return False


def _check_geometry(geometry: Any, seen: _Seen) -> Iterator[Finding]:
    if not isinstance(geometry, dict) or not geometry:
        yield "geometry", "missing or empty", "refused"
        return
    kind: Any = geometry.get("type")
    coordinates: Any = geometry.get("coordinates")
    if not isinstance(kind, str) or kind not in DEPTH:
        yield "geometry-type", f"QuPath 0.6 and later do not read a {kind}", "refused"
        return
    if not is_nested(coordinates, DEPTH[kind]):
        yield "coordinates", f"not the finite numbers of a {kind}", "refused"
        return
    flat = in_plane(coordinates, DEPTH[kind])
    polygons = {"Polygon": [coordinates], "MultiPolygon": coordinates}.get(kind, [])
    rings = [ring for polygon in polygons for ring in polygon]
    if any(len(ring) < 4 for ring in rings):
        yield "ring-length", "a ring has fewer than 4 positions", "refused"
    elif any(ring[0] != ring[-1] for ring in rings):
        yield "ring-closed", "a ring does not end where it starts", "refused"
    elif polygons:
        yield from _check_area(shape({"type": kind, "coordinates": flat}))
    if kind == "MultiPolygon" and len(coordinates) == 1:
        yield "multipolygon", "of one part; write it as a Polygon", "refused"
    yield from _check_extent(coordinates, DEPTH[kind], seen.size_px)


def is_nested(value: Any, depth: int) -> bool:
    """Whether these are positions of finite numbers in ``depth`` nested, filled lists."""
    if not isinstance(value, list) or not value:
        return False
    if depth > 0:
        return all(is_nested(part, depth - 1) for part in value)
    return len(value) in (2, 3) and all(_is_number(part) for part in value)


def in_plane(value: Any, depth: int) -> Any:
    """Positions in ``depth`` nested lists without the depth that some of them may have."""
    return value[:2] if depth == 0 else [in_plane(part, depth - 1) for part in value]


def _check_area(area: BaseGeometry) -> Iterator[Finding]:
    if not area.is_valid:
        yield "valid", shapely.is_valid_reason(area), "refused"
    elif on_grid(area).is_empty:
        yield "vanishes", f"nothing is left of it on QuPath's grid of {GRID_PX} px", "lost"


def _check_extent(
    coordinates: Any, depth: int, size_px: tuple[float, float] | None
) -> Iterator[Finding]:
    positions = [coordinates]
    for _ in range(depth):
        positions = [part for parts in positions for part in parts]
    if size_px is not None and any(
        not 0 <= value <= limit
        for position in positions
        for value, limit in zip(position, size_px, strict=False)
    ):
        width, height = size_px
        yield "extent", f"reaches out of the image of {width} x {height} px", "altered"


def _check_nucleus(
    feature: Mapping[str, Any], properties: Mapping[str, Any], seen: _Seen
) -> Iterator[Finding]:
    if "nucleusGeometry" in properties:
        yield "nucleus", "nucleusGeometry belongs beside geometry, not in properties", "lost"
    if "nucleusGeometry" not in feature:
        return
    if feature["nucleusGeometry"] is None:
        yield "nucleus", "null; leave it out", "refused"
    elif properties.get("objectType") != "cell":
        yield "nucleus", "only a cell has one", "lost"
    else:
        yield from _check_geometry(feature["nucleusGeometry"], seen)


def _check_type(feature: Mapping[str, Any], properties: Mapping[str, Any]) -> Iterator[Finding]:
    misplaced = [n for n in ("objectType", "classification", "measurements") if n in feature]
    if misplaced:
        yield "place", f"{', '.join(misplaced)} belongs into properties", "lost"
    if "objectType" not in properties:
        return
    kind = properties["objectType"]
    if kind is None:
        yield "object-type", "null", "refused"
    elif kind not in _TYPES:
        yield "object-type", f"{kind!r} is none of {', '.join(_TYPES)}: an annotation", "altered"


def _check_class(classification: Any, seen: _Seen) -> Iterator[Finding]:
    if isinstance(classification, str):
        classification = {"name": classification, "color": None}
    match classification:
        case {"names": [*names]}:
            pass
        case {"name": name}:
            names = [name]
        case _:
            yield "class-name", "a classification needs a name", "refused"
            return
    if not all(isinstance(n, str) and n.strip() and "\n" not in n for n in names):
        yield "class-name", f"{names} has a name that is blank, no text or of many lines", "refused"
        return
    if "color" not in classification and "colorRGB" not in classification:
        yield "class-color", f"class {names} has no color member", "refused"
        return
    color = classification.get("color")
    if color is None:
        return
    yield from _check_color(color, "class-color", (3, 4))
    if seen.colors.setdefault(": ".join(names), color) != color:
        yield "class-color", f"class {names} has two colours; the first wins", "altered"


def _check_color(color: Any, rule: str, lengths: tuple[int, ...]) -> Iterator[Finding]:
    if not isinstance(color, list):
        yield rule, f"{color!r} is no list of numbers", "refused"
    elif len(color) not in lengths or not all(type(c) is int and 0 <= c <= 255 for c in color):
        yield rule, f"{color} is not 3 whole numbers of 0 … 255", "altered"


def _check_measurements(measurements: Any) -> Iterator[Finding]:
    match measurements:
        case dict():
            values = measurements
        case [*_] if all(
            isinstance(m, dict) and {"name", "value"} <= m.keys() for m in measurements
        ):
            values = {str(m["name"]): m["value"] for m in measurements}
        case _:
            yield "measurement", "neither an object nor a list of name and value", "refused"
            return
    for name, value in values.items():
        if not _is_number(value):
            yield "measurement", f"{name!r} is {value!r}, not a finite number", "refused"


def _is_number(value: object) -> bool:
    # Whole numbers in JSON may be too large for a float; NaN compares false.
    return type(value) in (int, float) and abs(value) <= sys.float_info.max  # type: ignore[arg-type]


def _check_rest(properties: Mapping[str, Any]) -> Iterator[Finding]:
    if "name" in properties and not isinstance(properties["name"], str):
        yield "name", f"{properties['name']!r} is no text", "refused"
    color = properties.get("color")
    if color is not None and type(color) is not int:
        yield from _check_color(color, "color", (3,))
    metadata = properties.get("metadata", {})
    texts = metadata.values() if isinstance(metadata, dict) else [metadata]
    if not all(isinstance(value, str) for value in texts):
        yield "metadata", "only text is kept", "lost"
    unknown = [name for name in properties if name not in _KEPT]
    if unknown:
        yield "unknown", f"{', '.join(unknown)}: dropped; numbers go into measurements", "lost"
