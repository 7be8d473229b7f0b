"""NRRD and MetaImage lie where SimpleITK says, or are refused for what their header leaves open."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nibabel.eulerangles import euler2mat
from pydicom.pixels import pixel_array

from microtome.engine.ingest import ingest_volume
from microtome.engine.volumes import is_scan, open_volume
from microtome.storage.errors import (
    BadGeometry,
    MicrotomeError,
    MissingFile,
    TruncatedFile,
    UnreadableFile,
)

KINDS = ("a.nrrd", "a.nhdr", "a.mha", "a.mhd")


def oblique(seed: int = 0, dtype: Any = np.int16) -> Any:
    rng = np.random.default_rng(seed)
    image = SimpleITK.GetImageFromArray(rng.integers(0, 100, (4, 5, 6)).astype(dtype))
    image.SetSpacing(rng.uniform(0.3, 5, 3).tolist())
    image.SetOrigin(rng.uniform(-200, 200, 3).tolist())
    turn = euler2mat(*rng.uniform(-3, 3, 3)) @ np.diag([1, 1, rng.choice([-1, 1])])
    image.SetDirection(turn.ravel().tolist())
    return image


def written(path: Path, image: Any, *, packed: bool = False) -> Path:
    SimpleITK.WriteImage(image, str(path), packed)
    return path


def edited(path: Path, old: bytes, new: bytes) -> Path:
    """A copy of the header's text changed; ``old`` must be there."""
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new, 1))
    return path


