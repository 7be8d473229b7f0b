"""The checker of QuPath files: each rule broken by hand, one at a time, and what it lets pass."""

from __future__ import annotations

import copy
import json
import math

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from qupath_samples import export, some_tiles

from microtome.storage.errors import EmptyFile
from microtome.storage.qupath_check import check_geojson, read_features

GOOD = {
    "type": "Feature",
    "id": "1f0e3dad-9990-4f2c-8b1a-3f6f2f6c1a11",
    "geometry": {"type": "Polygon", "coordinates": [[[0, 0], [9, 0], [9, 9], [0, 9], [0, 0]]]},
    "properties": {
        "objectType": "tile",
        "classification": {"name": "Tumor", "color": [200, 0, 0]},
        "measurements": {"score": 0.5},
    },
}


def put(value, *place):
    def change(feature):
        for name in place[:-1]:
            feature = feature[name]
        feature[place[-1]] = value

    return change


def rings(*found):
    return put({"type": "Polygon", "coordinates": list(found)}, "geometry")


OUTER = [[0, 0], [90, 0], [90, 90], [0, 90], [0, 0]]
SQUARE = GOOD["geometry"]["coordinates"]
BROKEN = {
    "id": [put(None, "id"), put("tile-1", "id"), put(7, "id")],
    "geometry": [put(None, "geometry"), put({}, "geometry")],
    "geometry-type": [put({"type": "GeometryCollection", "geometries": []}, "geometry")],
    "ring-closed": [rings([[0, 0], [9, 0], [9, 9], [0, 9]])],
    "ring-length": [rings([[0, 0], [9, 0], [0, 0]])],
    "coordinates": [
        rings(),
        rings([]),
        put([[0, 0], [9, 0], [9, 9], [0, 0]], "geometry", "coordinates"),
        rings([[0, 0], [9, math.nan], [9, 9], [0, 0]]),
        rings([[0, 0], ["9", 0], [9, 9], [0, 0]]),
    ],
    "valid": [
        rings([[0, 0], [9, 9], [9, 0], [0, 9], [0, 0]]),  # bow-tie
        rings(OUTER, [[95, 95], [99, 95], [99, 99], [95, 95]]),  # hole outside the shell
        rings(OUTER, [[1, 1], [9, 1], [9, 9], [1, 1]], [[2, 1], [9, 2], [9, 8], [2, 1]]),
        put({"type": "MultiPolygon", "coordinates": [SQUARE, SQUARE]}, "geometry"),
    ],
    "vanishes": [rings([[0, 0], [0.001, 0], [0.001, 0.001], [0, 0]])],
    "multipolygon": [put({"type": "MultiPolygon", "coordinates": [SQUARE]}, "geometry")],
    "properties": [put(None, "properties")],
    "object-type": [
        put("Tile", "properties", "objectType"),
        put(None, "properties", "objectType"),
    ],
    "place": [put("tile", "objectType"), put({"score": 1}, "measurements")],
    "class-color": [
        put({"name": "Tumor"}, "properties", "classification"),
        put({"name": "Tumor", "color": "#ff0000"}, "properties", "classification"),
        put({"name": "Tumor", "color": [0.5, 0.1, 0.2]}, "properties", "classification"),
        put({"name": "Tumor", "color": [300, 0, 0]}, "properties", "classification"),
    ],
    "class-name": [
        put({"name": " ", "color": None}, "properties", "classification"),
        put({"name": "a\nb", "color": None}, "properties", "classification"),
        put({"color": [1, 2, 3]}, "properties", "classification"),
        put(3, "properties", "classification"),
    ],
    "measurement": [
        put({"score": None}, "properties", "measurements"),
        put({"score": math.nan}, "properties", "measurements"),
        put({"score": "NaN"}, "properties", "measurements"),
        put({"score": "high"}, "properties", "measurements"),
        put([{"name": "score", "value": None}], "properties", "measurements"),
        put(0.5, "properties", "measurements"),
    ],
    "name": [put(None, "properties", "name")],
    "color": [put("#ff0000", "properties", "color"), put([1, 2, 3, 4], "properties", "color")],
    "metadata": [
        put({"a": {"b": "c"}}, "properties", "metadata"),
        put(3, "properties", "metadata"),
    ],
    "nucleus": [
        put(None, "nucleusGeometry"),
        put(GOOD["geometry"], "nucleusGeometry"),
        put(GOOD["geometry"], "properties", "nucleusGeometry"),
    ],
    "unknown": [put(0.5, "properties", "score"), put(3, "properties", "tile_row")],
}


@pytest.mark.parametrize(
    ("rule", "change"), [(rule, change) for rule in BROKEN for change in BROKEN[rule]]
)
def test_the_checker_names_the_feature_and_the_rule(tmp_path, rule, change):
    broken = copy.deepcopy(GOOD)
    broken["id"] = "2b6b1e36-6a3c-4a55-9b3e-0c2f5b0d7a22"
    change(broken)
    path = tmp_path / "a.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [GOOD, broken]}))
    problems = check_geojson(path)
    assert {(p.feature, p.rule) for p in problems} == {(1, rule)}
    assert all(rule in str(p) and "feature 1" in str(p) for p in problems)


