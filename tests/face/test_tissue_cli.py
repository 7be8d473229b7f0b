"""``microtome tissue`` and ``encode --masks``: the loop through QuPath, as a user goes it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from shapely.geometry import box, mapping, shape
from typer.testing import CliRunner

from microtome.cli.app import app
from microtome.engine.ingest import ingest_slide
from microtome.engine.slides import open_slide
from microtome.engine.tissue import make_tissue, read_tissue, write_tissue
from microtome.engine.tissue.mask import TissueMask
from microtome.storage.bags import read_bag
from microtome.storage.commit import read_commit
from microtome.storage.qupath_check import check_geojson, read_features

CUT_PX = 1500
SVS = "slides/aperio/CMU-1-Small-Region.svs"


def run(*arguments: object, code: int = 0):
    result = CliRunner().invoke(app, [*map(str, arguments)], env={"COLUMNS": "200"})
    assert result.exit_code == code, result.output
    return result


def ledger(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "ledger.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def made(shared_data, tmp_path_factory) -> Path:
    """Masks of two slides of the same pixels; tests only read them."""
    folder = tmp_path_factory.mktemp("masks")
    for name in ("a", "b"):
        make_tissue(shared_data / SVS, folder / f"{name}.tissue.zarr")
    return folder


@pytest.fixture
def slides(shared_data, tmp_path) -> list[Path]:
    found = [tmp_path / "slides" / f"{name}.svs" for name in ("a", "b")]
    found[0].parent.mkdir()
    for path in found:
        path.symlink_to(shared_data / SVS)
    return found


def edited(made: Path, folder: Path) -> Path:
    """Slide a with all below y = 1500 px cut away, as QuPath exports it; slide b as it was."""
    folder.mkdir()
    features = read_features(made / "a.tissue.geojson")
    for feature in features:
        kept = shape(feature["geometry"]) & box(0, 0, 9999, CUT_PX)
        feature["geometry"] = mapping(kept)
    (folder / "a.geojson").write_text(json.dumps(features))
    shutil.copy(made / "b.tissue.geojson", folder / "b.tissue.geojson")
    return folder


def test_a_mask_has_annotations_for_qupath_beside_it(slides, tmp_path):
    run("tissue", slides[0], "--out", tmp_path / "out", "--method", "saturation")
    assert check_geojson(tmp_path / "out" / "a.tissue.geojson") == []
    assert read_features(tmp_path / "out" / "a.tissue.geojson")
    names = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert names == ["a.tissue.geojson", "a.tissue.zarr", "a.tissue.zarr.png", "ledger.jsonl"]


def test_edited_annotations_become_masks_that_encode_takes(made, slides, tmp_path):
    folder, out = edited(made, tmp_path / "edited"), tmp_path / "corrected"
    run("tissue", "import", *slides, "--annotations", folder, "--out", out)
    before, after = (read_tissue(place / "a.tissue.zarr") for place in (made, out))
    above = (np.arange(len(before.labels)) + 0.5) * before.downsample[0] < CUT_PX
    assert 0 < after.tissue.sum() < before.tissue.sum()
    assert np.array_equal(after.tissue, before.tissue & above[:, None])
    untouched = [read_tissue(place / "b.tissue.zarr").labels for place in (made, out)]
    assert np.array_equal(*untouched)
    assert (out / "a.tissue.zarr.png").is_file()
    for masks, bags in ((out, "bags"), (made, "all")):
        options = ("--masks", masks, "--mpp", 2, "--tile-px", 64)
        run("encode", slides[0], "--out", tmp_path / bags, *options)
    bag, whole = (read_bag(tmp_path / place / "a.bag.zarr") for place in ("bags", "all"))
    assert {*map(tuple, bag.coords_px.tolist())} < {*map(tuple, whole.coords_px.tolist())}
    # Tissue under a tile, counted on the edited mask.
    for corner, share in zip(bag.coords_px, bag.quality["tissue"], strict=True):
        start = np.floor(corner / after.downsample).astype(int)
        stop = np.ceil((corner + bag.footprint_px) / after.downsample).astype(int)
        seen = after.tissue[start[0] : stop[0], start[1] : stop[1]].mean()
        assert share == pytest.approx(seen, abs=0.01)


def test_the_mask_is_part_of_a_bags_key(made, slides, tmp_path):
    bags, masks = tmp_path / "bags", tmp_path / "masks"
    shutil.copytree(made, masks)
    encode = ("encode", slides[0], "--out", bags, "--mpp", 4, "--tile-px", 64, "--masks", masks)
    run(*encode)
    keyed = read_commit(bags / "a.bag.zarr").key
    assert "1 skipped" in run(*encode).output
    mask = read_tissue(masks / "a.tissue.zarr")
    write_tissue(masks / "a.tissue.zarr", mask, key="another", overwrite=True)
    assert "stale_product" in run(*encode, code=3).output
    run(*encode, "--overwrite")
    assert read_commit(bags / "a.bag.zarr").key != keyed
    assert "stale_product" in run(*encode[:-2], code=3).output


def test_a_slide_without_its_mask_is_rejected_not_given_another(made, slides, tmp_path):
    masks = tmp_path / "masks"
    masks.mkdir()
    shutil.copytree(made / "a.tissue.zarr", masks / "a.tissue.zarr")
    options = ("--masks", masks, "--out", tmp_path / "bags", "--mpp", 4, "--tile-px", 64)
    run("encode", *slides, *options, code=3)
    states = {e["item"]: (e["state"], e["reason"]) for e in ledger(tmp_path / "bags")}
    assert states["a"][0] == "done"
    assert states["b"] == ("rejected", "missing")
    assert not (tmp_path / "bags" / "b.bag.zarr").exists()


def test_a_mask_of_another_slide_is_refused(slides, tmp_path):
    mask = TissueMask(np.ones((9, 9), np.uint8), (16.0, 16.0), (8.0, 8.0))
    write_tissue(tmp_path / "masks" / "a.tissue.zarr", mask, key="k")
    options = ("--masks", tmp_path / "masks", "--out", tmp_path / "bags")
    assert "144 x 144" in run("encode", slides[0], *options, code=3).output


def test_classes_that_are_not_ours_are_named_and_can_be_said(made, slides, tmp_path):
    feature = read_features(made / "a.tissue.geojson")[0]
    tumour = feature | {"properties": {"classification": {"name": "Tumor", "color": [1, 2, 3]}}}
    none = feature | {"properties": {}, "geometry": mapping(shape(feature["geometry"]))}
    (tmp_path / "a.geojson").write_text(json.dumps([tumour, none]))
    asked = (
        "tissue", "import", slides[0], "--annotations", tmp_path / "a.geojson",
        "--out", tmp_path / "out",
    )  # fmt: skip
    refused = run(*asked, code=3).output
    assert "Tumor, Unclassified" in refused
    assert "a.geojson" in refused
    run(*asked, "--class", "Tumor=tissue", "--class", "Unclassified=ignore")
    assert read_tissue(tmp_path / "out" / "a.tissue.zarr").tissue.any()
    for wrong in ("Tumor", "=tissue", "Tumor="):
        run(*asked, "--class", wrong, code=2)


def test_what_could_not_be_read_is_said(made, slides, tmp_path):
    features = read_features(made / "a.tissue.geojson")
    point = {"type": "Feature", "geometry": {"type": "Point", "coordinates": [1, 2]}}
    (tmp_path / "a.geojson").write_text(json.dumps([*features, point]))
    result = run(
        "tissue", "import", slides[0], "--annotations", tmp_path / "a.geojson", "--out", tmp_path
    )
    number = f"feature {len(features)}"
    assert number in result.output
    assert number in ledger(tmp_path)[-1]["detail"]


def test_one_file_is_for_one_slide(made, slides, tmp_path):
    file = made / "a.tissue.geojson"
    run("tissue", "import", *slides, "--annotations", file, "--out", tmp_path / "out", code=2)
    assert not (tmp_path / "out").exists()


def test_a_slide_without_annotations_is_rejected_and_the_others_are_done(made, slides, tmp_path):
    folder = edited(made, tmp_path / "edited")
    (folder / "b.tissue.geojson").unlink()
    out = tmp_path / "out"
    run("tissue", "import", *slides, "--annotations", folder, "--out", out, code=3)
    assert {e["item"]: e["state"] for e in ledger(out)} == {"a": "done", "b": "rejected"}


class TestLabels:
    @pytest.fixture
    def image(self, shared_data, tmp_path) -> Path:
        ingest_slide(shared_data / SVS, tmp_path / "zarr", name="a")
        return tmp_path / "zarr" / "a.ome.zarr"

    def test_of_an_ome_zarr_the_mask_becomes_its_label(self, image, tmp_path):
        run("tissue", image, "--out", tmp_path / "out")
        beside = read_tissue(tmp_path / "out" / "a.tissue.zarr")
        assert np.array_equal(read_tissue(image).labels, beside.labels)
        assert "1 skipped" in run("tissue", image, "--out", tmp_path / "out").output

    def test_unless_the_user_says_no(self, image, tmp_path):
        run("tissue", image, "--out", tmp_path / "out", "--no-label")
        assert not (image / "labels").exists()

    @pytest.mark.parametrize("place", [".", "a.ome.zarr"])
    def test_of_another_file_it_does_where_it_is_told(self, image, slides, tmp_path, place):
        run("tissue", slides[0], "--out", tmp_path / "out", "--into", image.parent / place)
        assert read_tissue(image).tissue.any()
        with open_slide(image) as slide:
            assert slide.info.backend == "ome-zarr"
