"""``microtome ingest`` and ``microtome export`` do what they say, and end with the right code."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import zarr
from distributed import LocalCluster
from typer.testing import CliRunner

from microtome.cli.app import app
from microtome.storage.errors import NoCluster, StaleProduct
from microtome.storage.ledger import read_ledger

SVS = "slides/aperio/CMU-1-Small-Region.svs"
DICOM = "scans/ct_abdomen_3slice/dicom"
FUNCTIONAL = "scans/nifti/nibabel_functional.nii"
EXAMPLE = "scans/nifti/nibabel_example4d.nii.gz"


def run(*arguments: object):
    return CliRunner().invoke(app, [*map(str, arguments)], env={"COLUMNS": "200"})


def test_slides_and_scans_of_every_kind_go_into_one_folder(shared_data: Path, tmp_path: Path):
    inputs = [shared_data / name for name in (SVS, DICOM, FUNCTIONAL, EXAMPLE)]
    result = run("ingest", *inputs, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    made = sorted(p.name for p in tmp_path.iterdir())
    assert made == [
        "CMU-1-Small-Region.ome.zarr",
        "dicom.ome.zarr",
        "ledger.jsonl",
        "nibabel_example4d.ome.zarr",
        "nibabel_functional.ome.zarr",
    ]
    assert "MPix/s" in result.output
    assert "ingest: 4 done" in result.output
    shapes = [zarr.open_group(tmp_path / n, mode="r")["0"].shape for n in (made[0], made[1])]
    assert shapes == [(3, 2967, 2220), (3, 512, 512)]
    again = run("ingest", *inputs, "--out", tmp_path)
    assert again.exit_code == 0
    assert "ingest: 4 skipped" in again.output
    states = [entry.state for entry in read_ledger(tmp_path / "ledger.jsonl")]
    assert states == ["done"] * 4 + ["skipped"] * 4


def test_bad_items_are_named_in_the_ledger_and_the_rest_is_done(shared_data: Path, tmp_path: Path):
    bad = ["slides/bad/broken.svs", "scans/bad/notavolume", "scans/bad/MR_truncated.dcm"]
    inputs = [shared_data / name for name in (*bad, FUNCTIONAL)]
    result = run("ingest", *inputs, tmp_path / "nowhere.svs", "--out", tmp_path)
    assert result.exit_code == 3
    ends = {e.item: (e.state, e.reason) for e in read_ledger(tmp_path / "ledger.jsonl")}
    assert ends == {
        "broken": ("rejected", "unreadable"),
        "notavolume": ("rejected", "bad_geometry"),
        "MR_truncated": ("rejected", "truncated"),
        "nowhere": ("rejected", "missing"),
        "nibabel_functional": ("done", ""),
    }


def test_other_parameters_are_not_mixed_in(shared_data: Path, tmp_path: Path):
    assert run("ingest", shared_data / SVS, "--out", tmp_path).exit_code == 0
    changed = ["ingest", shared_data / SVS, "--out", tmp_path, "--slide-mpp", "0.25"]
    result = run(*changed)
    assert result.exit_code == 3
    assert "failed(stale_product)" in result.output
    assert run(*changed, "--overwrite").exit_code == 0


def test_the_profile_is_chosen(shared_data: Path, tmp_path: Path):
    for profile, codec in [("auto", "jpeg"), ("archive", "jpeg"), ("compatible", "zstd")]:
        out = tmp_path / profile
        assert run("ingest", shared_data / SVS, "--profile", profile, "--out", out).exit_code == 0
        array = json.loads((out / "CMU-1-Small-Region.ome.zarr/0/zarr.json").read_text())
        chain = array["codecs"][0]["configuration"]["codecs"]
        assert chain[-1]["name"] == codec
    lossless = shared_data / "slides/synthetic/boxes.tiff"
    result = run("ingest", lossless, "--profile", "archive", "--out", tmp_path)
    assert result.exit_code == 3
    assert "rejected(no_jpeg_tiles)" in result.output
    (entry,) = read_ledger(tmp_path / "ledger.jsonl")
    assert "compressed as ADOBE_DEFLATE" in entry.detail
    assert "--profile compatible" in entry.detail
    assert run("ingest", lossless, "--profile", "best", "--out", tmp_path).exit_code == 2


def test_codec_and_extras_are_chosen(shared_data: Path, tmp_path: Path):
    asked = ["--profile", "compatible", "--codec", "jpeg", "--quality", "60"]
    kept = ["--associated", "--properties"]
    result = run("ingest", shared_data / SVS, *asked, *kept, "--verify", "--out", tmp_path)
    assert result.exit_code == 0, result.output
    product = tmp_path / "CMU-1-Small-Region.ome.zarr"
    told = run("info", product).output
    assert "lossy JPEG, quality 60" in told
    stated = zarr.open_group(product, mode="r").attrs["microtome"]
    assert sorted(stated["associated"]) == ["label", "macro", "thumbnail"]
    assert stated["properties"]["aperio.MPP"] == "0.4990"
    wrong = [
        ["--codec", "zstd"],
        ["--quality", "60"],
        ["--profile", "ngff04", "--codec", "blosc"],
        ["--profile", "compatible", "--codec", "zstd", "--quality", "60"],
        ["--profile", "virtual", "--associated"],
        ["--patient-data"],
    ]
    for options in wrong:
        result = run("ingest", shared_data / SVS, *options, "--out", tmp_path / "no")
        assert result.exit_code == 2, options
    assert not (tmp_path / "no").exists()


def test_a_series_is_chosen(shared_data: Path, tmp_path: Path):
    folder = shared_data / "scans/ct_abdomen_3slice"
    result = run("ingest", folder, "--out", tmp_path)
    assert result.exit_code == 3
    assert "--series" in result.output
    assert run("ingest", folder, "--series", "2", "--out", tmp_path).exit_code == 0


def test_what_went_in_comes_out(shared_data: Path, tmp_path: Path):
    run("ingest", shared_data / FUNCTIONAL, "--out", tmp_path)
    stored, out = tmp_path / "nibabel_functional.ome.zarr", tmp_path / "back.nii"
    assert run("export", stored, out).exit_code == 0
    assert out.read_bytes() == (shared_data / FUNCTIONAL).read_bytes()
    assert isinstance(run("export", stored, out).exception, StaleProduct)
    assert run("export", stored, out, "--overwrite").exit_code == 0


def test_dicom_is_exported_without_detour(shared_data: Path, tmp_path: Path):
    assert run("export", shared_data / DICOM, tmp_path / "ct.nii.gz").exit_code == 0
    image = nibabel.load(tmp_path / "ct.nii.gz")
    assert image.shape == (512, 512, 3)
    assert np.asanyarray(image.dataobj).min() < -900


def test_wrong_use_is_code_2(shared_data: Path, tmp_path: Path):
    assert run("export", shared_data / DICOM, tmp_path / "ct.mgz").exit_code == 2
    assert run("ingest", "--out", tmp_path).exit_code == 2
    twice = run("ingest", shared_data / SVS, shared_data / SVS, "--out", tmp_path)
    assert "2 slides have the id" in str(twice.exception)
    command = [sys.executable, "-m", "microtome", "export", "nowhere", str(tmp_path / "a.nii")]
    end = subprocess.run(command, capture_output=True, text=True, check=False)
    assert end.returncode == 2
    assert end.stderr.startswith("microtome: missing: nowhere")
    assert "Traceback" not in end.stderr


def test_all_series_of_a_folder_become_an_image_each(shared_data: Path, tmp_path: Path):
    folder = tmp_path / "study"
    for name in ("ct_abdomen_3slice", "mr_rle_compressed"):
        shutil.copytree(shared_data / "scans" / name / "dicom", folder / name)
    refused = run("ingest", folder, "--out", tmp_path / "one")
    assert refused.exit_code == 3
    assert "--series" in refused.output
    result = run("ingest", folder, "--series", "all", "--out", tmp_path / "all")
    assert result.exit_code == 0, result.output
    shapes = {
        zarr.open_group(path, mode="r")["0"].shape for path in (tmp_path / "all").glob("*.ome.zarr")
    }
    assert shapes == {(3, 512, 512), (4, 256, 256)}
    again = run("ingest", folder, "--series", "all", "--out", tmp_path / "all", "--verify")
    assert "ingest: 2 skipped" in again.output
    assert "0.8 MPix compared with the source" in again.output


def test_verify_names_what_it_mended(shared_data: Path, tmp_path: Path):
    assert run("ingest", shared_data / SVS, "--out", tmp_path).exit_code == 0
    (shard,) = (tmp_path / "CMU-1-Small-Region.ome.zarr" / "0" / "c" / "0" / "0").iterdir()
    whole = shard.read_bytes()
    shard.write_bytes(whole[:1000] + b"damage" + whole[1006:])
    result = run("ingest", shared_data / SVS, "--out", tmp_path, "--verify")
    assert result.exit_code == 0, result.output
    assert "1 damaged shards made again" in result.output
    assert shard.read_bytes() == whole
    again = run("ingest", shared_data / SVS, "--out", tmp_path, "--verify")
    assert "3.7 MPix compared" in again.output


def test_the_workers_of_a_scheduler_make_the_same_bytes(shared_data: Path, tmp_path: Path):
    slide = shared_data / SVS
    assert (
        run("ingest", slide, "--profile", "compatible", "--out", tmp_path / "here").exit_code == 0
    )
    with LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0"
    ) as cluster:
        options = ("--cluster", cluster.scheduler_address, "--out", tmp_path / "there")
        result = run("ingest", slide, "--profile", "compatible", *options)
    assert result.exit_code == 0, result.output
    here, there = (
        {p.relative_to(folder): p.read_bytes() for p in folder.rglob("c/**/*") if p.is_file()}
        for folder in (tmp_path / "here", tmp_path / "there")
    )
    assert len(here) > 5
    assert here == there


def test_a_scheduler_that_is_not_there_is_named(shared_data: Path, tmp_path: Path):
    address = "tcp://127.0.0.1:9"
    result = run("ingest", shared_data / SVS, "--cluster", address, "--out", tmp_path)
    assert isinstance(result.exception, NoCluster)
    assert address in str(result.exception)
    assert not list(tmp_path.glob("*.ome.zarr"))
