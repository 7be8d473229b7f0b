"""DICOM folders of several series, rare encodings, and CT that may not be in Hounsfield units."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian

from microtome.engine.volumes import Volume, list_series, open_volume, read_each_series
from microtome.storage.errors import (
    BadGeometry,
    EmptyFile,
    MicrotomeError,
    TruncatedFile,
    UnreadableFile,
)

Writer = Callable[..., Path]
PLACES = [(0, 0, 2.0 * k) for k in range(4)]


def noise(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-1000, 1000, (4, 6, 5)).astype(np.int16)


@pytest.fixture
def study(tmp_path: Path, write_slices: Writer) -> Path:
    """Three series: a CT, an MR with a gap, and one without a number."""

    def named(number: int | None, words: str, places: list[tuple[float, float, float]]) -> Writer:
        def write(_: Path, **how: str) -> Path:
            def change(k: int, data: Dataset) -> None:
                data.SeriesNumber, data.SeriesDescription = number, words
                data.PatientName, data.PatientID = "Doe^Jane", "P1"

            return write_slices(tmp_path / "study", noise(), places, change=change, **how)

        return write

    broken = [*PLACES[:3], (0, 0, 8.0)]
    named(10, "late", PLACES)(tmp_path, prefix="a")
    named(9, "gap", broken)(tmp_path, prefix="b", modality="MR")
    named(None, "", PLACES)(tmp_path, prefix="c", modality="PT")
    return tmp_path / "study"


def test_series_are_listed_by_number_and_name_no_patient(study: Path) -> None:
    found = list_series(study)
    assert [(s.number, s.modality, s.description) for s in found] == [
        ("9", "MR", "gap"), ("10", "CT", "late"), ("", "PT", ""),
    ]  # fmt: skip
    assert {s.shape for s in found} == {(4, 6, 5)}
    assert {s.files for s in found} == {4}
    assert len({s.uid for s in found}) == 3
    assert "Doe" not in repr(found)
    with pytest.raises(BadGeometry, match=r"(?s)3 series.*9: MR gap, 4 files, 4 × 6 × 5.*10: CT"):
        open_volume(study)


def test_each_series_has_its_own_reading_or_error(study: Path) -> None:
    (gap, error), (late, volume), (_, pet) = read_each_series(study)
    assert gap.number == "9"
    assert isinstance(error, BadGeometry)
    assert "1 slice is missing" in str(error)
    assert isinstance(volume, Volume)
    assert isinstance(pet, Volume)
    assert volume.series == late.uid
    np.testing.assert_array_equal(volume.data[...], open_volume(study, series="10").data[...])
    (_, mended), *_ = read_each_series(study, resample=True)
    assert isinstance(mended, Volume)
    assert mended.shape == (5, 6, 5)


def test_the_collections_two_series_are_told_apart(shared_data: Path) -> None:
    found = list_series(shared_data / "scans" / "ct_abdomen_3slice")
    assert sorted((s.modality, s.shape) for s in found) == [
        ("CT", (3, 512, 512)), ("SEG", (3, 512, 512)),
    ]  # fmt: skip


# --- rare encodings


def deflated(_: int, data: Dataset) -> None:
    data.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian


def big_endian(_: int, data: Dataset) -> None:
    data.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    data.PixelData = np.frombuffer(data.PixelData, "<i2").astype(">i2").tobytes()
    data["PixelData"].VR = "OW"


def single(k: int, data: Dataset) -> None:
    data.SliceThickness = 2


@pytest.mark.parametrize("encoded", [deflated, big_endian])
def test_deflated_and_big_endian_files_are_read(
    tmp_path: Path, write_slices: Writer, encoded: Callable[[int, Dataset], None]
) -> None:
    folder = write_slices(tmp_path / "s", noise(), PLACES, change=encoded)
    volume = open_volume(folder)
    np.testing.assert_array_equal(volume.data[...], noise())
    np.testing.assert_allclose(volume.spacing_mm, (2, 1, 1))


@pytest.mark.parametrize("encoded", [deflated, big_endian])
@pytest.mark.filterwarnings("ignore")
def test_they_are_refused_when_cut_off_anywhere_or_damaged(
    tmp_path: Path, write_slices: Writer, encoded: Callable[[int, Dataset], None]
) -> None:
    def change(k: int, data: Dataset) -> None:
        single(k, data)
        encoded(k, data)

    folder = write_slices(tmp_path / "s", noise()[:1], PLACES, change=change)
    (path,) = folder.iterdir()
    whole = path.read_bytes()
    for keep in range(140, len(whole), 7):
        path.write_bytes(whole[:keep])
        with pytest.raises((TruncatedFile, UnreadableFile, EmptyFile, BadGeometry)):
            open_volume(path)
    draw, refused = np.random.default_rng(0), 0
    for _ in range(60):
        data = bytearray(whole)
        for place in draw.integers(132, len(whole), 3):
            data[place] ^= 1 << draw.integers(8)
        path.write_bytes(data)
        try:
            open_volume(path).data[...]
        except MicrotomeError:
            refused += 1
    assert refused > 0


# --- Hounsfield units


def test_ct_without_a_rescale_is_noted_and_not_called_hounsfield(
    tmp_path: Path, write_slices: Writer
) -> None:
    def unscaled(_: int, data: Dataset) -> None:
        del data.RescaleIntercept, data.RescaleSlope

    plain = open_volume(write_slices(tmp_path / "a", noise(), PLACES))
    assert (plain.unit, plain.notes) == ("HU", ())
    odd = open_volume(write_slices(tmp_path / "b", noise(), PLACES, change=unscaled))
    assert odd.unit == ""
    assert "RescaleIntercept (0028,1052)" in odd.notes[0]
    np.testing.assert_array_equal(odd.data[...], noise())
