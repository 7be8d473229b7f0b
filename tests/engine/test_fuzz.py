"""Damaged slides and scans end in a reading or a named error, in bounded time and memory.

960 truncated, bit-flipped and otherwise damaged copies of real files, seeded; in processes of
their own, so that a crash or a hang inside a C library is seen for what it is.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import pytest
import SimpleITK

FILES = (
    "slides/aperio/CMU-1-Small-Region.svs",
    "slides/dicom/multi_frame_jpeg_camelyon_challenge_image.dcm",
    "slides/synthetic/boxes.tiff",
    "slides/synthetic/small.svs",
    "slides/synthetic/cells.ome.tif",
    "slides/synthetic/boxes_0.dcm",
    "slides/synthetic/cells-2c.ome.tif",
    "slides/synthetic/cells-gray16.tif",
    "scans/single/CT_small.dcm",
    "scans/nifti/nibabel_example4d.nii.gz",
)
WRITTEN = ("CT_small.nrrd", "CT_small.mha")
"""Made of the CT by SimpleITK; not compressed, where any damage to the voxels is found."""
PROCESSES, CASES = 2, 480
PEAK_MIB = 1024


@pytest.fixture(scope="module")
def lines(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """What the readers said of each case; fails where one of them crashed or hung."""
    script = Path(__file__).with_name("fuzz_reading.py")
    written = [tmp_path_factory.mktemp("written") / name for name in WRITTEN]
    image = SimpleITK.ReadImage(str(shared_data / "scans/single/CT_small.dcm"))
    for path in written:
        bare = SimpleITK.GetImageFromArray(SimpleITK.GetArrayFromImage(image))
        SimpleITK.WriteImage(bare, str(path))
    originals = [*(shared_data / file for file in FILES), *written]
    folders = [tmp_path_factory.mktemp("fuzz") for _ in range(PROCESSES)]
    with ExitStack() as files:
        running = [
            subprocess.Popen(
                [sys.executable, script, str(seed), str(CASES), folder, *originals],
                stdout=files.enter_context((folder / "said").open("w")),
                stderr=files.enter_context((folder / "errors").open("w")),
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
            for seed, folder in enumerate(folders)
        ]
        codes = [process.wait() for process in running]
    said = [(folder / "said").read_text().splitlines() for folder in folders]
    for code, heard, folder in zip(codes, said, folders, strict=True):
        assert code == 0, f"ended by {code} in {heard[-1:]}: {(folder / 'errors').read_text()}"
    return [json.loads(line) for heard in said for line in heard]


def test_every_case_ends_in_a_reading_or_a_named_error(lines):
    ended = [line for line in lines if "end" in line]
    assert len(ended) == PROCESSES * CASES >= 500
    assert [line for line in ended if line["end"] == "escaped"] == []


def test_errors_name_the_file(lines):
    for line in lines:
        if line.get("end", "read") != "read":
            assert line["slide"] in line["message"]


def test_memory_stays_bounded(lines):
    peaks = [line["peak_mib"] for line in lines if "peak_mib" in line]
    assert len(peaks) == PROCESSES
    assert max(peaks) < PEAK_MIB


def test_the_damage_is_neither_too_mild_nor_too_harsh_to_tell_anything(lines):
    ends = Counter((line["slide"], line["end"] == "read") for line in lines if "end" in line)
    for file in (*FILES, *WRITTEN):
        assert ends[Path(file).name, True] > 0
        assert ends[Path(file).name, False] > 10
