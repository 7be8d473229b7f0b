"""``microtome bags``: what there is, and to other tools and back."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from typer.testing import CliRunner, Result

from microtome.cli.app import app
from microtome.storage.bags import Bag, read_bag, write_bag
from microtome.storage.errors import CohortError, MissingFile

SLIDE = "aperio/CMU-1-Small-Region.svs"
SIZE_PX = (2967, 2220)


def bags(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["bags", *map(str, arguments)], env={"COLUMNS": "300"})


def a_bag(name: str = "case-17", tiles: int = 6) -> Bag:
    return Bag(
        id=name,
        features=np.random.default_rng(len(name)).normal(size=(tiles, 4)).astype(np.float32),
        coords_px=np.stack([np.arange(tiles) * 256, np.zeros(tiles, int)], axis=1),
        footprint_px=(256.0, 256.0),
        slide_px=SIZE_PX,
        mpp=0.499,
        slide_mpp=(0.499, 0.499),
        tile_px=256,
        encoder="e@1",
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for bag in (a_bag(), a_bag("b", tiles=1200)):
        write_bag(tmp_path / "bags" / f"{bag.id}.bag.zarr", bag, key=bag.id)
    return tmp_path


@pytest.fixture
def slides(tmp_path: Path, shared_data: Path) -> Path:
    (tmp_path / "slides").mkdir()
    (tmp_path / "slides" / "case-17.svs").symlink_to(shared_data / "slides" / SLIDE)
    (tmp_path / "slides" / "case-17.xml").write_text("<annotations/>")
    return tmp_path / "slides"


def test_list_says_what_there_is(folder):
    run = bags("list", folder / "bags")
    assert run.exit_code == 0
    lines = run.stdout.splitlines()
    assert lines[1].split() == ["b", "1,200", "4", "256", "0.499", "e@1"]
    assert lines[-1] == "2 bags, 1,206 tiles"
    found = [
        json.loads(line) for line in bags("list", folder / "bags", "--json").stdout.splitlines()
    ]
    assert [(bag["id"], bag["tiles"], bag["dim"]) for bag in found] == [
        ("b", 1200, 4),
        ("case-17", 6, 4),
    ]


def test_a_bag_without_a_record_is_named_and_the_rest_listed(folder):
    (folder / "bags" / "c.bag.zarr").mkdir()
    run = bags("list", folder / "bags")
    assert run.exit_code == 3
    assert "no commit record" in run.stdout
    assert "1,200" in run.stdout
    assert isinstance(bags("list", folder / "absent").exception, MissingFile)


@pytest.mark.parametrize("form", ["clam", "trident", "stamp"])
def test_out_and_in_again(folder, slides, form):
    out = folder / form
    assert (
        bags(
            "export", folder / "bags" / "case-17.bag.zarr", "--format", form, "--out", out
        ).exit_code
        == 0
    )
    place = out / "h5_files" if form == "clam" else out
    run = bags("import", place, "--slides", slides, "--out", folder / "back")
    assert run.exit_code == 0, run.output
    back, bag = read_bag(folder / "back" / "case-17.bag.zarr"), a_bag()
    np.testing.assert_array_equal(back.features, bag.features)
    np.testing.assert_array_equal(back.coords_px, bag.coords_px)
    assert (back.tile_px, back.encoder, back.slide_px) == (256, "e@1", SIZE_PX)
    assert back.mpp == pytest.approx(0.499)
    entry = json.loads((folder / "back" / "ledger.jsonl").read_text())
    assert (entry["item"], entry["state"]) == ("case-17", "done")


def test_clam_s_tensors_take_their_place_from_trident_s_coordinates(folder, slides):
    bag = folder / "bags" / "case-17.bag.zarr"
    bags("export", bag, "--out", folder / "clam")
    (folder / "patches").mkdir()
    with h5py.File(folder / "patches" / "case-17_patches.h5", "w") as file:
        file["coords"] = a_bag().coords_px[:, ::-1]
        file["coords"].attrs["patch_size"] = file["coords"].attrs["patch_size_level0"] = 256
    given = (
        "import",
        folder / "clam" / "pt_files",
        "--coords",
        folder / "patches",
        "--encoder",
        "e@1",
    )
    run = bags(*given, "--slides", slides, "--out", folder / "back")
    assert run.exit_code == 0, run.output
    back = read_bag(folder / "back" / "case-17.bag.zarr")
    np.testing.assert_array_equal(back.coords_px, a_bag().coords_px)
    assert back.mpp == pytest.approx(0.499, rel=1e-3)
    assert back.source.endswith("case-17.svs")


def test_again_is_skipped_and_otherwise_is_refused(folder, slides):
    for form, state, code in (
        ("trident", "done", 0),
        ("trident", "skipped", 0),
        ("stamp", "failed", 3),
    ):
        run = bags("export", folder / "bags", "--format", form, "--out", folder / "out")
        assert (f"2 {state}" in run.output, run.exit_code) == (True, code)
    overwritten = bags(
        "export", folder / "bags", "--format", "stamp", "--out", folder / "out", "--overwrite"
    )
    assert overwritten.exit_code == 0
    only = folder / "out" / "case-17.h5"
    given = ("import", only, "--slides", slides, "--out", folder / "back")
    assert "1 done" in bags(*given).output
    assert "1 skipped" in bags(*given).output
    assert "stale_product" in bags(*given, "--tile-px", "128").output


def test_one_bad_file_does_not_stop_the_rest(folder, slides):
    bags("export", folder / "bags", "--format", "stamp", "--out", folder / "out")
    (folder / "out" / "broken.h5").write_bytes(b"\x89HDF\r\n\x1a\n and no more")
    run = bags("import", folder / "out", "--slides", slides, "--out", folder / "back")
    assert run.exit_code == 3
    entries = [
        json.loads(line) for line in (folder / "back" / "ledger.jsonl").read_text().splitlines()
    ]
    assert {entry["item"]: (entry["state"], entry["reason"]) for entry in entries} == {
        "b": ("rejected", "missing"),
        "broken": ("rejected", "missing"),
        "case-17": ("done", ""),
    }
    assert "there is no slide b.*" in run.output
    again = bags(
        "import", folder / "out" / "broken.h5", "--slide-mpp", "0.5", "--out", folder / "back"
    )
    assert "rejected(unreadable)" in again.output


def test_files_of_one_id_are_refused(folder):
    bags("export", folder / "bags", "--out", folder / "clam")
    both = (folder / "clam" / "h5_files", folder / "clam" / "pt_files")
    assert isinstance(bags("import", *both, "--out", folder / "back").exception, CohortError)
    assert isinstance(
        bags("import", folder / "slides", "--out", folder / "x").exception, MissingFile
    )


def test_a_bag_of_another_slide_is_rejected(folder, slides):
    far = replace(a_bag(), coords_px=a_bag().coords_px + 4000, slide_px=(9000, 9000))
    write_bag(folder / "far" / "case-17.bag.zarr", far, key="far")
    bags("export", folder / "far", "--format", "stamp", "--out", folder / "out")
    run = bags("import", folder / "out", "--slides", slides, "--out", folder / "back")
    assert (run.exit_code, "rejected(bad_geometry)" in run.output) == (3, True)
