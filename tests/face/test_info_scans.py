"""``microtome info`` of scans: each series, odd values, and a picture of the middle."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
from click.testing import Result
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, ornt_transform
from PIL import Image
from typer.testing import CliRunner

from microtome.cli.app import app
from microtome.engine.ingest import ingest_volume
from microtome.engine.volumes import open_volume
from microtome.engine.volumes.picture import draw_scan
from microtome.storage.errors import BadGeometry


def info(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["info", *map(str, arguments)], env={"COLUMNS": "250"})


def lines(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


# --- series


def test_a_folder_of_several_series_gives_each_its_reading_or_error(shared_data: Path) -> None:
    folder = shared_data / "scans" / "ct_abdomen_3slice"
    result = info(folder, "--json")
    assert result.exit_code == 3
    mask, scan = lines(result)
    assert (mask["error"], mask["kind"]) == ("unreadable", "scan")
    assert "SEG" in mask["message"]
    assert (scan["modality"], scan["shape"]) == ("CT", [3, 512, 512])
    assert scan["listed"].startswith("2: CT 6.9 Colonoscopy, 3 files, 3 × 512 × 512")
    for words in ("unreadable", "6.9 Colonoscopy", "LPS"):
        assert words in info(folder).stdout


def test_one_series_is_chosen(shared_data: Path) -> None:
    folder = shared_data / "scans" / "ct_abdomen_3slice"
    result = info(folder, "--json", "--series", "2")
    assert result.exit_code == 0
    assert [found["shape"] for found in lines(result)] == [[3, 512, 512]]
    assert isinstance(info(folder, "--series", "7").exception, BadGeometry)


@pytest.fixture
def gap(shared_data: Path, tmp_path: Path) -> Path:
    """A real CT with one slice taken away."""
    source = shared_data / "scans" / "ct_philips_head_phantom" / "dicom"
    folder = tmp_path / "gap"
    folder.mkdir()
    for path in source.iterdir():
        if pydicom.dcmread(path, specific_tags=["InstanceNumber"]).InstanceNumber != 5:
            (folder / path.name).symlink_to(path)
    return folder


def test_a_gap_is_resampled_on_request_only(gap: Path, tmp_path: Path) -> None:
    refused = info(gap)
    assert isinstance(refused.exception, BadGeometry)
    assert "--resample" in str(refused.exception)
    out = tmp_path / "gap.png"
    result = info(gap, "--json", "--resample", "--thumbnail", out)
    assert result.exit_code == 0
    (found,) = lines(result)
    assert found["shape"] == [28, 512, 512]
    assert "1 slice is missing" in found["odd"][0]
    assert out.is_file()


# --- values


def test_values_that_no_ct_has_are_noted_and_left(shared_data: Path) -> None:
    folder = shared_data / "scans" / "ct_abdomen_3slice" / "dicom"
    (found,) = lines(info(folder, "--json"))
    middle = open_volume(folder).data[1]
    share = np.mean(middle < -1100)
    (odd,) = found["odd"]
    assert f"{share:.1%}" in odd
    assert f"{middle.min():g}" in odd
    whole = shared_data / "scans" / "ct_philips_head_phantom" / "dicom"
    assert lines(info(whole, "--json"))[0]["odd"] == []


# --- pictures

SPACING = np.array([1.0, 2.0, 3.0])  # x, y, z of RAS
SHAPE = (24, 16, 10)


def ras_image() -> Any:
    """Bright where the patient is right, front and up; that octant alone."""
    values = np.random.default_rng(0).random(SHAPE).astype(np.float32)
    values[10:, 6:, 3:] += 4  # The middle, by either way of counting, is within.
    affine = np.diag([*SPACING, 1.0])
    affine[:3, 3] = [-10, -20, -30]
    return nibabel.Nifti1Image(values, affine)


def stored_as(path: Path, codes: str) -> Path:
    image = ras_image()
    turn = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(codes))
    values = apply_orientation(np.asarray(image.dataobj), turn)
    affine = image.affine @ inv_ornt_aff(turn, SHAPE)
    nibabel.save(nibabel.Nifti1Image(values, affine), path)
    assert "".join(nibabel.aff2axcodes(nibabel.load(path).affine)) == codes
    return path


ORIENTATIONS = [
    "".join(codes)
    for axes in itertools.permutations(("RL", "AP", "SI"))
    for codes in itertools.product(*axes)
]


def test_the_picture_does_not_depend_on_how_the_file_is_laid_out(tmp_path: Path) -> None:
    """All 48 orders and directions of axes show the same octant bright, on the same side."""
    assert len(ORIENTATIONS) == 48
    for codes in ORIENTATIONS:
        volume = open_volume(stored_as(tmp_path / "a.nii", codes))
        picture = draw_scan(volume, max_px=400)[..., 2].astype(int)
        assert max(picture.shape) <= 400
        # Three panels in one scale: 24 x 32, 24 x 30, 32 x 30 mm; letters are outside of them.
        scale = (400 - 3 * 28) / (24 + 24 + 32)
        heights = [32, 30, 30]
        x = 14
        for height_mm, width_mm in zip(heights, (24, 24, 32), strict=True):
            width, height = round(width_mm * scale), round(height_mm * scale)
            panel = picture[14 : 14 + height, x : x + width]
            upper, left = panel[: height // 3], np.s_[: width // 3]
            bright, dark = upper[:, left].mean(), panel[2 * height // 3 :].mean()
            # Right (or front) is left in the picture, front (or head) is up.
            assert bright > 2 * dark, codes
            assert bright > 2 * upper[:, 2 * width // 3 :].mean(), codes
            x += width + 28


def test_a_picture_of_a_scan_and_of_what_is_stored_of_it_are_one(
    shared_data: Path, tmp_path: Path
) -> None:
    source = shared_data / "scans" / "mr_siemens_mosaic" / "dicom"
    made = ingest_volume(source, tmp_path / "out")
    stored = getattr(made, "value", made).path
    for path, name in ((source, "a.png"), (stored, "b.png")):
        result = info(path, "--thumbnail", tmp_path / name)
        assert result.exit_code == 0, result.output
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with Image.open(tmp_path / "a.png") as picture:
        assert max(picture.size) <= 1024


@pytest.mark.parametrize("fill", [0.0, np.nan])
def test_a_scan_without_contrast_is_drawn_all_the_same(tmp_path: Path, fill: float) -> None:
    image = nibabel.Nifti1Image(np.full((1, 4, 5), fill, np.float32), np.diag([3.0, 1, 1, 1]))
    nibabel.save(image, tmp_path / "a.nii")
    assert draw_scan(open_volume(tmp_path / "a.nii")).ndim == 3
