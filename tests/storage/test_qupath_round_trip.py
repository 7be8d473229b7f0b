"""Real exports of QuPath become labels, and go back to QuPath as they were."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import shapely
from shapely.geometry import shape

from microtome.storage.annotations import read_annotations
from microtome.storage.qupath import Annotation, Frame, PathClass, write_annotations
from microtome.storage.qupath_check import check_geojson

WHOLE = Frame((100_000, 100_000))
REAL = (
    "CD163_CD31_CDH1.geojson", "Single_cells.geojson", "TD_01_verysmall_mIF.geojson",
    "dlup_qupath05_v1.geojson", "dlup_qupath05_v2.geojson", "objects.geojson",
)  # fmt: skip


def features_of(path: Path) -> list[dict]:
    """Read by json alone."""
    document = json.loads(
        gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_text()
    )
    return document if isinstance(document, list) else document["features"]


def plain(feature: dict) -> dict:
    """A feature without what is the same said otherwise: order of members, 1.0 for 1."""
    return json.loads(json.dumps(feature, sort_keys=True), parse_int=float)


@pytest.mark.parametrize("name", REAL)
def test_a_real_export_returns_unchanged(shared_data, tmp_path, name):
    source = shared_data / "qupath" / name
    found = read_annotations(source, frame=WHOLE)
    write_annotations(tmp_path / "a.geojson.gz", found.objects, WHOLE, slide="s", kind="k")
    ours, theirs = features_of(tmp_path / "a.geojson.gz"), features_of(source)
    assert len(ours) == len(theirs) > 0
    for one, other in zip(ours, theirs, strict=True):
        if shape(other["geometry"]).is_valid:
            assert plain(one) == plain(other)
        else:
            # QuPath 0.6 refuses it as it was; what it encloses stays.
            assert {**plain(one), "geometry": 0} == {**plain(other), "geometry": 0}
            wanted = shapely.make_valid(shape(other["geometry"])).area
            assert shape(one["geometry"]).area == pytest.approx(wanted, rel=1e-3)
    assert check_geojson(tmp_path / "a.geojson.gz") == []


def test_a_bare_geometry_returns_as_an_annotation(shared_data, tmp_path):
    source = shared_data / "qupath" / "qupath_core_polygon.geojson"
    found = read_annotations(source, frame=WHOLE)
    write_annotations(tmp_path / "a.geojson", found.objects, WHOLE, slide="s", kind="k")
    (feature,) = features_of(tmp_path / "a.geojson")
    assert shape(feature["geometry"]).equals(shape(json.loads(source.read_text())))


def test_all_that_an_object_has_comes_back(tmp_path):
    tumour, box = PathClass("Tumor", (200, 0, 0)), shapely.box(20, 30, 60, 80)
    identity = "1f0e3dad-9990-4f2c-8b1a-3f6f2f6c1a11"
    cell = Annotation(
        box, tumour, "c 1", {"Area": 12.5}, "cell", box.buffer(-5), identity, True, (1, 2, 3),
        metadata={"note": "ä", "ANNOTATION_DESCRIPTION": "b"},
    )  # fmt: skip
    frame = Frame((900, 1200), (10, 20, 800, 1000))
    write_annotations(tmp_path / "a.geojson", [cell], frame, slide="s", kind="k")
    (read,) = read_annotations(tmp_path / "a.geojson", frame=frame).objects
    assert read.geometry.equals(box)
    assert read.nucleus.equals(box.buffer(-5))
    for name in ("path_class", "name", "measurements", "object_type", "id", "is_locked", "color",
                 "metadata"):  # fmt: skip
        assert getattr(read, name) == getattr(cell, name), name


def test_habits_of_newer_versions_are_read(tmp_path):
    """0.6 writes ``metadata`` twice, numbers that JSON lacks as words, and a plane."""
    text = """[{"type":"Feature","id":"1f0e3dad-9990-4f2c-8b1a-3f6f2f6c1a11",
      "geometry":{"type":"Polygon","plane":{"c":-1,"z":0,"t":0},
                  "coordinates":[[[0,0],[9,0],[9,9],[0,9],[0,0]]]},
      "properties":{"objectType":"annotation","metadata":{"a":"1"},
                    "measurements":{"x":"NaN","y":2.5,"z":"-Infinity"},"metadata":{"a":"1"}}}]"""
    (tmp_path / "a.geojson").write_text(text)
    found = read_annotations(tmp_path / "a.geojson", frame=WHOLE)
    (read,) = found.objects
    assert found.problems == ()
    assert read.metadata == {"a": "1"}
    assert np.isnan(read.measurements["x"])
    write_annotations(tmp_path / "b.geojson", found.objects, WHOLE, slide="s", kind="k")
    (again,) = features_of(tmp_path / "b.geojson")
    # QuPath 0.4 refuses words, and shows an absent value as it shows NaN.
    assert again["properties"]["measurements"] == {"y": 2.5}
    assert again["properties"]["metadata"] == {"a": "1"}


def test_an_id_that_qupath_would_not_keep_is_made_anew(tmp_path):
    document = [{"type": "Feature", "id": "tile-7", "properties": {"objectType": "Tumour"},
                 "geometry": {"type": "Point", "coordinates": [3, 4, 5]}}]  # fmt: skip
    (tmp_path / "a.geojson").write_text(json.dumps(document))
    found = read_annotations(tmp_path / "a.geojson", frame=WHOLE)
    assert [(a.id, a.object_type) for a in found.objects] == [("", "annotation")]
    assert {p.rule for p in found.problems} == {"object-type", "geometry-type"}
    write_annotations(tmp_path / "b.geojson", found.objects, WHOLE, slide="s", kind="k")
    assert check_geojson(tmp_path / "b.geojson") == []
    assert features_of(tmp_path / "b.geojson")[0]["geometry"]["coordinates"] == [3, 4]
