"""Every rule of QuPath's importer, on whatever is written: an importer as strict as the strictest.

QuPath 0.4 to 0.7 differ in what they refuse. ``import_as_qupath`` refuses what any of them was
seen to refuse, drops what it drops, and keeps the rest; what we write must come out whole.
"""

from __future__ import annotations

import gzip
import json
import math
import re
import uuid
from pathlib import Path

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely.geometry import MultiPolygon, Polygon, shape

from microtome.storage.errors import LabelError
from microtome.storage.qupath import (
    Annotation,
    Frame,
    PathClass,
    Tiles,
    write_annotations,
    write_tiles,
)
from microtome.storage.qupath_check import check_geojson

FRAME = Frame((900, 1200), (50, 100, 800, 1000))
KINDS = {"Polygon", "MultiPolygon", "Point", "MultiPoint", "LineString", "MultiLineString"}
TYPES = {"annotation", "detection", "tile", "cell", "tmaCore"}


def refuse(word: str):
    raise AssertionError(f"{word} is no JSON")


def import_as_qupath(path: Path) -> list[dict]:
    """The features of a file; AssertionError where some version would import nothing of it."""
    assert re.search(r"\.(geojson|json)(\.gz)?$", path.name), "rule 2: QuPath goes by the name"
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8")
    document = json.loads(text, parse_constant=refuse)
    assert document["type"] == "FeatureCollection", "rule 1"
    seen: set[str] = set()
    colours: dict[str, object] = {}
    for feature in document["features"]:
        assert not has_null(feature), "rules 3 to 6: no null"
        assert str(uuid.UUID(feature["id"])) == feature["id"], "rule 3"
        assert feature["id"] not in seen, "rule 3"
        seen.add(feature["id"])
        import_geometry(feature["geometry"])
        import_properties(feature["properties"], colours)
        if "nucleusGeometry" in feature:
            assert feature["properties"]["objectType"] == "cell", "rule 6"
            import_geometry(feature["nucleusGeometry"])
    return document["features"]


def has_null(value: object) -> bool:
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return value is None or any(has_null(part) for part in inside)


def import_geometry(geometry: dict) -> None:
    assert geometry["type"] in KINDS, "rule 4: the kind"
    found = shape(geometry)
    assert np.isfinite(shapely.get_coordinates(found)).all(), "rule 4: finite"
    if "Polygon" not in geometry["type"]:
        return
    polygons = geometry["coordinates"]
    polygons = [polygons] if geometry["type"] == "Polygon" else polygons
    assert geometry["type"] == "Polygon" or len(polygons) > 1, "rule 4: no MultiPolygon of one"
    for ring in (ring for rings in polygons for ring in rings):
        assert len(ring) >= 4, "rule 4: positions of a ring"
        assert ring[0] == ring[-1], "rule 4: closed"
        assert all(len(place) == 2 for place in ring), "rule 4: a z would be ignored"
        assert all(round(v, 2) == v for place in ring for v in place), "rule 4: the grid"
    assert found.is_valid, f"rule 4: {shapely.is_valid_reason(found)}"
    reduced = shapely.set_precision(found, 0.01)
    assert not reduced.is_empty, "rule 4: vanishes"
    assert reduced.equals(found), "rule 4: on the grid already"
    assert shapely.box(0, 0, 1000, 800).covers(found), "rule 4: inside the image as it is shown"


def import_properties(properties: dict, colours: dict[str, object]) -> None:
    assert properties["objectType"] in TYPES, "rule 5: objectType"
    stated = properties.get("classification")
    if isinstance(stated, dict):
        assert stated["name"].strip(), "rule 5: a class has a name"
        assert "\n" not in stated["name"], "rule 5: of one line"
        assert is_colour(stated["color"]), "rule 5: a class has a colour"
        assert colours.setdefault(stated["name"], stated["color"]) == stated["color"], "rule 5"
    elif stated is not None:
        assert isinstance(stated, str), "rule 5: or is only a name"
        assert stated.strip(), "rule 5"
    assert isinstance(properties.get("name", ""), str), "rule 5: name"
    assert is_colour(properties.get("color", [0, 0, 0])), "rule 5: colour"
    for value in properties.get("measurements", {}).values():
        assert type(value) in (int, float), "rule 5: measurements are numbers"
        assert math.isfinite(value), "rule 5: that are finite"
    for value in properties.get("metadata", {}).values():
        assert isinstance(value, str), "rule 5: metadata are texts"
    assert set(properties) <= {
        "objectType", "classification", "name", "color", "isLocked", "measurements", "metadata",
    }, "rule 5: the rest is dropped"  # fmt: skip


def is_colour(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 3
        and all(type(c) is int and 0 <= c <= 255 for c in value)
    )


# --- Whatever it is given, what is written is imported whole -------------------------------------

NUMBERS = st.floats(allow_nan=True, allow_infinity=True)
NAMES = st.text(st.characters(exclude_categories=("Cs",)), max_size=8)
CLASSES = st.sampled_from(
    [PathClass("Tumor", (200, 0, 0)), PathClass("Größe: 1–2", (1, 2, 3)), PathClass("Stroma", None)]
)
COORDINATES = st.tuples(st.floats(-200, 1400), st.floats(-200, 1100))


@st.composite
def rings_with_holes(draw) -> Polygon:
    """Any shell with any holes: most cross themselves, or one another."""
    shell = draw(st.lists(COORDINATES, min_size=3, max_size=9))
    holes = draw(st.lists(st.lists(COORDINATES, min_size=3, max_size=5), max_size=3))
    return Polygon(shell, holes)


