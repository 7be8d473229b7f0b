"""What was drawn in QuPath as labels: of tiles, and of pixels."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from microtome.cli.app import app
from microtome.storage.annotations import ReadAnnotation, read_annotations
from microtome.storage.bags import Bag, write_bag
from microtome.storage.qupath import Frame, PathClass, Tiles, write_tiles
from microtome.tasks.drawn_labels import label_image, label_tiles

SIDE, TILE = (1000, 1500), 100.0
COORDS = np.stack(np.divmod(np.arange(150), 15), axis=1) * 100


def drawn(geometry, name: str | None, kind: str = "annotation") -> ReadAnnotation:
    return ReadAnnotation(
        geometry, None if name is None else PathClass(name, None), object_type=kind
    )


def a_bag() -> Bag:
    n = len(COORDS)
    return Bag(
        id="s", features=np.zeros((n, 2), np.float32), coords_px=COORDS, footprint_px=(TILE, TILE),
        slide_px=SIDE, mpp=0.5, slide_mpp=(0.5, 0.5), tile_px=100, encoder="e@1",
    )  # fmt: skip


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a", "b", None]),
            st.tuples(
                st.floats(0, 1200), st.floats(0, 800), st.floats(30, 600), st.floats(30, 600)
            ),
        ),
        max_size=5,
    )
)
def test_a_tile_has_the_class_that_covers_most_of_it(regions):
    found = [drawn(shapely.box(x, y, x + w, y + h), name) for name, (x, y, w, h) in regions]
    labels = label_tiles(a_bag(), found, least=0.5)
    areas = {
        name: shapely.union_all([shapely.box(x, y, x + w, y + h) for c, (x, y, w, h) in regions
                                 if c == name])
        for name in ("a", "b")
    }  # fmt: skip
    for (y, x), name, share in zip(COORDS, labels.names(), labels.share, strict=True):
        tile = shapely.box(x, y, x + TILE, y + TILE)
        cover = {name: area.intersection(tile).area / TILE**2 for name, area in areas.items()}
        best = max(cover.values())
        if abs(best - 0.5) < 1e-6 or abs(cover["a"] - cover["b"]) < 1e-6 < best:
            continue
        wanted = max(cover, key=cover.get) if best >= 0.5 else ""
        assert name == wanted
        assert share == pytest.approx(cover[name] if name else 0)


def test_what_was_said_of_a_tile_counts_more_than_a_region_around_it():
    region = drawn(shapely.box(0, 0, 1500, 1000), "Stroma")
    corrected = drawn(shapely.box(200, 100, 300, 200), "Tumor", "tile")
    again = drawn(shapely.box(300, 100, 400, 200), "Tumor", "tile")
    last = drawn(shapely.box(300, 100, 400, 200), "Necrosis", "tile")
    labels = label_tiles(a_bag(), [corrected, region, again, last])
    names = np.array(labels.names()).reshape(10, 15)
    assert (names[1, 2], names[1, 3]) == ("Tumor", "Necrosis")
    assert (names == "Stroma").sum() == 148


def test_tiles_that_went_to_qupath_come_back_with_the_classes_they_were_given(tmp_path):
    frame = Frame(SIDE, (100, 200, 800, 1200))
    tiles = Tiles(COORDS, (TILE, TILE), {"score": np.arange(150.0)})
    write_tiles(tmp_path / "s.geojson", tiles, frame, slide="s", kind="score")
    # As a pathologist would: some tiles are given a class, the others stay as they were.
    document = json.loads((tmp_path / "s.geojson").read_text())
    for feature in document["features"]:
        if feature["properties"]["measurements"]["score"] in (40, 41, 77):
            feature["properties"]["classification"] = {"name": "Tumor", "color": [200, 0, 0]}
    (tmp_path / "s.geojson").write_text(json.dumps(document["features"]))
    read = read_annotations(tmp_path / "s.geojson", frame=frame)
    labels = label_tiles(a_bag(), read.annotations)
    assert np.flatnonzero(labels.index >= 0).tolist() == [40, 41, 77]
    assert set(labels.share[[40, 41, 77]]) == {1.0}


def test_a_real_export_becomes_a_mask(shared_data):
    """Against shapely: the area that is covered, and what each pixel lies in."""
    read = read_annotations(
        shared_data / "qupath/CD163_CD31_CDH1.geojson", frame=Frame((60_000, 60_000))
    )
    whole = shapely.union_all([a.geometry for a in read.annotations])
    _, _, right, bottom = whole.bounds
    size = (int(bottom) + 50, int(right) + 50)
    codes, classes = label_image(read.annotations, size, 16.0)
    assert len(classes) == len({a.path_class.name for a in read.annotations if a.path_class})
    pixel = (size[0] / codes.shape[0]) * (size[1] / codes.shape[1])
    assert (codes > 0).sum() * pixel == pytest.approx(whole.area, rel=0.03)
    for number, name in enumerate(classes, start=1):
        own = shapely.union_all([a.geometry for a in read.annotations if a.path_class.name == name])
        y, x = np.argwhere(codes == number)[:: max(1, (codes == number).sum() // 50)].T
        places = shapely.points(
            (x + 0.5) * size[1] / codes.shape[1], (y + 0.5) * size[0] / codes.shape[0]
        )
        assert own.buffer(0.01).contains(places).all()


def test_the_command_writes_a_table_and_a_mask(tmp_path):
    write_bag(tmp_path / "bags" / "s.bag.zarr", a_bag(), key="k")
    document = [{
        "type": "Feature", "geometry": shapely.geometry.mapping(shapely.box(0, 0, 300, 200)),
        "properties": {"classification": {"name": "Tumor", "color": [1, 2, 3]}},
    }]  # fmt: skip
    (tmp_path / "drawn").mkdir()
    (tmp_path / "drawn/s.geojson").write_text(json.dumps(document))
    line = ["heatmap", "labels", str(tmp_path / "drawn"), str(tmp_path / "bags"), "--out",
            str(tmp_path / "out"), "--mask-um", "5"]  # fmt: skip
    ended = CliRunner().invoke(app, line, env={"COLUMNS": "200"})
    assert ended.exit_code == 0, ended.output
    assert "6 Tumor, 144 without a class" in ended.output
    with (tmp_path / "out/s.labels.csv").open() as file:
        rows = list(csv.DictReader(file))
    tumour = [(int(r["y_px"]), int(r["x_px"])) for r in rows if r["class"] == "Tumor"]
    assert tumour == [(y, x) for y in (0, 100) for x in (0, 100, 200)]
    mask = np.asarray(Image.open(tmp_path / "out/s.mask.png"))
    assert mask.shape == (100, 150)
    assert (mask[:20, :30] == 1).all()
    assert mask.sum() == 600
    assert (tmp_path / "out/s.mask.csv").read_text().splitlines() == ["code,class", "0,", "1,Tumor"]
