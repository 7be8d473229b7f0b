"""Scans that are compressed, cut off or damaged, and headers that lie: read whole or refused."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import nibabel
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate

from microtome.engine.volumes import open_volume
from microtome.storage.errors import (
    BadGeometry,
    EmptyFile,
    MicrotomeError,
    TruncatedFile,
    UnreadableFile,
)

Writer = Callable[..., Path]
PLACES = [(0, 0, 2.0 * k) for k in range(2)]


def noise() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 90, (2, 4, 6)).astype(np.uint16)


# --- compressed pixels


def ljpeg(plane: np.ndarray) -> bytes:
    return bytes(imagecodecs.ljpeg_encode(plane))


CODECS: dict[str, tuple[str, Callable[[np.ndarray], bytes]]] = {
    "JPEG Lossless SV1": ("1.2.840.10008.1.2.4.70", ljpeg),
    "JPEG Lossless": ("1.2.840.10008.1.2.4.57", ljpeg),
    "JPEG-LS": ("1.2.840.10008.1.2.4.80", lambda p: bytes(imagecodecs.jpegls_encode(p))),
    "JPEG 2000": (
        "1.2.840.10008.1.2.4.90",
        lambda p: bytes(imagecodecs.jpeg2k_encode(p, level=0, codecformat="j2k")),
    ),
}


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("codec", CODECS)
def test_compressed_slices_are_decoded_without_loss(
    tmp_path: Path, codec: str, signed: bool, write_slices: Writer
) -> None:
    syntax, encode = CODECS[codec]
    values = np.random.default_rng(1).integers(0, 4096, (2, 32, 48)).astype(np.uint16)
    if signed:
        values = (values.astype(np.int16) - 2048).astype(np.int16)

    def compress(_: int, data: Dataset) -> None:
        plane = np.frombuffer(data.PixelData, np.uint16).reshape(32, 48)
        data.BitsStored, data.HighBit = 12, 11
        data.PixelData = encapsulate([encode(plane & 0x0FFF)])
        data["PixelData"].VR, data["PixelData"].is_undefined_length = "OB", True
        data.file_meta.TransferSyntaxUID = syntax

    volume = open_volume(write_slices(tmp_path / "s", values, PLACES, change=compress))
    np.testing.assert_array_equal(np.asarray(volume.data), values)


def test_a_compression_that_nothing_decodes_is_named(tmp_path: Path, write_slices: Writer) -> None:
    def film(_: int, data: Dataset) -> None:
        data.PixelData = encapsulate([b"\0" * 64])
        data["PixelData"].VR, data["PixelData"].is_undefined_length = "OB", True
        data.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.102"

    volume = open_volume(write_slices(tmp_path / "s", noise(), PLACES, change=film))
    with pytest.raises(UnreadableFile, match="MPEG-4"):
        volume.data[0]


def test_damaged_compressed_pixels_are_named(shared_data: Path, tmp_path: Path) -> None:
    path = next((shared_data / "scans" / "mr_rle_compressed" / "dicom").iterdir())
    data = pydicom.dcmread(path)
    data.PixelData = encapsulate([b"\x01" * 300])
    data.SliceThickness = 1
    data["PixelData"].is_undefined_length = True
    data.save_as(tmp_path / "a.dcm")
    with pytest.raises(UnreadableFile, match="decoded"):
        open_volume(tmp_path / "a.dcm").data[...]


# --- files cut off and headers that lie


@pytest.mark.parametrize("keep", [0.02, 0.3, 0.9, 0.97])
@pytest.mark.parametrize(
    "name",
    [
        "nifti/nibabel_anatomical.nii",
        "nifti/nibabel_example_nifti2.nii.gz",
        "single/MR_small.dcm",
        "mr_siemens_multiframe/dicom/0001.dcm",
        "mr_rle_compressed/dicom/0001.dcm",
    ],
)
def test_a_file_cut_off_anywhere_is_refused_when_opened(
    shared_data: Path, tmp_path: Path, name: str, keep: float
) -> None:
    whole = (shared_data / "scans" / name).read_bytes()
    path = tmp_path / Path(name).name
    path.write_bytes(whole[: int(len(whole) * keep)])
    with pytest.raises((TruncatedFile, UnreadableFile, EmptyFile)):
        open_volume(path)


@pytest.mark.parametrize(
    "name",
    [
        "nifti/nibabel_anatomical.nii",
        "nifti/nibabel_example_nifti2.nii.gz",
        "single/CT_small.dcm",
        "mr_siemens_multiframe/dicom/0001.dcm",
        "mr_siemens_mosaic/dicom/0001.dcm",
        "mr_rle_compressed/dicom/0001.dcm",
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_damage_ends_in_a_reading_or_a_named_error(
    shared_data: Path, tmp_path: Path, name: str
) -> None:
    """Some bits flipped, mostly in the header: nothing else than a named error may come out."""
    whole = (shared_data / "scans" / name).read_bytes()
    draw = np.random.default_rng(0)
    header = 3000 if name.endswith(".dcm") else 348
    refused = 0
    for _ in range(25):
        data = bytearray(whole)
        for place in draw.integers(0, header, draw.integers(1, 20)):
            data[place] ^= 1 << draw.integers(8)
        path = tmp_path / Path(name).name
        path.write_bytes(data)
        try:
            open_volume(path).data[...]
        except MicrotomeError:
            refused += 1
    assert refused > 0


def test_an_empty_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.nii").touch()
    with pytest.raises(EmptyFile):
        open_volume(tmp_path / "a.nii")


def test_damage_inside_a_compressed_nifti_is_named_when_it_is_read(
    shared_data: Path, tmp_path: Path
) -> None:
    data = bytearray((shared_data / "scans/nifti/nibabel_example4d.nii.gz").read_bytes())
    data[len(data) // 2 : len(data) // 2 + 64] = bytes(64)
    (tmp_path / "a.nii.gz").write_bytes(data)
    with pytest.raises((TruncatedFile, UnreadableFile)):
        open_volume(tmp_path / "a.nii.gz").data[...]


def saved(path: Path, image: Any, **header: int) -> Path:
    for name, value in header.items():
        image.header[name] = value
    nibabel.save(image, path)
    return path


def test_nifti_that_does_not_say_how_it_lies_is_refused(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(noise().T, None)
    with pytest.raises(BadGeometry, match="never guessed"):
        open_volume(saved(tmp_path / "a.nii", image, qform_code=0, sform_code=0))


def test_five_axes_and_colour_are_refused(tmp_path: Path) -> None:
    five = nibabel.Nifti1Image(np.zeros((2, 3, 4, 1, 3), np.float32), np.eye(4))
    with pytest.raises(BadGeometry, match="5 axes"):
        open_volume(saved(tmp_path / "a.nii", five))
    rgb = np.zeros((2, 3, 4), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    with pytest.raises(UnreadableFile, match="not supported"):
        open_volume(saved(tmp_path / "b.nii", nibabel.Nifti1Image(rgb, np.eye(4))))


@pytest.mark.parametrize(("unit", "factor"), [("mm", 1), ("meter", 1000), ("micron", 0.001)])
@pytest.mark.parametrize(("clock", "seconds"), [("sec", 1), ("msec", 1e-3), ("usec", 1e-6)])
def test_units_are_honoured(
    tmp_path: Path, unit: str, factor: float, clock: str, seconds: float
) -> None:
    image = nibabel.Nifti1Image(np.zeros((2, 3, 4, 5), np.int16), np.diag([1.0, 2, 3, 1]))
    image.header.set_xyzt_units(unit, clock)
    image.header["pixdim"][4] = 20
    nibabel.save(image, tmp_path / "a.nii")
    volume = open_volume(tmp_path / "a.nii")
    np.testing.assert_allclose(volume.spacing_mm, np.array([3, 2, 1]) * factor)
    assert volume.repetition_time_s == pytest.approx(20 * seconds)


def test_a_pair_of_header_and_image_is_read(tmp_path: Path) -> None:
    affine, values = np.diag([-2.0, 3.0, 4.0, 1.0]), noise()
    nibabel.save(nibabel.Nifti1Pair(values.T, affine), tmp_path / "a.hdr")
    volume = open_volume(tmp_path / "a.hdr")
    np.testing.assert_array_equal(np.asarray(volume.data), values)
    assert {p.name for p in volume.files} == {"a.hdr", "a.img"}


def test_content_decides_and_not_the_name(shared_data: Path, tmp_path: Path) -> None:
    packed = gzip.decompress((shared_data / "scans/nifti/nibabel_example4d.nii.gz").read_bytes())
    (tmp_path / "scan.dcm").write_bytes(packed)
    with pytest.raises(UnreadableFile):
        open_volume(tmp_path / "scan.dcm")
    (tmp_path / "scan").write_bytes((shared_data / "scans/single/CT_small.dcm").read_bytes())
    assert open_volume(tmp_path / "scan").modality == "CT"
