"""Annotations out of QuPath: GeoJSON as QuPath 0.2 to 0.7 write it.

What can be read is read, and what is lost or altered on the way is said, feature by feature: one
bad feature does not lose the file. Not known to the format are the slide and the origin of its
coordinates: see :func:`read_annotations`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from shapely.affinity import translate
from shapely.geometry import shape
from shapely.geometry.base import BaseGeometry

from .annotation_store import SUFFIX as STORE_SUFFIX
from .annotation_store import read_annotation_store
from .errors import BadGeometry, UnreadableFile
from .polygons import repaired
from .qupath_check import DEPTH, Effect, Problem, in_plane, is_nested, is_uuid, read_document
from .qupath_objects import OBJECT_TYPES, Annotation, Frame, PathClass

_NO_NUMBER = ("NaN", "Infinity", "-Infinity")
_ELLIPSE_SEGMENTS = 64
"""Of a quarter; a polygon of so many sides lacks 0.01 % of the ellipse's area."""

_AREAS = ("Polygon", "MultiPolygon")

_FARTHEST_PX = 1e9
"""No slide reaches so far, and geometry there is beyond the precision of numbers."""


@dataclass(frozen=True)
class ReadAnnotation(Annotation):
    """An object of QuPath.

    Attributes
    ----------
    feature
        Position in the file of the feature that it is, or lies in, from 0.
    """

    feature: int = 0


@dataclass(frozen=True)
class AnnotationFile:
    """What a file holds.

    Attributes
    ----------
    annotations
        All that enclose an area, in the order of the file; children follow the object that they
        lie in.
    problems
        ``lost``: what was left out, such as points and lines, which enclose nothing, and what
        lies outside of the slide. ``altered``: what was mended, such as rings that cross
        themselves.
    others
        Points and lines, which no label can be made of.
    """

    annotations: tuple[ReadAnnotation, ...]
    problems: tuple[Problem, ...]
    others: tuple[ReadAnnotation, ...] = ()

    @property
    def objects(self) -> tuple[ReadAnnotation, ...]:
        """All of them in the order of the file, to be written again."""
        return tuple(sorted((*self.annotations, *self.others), key=lambda a: a.feature))


def read_annotations(path: str | Path, *, frame: Frame) -> AnnotationFile:
    """Read a GeoJSON file, plain or gzipped, that QuPath exported.

    Parameters
    ----------
    path
        A FeatureCollection, a list of features, one feature, or a bare geometry; or a store of
        tiatoolbox (``.db``), whose coordinates are always those of the whole image.
    frame
        Which image the coordinates are for. QuPath does not say: its own default is the slide
        cropped to its bounds. A file of ours does, and is believed.

    Returns
    -------
    AnnotationFile
        Geometries in (x, y) level-0 pixels of the whole image.

    Raises
    ------
    MissingFile, EmptyFile, UnreadableFile
        No GeoJSON.
    BadGeometry
        The file says that it is for a slide of another size.
    """
    if Path(path).suffix.lower() == STORE_SUFFIX:
        return _of_store(Path(path))
    head, features = read_document(path)
    if not features and head.get("type") != "FeatureCollection":
        raise UnreadableFile(
            "no GeoJSON: neither features nor a geometry",
            where=path,
            remedy="In QuPath choose File > Export objects as GeoJSON",
        )
    origin = _origin(head.get("metadata"), frame, Path(path))
    annotations: list[ReadAnnotation] = []
    problems: list[Problem] = []
    for index, feature in enumerate(features):
        for part in _with_children(feature):
            reader = _Reader(index, str(part.get("id") or ""), origin, frame.slide_px)
            found = reader.read(part)
            annotations += [] if found is None else [found]
            problems += reader.problems
    return AnnotationFile(
        tuple(a for a in annotations if a.geometry.geom_type in _AREAS),
        tuple(problems),
        tuple(a for a in annotations if a.geometry.geom_type not in _AREAS),
    )


def _of_store(path: Path) -> AnnotationFile:
    found = [
        ReadAnnotation(**{f.name: getattr(one, f.name) for f in fields(one)}, feature=index)
        for index, one in enumerate(read_annotation_store(path))
    ]
    return AnnotationFile(
        tuple(a for a in found if a.geometry.geom_type in _AREAS),
        (),
        tuple(a for a in found if a.geometry.geom_type not in _AREAS),
    )


