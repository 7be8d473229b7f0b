"""``microtome ingest --profile virtual``, from the command line to what is made of the views."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from microtome.engine.describe import describe
from microtome.engine.schedule import Skipped
from microtome.engine.slides import open_slide
from microtome.engine.tissue import find_tissue
from microtome.storage.commit import read_commit
from microtome.storage.errors import NoJpegTiles
from microtome.tasks.ingest_run import IngestItem, IngestOptions, ingest_item

SVS = "slides/aperio/CMU-1-Small-Region.svs"
EXACT = "slides/derived/CMU-1-Small-Region_dicom_exact"


def microtome(*arguments: object) -> str:
    ended = subprocess.run(
        [sys.executable, "-m", "microtome", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": "400"},
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout + ended.stderr


def test_the_command_line_makes_a_view_and_says_of_what(shared_data: Path, tmp_path: Path) -> None:
    file = shutil.copy2(shared_data / SVS, tmp_path / "case-17.svs")
    command = ("ingest", file, "--out", tmp_path / "views", "--profile", "virtual")
    assert "6.6 MPix" in microtome(*command)
    product = tmp_path / "views" / "case-17.ome.zarr"
    assert read_commit(product).about["view_of"] == str(file)
    told = microtome("info", product)
    assert "slide view" in told
    assert str(file) in told
    file.unlink()
    (odd,) = describe(product)["odd"]
    assert "the slide that this is a view of is not there" in odd


def test_it_is_compared_with_its_slide_and_tissue_is_found_in_it(
    shared_data: Path, tmp_path: Path
) -> None:
    item = IngestItem("a", shared_data / SVS)
    options = IngestOptions(profile="virtual", verify=True)
    made = ingest_item(item, out=tmp_path, options=options)
    assert made.compared == 64 * 240 * 240
    again = ingest_item(item, out=tmp_path, options=options)
    assert isinstance(again, Skipped)
    assert again.value.compared == made.compared
    with open_slide(item.path) as before, open_slide(made.path) as after:
        masks = [find_tissue(slide).labels for slide in (before, after)]
    assert masks[0].any()
    np.testing.assert_array_equal(*masks)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("slides/synthetic/boxes.tiff", "level 0 is compressed as ADOBE_DEFLATE"),
        ("slides/plain/kidney-48-5.tif", "level 0 is compressed as NONE"),
        (EXACT, "where in the file its tiles lie is not known"),
        ("scans/nifti/nibabel_anatomical.nii", "no view can be made of a scan"),
    ],
)
def test_what_no_view_can_be_made_of_is_refused_by_name(
    shared_data: Path, tmp_path: Path, name: str, why: str
) -> None:
    item, options = IngestItem("a", shared_data / name), IngestOptions(profile="virtual")
    with pytest.raises(NoJpegTiles, match=why) as caught:
        ingest_item(item, out=tmp_path, options=options)
    assert "Ingest it with" in str(caught.value)
    assert list(tmp_path.iterdir()) == []
