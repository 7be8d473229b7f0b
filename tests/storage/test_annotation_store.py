"""Annotation stores: tiatoolbox's own reader opens ours, and we read what it wrote."""

from __future__ import annotations

import sqlite3
from functools import partial

import numpy as np
import pytest
import shapely
from shapely.geometry import Polygon

from microtome.storage.annotation_store import read_annotation_store, write_annotation_store
from microtome.storage.annotations import read_annotations
from microtome.storage.errors import BadProduct, MissingFile
from microtome.storage.qupath import Annotation, Frame, PathClass, Tiles

TUMOUR, STROMA = PathClass("Tumor", (200, 0, 0)), PathClass("Stroma", None)
HOLED = Polygon([(0, 0), (90, 0), (90, 90), (0, 90)], [[(10, 10), (20, 10), (20, 20)]])


@pytest.fixture(scope="module")
def theirs():
    """tiatoolbox's own module, on any Python.

    It switches the loading of extensions on, of which it loads none; a Python that is built
    without them has no such switch.
    """
    from tiatoolbox.annotation import storage

    class Connection(sqlite3.Connection):
        def enable_load_extension(self, enabled: bool, /) -> None:
            pass

    with pytest.MonkeyPatch.context() as patch:
        if not hasattr(sqlite3.Connection, "enable_load_extension"):
            patch.setattr(sqlite3, "connect", partial(sqlite3.connect, factory=Connection))
        yield storage


def test_tiatoolbox_reads_our_tiles_and_queries_them(theirs, tmp_path):
    y, x = np.divmod(np.arange(6000), 100)
    score = np.linspace(0, 1, 6000, dtype=np.float32)
    score[7] = np.nan
    index = np.where(np.arange(6000) % 3 == 0, 0, -1)
    tiles = Tiles(np.stack([y, x], 1) * 10, (10.0, 20.0), {"score": score}, (TUMOUR,), index)
    assert write_annotation_store(tmp_path / "a.db", tiles=tiles) == 6000
    store = theirs.SQLiteStore(tmp_path / "a.db")
    assert len(store) == 6000
    # By its own spatial index and its own language of queries.
    near = store.query((1, 1, 9, 9), geometry_predicate="intersects").values()
    assert [a.geometry.bounds for a in near] == [(0, 0, 20, 10)]
    tumour = store.query(where='props["type"] == "Tumor"')
    assert len(tumour) == 2000
    high = [a.properties["score"] for a in store.query(where='props["score"] > 0.9').values()]
    assert sorted(high) == pytest.approx(sorted(score[score > 0.9].tolist()))
    missing = [a for a in store.values() if "score" not in a.properties]
    assert [a.geometry.bounds for a in missing] == [(70, 0, 90, 10)]
    store.close()


def test_regions_come_back_as_they_were(tmp_path):
    cell = Annotation(shapely.box(5, 5, 9, 9), STROMA, object_type="cell",
                      nucleus=shapely.box(6, 6, 7, 7))  # fmt: skip
    regions = [
        Annotation(HOLED, TUMOUR, "a", {"Area": 12.5, "bad": np.nan}, is_locked=True,
                   metadata={"note": "ä"}),
        Annotation(shapely.Point(3, 4)),
        cell,
    ]  # fmt: skip
    assert write_annotation_store(tmp_path / "a.db", annotations=regions) == 4
    first, point, outline, nucleus = read_annotation_store(tmp_path / "a.db")
    assert first.geometry.equals(HOLED)
    assert (first.path_class, first.name, first.measurements) == (TUMOUR, "a", {"Area": 12.5})
    assert (first.is_locked, first.metadata) == (True, {"note": "ä"})
    assert (point.geometry, point.path_class) == (shapely.Point(3, 4), None)
    assert (outline.object_type, outline.path_class) == ("cell", STROMA)
    assert nucleus.geometry.equals(shapely.box(6, 6, 7, 7))


def test_a_real_export_of_qupath_goes_through_a_store(shared_data, tmp_path):
    source = shared_data / "qupath" / "CD163_CD31_CDH1.geojson"
    found = read_annotations(source, frame=Frame((60_000, 60_000))).objects
    write_annotation_store(tmp_path / "a.db", annotations=found)
    # By the reader of annotations: labels, masks and tissue are made of a store as of GeoJSON.
    again = read_annotations(tmp_path / "a.db", frame=Frame((60_000, 60_000))).objects
    assert [a.geometry for a in again] == [a.geometry for a in found]
    assert [a.path_class for a in again] == [a.path_class for a in found]
    assert [a.name for a in again] == [a.name for a in found]


def test_what_tiatoolbox_wrote_is_read(theirs, tmp_path):
    store = theirs.SQLiteStore(tmp_path / "a.db")
    store.append(theirs.Annotation(HOLED, {"type": 3, "prob": 0.75, "box": [1, 2], "who": "x"}))
    store.commit()
    store.close()
    (found,) = read_annotation_store(tmp_path / "a.db")
    assert found.geometry.equals(HOLED)
    assert (found.path_class, found.measurements) == (PathClass("3", None), {"prob": 0.75})
    assert found.metadata == {"who": "x"}


def test_a_store_is_written_whole_or_not_at_all(tmp_path):
    write_annotation_store(tmp_path / "a.db", annotations=[Annotation(HOLED)])
    before = (tmp_path / "a.db").read_bytes()

    class Stop(Exception):
        pass

    def broken():
        yield Annotation(HOLED)
        raise Stop

    with pytest.raises(Stop):
        write_annotation_store(tmp_path / "a.db", annotations=broken())
    assert (tmp_path / "a.db").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.db"]


def test_what_is_no_store_is_named_and_left_as_it_is(tmp_path):
    with pytest.raises(MissingFile):
        read_annotation_store(tmp_path / "none.db")
    (tmp_path / "a.db").write_bytes(b"no database at all")
    with pytest.raises(BadProduct):
        read_annotation_store(tmp_path / "a.db")
    with sqlite3.connect(tmp_path / "b.db") as database:
        database.execute("CREATE TABLE other (x)")
    database.close()
    before = (tmp_path / "b.db").read_bytes()
    with pytest.raises(BadProduct, match="no such table"):
        read_annotation_store(tmp_path / "b.db")
    assert (tmp_path / "b.db").read_bytes() == before
