"""Bags as AnnData, against the published on-disk format, read by zarr and by JSON alone."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import sample_bags
from sample_bags import assert_same
from typer.testing import CliRunner

from microtome.cli.app import app
from microtome.storage.bags import Bag, read_bag, write_bag
from microtome.storage.errors import BadProduct, InputError, MissingFile, UnreadableFile
from microtome.storage.exchange import export_anndata, import_bag

N, D = 9, 4
VERSIONS = {
    "anndata": "0.1.0", "dict": "0.1.0", "dataframe": "0.2.0", "array": "0.2.0",
    "string-array": "0.2.0", "numeric-scalar": "0.2.0", "string": "0.2.0",
}  # fmt: skip
"""Of every encoding that the specification has and that a bag needs."""


def a_bag(**changes) -> Bag:
    """With sides, resolutions and qualities that cannot be taken for one another."""
    rng = np.random.default_rng(0)
    own = {
        "footprint_px": (1024.0, 512.0),
        "slide_mpp": (0.25, 0.5),
        "quality": {"tissue": rng.random(N).astype(np.float32), "focus": np.zeros(N, np.float32)},
        "feature_names": ("a", "b", "ü", "d"),
    }
    return sample_bags.a_bag(N, D, **own | changes)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    export_anndata(a_bag(), tmp_path / "case-17.zarr", key="the key")
    return tmp_path / "case-17.zarr"


@pytest.fixture
def root(path: Path):
    import zarr

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        group = zarr.open_group(path, mode="r")
        assert sorted(group.keys()) == sorted(
            ["X", "obs", "var", "layers", "obsm", "varm", "obsp", "varp", "uns"]
        )
    return group


class TestSpecification:
    def test_every_element_states_its_encoding(self, path):
        elements = [*path.rglob(".zgroup"), *path.rglob(".zarray")]
        assert len(elements) > 20
        for element in elements:
            about = json.loads((element.parent / ".zattrs").read_text())
            assert about["encoding-version"] == VERSIONS[about["encoding-type"]], element
        assert not list(path.rglob("zarr.json"))

    def test_the_root_is_an_anndata_of_n_by_d(self, root):
        assert root.attrs["encoding-type"] == "anndata"
        assert root["X"].shape == (N, D)
        for name in ("layers", "obsm", "varm", "obsp", "varp", "uns"):
            assert root[name].attrs["encoding-type"] == "dict"

    @pytest.mark.parametrize(
        ("name", "rows", "columns"),
        [("obs", N, ["y_px", "x_px", "tissue", "focus"]), ("var", D, [])],
    )
    def test_frames_have_an_index_an_order_and_columns_of_one_length(
        self, root, name, rows, columns
    ):
        frame = root[name]
        assert frame.attrs["encoding-type"] == "dataframe"
        assert list(frame.attrs["column-order"]) == columns
        index = frame[frame.attrs["_index"]]
        assert index.attrs["encoding-type"] == "string-array"
        assert len(set(index[:])) == rows
        assert {key for key, _ in frame.arrays()} == {*columns, frame.attrs["_index"]}
        for column in columns:
            assert frame[column].shape == (rows,)
            assert frame[column].attrs["encoding-type"] == "array"
            assert frame[column].chunks == index.chunks

    def test_strings_are_vlen_utf8_and_scalars_have_no_dimension(self, path):
        for element in path.rglob(".zarray"):
            about = json.loads(element.read_text())
            kind = json.loads((element.parent / ".zattrs").read_text())["encoding-type"]
            assert about["zarr_format"] == 2
            if kind == "string-array":
                assert about["dtype"] == "|O"
                assert about["filters"][0]["id"] == "vlen-utf8"
            elif kind == "string":
                assert about["shape"] == []
                assert about["dtype"].startswith("<U")
            elif kind == "numeric-scalar":
                assert about["shape"] == []
                assert about["dtype"][1] in "iuf"


class TestContent:
    def test_values_are_the_bags(self, root):
        bag = a_bag()
        np.testing.assert_array_equal(root["X"][:], bag.features)
        np.testing.assert_array_equal(root["obs/y_px"][:], bag.coords_px[:, 0])
        np.testing.assert_array_equal(root["obs/tissue"][:], bag.quality["tissue"])
        assert root["var/_index"][:].tolist() == ["a", "b", "ü", "d"]
        assert root["obs/_index"][0] == "case-17:0"
        about = root["uns/microtome"]
        assert about["mpp"][()] == 0.5
        assert about["tile_px"][()] == 512
        assert str(about["encoder"][()]) == "uni@abc"
        assert str(about["key"][()]) == "the key"

    def test_spatial_is_the_centre_as_x_and_y(self, root):
        y, x = a_bag().coords_px.T
        np.testing.assert_array_equal(root["obsm/spatial"][:, 0], x + 256)
        np.testing.assert_array_equal(root["obsm/spatial"][:, 1], y + 512)

    @pytest.mark.parametrize(
        "values",
        [
            {},
            {"feature_names": (), "quality": {}, "bounds_px": None, "source": ""},
            {
                "features": np.zeros((0, D), np.float32),
                "coords_px": np.zeros((0, 2), np.int64),
                "quality": {},
            },
        ],
    )
    def test_it_comes_back_as_the_very_same_bag(self, values, tmp_path):
        bag = a_bag(**values)
        export_anndata(bag, tmp_path / "case-17.zarr")
        assert_same(import_bag(tmp_path / "case-17.zarr"), bag)


class TestTrouble:
    def test_a_lost_or_altered_chunk_is_noticed(self, path):
        chunk = path / "X" / "0.0"
        data = bytearray(chunk.read_bytes())
        data[len(data) // 2] ^= 255
        chunk.write_bytes(data)
        with pytest.raises(UnreadableFile, match="damaged"):
            import_bag(path)
        chunk.unlink()
        with pytest.raises(UnreadableFile, match="missing"):
            import_bag(path)

    def test_anndata_of_others_are_not_guessed_at(self, path, tmp_path):
        import shutil

        shutil.rmtree(path / "uns" / "microtome")
        with pytest.raises(BadProduct, match="not from a bag"):
            import_bag(path)
        (tmp_path / "empty.zarr").mkdir()
        with pytest.raises(UnreadableFile):
            import_bag(tmp_path / "empty.zarr")

    def test_quality_may_not_hide_a_coordinate(self, tmp_path):
        bag = a_bag(quality={"x_px": np.zeros(N, np.float32)})
        with pytest.raises(InputError, match="x_px"):
            export_anndata(bag, tmp_path / "x.zarr")
        assert not (tmp_path / "x.zarr").exists()


def test_there_and_back_from_the_command_line(tmp_path):
    def bags(*arguments: object):
        return CliRunner().invoke(app, ["bags", *map(str, arguments)])

    bag = a_bag()
    for name in ("case-17", "b"):
        write_bag(tmp_path / "bags" / f"{name}.bag.zarr", replace(bag, id=name), key=name)
    ended = bags("export", tmp_path / "bags", "--format", "anndata", "--out", tmp_path / "out")
    assert ended.exit_code == 0, ended.output
    again = bags("export", tmp_path / "bags", "--format", "anndata", "--out", tmp_path / "out")
    assert "2 skipped" in again.stderr
    ended = bags("import", tmp_path / "out", "--out", tmp_path / "back")
    assert ended.exit_code == 0, ended.output
    assert_same(read_bag(tmp_path / "back" / "case-17.bag.zarr"), bag)
    named = bags("import", tmp_path / "out" / "b.zarr", "--out", tmp_path / "one")
    assert named.exit_code == 0, named.output
    with pytest.raises(MissingFile):
        import_bag(tmp_path / "absent.zarr")