FINE = [
    put("annotation", "properties", "objectType"),
    put("Tumor", "properties", "classification"),
    put(None, "properties", "classification"),
    put({"names": ["Tumor", "Positive"], "color": [1, 2, 3]}, "properties", "classification"),
    put([{"name": "score", "value": 0.5}], "properties", "measurements"),
    put({"type": "Point", "coordinates": [3, 4]}, "geometry"),
    put({"type": "LineString", "coordinates": [[3, 4], [5, 6]]}, "geometry"),
    put(-3670016, "properties", "color"),
    rings(OUTER, [[0, 0], [9, 1], [9, 9], [0, 0]]),  # a hole may touch the shell in a point
    lambda feature: feature.pop("id"),
    lambda feature: feature.pop("properties"),
]


@pytest.mark.parametrize("change", FINE)
@pytest.mark.parametrize("wrap", [lambda f: f, lambda f: [f], lambda f: f["geometry"]])
def test_the_checker_lets_pass_what_qupath_takes(tmp_path, change, wrap):
    feature = copy.deepcopy(GOOD)
    change(feature)
    path = tmp_path / "a.geojson"
    path.write_text(json.dumps(wrap(feature)))
    assert check_geojson(path) == []
    assert len(read_features(path)) == 1


def test_what_concerns_two_features_is_said_of_the_second(tmp_path):
    other = copy.deepcopy(GOOD)
    other["properties"]["classification"]["color"] = [0, 0, 0]
    path = tmp_path / "a.geojson"
    path.write_text(json.dumps([GOOD, other]))
    assert [(p.feature, p.rule) for p in check_geojson(path)] == [
        (1, "id-unique"),
        (1, "class-color"),
    ]


def test_a_file_that_states_its_size_is_held_to_it(tmp_path):
    export(tmp_path / "a.geojson", some_tiles())
    document = json.loads((tmp_path / "a.geojson").read_text())
    document["metadata"]["size_px"]["width"] = 300
    (tmp_path / "a.geojson").write_text(json.dumps(document))
    found = {(p.feature, p.rule) for p in check_geojson(tmp_path / "a.geojson")}
    assert found == {(1, "extent"), (3, "extent")}


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        (b"", "json"),
        (b'{"type":"FeatureCollection","features":[', "json"),
        (b"\xff\xfe", "json"),
        (b'{"type":"Feature"}\n{"type":"Feature"}\n', "json"),
        (b'{"features":[]}', "file-type"),
        (b"3", "file-type"),
    ],
)
def test_a_file_that_gives_no_objects_is_named(tmp_path, content, rule):
    (tmp_path / "a.geojson").write_bytes(content)
    assert [(p.feature, p.rule) for p in check_geojson(tmp_path / "a.geojson")] == [(None, rule)]


def test_a_cut_gzip_and_a_wrong_name_are_named(tmp_path):
    export(tmp_path / "a.geojson.gz", some_tiles())
    (tmp_path / "b.geojson.gz").write_bytes((tmp_path / "a.geojson.gz").read_bytes()[:-40])
    assert [p.rule for p in check_geojson(tmp_path / "b.geojson.gz")] == ["json"]
    (tmp_path / "a.txt").write_text(json.dumps([GOOD]))
    assert [p.rule for p in check_geojson(tmp_path / "a.txt")] == ["file-name"]
    (tmp_path / "c.geojson").touch()
    with pytest.raises(EmptyFile):
        read_features(tmp_path / "c.geojson")


WORDS = st.sampled_from(["", "Polygon", "MultiPolygon", "tile", "name", "a\nb"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 500) | st.floats(width=16) | WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=12,
)
PLACES = [
    ("id",),
    ("geometry",),
    ("geometry", "type"),
    ("geometry", "coordinates"),
    ("geometry", "coordinates", 0),
    ("geometry", "coordinates", 0, 1),
    ("nucleusGeometry",),
    ("properties",),
    *(
        ("properties", name)
        for name in ("objectType", "classification", "measurements", "metadata", "childObjects")
    ),
    ("properties", "classification", "name"),
    ("properties", "classification", "names"),
    ("properties", "classification", "color"),
    ("properties", "measurements", "score"),
]


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(PLACES), JSON)
@example(("geometry", "coordinates", 0, 1), [0, 0, 0])
def test_the_checker_survives_any_json(tmp_path_factory, place, value):
    broken = copy.deepcopy(GOOD)
    put(value, *place)(broken)
    path = tmp_path_factory.mktemp("any") / "a.geojson"
    path.write_text(json.dumps([broken, value]))
    problems = check_geojson(path)
    assert (1, "feature") in {(p.feature, p.rule) for p in problems} or isinstance(value, dict)
    assert all(p.feature in (0, 1) and str(p) for p in problems)


REAL = {
    "CD163_CD31_CDH1.geojson": 56,
    "Single_cells.geojson": 131,
    "TD_01_verysmall_mIF.geojson": 9,
    "dlup_qupath05_v1.geojson": 3,
    "dlup_qupath05_v2.geojson": 3,
    "objects.geojson": 2,
    "qupath_core_polygon.geojson": 1,
}


@pytest.mark.parametrize(("name", "count"), REAL.items())
def test_real_exports_of_qupath_are_read_and_break_no_rule(shared_data, name, count):
    path = shared_data / "qupath" / name
    assert len(read_features(path)) == count
    assert check_geojson(path) == []


def test_metadata_written_twice_as_qupath_does_is_read(tmp_path):
    text = json.dumps(GOOD)[:-2] + ', "metadata": {"a": "1"}, "metadata": {"a": "1"}}}'
    (tmp_path / "a.geojson").write_text(text)
    assert read_features(tmp_path / "a.geojson")[0]["properties"]["metadata"] == {"a": "1"}
    assert check_geojson(tmp_path / "a.geojson") == []
