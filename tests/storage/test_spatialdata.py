"""Bags as SpatialData, by its format 0.1: read by zarr, shapely and JSON alone."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import sample_bags
import shapely
from sample_bags import assert_same
from typer.testing import CliRunner

from microtome.cli.app import app
from microtome.storage.bags import write_bag
from microtome.storage.errors import InputError
from microtome.storage.exchange import export_spatialdata, import_bag

N = 9


@pytest.fixture
def path(tmp_path: Path) -> Path:
    bag = sample_bags.a_bag(N, 4, footprint_px=(1024.0, 512.0))
    export_spatialdata(bag, tmp_path / "case-17.zarr", key="the key")
    return tmp_path / "case-17.zarr"


@pytest.fixture
def root(path: Path):
    import zarr

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return zarr.open_group(path, mode="r", zarr_format=2)


def test_it_is_a_container_of_shapes_and_tables_0_1(path, root) -> None:
    assert root.attrs["spatialdata_attrs"] == {"version": "0.1"}
    assert sorted(root.group_keys()) == ["shapes", "tables"]
    assert list(root["tables"].group_keys()) == ["uni_tiles"]
    assert not list(path.rglob("zarr.json"))
    shapes, table = root["shapes/tiles"].attrs, root["tables/uni_tiles"].attrs
    assert shapes["encoding-type"] == "ngff:shapes"
    assert shapes["spatialdata_attrs"]["version"] == "0.1"
    (way,) = shapes["coordinateTransformations"]
    assert (way["type"], way["output"]["name"]) == ("identity", "global")
    assert table["encoding-type"] == "anndata"
    assert table["spatialdata-encoding-type"] == "ngff:regions_table"
    assert (table["region"], table["version"]) == ("tiles", "0.1")


def test_outlines_are_those_of_the_tiles(root) -> None:
    group = root["shapes/tiles"]
    kind = shapely.GeometryType(group.attrs["spatialdata_attrs"]["geos"]["type"])
    assert kind.name == group.attrs["spatialdata_attrs"]["geos"]["name"] == "POLYGON"
    offsets = (group["offset0"][:], group["offset1"][:])
    outlines = shapely.from_ragged_array(kind, group["coords"][:], offsets)
    y, x = sample_bags.a_bag(N, 4).coords_px.T
    expected = shapely.box(x, y, x + 512, y + 1024)
    assert shapely.equals(outlines, expected).all()
    assert shapely.is_valid(outlines).all()
    np.testing.assert_array_equal(group["Index"][:], np.arange(N))


def test_a_row_of_the_table_names_its_outline(root) -> None:
    table = root["tables/uni_tiles"]
    keys = {
        name: str(table[f"uns/spatialdata_attrs/{name}"][()])
        for name in ("region", "region_key", "instance_key")
    }
    assert keys == {"region": "tiles", "region_key": "library_id", "instance_key": "tile_id"}
    assert {name: table.attrs[name] for name in keys} == keys
    np.testing.assert_array_equal(table["obs/tile_id"][:], root["shapes/tiles/Index"][:])
    region = table["obs/library_id"]
    assert region.attrs["encoding-type"] == "categorical"
    assert region["categories"][:][region["codes"][:]].tolist() == ["tiles"] * N
    assert set(table["obs"].attrs["column-order"]) >= {"tile_id", "library_id", "y_px"}
    np.testing.assert_array_equal(table["X"][:], sample_bags.a_bag(N, 4).features)


def test_how_tiles_were_laid_is_said_where_they_are_square(root, tmp_path) -> None:
    assert "tile_spec" not in root.attrs
    grid = np.array([[y, x] for y in (0, 768) for x in (0, 1024, 4096)])
    bag = sample_bags.a_bag(6, 4, coords_px=grid)
    export_spatialdata(bag, tmp_path / "square.zarr")
    spec = json.loads((tmp_path / "square.zarr" / ".zattrs").read_text())["tile_spec"]["tiles"]
    assert (spec["height"], spec["width"], spec["mpp"]) == (512, 512, 0.5)
    assert spec["height"] * spec["base_downsample"] == 1024
    assert (spec["stride_height"], spec["stride_width"]) == (384, 512)


def test_it_comes_back_as_the_very_same_bag(path, tmp_path) -> None:
    assert_same(import_bag(path), sample_bags.a_bag(N, 4, footprint_px=(1024.0, 512.0)))
    none = {"features": np.zeros((0, 4), np.float32), "coords_px": np.zeros((0, 2), np.int64)}
    empty = sample_bags.a_bag(**none, quality={}, encoder="timm:a/b@1")
    export_spatialdata(empty, tmp_path / "none.zarr")
    assert (tmp_path / "none.zarr" / "tables" / "timm_a_b_tiles").is_dir()
    assert_same(import_bag(tmp_path / "none.zarr"), empty)


def test_quality_may_not_hide_a_key(tmp_path) -> None:
    bag = sample_bags.a_bag(quality={"tile_id": np.zeros(12, np.float32)})
    with pytest.raises(InputError, match="tile_id"):
        export_spatialdata(bag, tmp_path / "x.zarr")


def test_there_and_back_from_the_command_line(tmp_path) -> None:
    bag = sample_bags.a_bag()
    write_bag(tmp_path / "bags" / "case-17.bag.zarr", bag, key="1")
    there = ["bags", "export", str(tmp_path / "bags"), "--format", "spatialdata", "--out"]
    for said in ("1 done", "1 skipped"):
        ended = CliRunner().invoke(app, [*there, str(tmp_path / "out")])
        assert ended.exit_code == 0, ended.output
        assert said in ended.stderr
    back = ["bags", "import", str(tmp_path / "out"), "--out", str(tmp_path / "back")]
    assert CliRunner().invoke(app, back).exit_code == 0
