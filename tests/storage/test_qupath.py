"""QuPath export, held to the rules that QuPath's own importer was seen to keep."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import uuid
from pathlib import Path

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from qupath_samples import FRAME, TUMOUR, export, some_tiles
from shapely.affinity import translate
from shapely.geometry import MultiLineString, MultiPolygon, Point, Polygon, shape

from microtome.storage.errors import BadGeometry, LabelError, UnwritableOutput
from microtome.storage.polygons import fit, outline
from microtome.storage.qupath import (
    Annotation,
    Frame,
    PathClass,
    Tiles,
    write_annotations,
    write_tiles,
)
from microtome.storage.qupath_check import check_geojson, read_features, read_metadata


def refuse_literal(name: str):
    raise AssertionError(f"{name} is no JSON")


@pytest.mark.parametrize("name", ["a.geojson", "a.geojson.gz", "a.json", "a.json.gz"])
def test_a_file_of_tiles_breaks_no_rule(tmp_path, name):
    path = tmp_path / name
    written = write_tiles(path, some_tiles(), FRAME, slide="case-1", kind="score")
    assert (written.objects, written.outside) == (4, 0)
    assert check_geojson(path) == []
    assert (path.read_bytes()[:2] == b"\x1f\x8b") == name.endswith(".gz")


def test_one_feature_collection_with_the_frame_beside_it(tmp_path):
    document = export(tmp_path / "a.geojson", some_tiles(), about={"model": "m1"})
    assert document["type"] == "FeatureCollection"
    assert set(document) == {"type", "metadata", "features"}
    assert document["metadata"]["model"] == "m1"
    assert document["metadata"] == read_metadata(tmp_path / "a.geojson")


@pytest.mark.parametrize("name", ["a.gz", "a.ndjson", "a.zip", "a"])
def test_a_name_that_qupath_would_not_read_is_refused(tmp_path, name):
    with pytest.raises(UnwritableOutput):
        write_tiles(tmp_path / name, some_tiles(), FRAME, slide="s", kind="k")
    assert list(tmp_path.iterdir()) == []


def test_ids_are_unique_uuids_that_a_second_export_repeats(tmp_path):
    ids = [f["id"] for f in export(tmp_path / "a.geojson", some_tiles())["features"]]
    assert len({str(uuid.UUID(i)) for i in ids}) == 4
    assert ids == [f["id"] for f in export(tmp_path / "b.geojson", some_tiles())["features"]]
    for other in ({"slide": "case-2"}, {"kind": "cluster"}):
        others = export(tmp_path / "c.geojson", some_tiles(), **other)["features"]
        assert not set(ids) & {f["id"] for f in others}


def test_equal_input_gives_equal_bytes(tmp_path):
    for name in ("a.geojson.gz", "b.geojson.gz"):
        export(tmp_path / name, some_tiles())
    packed = (tmp_path / "a.geojson.gz").read_bytes()
    assert packed == (tmp_path / "b.geojson.gz").read_bytes()
    # RFC 1952: no flags, so no name; no time.
    assert packed[3:8] == bytes(5)


def test_rings_are_closed_and_in_x_y_order(tmp_path):
    tiles = Tiles(np.array([[100, 2000]]), (10.0, 20.0))
    (feature,) = export(tmp_path / "a.geojson", tiles)["features"]
    (ring,) = feature["geometry"]["coordinates"]
    assert ring == [[2000, 100], [2020, 100], [2020, 110], [2000, 110], [2000, 100]]


def test_fractional_footprints_are_on_the_grid_of_a_hundredth(tmp_path):
    tiles = Tiles(np.array([[7, 11]]), (256.126, 255.999))
    (feature,) = export(tmp_path / "a.geojson", tiles)["features"]
    assert shape(feature["geometry"]).bounds == (11, 7, 267.0, 263.13)


def test_tiles_are_tiles_with_numbers_as_measurements(tmp_path):
    features = export(tmp_path / "a.geojson", some_tiles())["features"]
    assert [f["properties"]["objectType"] for f in features] == ["tile"] * 4
    assert set(features[0]) == {"type", "id", "geometry", "properties"}
    assert features[0]["properties"]["measurements"] == {"score": 0.1, "attention": 1e-07}
    assert features[0]["properties"]["classification"] == {"name": "Tumor", "color": [200, 0, 0]}


def test_a_missing_value_is_left_out_never_null_or_nan(tmp_path):
    export(tmp_path / "a.geojson", some_tiles())
    text = (tmp_path / "a.geojson").read_text()
    features = json.loads(text, parse_constant=refuse_literal)["features"]
    assert "null" not in text
    assert "measurements" not in features[2]["properties"]
    assert "classification" not in features[2]["properties"]


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=50))
def test_measurements_come_back_as_the_same_32_bit_floats(tmp_path_factory, values):
    path = tmp_path_factory.mktemp("exact") / "a.geojson"
    n = len(values)
    coords = np.stack([np.arange(n), np.zeros(n, int)], axis=1)
    export(path, Tiles(coords, (1.0, 1.0), {"v": np.array(values, np.float32)}))
    read = [f["properties"]["measurements"]["v"] for f in read_features(path)]
    assert np.array_equal(np.array(read, np.float32), np.array(values, np.float32))


def test_a_slide_with_bounds_is_shifted_by_exactly_the_bounds(tmp_path):
    bounds = (120, 3000, 600, 900)
    tiles = some_tiles(coords_px=np.array([[120, 3000], [120, 3256], [376, 3000], [376, 3256]]))
    cropped = export(tmp_path / "a.geojson", tiles, Frame((4000, 6000), bounds))
    whole = export(tmp_path / "b.geojson", tiles, Frame((4000, 6000), bounds, crop=False))
    for ours, theirs in zip(cropped["features"], whole["features"], strict=True):
        moved = translate(shape(ours["geometry"]), 3000, 120)
        assert moved.equals(shape(theirs["geometry"]))
    assert cropped["metadata"]["origin_px"] == {"x": 3000, "y": 120}
    assert cropped["metadata"]["size_px"] == {"width": 900, "height": 600}
    assert whole["metadata"]["origin_px"] == {"x": 0, "y": 0}
    everything = shapely.union_all([shape(f["geometry"]) for f in cropped["features"]])
    assert shapely.box(0, 0, 900, 600).contains(everything)
    assert everything.bounds[:2] == (0, 0)


def test_tiles_are_clipped_to_the_shown_image_and_those_outside_are_counted(tmp_path):
    tiles = Tiles(np.array([[3900, 5900], [4000, 0], [-300, 0]]), (256.0, 256.0))
    written = write_tiles(tmp_path / "a.geojson", tiles, FRAME, slide="s", kind="k")
    assert (written.objects, written.outside) == (1, 2)
    (feature,) = read_features(tmp_path / "a.geojson")
    assert shape(feature["geometry"]).bounds == (5900, 3900, 6000, 4000)


def test_two_tiles_at_one_place_are_refused(tmp_path):
    with pytest.raises(BadGeometry):
        export(tmp_path / "a.geojson", Tiles(np.array([[5, 5], [5, 5]]), (9.0, 9.0)))


@pytest.mark.parametrize("name", ["", "  ", "two\nlines"])
def test_a_class_that_qupath_cannot_name_is_refused(name):
    with pytest.raises(LabelError):
        PathClass(name, (1, 2, 3))


def test_one_class_has_one_colour():
    with pytest.raises(ValueError, match="one colour"):
        some_tiles(classes=(TUMOUR, PathClass("Tumor", (1, 2, 3))))


@pytest.mark.parametrize("color", [(300, 0, 0), (-1, 0, 0), (1, 2)])
def test_a_colour_is_three_bytes(color):
    with pytest.raises(ValueError, match="RGB"):
        PathClass("Tumor", color)


def test_nothing_is_left_behind_when_the_writer_is_stopped(tmp_path):
    bad = Annotation(MultiLineString([[(1, 1), (2, 2)]]))
    (tmp_path / "a.geojson.gz").write_bytes(b"older")
    with pytest.raises(BadGeometry):
        write_annotations(tmp_path / "a.geojson.gz", [bad], FRAME, slide="s", kind="k")
    assert [p.name for p in tmp_path.iterdir()] == ["a.geojson.gz"]
    assert (tmp_path / "a.geojson.gz").read_bytes() == b"older"


def star(center, radii, phase=0.0) -> Polygon:
    angles = np.linspace(0, 2 * np.pi, len(radii), endpoint=False) + phase
    ring = np.stack([np.cos(angles), np.sin(angles)], 1) * np.array(radii)[:, None]
    return Polygon(ring + center)


RADII = st.lists(st.floats(60, 300), min_size=5, max_size=24)
SMALL = st.lists(st.floats(2, 20), min_size=3, max_size=8)
PLACE = st.tuples(st.floats(-100, 1100), st.floats(-100, 900))


@st.composite
def holed_polygons(draw):
    """Stars with holes near their centres, some overlapping one another."""
    areas = []
    for place in draw(st.lists(PLACE, min_size=1, max_size=3)):
        area = star(place, draw(RADII))
        for offset in draw(st.lists(st.floats(-40, 40), max_size=3)):
            hole = star(np.add(place, [offset, -offset / 2]), draw(SMALL))
            area = area.difference(hole)
        areas.append(area)
    return (
        shapely.union_all(areas)
        if draw(st.booleans())
        else MultiPolygon([part for area in areas for part in shapely.get_parts(area)])
    )


def written_geometry(folder: Path, geometry, frame: Frame):
    path = folder / "a.geojson"
    write_annotations(path, [Annotation(geometry, TUMOUR, "n")], frame, slide="s", kind="k")
    assert check_geojson(path) == []
    features = read_features(path)
    return shape(features[0]["geometry"]) if features else Polygon()


@settings(max_examples=60, deadline=None)
@given(holed_polygons())
def test_regions_keep_their_area_and_their_holes(tmp_path_factory, geometry):
    frame = Frame((900, 1200), (50, 100, 800, 1000))
    read = written_geometry(tmp_path_factory.mktemp("r"), geometry, frame)
    parts = shapely.union_all(shapely.get_parts(geometry))
    wanted = parts.intersection(shapely.box(100, 50, 1100, 850))
    moved = translate(read, 100, 50)
    # Rounding moves an edge by at most the grid's diagonal.
    assert moved.symmetric_difference(wanted).area <= 0.02 * (wanted.length + 1)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.floats(-50, 950), st.floats(-50, 950)), min_size=4, max_size=9))
def test_rings_that_cross_themselves_are_written_valid(tmp_path_factory, points):
    path = tmp_path_factory.mktemp("x") / "a.geojson"
    frame = Frame((900, 900))
    write_annotations(path, [Annotation(Polygon(points))], frame, slide="s", kind="k")
    assert check_geojson(path) == []


@pytest.mark.parametrize(
    ("ring", "area"),
    [
        ([(0, 0), (10, 10), (10, 0), (0, 10)], 50.0),  # bow-tie
        ([(0, 0), (10, 0), (10, 10), (10, 25), (10, 10), (0, 10)], 100.0),  # spike
        ([(0, 0), (10, 0), (10, 10), (0, 10), (0, 10.001)], 100.0),  # below the grid
    ],
)
def test_broken_rings_become_what_they_enclose(ring, area):
    fitted = fit(Polygon(ring), (0, 0, 100, 100))
    assert fitted.is_valid
    assert fitted.area == pytest.approx(area, abs=0.1)


def test_a_multipolygon_of_one_part_is_written_as_a_polygon(tmp_path):
    read = written_geometry(tmp_path, MultiPolygon([star((500, 500), [90] * 8)]), FRAME)
    assert read.geom_type == "Polygon"


def test_parts_that_share_an_edge_are_united_and_apart_they_stay_two(tmp_path):
    touching = MultiPolygon([shapely.box(0, 0, 10, 10), shapely.box(10, 0, 20, 10)])
    assert written_geometry(tmp_path, touching, FRAME).geom_type == "Polygon"
    apart = MultiPolygon([shapely.box(0, 0, 10, 10), shapely.box(12, 0, 20, 10)])
    assert written_geometry(tmp_path, apart, FRAME).geom_type == "MultiPolygon"


def test_a_region_that_vanishes_is_counted_not_written(tmp_path):
    regions = [Annotation(shapely.box(5, 5, 5.001, 5.001)), Annotation(shapely.box(0, 0, 2, 2))]
    path = tmp_path / "a.geojson"
    written = write_annotations(path, regions, FRAME, slide="s", kind="k")
    assert (written.objects, written.outside) == (1, 1)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 12))
def test_the_outline_of_a_mask_is_the_mask(seed, height, width):
    mask = np.random.default_rng(seed).random((height, width)) < 0.5
    area = outline(mask, (4.0, 2.5))
    assert area.is_valid
    assert area.area == pytest.approx(mask.sum() * 10.0)
    for (y, x), inside in np.ndenumerate(mask):
        assert area.contains(Point((x + 0.5) * 2.5, (y + 0.5) * 4.0)) == inside


def test_real_regions_written_again_cover_what_they_covered(shared_data, tmp_path):
    features = read_features(shared_data / "qupath" / "CD163_CD31_CDH1.geojson")
    areas = [shape(f["geometry"]) for f in features if f["geometry"]["type"] == "Polygon"]
    assert sum(len(area.interiors) for area in areas) >= 1
    path = tmp_path / "a.geojson.gz"
    frame = Frame((60_000, 60_000))
    write_annotations(path, [Annotation(a) for a in areas], frame, slide="s", kind="k")
    again = [shape(f["geometry"]) for f in read_features(path)]
    assert all(a.equals(b) for a, b in zip(areas, again, strict=True))


MANY = """
import sys
from pathlib import Path
import numpy as np
from microtome.storage.qupath import Frame, Tiles, write_tiles

def peak_kib():
    # Of this process alone: ru_maxrss counts the one that started it as well.
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])

n = 200_000
i = np.arange(n)
coords = np.stack([i // 500 * 256, i % 500 * 256], axis=1)
values = {name: np.linspace(0, 1, n, dtype=np.float32) for name in ("score", "attention")}
tiles = Tiles(coords, (256.0, 256.0), values)
before = peak_kib()
written = write_tiles(Path(sys.argv[1]), tiles, Frame((102_400, 128_000)), slide="s", kind="k")
assert written.objects == n
print(peak_kib() - before)
"""


def test_memory_does_not_grow_with_the_number_of_tiles(tmp_path):
    run = subprocess.run(
        [sys.executable, "-c", MANY, str(tmp_path / "a.geojson.gz")],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    # The file alone is 60 MB of text; as Python objects it would be over 500 MB.
    assert int(run.stdout) < 50 * 1024
    with gzip.open(tmp_path / "a.geojson.gz", "rt") as file:
        assert sum(line.startswith('{"type":"Feature"') for line in file) == 200_000