def _origin(stated: Any, frame: Frame, path: Path) -> tuple[float, float]:
    """(x, y) of the file's origin, in level-0 pixels of the whole image."""
    match stated:
        case {
            "origin_px": {"x": int() as x, "y": int() as y},
            "slide_px": {"height": int() as height, "width": int() as width},
        }:
            if (height, width) != tuple(frame.slide_px):
                raise BadGeometry(
                    f"made for a slide of {height} x {width} px, not of "
                    f"{frame.slide_px[0]} x {frame.slide_px[1]} px",
                    where=path,
                    remedy="Give the slide that belongs to it",
                )
            return x, y
    return frame.box_px[1], frame.box_px[0]


def _with_children(feature: Any) -> Iterator[Mapping[str, Any]]:
    if not isinstance(feature, dict):
        feature = {}
    yield feature
    properties = feature.get("properties")
    if isinstance(properties, dict):
        children = properties.get("childObjects") or properties.get("children")
        for child in children if isinstance(children, list) else []:
            yield from _with_children(child)


class _Reader:
    """Reads one feature, and notes what is lost of it or altered."""

    def __init__(
        self, index: int, id_: str, origin: tuple[float, float], slide_px: tuple[int, int]
    ) -> None:
        self._index, self._id, self._origin = index, id_, origin
        self._slide = shapely.box(0, 0, slide_px[1], slide_px[0])
        self.problems: list[Problem] = []

    def read(self, feature: Mapping[str, Any]) -> ReadAnnotation | None:
        """The object; None where nothing can be made of it."""
        geometry = self._area(feature.get("geometry"))
        if geometry is None:
            geometry = self._no_area(feature.get("geometry"))
        if geometry is None:
            return None
        properties = feature.get("properties")
        if not isinstance(properties, dict):
            properties = {}
        nucleus = feature.get("nucleusGeometry")
        name, color = properties.get("name"), properties.get("color")
        kind = self._object_type(properties)
        return ReadAnnotation(
            geometry=geometry,
            path_class=self._path_class(properties.get("classification")),
            name=name if isinstance(name, str) else "",
            measurements=self._measurements(properties.get("measurements")),
            feature=self._index,
            object_type=kind,
            is_locked=properties.get("isLocked") is True,
            nucleus=None if nucleus is None or kind != "cell" else self._area(nucleus),
            id=self._id if is_uuid(self._id) else "",
            color=_color({"color": color, "colorRGB": color}),
            is_ellipse=feature["geometry"].get("isEllipse") is True,
            metadata=_texts(properties.get("metadata")),
        )

    def _note(self, rule: str, what: str, effect: Effect) -> None:
        self.problems.append(Problem(self._index, self._id, rule, what, effect))

    def _area(self, geometry: Any) -> BaseGeometry | None:
        match geometry:
            case {"type": "Polygon" | "MultiPolygon" as kind, "coordinates": coordinates}:
                if not is_nested(coordinates, DEPTH[kind]):
                    self._note("coordinates", f"not the finite numbers of a {kind}", "lost")
                    return None
            case {"type": str(kind)}:
                self._note("geometry-type", f"a {kind} encloses no area", "lost")
                return None
            case _:
                self._note("geometry", "missing or empty", "lost")
                return None
        polygons = [coordinates] if kind == "Polygon" else coordinates
        try:
            parts = [_polygon(rings) for rings in polygons]
        except ValueError:
            self._note("ring-length", "a ring has fewer than 3 corners", "lost")
            return None
        if any(ring[0] != ring[-1] for rings in polygons for ring in rings):
            self._note("ring-closed", "a ring does not end where it starts: closed", "altered")
        area: BaseGeometry = parts[0] if kind == "Polygon" else shapely.MultiPolygon(parts)
        if geometry.get("isEllipse") is True:
            area = _ellipse(area)
        return self._valid(translate(area, *self._origin))

    def _no_area(self, geometry: Any) -> BaseGeometry | None:
        """A point or line on the slide, which was noted already."""
        match geometry:
            case {"type": "Point" | "MultiPoint" | "LineString" as kind, "coordinates": places}:
                if not is_nested(places, DEPTH[kind]) or (kind == "LineString" and len(places) < 2):
                    return None
                found = shape({"type": kind, "coordinates": in_plane(places, DEPTH[kind])})
                moved = translate(found, *self._origin)
                return moved if moved.intersects(self._slide) else None
        return None

    def _object_type(self, properties: Mapping[str, Any]) -> str:
        kind = _object_type(properties)
        if kind in OBJECT_TYPES:
            return kind
        self._note("object-type", f"{kind!r} is no type of QuPath's: an annotation", "altered")
        return "annotation"

    def _valid(self, area: BaseGeometry) -> BaseGeometry | None:
        far = np.abs(shapely.get_coordinates(area)).max() > _FARTHEST_PX
        if far or not shapely.box(*area.bounds).intersects(self._slide):
            self._note("extent", "lies outside of the slide", "lost")
            return None
        if area.is_valid:
            return area
        reason, area = shapely.is_valid_reason(area), repaired(area)
        if area.is_empty:
            self._note("valid", f"{reason}: it encloses nothing", "lost")
            return None
        self._note("valid", f"{reason}: made valid", "altered")
        return area

    def _path_class(self, classification: Any) -> PathClass | None:
        match classification:
            case str(name) | {"name": str(name)}:
                names = name.split(":")
            case {"names": [*names]} if all(isinstance(name, str) for name in names):
                pass
            case None:
                return None
            case dict() if not classification.keys() & {"name", "names"}:
                # QuPath gives an object a colour in this way, without a class.
                return None
            case _:
                names = []
        # QuPath writes a class that it derives from another as "other: this".
        name = ": ".join(name.strip() for name in names)
        if not name.strip(": ") or "\n" in name:
            self._note("class-name", f"{classification!r} names no class: none", "altered")
            return None
        stated = classification if isinstance(classification, dict) else {}
        return PathClass(name, _color(stated))

    def _measurements(self, stated: Any) -> dict[str, float]:
        match stated:
            case None:
                return {}
            case dict():
                items = [*stated.items()]
            case [*_] if all(isinstance(m, dict) and {"name", "value"} <= m.keys() for m in stated):
                items = [(str(m["name"]), m["value"]) for m in stated]
            case _:
                self._note("measurement", "neither an object nor a list of name and value", "lost")
                return {}
        found = {name: _number(value) for name, value in items}
        for name in [name for name, value in found.items() if value is None]:
            self._note("measurement", f"{name!r} is no number", "lost")
        return {name: value for name, value in found.items() if value is not None}