@st.composite
def objects(draw) -> Annotation:
    parts = draw(st.lists(rings_with_holes(), min_size=1, max_size=3))
    kind = draw(st.sampled_from(["annotation", "detection", "cell"]))
    return Annotation(
        geometry=parts[0] if len(parts) == 1 else MultiPolygon(parts),
        path_class=draw(st.none() | CLASSES),
        name=draw(NAMES),
        measurements=draw(st.dictionaries(NAMES, NUMBERS, max_size=3)),
        object_type=kind,
        nucleus=draw(st.none() | rings_with_holes()) if kind == "cell" else None,
        is_locked=draw(st.booleans()),
        color=draw(st.none() | st.just((9, 8, 7))),
        metadata=draw(st.dictionaries(NAMES, NAMES, max_size=2)),
    )


@settings(max_examples=50, deadline=None)
@given(st.lists(objects(), max_size=5))
def test_whatever_regions_are_given_the_file_is_imported_whole(tmp_path_factory, given_objects):
    path = tmp_path_factory.mktemp("o") / "a.geojson.gz"
    made = write_annotations(path, given_objects, FRAME, slide="s", kind="k")
    features = import_as_qupath(path)
    assert len(features) == made.objects == len(given_objects) - made.outside
    assert check_geojson(path) == []


@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(0, 12), st.floats(0.004, 400), st.floats(0.004, 400))
def test_whatever_tiles_are_given_the_file_is_imported_whole(tmp_path_factory, data, n, tall, wide):
    place = st.tuples(st.integers(-500, 1200), st.integers(-500, 1500))
    coords = data.draw(st.lists(place, min_size=n, max_size=n, unique=True))
    columns = {
        name: np.array(data.draw(st.lists(NUMBERS, min_size=n, max_size=n)))
        for name in data.draw(st.lists(NAMES, max_size=3, unique=True))
    }
    path = tmp_path_factory.mktemp("t") / "a.geojson"
    with np.errstate(over="ignore"):
        tiles = Tiles(np.array(coords, np.int64).reshape(-1, 2), (tall, wide), columns)
        made = write_tiles(path, tiles, FRAME, slide="s", kind="k")
    assert len(import_as_qupath(path)) == made.objects == n - made.outside
    assert check_geojson(path) == []


# --- Rules that a random file hardly meets -------------------------------------------------------


def written(folder: Path, *given_objects: Annotation) -> list[dict]:
    path = folder / "a.geojson"
    write_annotations(path, given_objects, Frame((900, 1200)), slide="s", kind="k")
    return import_as_qupath(path)


def test_a_cell_has_its_nucleus_beside_its_geometry(tmp_path):
    outline, nucleus = shapely.box(10, 10, 40, 40), shapely.box(20, 20, 30, 30)
    cell = Annotation(outline, object_type="cell", nucleus=nucleus, measurements={"Area": 900.0})
    (feature,) = written(tmp_path, cell)
    assert set(feature) == {"type", "id", "geometry", "nucleusGeometry", "properties"}
    assert shape(feature["nucleusGeometry"]).equals(nucleus)
    (bare,) = written(tmp_path, Annotation(outline, object_type="cell"))
    assert "nucleusGeometry" not in bare


def test_only_a_cell_has_a_nucleus_and_types_are_those_of_qupath():
    with pytest.raises(ValueError, match="nucleus"):
        Annotation(shapely.box(0, 0, 9, 9), nucleus=shapely.box(1, 1, 2, 2))
    with pytest.raises(ValueError, match="annotation"):
        Annotation(shapely.box(0, 0, 9, 9), object_type="Tile")


def test_parts_that_touch_in_a_corner_stay_two(tmp_path):
    corner = MultiPolygon([shapely.box(0, 0, 9, 9), shapely.box(9, 9, 19, 19)])
    (feature,) = written(tmp_path, Annotation(corner))
    assert feature["geometry"]["type"] == "MultiPolygon"


def test_a_hole_that_touches_the_shell_in_a_point_stays_a_hole(tmp_path):
    area = Polygon([(0, 0), (90, 0), (90, 90), (0, 90)], [[(0, 0), (9, 1), (9, 9)]])
    (feature,) = written(tmp_path, Annotation(area))
    assert shape(feature["geometry"]).equals(area)


def test_a_class_has_one_colour_in_a_file(tmp_path):
    box = shapely.box(0, 0, 9, 9)
    red, blue = (Annotation(box, PathClass("Tumor", c)) for c in ((255, 0, 0), (0, 0, 255)))
    with pytest.raises(LabelError, match="Tumor"):
        written(tmp_path, red, blue)
    assert not (tmp_path / "a.geojson").exists()


def test_points_and_lines_are_written_where_they_are(tmp_path):
    point, line = shapely.Point(3.25, 4), shapely.LineString([(1, 2), (30, 40)])
    features = written(
        tmp_path, Annotation(point), Annotation(line), Annotation(shapely.Point(-9, 0))
    )
    assert [shape(f["geometry"]) for f in features] == [point, line]


def test_names_beyond_ascii_are_kept(tmp_path):
    (feature,) = written(tmp_path, Annotation(shapely.box(0, 0, 9, 9), name="Größe – µm ✓"))
    assert feature["properties"]["name"] == "Größe – µm ✓"