# --- where voxels lie


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", KINDS)
@settings(
    max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(seed=st.integers(0, 10**6))
def test_voxels_lie_where_simpleitk_has_them(
    tmp_path: Path, name: str, packed: bool, seed: int
) -> None:
    """Truth is ITK's own mapping of continuous indices, turned from LPS to RAS."""
    image = oblique(seed)
    volume = open_volume(written(tmp_path / name, image, packed=packed))
    np.testing.assert_array_equal(volume.data[...], SimpleITK.GetArrayFromImage(image))
    for index in np.random.default_rng(seed).uniform(-2, 8, (4, 3)):
        lps = image.TransformContinuousIndexToPhysicalPoint(index.tolist())
        ras = (volume.affine @ [*index, 1])[:3]
        np.testing.assert_allclose(ras, np.array(lps) * [-1, -1, 1], atol=1e-4)
    assert {file.suffix for file in volume.files} >= {Path(name).suffix}


def test_the_real_segmentation_lies_on_its_scan(shared_data: Path) -> None:
    """The same segmentation is there as DICOM SEG: geometry of that and of the CT, and voxels."""
    folder = shared_data / "scans" / "ct_abdomen_3slice"
    mask, scan = open_volume(folder / "liver_seg.nrrd"), open_volume(folder / "dicom")
    np.testing.assert_allclose(mask.affine, scan.affine, atol=1e-5)
    assert mask.shape == scan.shape
    # Read without ITK: the header's text, then gzip, x fastest.
    header, packed = (folder / "liver_seg.nrrd").read_bytes().split(b"\n\n", 1)
    assert b"type: short" in header
    values = np.frombuffer(gzip.decompress(packed), "<i2").reshape(3, 512, 512)
    np.testing.assert_array_equal(mask.data[...], values)
    segments = pydicom.dcmread(folder / "liver.dcm")
    heights = [
        float(frame.PlanePositionSequence[0].ImagePositionPatient[2])
        for frame in segments.PerFrameFunctionalGroupsSequence
    ]
    assert heights == pytest.approx((mask.affine @ [[0] * 3, [0] * 3, range(3), [1] * 3])[2])
    np.testing.assert_array_equal(pixel_array(segments) > 0, values > 0)


@pytest.mark.parametrize(
    ("space", "signs"),
    [
        ("left-posterior-superior", (-1, -1, 1)),
        ("LPS", (-1, -1, 1)),
        ("right-anterior-superior", (1, 1, 1)),
        ("RAS", (1, 1, 1)),
        ("left-anterior-superior", (-1, 1, 1)),
    ],
)
def test_each_anatomical_space_of_nrrd_is_honoured(
    tmp_path: Path, space: str, signs: tuple[int, int, int]
) -> None:
    """The format's definition: the names say where the axes of the stated numbers point."""
    image = oblique()
    path = written(tmp_path / "a.nrrd", image)
    edited(path, b"space: left-posterior-superior", f"space: {space}".encode())
    stated = np.eye(4)
    stated[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    stated[:3, 3] = image.GetOrigin()
    expected = np.diag([*signs, 1]) @ stated
    np.testing.assert_allclose(open_volume(path).affine, expected, atol=1e-6)


@pytest.mark.parametrize(("unit", "factor"), [("um", 1e-3), ("cm", 10), ("mm", 1)])
def test_units_of_length_are_honoured(tmp_path: Path, unit: str, factor: float) -> None:
    path = written(tmp_path / "a.nrrd", oblique())
    plain = open_volume(path).affine
    edited(path, b"\nendian", b'\nspace units: "%s" "%s" "%s"\nendian' % ((unit.encode(),) * 3))
    np.testing.assert_allclose(open_volume(path).affine[:3], plain[:3] * factor, atol=1e-9)


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"])
@pytest.mark.parametrize("name", ["a.nrrd", "a.mha"])
def test_every_type_of_number_stays_as_it_is(tmp_path: Path, name: str, dtype: str) -> None:
    image = oblique(dtype=dtype)
    volume = open_volume(written(tmp_path / name, image))
    assert volume.stored.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(volume.data[1, 2:, ::-1], np.asarray(volume.data)[1, 2:, ::-1])
    np.testing.assert_array_equal(np.asarray(volume.data), SimpleITK.GetArrayFromImage(image))


def test_content_decides_and_a_scan_goes_into_ome_zarr(tmp_path: Path) -> None:
    image = oblique()
    path = written(tmp_path / "a.mha", image).rename(tmp_path / "scan.dcm")
    assert is_scan(path)
    made = ingest_volume(path, tmp_path / "out")
    stored = open_volume(getattr(made, "value", made).path)
    np.testing.assert_array_equal(stored.data[...], SimpleITK.GetArrayFromImage(image))
    np.testing.assert_array_equal(stored.affine, open_volume(path).affine)


# --- what is refused


@pytest.mark.parametrize(
    ("name", "old", "new", "words"),
    [
        ("a.nrrd", b"space: left-posterior-superior", b"space dimension: 3", "no field 'space'"),
        ("a.nrrd", b"left-posterior-superior", b"scanner-xyz", "space is 'scanner-xyz'"),
        ("a.nrrd", b"left-posterior-superior", b"3D-right-handed", "never guessed"),
        ("a.nrrd", b"\nendian", b'\nspace units: "mm" "mm" "um"\nendian', "'mixed'"),
        ("a.mha", b"TransformMatrix", b"SomethingMatrix", "no TransformMatrix, and Anatomical"),
        ("a.mha", b"ElementSpacing", b"SomethingElse", "no ElementSpacing"),
        ("a.mha", b"ElementSpacing", b"DistanceUnits = um\nElementSpacing", "distances in um"),
    ],
)  # fmt: skip
def test_a_header_that_leaves_space_open_is_refused(
    tmp_path: Path, name: str, old: bytes, new: bytes, words: str
) -> None:
    image = oblique()
    with pytest.raises(BadGeometry, match=words) as caught:
        open_volume(edited(written(tmp_path / name, image), old, new))
    assert caught.value.remedy or "distances" in words or "mixed" in words or "Spacing" in words


def test_metaimage_in_itks_own_axes_needs_no_matrix(tmp_path: Path) -> None:
    image = oblique()
    image.SetDirection(np.eye(3).ravel().tolist())
    path = written(tmp_path / "a.mha", image)
    whole = open_volume(path).affine
    np.testing.assert_array_equal(
        open_volume(edited(path, b"TransformMatrix", b"SomethingMatrix")).affine, whole
    )
    with pytest.raises(BadGeometry, match="AnatomicalOrientation LPI"):
        open_volume(edited(path, b"= RAI", b"= LPI"))


def test_a_place_that_is_not_stated_is_noted(tmp_path: Path) -> None:
    path = written(tmp_path / "a.mha", oblique())
    assert open_volume(path).notes == ()
    assert "not stated" in open_volume(edited(path, b"Offset", b"Ofsett")).notes[0]


def test_vectors_colour_and_other_axes_are_refused(tmp_path: Path) -> None:
    vectors = SimpleITK.GetImageFromArray(np.zeros((2, 3, 4, 3), np.float32), isVector=True)
    four = SimpleITK.GetImageFromArray(np.zeros((2, 3, 4, 5), np.float32), isVector=False)
    flat = SimpleITK.GetImageFromArray(np.zeros((4, 5), np.float32))
    for name in ("a.nrrd", "a.mha"):
        with pytest.raises(UnreadableFile, match="3 components"):
            open_volume(written(tmp_path / name, vectors))
        with pytest.raises(BadGeometry, match="4 axes"):
            open_volume(written(tmp_path / name, four))
        with pytest.raises(BadGeometry, match="2 axes"):
            open_volume(written(tmp_path / name, flat))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", ["a.nrrd", "a.mha"])
@pytest.mark.parametrize("keep", [0.99, 0.9, 0.5])
def test_a_file_cut_off_is_refused_when_opened(
    tmp_path: Path, name: str, packed: bool, keep: float
) -> None:
    image = SimpleITK.GetImageFromArray(np.random.default_rng(0).random((9, 20, 30)))
    path = written(tmp_path / name, image, packed=packed)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    with pytest.raises(TruncatedFile):
        open_volume(path)


@pytest.mark.parametrize("name", ["a.nrrd", "a.mha", "a.mhd"])
def test_damaged_compressed_voxels_are_never_read(tmp_path: Path, name: str) -> None:
    """ITK reads them from a MetaImage in silence; the stream's own checksum tells."""
    path = written(tmp_path / name, oblique(), packed=True)
    holder = path.with_suffix(".zraw") if name == "a.mhd" else path
    whole = holder.read_bytes()
    for back in range(1, 60):
        data = bytearray(whole)
        data[-back] ^= 0x10
        holder.write_bytes(data)
        try:
            found = open_volume(path).data[...]
        except (TruncatedFile, UnreadableFile):
            continue
        np.testing.assert_array_equal(found, SimpleITK.GetArrayFromImage(oblique()))


def test_voxels_in_a_file_of_their_own_must_be_there_whole(tmp_path: Path) -> None:
    image = oblique()
    for name, voxels in (("a.mhd", "a.raw"), ("b.nhdr", "b.raw")):
        path = written(tmp_path / name, image)
        assert {file.name for file in open_volume(path).files} == {name, voxels}
        (tmp_path / voxels).write_bytes((tmp_path / voxels).read_bytes()[:-1])
        with pytest.raises(TruncatedFile):
            open_volume(path)
        (tmp_path / voxels).unlink()
        with pytest.raises(MissingFile, match=rf"{name}.*{voxels}"):
            open_volume(path)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", ["a.nrrd", "a.mha"])
def test_damage_ends_in_a_reading_or_a_named_error(tmp_path: Path, name: str, packed: bool) -> None:
    whole = written(tmp_path / name, oblique(), packed=packed).read_bytes()
    draw, refused = np.random.default_rng(0), []
    for _ in range(60):
        data = bytearray(whole)
        for place in draw.integers(0, len(whole), draw.integers(1, 8)):
            data[place] ^= 1 << draw.integers(8)
        (tmp_path / name).write_bytes(data)
        try:
            open_volume(tmp_path / name).data[...]
        except MicrotomeError as error:
            refused.append(str(error))
    assert refused
    assert all(name in message for message in refused)
