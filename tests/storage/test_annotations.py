"""Annotations out of QuPath: its real exports, and every habit of its versions by hand."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely.affinity import translate
from shapely.geometry import shape

from microtome.storage.annotations import AnnotationFile, read_annotations
from microtome.storage.errors import (
    BadGeometry,
    EmptyFile,
    MicrotomeError,
    MissingFile,
    UnreadableFile,
)
from microtome.storage.polygons import outline, rasterise
from microtome.storage.qupath import Annotation, Frame, PathClass, write_annotations

WHOLE = Frame((100_000, 100_000))
SQUARE = [[0, 0], [10, 0], [10, 10], [0, 10], [0, 0]]
BOX = {"type": "Polygon", "coordinates": [SQUARE]}

# Areas, points, holes: SOURCE.md says how many there are of each.
REAL = {
    "qupath_core_polygon.geojson": (1, 0),
    "dlup_qupath05_v1.geojson": (3, 0),
    "dlup_qupath05_v2.geojson": (3, 0),
    "TD_01_verysmall_mIF.geojson": (6, 3),
    "Single_cells.geojson": (128, 3),
    "CD163_CD31_CDH1.geojson": (53, 3),
    "objects.geojson": (2, 0),
}


def features_of(path: Path) -> list[dict]:
    """Read by other means: json alone."""
    document = json.loads(path.read_text())
    if isinstance(document, list):
        return document
    return document.get("features") or [{"geometry": document, "properties": {}}]


def read(folder: Path, document: object, frame: Frame = WHOLE) -> AnnotationFile:
    path = folder / "a.geojson"
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return read_annotations(path, frame=frame)


def feature(geometry: object = BOX, **properties: object) -> dict:
    return {"type": "Feature", "geometry": geometry, "properties": properties}


@pytest.mark.parametrize("name", REAL)
def test_real_exports_are_read_whole_and_as_an_independent_parser_reads_them(shared_data, name):
    path = shared_data / "qupath" / name
    areas, points = REAL[name]
    found = read_annotations(path, frame=WHOLE)
    assert len(found.annotations) == areas
    lost = [p for p in found.problems if p.effect == "lost"]
    assert [p.what for p in lost] == ["a Point encloses no area"] * points
    theirs = features_of(path)
    assert len(theirs) == areas + points
    for ours in found.annotations:
        wanted = shape(theirs[ours.feature]["geometry"])
        assert ours.geometry.is_valid
        assert wanted.is_valid == (not any(p.effect == "altered" for p in found.problems))
        if wanted.is_valid:
            assert ours.geometry.equals(wanted)
        properties = theirs[ours.feature]["properties"]
        assert ours.object_type == properties.get("objectType", "annotation")
        assert ours.name == properties.get("name", "")
        assert ours.is_locked == properties.get("isLocked", False)
        stated = (properties.get("classification") or {}).get("name")
        assert (ours.path_class.name if ours.path_class else None) == stated
        measured = properties.get("measurements", {})
        assert dict(ours.measurements) == {n: float(v) for n, v in measured.items()}


def test_real_exports_hold_what_their_source_says(shared_data):
    cells = read_annotations(shared_data / "qupath/Single_cells.geojson", frame=WHOLE).annotations
    assert sum(a.object_type == "cell" for a in cells) == 121
    assert sum(a.is_locked for a in cells) == 1
    tissue = read_annotations(shared_data / "qupath/CD163_CD31_CDH1.geojson", frame=WHOLE)
    assert sum(len(a.geometry.interiors) for a in tissue.annotations) == 1
    objects = read_annotations(shared_data / "qupath/objects.geojson", frame=WHOLE).annotations
    assert {a.path_class for a in objects} == {PathClass("Tumor", (200, 0, 0)), None}


@pytest.mark.parametrize(
    "document",
    [
        {"type": "FeatureCollection", "features": [feature()]},
        [feature()],
        feature(),
        BOX,
        {"type": "FeatureCollection", "crs": {"type": "name"}, "features": [feature()]},
    ],
    ids=["collection", "array", "feature", "geometry", "crs"],
)
def test_every_shape_of_document_is_read(tmp_path, document):
    found = read(tmp_path, document)
    assert [a.geometry.area for a in found.annotations] == [100.0]
    assert found.problems == ()


def test_gzip_and_a_key_that_qupath_writes_twice(tmp_path):
    text = json.dumps([feature(name="a")])
    twice = text.replace('"name"', '"metadata": {"a": "1"}, "metadata": {"a": "1"}, "name"')
    (tmp_path / "a.geojson.gz").write_bytes(gzip.compress(twice.encode()))
    found = read_annotations(tmp_path / "a.geojson.gz", frame=WHOLE)
    assert [a.name for a in found.annotations] == ["a"]


@pytest.mark.parametrize(
    ("classification", "wanted"),
    [
        (None, None),
        ("Tumor", PathClass("Tumor", None)),
        ({"name": "Tumor", "color": [200, 0, 0]}, PathClass("Tumor", (200, 0, 0))),
        ({"name": "Tumor", "color": None}, PathClass("Tumor", None)),
        ({"name": "Tumor", "color": [200, 0, 0, 255]}, PathClass("Tumor", (200, 0, 0))),
        ({"name": "Tumor", "colorRGB": -3670016}, PathClass("Tumor", (200, 0, 0))),
        ({"names": ["Tumor", "Positive"], "color": [1, 2, 3]},
         PathClass("Tumor: Positive", (1, 2, 3))),
        ({"name": "Tumor:Positive", "color": [1, 2, 3]}, PathClass("Tumor: Positive", (1, 2, 3))),
        ({"color": [1, 2, 3]}, None),
    ],
)  # fmt: skip
def test_classes_of_every_version(tmp_path, classification, wanted):
    found = read(tmp_path, [feature(classification=classification)])
    assert [a.path_class for a in found.annotations] == [wanted]
    assert found.problems == ()


def test_a_feature_without_a_classification_has_no_class(tmp_path):
    (annotation,) = read(tmp_path, [feature()]).annotations
    assert annotation.path_class is None


@pytest.mark.parametrize("key", ["objectType", "object_type", "type"])
def test_types_of_objects_by_the_names_of_three_versions(tmp_path, key):
    (annotation,) = read(tmp_path, [feature(**{key: "detection"})]).annotations
    assert annotation.object_type == "detection"


def test_cells_keep_their_nucleus(tmp_path):
    inner = {"type": "Polygon", "coordinates": [[[4, 4], [6, 4], [6, 6], [4, 6], [4, 4]]]}
    cell = feature(objectType="cell") | {"nucleusGeometry": inner}
    (annotation,) = read(tmp_path, [cell]).annotations
    assert annotation.nucleus.equals(shapely.box(4, 4, 6, 6))


def test_measurements_as_map_and_as_list_with_words_for_no_number(tmp_path):
    values = {"a": 1, "b": "NaN", "c": "-Infinity", "d": 0.5}
    listed = [{"name": n, "value": v} for n, v in values.items()]
    for form in (values, listed):
        (annotation,) = read(tmp_path, [feature(measurements=form)]).annotations
        got = annotation.measurements
        assert math.isnan(got["b"])
        assert [got["a"], got["c"], got["d"]] == [1, -math.inf, 0.5]
    found = read(tmp_path, [feature(measurements={"a": "high", "b": 10**400, "c": 2})])
    assert dict(found.annotations[0].measurements) == {"c": 2}
    assert [p.effect for p in found.problems] == ["lost", "lost"]


def test_children_are_read_with_their_parents(tmp_path):
    found = read(tmp_path, [feature(childObjects=[feature(name="b")], name="a"), feature(name="c")])
    assert [(a.name, a.feature) for a in found.annotations] == [("a", 0), ("b", 0), ("c", 1)]


def test_ellipses_are_their_outline_and_a_box_marked_as_one_is_filled_by_it(tmp_path):
    round_ = shapely.Point(50, 50).buffer(20)
    drawn = {**json.loads(shapely.to_geojson(round_)), "isEllipse": True}
    boxed = {"type": "Polygon", "isEllipse": True}
    boxed["coordinates"] = [[[30, 40], [70, 40], [70, 60], [30, 60], [30, 40]]]
    outline_, filled = read(tmp_path, [feature(drawn), feature(boxed)]).annotations
    assert outline_.geometry.equals(round_)
    assert filled.geometry.area == pytest.approx(math.pi * 20 * 10, rel=2e-4)
    assert filled.geometry.bounds == pytest.approx((30, 40, 70, 60))


LOST = {
    "geometry": [None, {}, 7],
    "geometry-type": [
        {"type": "Point", "coordinates": [1, 2]},
        {"type": "MultiPoint", "coordinates": [[1, 2]]},
        {"type": "LineString", "coordinates": [[1, 2], [3, 4]]},
        {"type": "GeometryCollection", "geometries": [BOX]},
    ],
    "coordinates": [
        {"type": "Polygon", "coordinates": []},
        {"type": "Polygon", "coordinates": [[[0, 0], [1, "x"], [1, 1], [0, 0]]]},
        {"type": "Polygon", "coordinates": [[[0, 0], [1, 10**400], [1, 1], [0, 0]]]},
        {"type": "MultiPolygon", "coordinates": [SQUARE]},
    ],
    "extent": [
        {"type": "Polygon", "coordinates": [[[-9, -9], [-1, -9], [-1, -1], [-9, -9]]]},
        {"type": "Polygon", "coordinates": [[[2e5, 9], [3e5, 9], [3e5, 12], [2e5, 9]]]},
    ],
    "ring-length": [{"type": "Polygon", "coordinates": [[[0, 0], [9, 0]]]}],
    "valid": [{"type": "Polygon", "coordinates": [[[0, 0], [9, 0], [5, 0], [0, 0]]]}],
}


@pytest.mark.parametrize(("rule", "geometry"), [(r, g) for r in LOST for g in LOST[r]])
def test_one_bad_feature_is_named_and_the_others_are_read(tmp_path, rule, geometry):
    found = read(tmp_path, [feature(name="a"), feature(geometry), feature(name="c")])
    assert [a.name for a in found.annotations] == ["a", "c"]
    assert [(p.feature, p.rule, p.effect) for p in found.problems] == [(1, rule, "lost")]


@pytest.mark.parametrize("junk", [None, 3, "x", [], [[]]])
def test_what_is_no_feature_at_all_is_named(tmp_path, junk):
    found = read(tmp_path, [junk, feature()])
    assert len(found.annotations) == 1
    assert [(p.feature, p.effect) for p in found.problems] == [(0, "lost")]


MENDED = {
    "ring-closed": ({"type": "Polygon", "coordinates": [SQUARE[:-1]]}, 100.0),
    "valid": (
        {"type": "Polygon", "coordinates": [[[0, 0], [10, 10], [10, 0], [0, 10], [0, 0]]]}, 50.0,
    ),
}  # fmt: skip


@pytest.mark.parametrize("rule", MENDED)
def test_what_is_mended_is_said(tmp_path, rule):
    geometry, area = MENDED[rule]
    found = read(tmp_path, [feature(), feature(geometry)])
    assert found.annotations[1].geometry.is_valid
    assert found.annotations[1].geometry.area == pytest.approx(area)
    assert [(p.feature, p.rule, p.effect) for p in found.problems] == [(1, rule, "altered")]


def test_holes_overlapping_parts_and_heights(tmp_path):
    hole = [[2, 2, 0], [2, 4, 0], [4, 4, 0], [4, 2, 0], [2, 2, 0]]
    ring = {"type": "Polygon", "coordinates": [SQUARE, hole]}
    one = {"type": "MultiPolygon", "coordinates": [[SQUARE]]}
    double = {"type": "MultiPolygon", "coordinates": [[SQUARE], [SQUARE]]}
    found = read(tmp_path, [feature(ring), feature(one), feature(double)])
    assert [a.geometry.area for a in found.annotations] == [96.0, 100.0, 100.0]
    assert [(p.feature, p.effect) for p in found.problems] == [(2, "altered")]
    assert not found.annotations[0].geometry.has_z


class TestOrigin:
    BOUNDS = (300, 700, 5000, 4000)

    def test_by_default_it_is_where_qupath_crops(self, tmp_path):
        frame = Frame((9000, 8000), self.BOUNDS)
        (annotation,) = read(tmp_path, [feature()], frame).annotations
        assert annotation.geometry.bounds == (700, 300, 710, 310)

    def test_uncropped_it_is_the_corner_of_the_slide(self, tmp_path):
        frame = Frame((9000, 8000), self.BOUNDS, crop=False)
        (annotation,) = read(tmp_path, [feature()], frame).annotations
        assert annotation.geometry.bounds == (0, 0, 10, 10)

    @pytest.mark.parametrize("crop", [True, False])
    def test_a_file_of_ours_says_it_and_is_believed(self, tmp_path, crop):
        geometry = shapely.box(800, 400, 900, 450)
        frame = Frame((9000, 8000), self.BOUNDS, crop=crop)
        path = tmp_path / "ours.geojson"
        write_annotations(path, [Annotation(geometry)], frame, slide="s", kind="k")
        for reading in (True, False):
            other = Frame((9000, 8000), self.BOUNDS, crop=reading)
            (annotation,) = read_annotations(path, frame=other).annotations
            assert annotation.geometry.equals(geometry)

    def test_a_file_of_ours_for_another_slide_is_refused(self, tmp_path):
        path = tmp_path / "ours.geojson"
        write_annotations(path, [], Frame((9000, 8000)), slide="s", kind="k")
        with pytest.raises(BadGeometry, match="9000 x 8000"):
            read_annotations(path, frame=Frame((9000, 8001)))


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", EmptyFile),
        ("[1, ", UnreadableFile),
        ('{"a": 1}', UnreadableFile),
        ("7", UnreadableFile),
    ],
)
def test_what_is_no_geojson_is_refused(tmp_path, text, error):
    with pytest.raises(error, match=r"a\.geojson"):
        read(tmp_path, text)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
    | st.sampled_from(["Feature", "Polygon", "MultiPolygon", "Tumor", 10**400, -1e308]),
    lambda inner: st.lists(inner, max_size=5)
    | st.dictionaries(
        st.sampled_from([
            "type", "features", "geometry", "coordinates", "properties", "classification", "name",
            "names", "color", "colorRGB", "measurements", "value", "childObjects", "isEllipse",
            "nucleusGeometry", "metadata", "origin_px", "slide_px", "id", "objectType",
        ]),
        inner,
        max_size=6,
    ),
    max_leaves=25,
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(JSON, st.lists(st.lists(st.lists(st.floats(), min_size=2, max_size=3), max_size=6)))
def test_whatever_the_file_says_it_is_read_or_refused_by_name(tmp_path_factory, junk, rings):
    path = tmp_path_factory.mktemp("junk") / "a.geojson"
    polygon = {"type": "Polygon", "coordinates": rings, "isEllipse": True}
    many = {"type": "MultiPolygon", "coordinates": [rings, junk]}
    for document in (junk, [junk, feature(junk), feature(polygon, classification=junk)],
                     [feature(many, measurements=junk, childObjects=junk)]):  # fmt: skip
        path.write_text(json.dumps(document))
        try:
            found = read_annotations(path, frame=WHOLE)
        except MicrotomeError:
            continue
        assert all(a.geometry.is_valid and a.geometry.area > 0 for a in found.annotations)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(MissingFile):
        read_annotations(tmp_path / "none.geojson", frame=WHOLE)


def test_what_is_written_comes_back(tmp_path):
    ring = shapely.box(10, 20, 500, 400) - shapely.box(30, 40, 50.25, 60.5)
    wanted = Annotation(ring, PathClass("Artefact: pen", (1, 2, 3)), "n", {"Area mm^2": 0.25})
    write_annotations(tmp_path / "a.geojson.gz", [wanted], WHOLE, slide="s", kind="k")
    (found,) = read_annotations(tmp_path / "a.geojson.gz", frame=WHOLE).annotations
    assert found.geometry.equals(ring)
    assert (found.path_class, found.name, dict(found.measurements)) == (
        wanted.path_class, wanted.name, wanted.measurements,
    )  # fmt: skip


# --- Pixels of a polygon ------------------------------------------------------------------------

POINTS = st.lists(st.tuples(st.floats(-5, 20), st.floats(-5, 20)), min_size=3, max_size=12)


@settings(max_examples=80, deadline=None)
@given(POINTS, st.floats(0.3, 3), st.floats(0.3, 3))
def test_a_polygon_is_filled_as_shapely_tells_inside_from_outside(points, down_y, down_x):
    area = shapely.make_valid(shapely.Polygon(points), method="structure", keep_collapsed=False)
    y, x = np.mgrid[:13, :11] + 0.5
    centres = shapely.points(x * down_x, y * down_y)
    far = shapely.distance(area.boundary, centres) > 1e-9
    wanted = shapely.contains(area, centres)
    assert (rasterise(area, (13, 11), (down_y, down_x)) == wanted)[far].all()


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 20), st.integers(1, 20), st.floats(0.1, 0.9))
def test_filling_undoes_the_outline_bit_for_bit(seed, height, width, share):
    mask = np.random.default_rng(seed).random((height, width)) < share
    assert np.array_equal(rasterise(outline(mask, (16.1, 15.9)), mask.shape, (16.1, 15.9)), mask)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 15), st.integers(1, 15), st.floats(-0.8, 0.8))
def test_a_centre_on_the_edge_of_two_belongs_to_one(height, width, slope):
    # An edge through the centre of a pixel, between two halves of the plane.
    y, x = height / 2, width / 2
    upper = shapely.Polygon([(-99, -99), (99, -99), (99, y + 99 * slope), (x, y), (-99, y)])
    lower = shapely.Polygon([(-99, 99), (99, 99), (99, y + 99 * slope), (x, y), (-99, y)])
    halves = [rasterise(half, (height, width), (1.0, 1.0)) for half in (upper, lower)]
    assert (halves[0] ^ halves[1]).all()


def test_pixels_off_the_mask_are_left_out():
    assert rasterise(translate(shapely.box(-9, -9, 2, 2), 0, 0), (3, 4), (1.0, 1.0)).sum() == 4
    assert not rasterise(shapely.box(50, 50, 60, 60), (3, 4), (1.0, 1.0)).any()
    assert not rasterise(shapely.MultiPolygon(), (3, 4), (1.0, 1.0)).any()
    assert rasterise(shapely.box(-99, -99, 99, 99), (3, 4), (1.0, 1.0)).all()
