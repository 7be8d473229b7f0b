"""The Python on the page about scans runs as it stands there, on a study made for it.

Its blocks are called ``py``, because the tests of all pages run ``python`` without such a study.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "scans.md"


def as_pet(_: int, data: Dataset) -> None:
    dose = Dataset()
    dose.RadionuclideTotalDose, dose.RadionuclideHalfLife = 370e6, 6586.2
    dose.RadiopharmaceuticalStartTime = "100000"
    data.RadiopharmaceuticalInformationSequence = [dose]
    data.Units, data.DecayCorrection, data.CorrectedImage = "BQML", "START", ["ATTN", "DECY"]
    data.SeriesDate = data.AcquisitionDate = "20200101"
    data.SeriesTime = data.AcquisitionTime = "110000"
    data.PatientWeight, data.PatientSize, data.PatientSex = 70, 1.7, "F"
    data.SeriesNumber = 3


def as_ct(_: int, data: Dataset) -> None:
    data.SeriesNumber = 2


def test_the_script_of_the_page_runs(tmp_path: Path, write_slices: Callable[..., Path]) -> None:
    (tmp_path / "study").mkdir()
    values = np.ones((12, 4, 5), np.int16)
    places = [(0, 0, k) for k in range(12)]
    write_slices(tmp_path / "study/ct", values, places, change=as_ct)
    write_slices(tmp_path / "study/pet", values, places, change=as_pet, modality="PT")
    script = "".join(re.findall(r"^```py\n(.*?)^```", PAGE.read_text(), re.M | re.S))
    script += "\nprint(suv.unit, lean.unit, older.unit, scan.modality)"
    ended = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    *listed, last = ended.stdout.splitlines()
    assert [line.split(",")[0].strip() for line in listed] == ["2: CT", "3: PT"]
    assert last == "{SUVbw}g/ml {SUVlbm(Janma)}g/ml {SUVlbm(James128)}g/ml CT"