def _polygon(rings: list[list[list[float]]]) -> shapely.Polygon:
    """ValueError where a ring has fewer than three corners."""
    flat = [np.array([position[:2] for position in ring], np.float64) for ring in rings]
    return shapely.Polygon(flat[0], flat[1:])


def _ellipse(area: BaseGeometry) -> BaseGeometry:
    """What QuPath shows for a box that is marked as an ellipse; it writes the outline itself."""
    left, top, right, bottom = area.bounds
    if not area.equals(shapely.box(left, top, right, bottom)):
        return area
    circle = shapely.Point(0, 0).buffer(1, quad_segs=_ELLIPSE_SEGMENTS)
    size = np.array([(right - left) / 2, (bottom - top) / 2])
    centre = np.array([(left + right) / 2, (top + bottom) / 2])
    return shapely.transform(circle, lambda xy: xy * size + centre)


def _object_type(properties: Mapping[str, Any]) -> str:
    """Under the name of today, of 0.3, or of 0.2; none is an annotation."""
    for key in ("objectType", "object_type", "type"):
        if isinstance(properties.get(key), str):
            return str(properties[key])
    return "annotation"


def _color(classification: Mapping[str, Any]) -> tuple[int, int, int] | None:
    """As a list since 0.4, as a packed number before; None where it is neither."""
    match classification:
        case {"color": [int() as red, int() as green, int() as blue, *_]}:
            color = (red, green, blue)
        case {"colorRGB": int() as packed}:
            color = (packed >> 16 & 255, packed >> 8 & 255, packed & 255)
        case _:
            return None
    return color if all(0 <= part <= 255 for part in color) else None


def _texts(stated: Any) -> dict[str, str]:
    """QuPath keeps texts only, and so do we."""
    items = stated.items() if isinstance(stated, dict) else ()
    return {name: value for name, value in items if isinstance(value, str)}


def _number(value: Any) -> float | None:
    """A number, or one of the words that QuPath writes for what JSON has no number for."""
    if isinstance(value, str):
        return float(value) if value in _NO_NUMBER else None
    # Whole numbers in JSON may be too large for a float.
    if type(value) is int and abs(value) > sys.float_info.max:
        return None
    return float(value) if type(value) in (int, float) else None
