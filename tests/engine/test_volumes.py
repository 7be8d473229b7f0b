"""Scans are read in value and place as independent readers see them, or refused by name."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.eulerangles import euler2mat
from nibabel.orientations import io_orientation, ornt_transform
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence

from microtome.engine.volumes import Voxels, open_volume
from microtome.storage.errors import (
    BadGeometry,
    EmptyFile,
    MicrotomeError,
    MissingFile,
    TruncatedFile,
    UnreadableFile,
)

SCANS = {
    "ct_abdomen_3slice": "reference_dcm2niix.nii.gz",
    "ct_philips_head_phantom": "reference_dcm2niix.nii.gz",
    "mr_ge_epi_4d": "reference_dcm2niix.nii",
    "mr_rle_compressed": "reference_dicom2nifti.nii.gz",
    "mr_siemens_mosaic": "reference_dcm2niix.nii",
    "mr_siemens_multiframe": "reference_dicom2nifti.nii.gz",
}
NIFTI = [
    "scans/nifti/spm12_PET.nii",
    "scans/nifti/spm12_single_subj_T1.nii",
    "scans/nifti/nibabel_example4d.nii.gz",
    "scans/nifti/nibabel_example_nifti2.nii.gz",
    "scans/nifti/nibabel_anatomical.nii",
    "scans/nifti/nibabel_functional.nii",
    "brain/nifti/nibabel_anatomical.nii",
    "brain/nifti/nibabel_example4d.nii.gz",
    "brain/nifti/nibabel_functional.nii",
    "brain/nifti/spm_EPI.nii.gz",
    "brain/nifti/spm_PET.nii.gz",
    "brain/nifti/spm_SPECT.nii.gz",
    "brain/nifti/spm_avg152T1.nii.gz",
    "brain/nifti/spm_csf.nii.gz",
    "brain/nifti/spm_grey.nii.gz",
    "brain/nifti/spm_single_subj_T1.nii.gz",
    "brain/nifti/spm_white.nii.gz",
    "brain/atlas/labels_Neuromorphometrics.nii.gz",
]


# --- real files


@pytest.mark.parametrize("name", NIFTI)
def test_nifti_is_read_as_nibabel_reads_it(shared_data: Path, name: str) -> None:
    volume, reference = open_volume(shared_data / name), nibabel.load(shared_data / name)
    np.testing.assert_array_equal(np.asarray(volume.data), np.asanyarray(reference.dataobj).T)
    np.testing.assert_allclose(volume.affine, reference.affine, atol=1e-9)
    assert volume.stored.dtype == reference.get_data_dtype()
    zooms = reference.header.get_zooms()
    np.testing.assert_allclose(volume.spacing_mm, zooms[2::-1], rtol=1e-6)
    if len(zooms) == 4 and zooms[3] > 0:
        assert volume.repetition_time_s == pytest.approx(zooms[3])


@pytest.mark.parametrize("name", SCANS)
def test_dicom_equals_what_another_converter_made_of_it(shared_data: Path, name: str) -> None:
    """The reference may run its axes the other way; value and millimetres must agree."""
    folder = shared_data / "scans" / name
    volume, reference = open_volume(folder / "dicom"), nibabel.load(folder / SCANS[name])
    turn = ornt_transform(io_orientation(reference.affine), io_orientation(volume.affine))
    turned = reference.as_reoriented(turn)
    corners = np.array([(*c, 1) for c in itertools.product(*((0, n) for n in turned.shape[:3]))])
    apart = corners @ (turned.affine - volume.affine).T
    assert np.abs(apart).max() < 1e-3
    np.testing.assert_array_equal(np.asarray(volume.data), np.asanyarray(turned.dataobj).T)
    if len(volume.shape) == 4:
        assert volume.repetition_time_s == pytest.approx(reference.header.get_zooms()[3], rel=1e-5)


@pytest.mark.parametrize("name", ["CT_small.dcm", "MR_small.dcm"])
def test_a_single_slice_is_read_as_itk_reads_it(shared_data: Path, name: str) -> None:
    path = shared_data / "scans" / "single" / name
    assert_as_itk_sees_it(path, SimpleITK.ReadImage(str(path)))


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("bad/MR_truncated.dcm", TruncatedFile, "before its pixels"),
        ("bad/no_meta.dcm", UnreadableFile, "no reader"),
        ("bad/badVR.dcm", UnreadableFile, "RTDOSE"),
        ("bad/rtplan_truncated.dcm", EmptyFile, "RTPLAN"),
        ("bad/DICOMDIR", EmptyFile, "directory"),
        ("bad/notavolume", BadGeometry, "4 pictures lie at one position"),
        ("ct_abdomen_3slice/liver.dcm", UnreadableFile, "SEG"),
        ("ct_abdomen_3slice", BadGeometry, r"2 series.*--series"),
        ("nifti", EmptyFile, "no DICOM"),
        ("SOURCE.md", UnreadableFile, "no reader"),
        ("nowhere", MissingFile, "no such"),
    ],
)
def test_bad_input_is_refused_by_name(
    shared_data: Path, name: str, error: type[MicrotomeError], words: str
) -> None:
    with pytest.raises(error, match=words) as caught:
        open_volume(shared_data / "scans" / name)
    assert caught.value.where is not None
    assert Path(name).name in caught.value.where


def test_every_scan_of_the_collection_is_tried(shared_data: Path) -> None:
    here = shared_data / "scans"
    tried = {*SCANS, "single", "bad", "nifti"}
    assert {p.name for p in here.iterdir() if p.is_dir()} == tried
    nifti = {p.relative_to(shared_data).as_posix() for p in here.glob("nifti/*")}
    brain = {p.relative_to(shared_data).as_posix() for p in shared_data.glob("brain/nifti/*")}
    assert nifti | brain <= set(NIFTI)


def test_a_series_is_chosen_by_number_or_uid(shared_data: Path) -> None:
    folder = shared_data / "scans" / "ct_abdomen_3slice"
    by_number = open_volume(folder, series="2")
    assert (by_number.shape, by_number.modality) == ((3, 512, 512), "CT")
    assert open_volume(folder, series=by_number.series).shape == by_number.shape
    with pytest.raises(BadGeometry, match="no series 7"):
        open_volume(folder, series="7")


# --- phantoms of known geometry

SHAPE = (5, 4, 6)  # z, y, x: no two alike
LANDMARKS = {(0, 0, 0): 100, (4, 0, 0): 200, (0, 3, 0): 300, (0, 0, 5): 400}


def landmarked(seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).integers(0, 90, SHAPE).astype(np.uint16)
    for place, value in LANDMARKS.items():
        values[place] = value
    return values


def oblique_affine() -> np.ndarray:
    """RAS; rotated about all axes, no two spacings alike, right-handed in LPS."""
    turn = euler2mat(0.3, -0.2, 0.5) @ np.diag([-1, -1, 1])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([0.7, 1.1, 2.3])
    affine[:3, 3] = [-31.5, 12.25, 44.0]
    return affine


def test_an_oblique_nifti_has_its_landmarks_where_they_were_put(tmp_path: Path) -> None:
    affine, values = oblique_affine(), landmarked()
    nibabel.save(nibabel.Nifti1Image(values.T, affine), tmp_path / "a.nii.gz")
    volume = open_volume(tmp_path / "a.nii.gz")
    assert volume.shape == SHAPE
    np.testing.assert_allclose(volume.spacing_mm, (2.3, 1.1, 0.7), rtol=1e-6)
    for (k, j, i), value in LANDMARKS.items():
        assert volume.data[k, j, i] == value
        wanted = affine @ (i, j, k, 1)
        np.testing.assert_allclose(volume.affine @ (i, j, k, 1), wanted, atol=1e-5)


Change = Callable[[int, Dataset], None]
Writer = Callable[..., Path]


@pytest.fixture
def write_series(write_slices: Writer) -> Writer:
    """Write [z, y, x] as classic slices with a RAS affine, oblique unless another is given."""

    def write(
        folder: Path, values: np.ndarray, affine: np.ndarray | None = None, **how: Any
    ) -> Path:
        lps = np.diag([-1, -1, 1, 1]) @ (oblique_affine() if affine is None else affine)
        spacing = np.linalg.norm(lps[:3, :3], axis=0)
        return write_slices(
            folder,
            values,
            [(lps @ (0, 0, k, 1))[:3] for k in range(len(values))],
            orientation=(lps[:3, :2] / spacing[:2]).T.ravel(),
            spacing_mm=(float(spacing[1]), float(spacing[0])),
            **how,
        )

    return write


def assert_as_itk_sees_it(path: Path, image: Any) -> None:
    volume = open_volume(path)
    np.testing.assert_array_equal(np.asarray(volume.data), SimpleITK.GetArrayFromImage(image))
    lps = np.diag([-1, -1, 1, 1]) @ volume.affine
    for k, j, i in ((0, 0, 0), np.array(volume.shape) - 1):
        place = image.TransformIndexToPhysicalPoint([int(i), int(j), int(k)])
        np.testing.assert_allclose((lps @ (i, j, k, 1))[:3], place, atol=1e-3)


def itk_series(folder: Path) -> Any:
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    return reader.Execute()


def test_an_oblique_dicom_has_its_landmarks_where_they_were_put(
    tmp_path: Path, write_series: Writer
) -> None:
    folder, affine = write_series(tmp_path / "s", landmarked()), oblique_affine()
    volume = open_volume(folder)
    for (k, j, i), value in LANDMARKS.items():
        place = affine @ (i, j, k, 1)
        index = np.rint(np.linalg.inv(volume.affine) @ place)[:3].astype(int)
        assert volume.data[tuple(index[::-1])] == value
        np.testing.assert_allclose(volume.affine @ (*index, 1), place, atol=1e-3)
    assert_as_itk_sees_it(folder, itk_series(folder))


def test_a_description_names_no_patient(tmp_path: Path, write_series: Writer) -> None:
    def named(_: int, data: Dataset) -> None:
        data.PatientName, data.PatientID, data.PatientBirthDate = "Doe^Jane", "4711", "19701231"
        data.Manufacturer, data.InstitutionName = "Acme", "Saint Elsewhere"

    volume = open_volume(write_series(tmp_path / "s", landmarked(), change=named))
    assert volume.properties["Manufacturer"] == "Acme"
    told = " ".join(volume.properties.values())
    assert not any(word in told for word in ("Doe", "4711", "19701231", "Elsewhere"))


def test_rescale_is_applied_to_data_and_not_to_what_is_stored(
    tmp_path: Path, write_series: Writer
) -> None:
    def to_hu(_: int, data: Dataset) -> None:
        data.RescaleSlope, data.RescaleIntercept = 2, -1024

    folder = write_series(tmp_path / "s", landmarked(), change=to_hu)
    volume = open_volume(folder)
    assert (volume.unit, volume.stored.dtype) == ("HU", np.uint16)
    np.testing.assert_array_equal(np.asarray(volume.data), 2.0 * np.asarray(volume.stored) - 1024)
    assert_as_itk_sees_it(folder, itk_series(folder))


def test_pet_slices_are_rescaled_each_by_its_own_slope(
    tmp_path: Path, write_series: Writer
) -> None:
    def own_slope(k: int, data: Dataset) -> None:
        data.RescaleSlope, data.RescaleIntercept, data.Units = 0.5 + k, 0, "BQML"

    values = landmarked()
    volume = open_volume(write_series(tmp_path / "s", values, change=own_slope, modality="PT"))
    assert (volume.modality, volume.unit) == ("PT", "BQML")
    slopes = 0.5 + np.arange(SHAPE[0])
    np.testing.assert_array_equal(np.asarray(volume.data), values * slopes[:, None, None])
    np.testing.assert_array_equal(volume.data[1:4:2, 1], (values * slopes[:, None, None])[1:4:2, 1])


def test_frames_are_split_by_time_and_dynamic_pet_keeps_its_clock(
    tmp_path: Path, write_series: Writer
) -> None:
    starts_ms = [0, 60_000, 300_000]
    frames = [landmarked(seed) for seed in range(3)]
    for t, frame in enumerate(frames):

        def at_time(k: int, data: Dataset, t: int = t) -> None:
            data.SeriesInstanceUID = "1.2.3"
            data.FrameReferenceTime = starts_ms[t]
            data.InstanceNumber = 100 * k + t

        folder = write_series(
            tmp_path / "s", frame, change=at_time, modality="PT", prefix=f"{2 - t}"
        )
    volume = open_volume(folder)
    np.testing.assert_array_equal(np.asarray(volume.data), np.stack(frames))
    np.testing.assert_array_equal(volume.time_s, [0, 60, 300])
    assert volume.repetition_time_s is None


def two_volumes(write_series: Writer, folder: Path, change: Change) -> Path:
    for t in range(2):

        def both(k: int, data: Dataset, t: int = t) -> None:
            data.SeriesInstanceUID = "1.2.3"
            change(t, data)

        write_series(folder, landmarked(t), change=both, prefix=str(t), modality="MR")
    return folder


def test_two_volumes_that_nothing_tells_apart_are_refused(
    tmp_path: Path, write_series: Writer
) -> None:
    folder = two_volumes(write_series, tmp_path / "s", lambda t, data: None)
    with pytest.raises(BadGeometry, match="2 pictures at each position"):
        open_volume(folder)


def test_two_echoes_in_one_series_are_refused(tmp_path: Path, write_series: Writer) -> None:
    def echo(t: int, data: Dataset) -> None:
        data.EchoTime, data.AcquisitionNumber = 10 * (t + 1), t

    with pytest.raises(BadGeometry, match="contrasts"):
        open_volume(two_volumes(write_series, tmp_path / "s", echo))


def shifted(k_at: int, by_mm: float, axis: int) -> Change:
    def change(k: int, data: Dataset) -> None:
        if k >= k_at:
            position = [float(v) for v in data.ImagePositionPatient]
            position[axis] += by_mm
            data.ImagePositionPatient = position

    return change


def sheared(k: int, data: Dataset) -> None:
    position = [float(v) for v in data.ImagePositionPatient]
    position[1] += 0.4 * k
    data.ImagePositionPatient = position


def turned(k: int, data: Dataset) -> None:
    if k == 2:
        data.ImageOrientationPatient = [0, 1, 0, 1, 0, 0]


def smaller(k: int, data: Dataset) -> None:
    if k == 2:
        data.Rows, data.PixelData = 3, data.PixelData[: 3 * 6 * 2]


def finer(k: int, data: Dataset) -> None:
    if k == 2:
        data.PixelSpacing = [0.5, 0.5]


def unplaced(k: int, data: Dataset) -> None:
    if k == 2:
        del data.ImagePositionPatient


def same_uid(k: int, data: Dataset) -> None:
    data.SOPInstanceUID = "1.2.3"


def coloured(_: int, data: Dataset) -> None:
    data.SamplesPerPixel, data.PhotometricInterpretation = 3, "RGB"


UPRIGHT = np.diag([-0.7, -1.1, 2.3, 1.0])


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (shifted(3, 2.3, 2), BadGeometry, "1 slice is missing after slice 3"),
        (shifted(3, 4.6, 2), BadGeometry, "2 slices are missing after slice 3"),
        (shifted(3, 0.9, 2), BadGeometry, "unevenly spaced"),
        (shifted(3, -2.3, 2), BadGeometry, "between 1 and 2 pictures"),
        (sheared, BadGeometry, r"sheared by 9\.9°"),
        (turned, BadGeometry, "several orientations"),
        (smaller, BadGeometry, "several picture sizes"),
        (finer, BadGeometry, "several pixel spacings"),
        (same_uid, BadGeometry, "twice"),
        (unplaced, BadGeometry, "where the picture lies"),
        (coloured, UnreadableFile, "colour"),
    ],
)
def test_what_is_no_regular_volume_is_refused(
    tmp_path: Path, change: Change, error: type[MicrotomeError], words: str, write_series: Writer
) -> None:
    folder = write_series(tmp_path / "s", landmarked(), UPRIGHT, change=change)
    with pytest.raises(error, match=words):
        open_volume(folder)


def test_positions_rounded_by_the_scanner_are_no_unevenness(
    tmp_path: Path, write_series: Writer
) -> None:
    def rounded(k: int, data: Dataset) -> None:
        data.ImagePositionPatient = [f"{float(v):.2f}" for v in data.ImagePositionPatient]

    volume = open_volume(write_series(tmp_path / "s", landmarked(), UPRIGHT, change=rounded))
    assert volume.spacing_mm[0] == pytest.approx(2.3, abs=0.005)


def test_a_single_slice_without_thickness_is_refused(tmp_path: Path, write_series: Writer) -> None:
    with pytest.raises(BadGeometry, match="thickness"):
        open_volume(write_series(tmp_path / "s", landmarked()[:1]))


def test_two_series_in_a_folder_are_listed(tmp_path: Path, write_series: Writer) -> None:
    for number in (3, 8):

        def numbered(_: int, data: Dataset, number: int = number) -> None:
            data.SeriesNumber, data.SeriesDescription = number, f"scan {number}"

        write_series(tmp_path / "s", landmarked(number), change=numbered, prefix=f"{number}_")
    with pytest.raises(BadGeometry, match=r"(?s)3: CT scan 3, 5 files.*8: CT scan 8, 5 files"):
        open_volume(tmp_path / "s")
    assert_same = np.testing.assert_array_equal
    assert_same(np.asarray(open_volume(tmp_path / "s", series="8").data), landmarked(8))


def test_frames_without_positions_are_refused(shared_data: Path, tmp_path: Path) -> None:
    path = next((shared_data / "scans" / "mr_siemens_multiframe" / "dicom").iterdir())
    data = pydicom.dcmread(path)
    groups = data.PerFrameFunctionalGroupsSequence
    del groups[3].PlanePositionSequence
    data.save_as(tmp_path / "a.dcm")
    with pytest.raises(BadGeometry, match="frame 4"):
        open_volume(tmp_path / "a.dcm")
    data.PerFrameFunctionalGroupsSequence = Sequence(groups[:5])
    data.save_as(tmp_path / "b.dcm")
    with pytest.raises(BadGeometry, match="8 frames, but positions for 5"):
        open_volume(tmp_path / "b.dcm")


# --- lazy arrays

AXIS = st.one_of(
    st.integers(-2, 1), st.slices(4), st.builds(slice, st.none(), st.none(), st.integers(1, 3))
)


@settings(max_examples=200, deadline=None)
@given(index=st.lists(AXIS, max_size=4), at=st.integers(0, 4), ellipsis=st.booleans())
def test_voxels_are_sliced_as_numpy_slices(index: list[Any], at: int, ellipsis: bool) -> None:
    values = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    boxes: list[tuple[slice, ...]] = []

    def read_box(box: tuple[slice, ...]) -> np.ndarray:
        boxes.append(box)
        return values[box]

    voxels = Voxels(values.shape, values.dtype, read_box)
    key = (*index[:at], ..., *index[at:]) if ellipsis else tuple(index)
    np.testing.assert_array_equal(voxels[key], values[key])
    assert all(s.step == 1 and 0 <= s.start < s.stop for box in boxes for s in box)


def test_voxels_refuse_what_numpy_refuses() -> None:
    voxels = Voxels((2, 3, 4), np.dtype(np.int16), lambda box: np.zeros((2, 3, 4), np.int16)[box])
    for index in [(5,), (0, 0, 0, 0), (..., ...)]:
        with pytest.raises(IndexError):
            voxels[index]
    assert np.asarray(voxels, np.float32).dtype == np.float32


def test_only_the_slices_that_are_asked_for_are_read(shared_data: Path, tmp_path: Path) -> None:
    """A slice that is damaged does not matter until it is wanted."""
    source = shared_data / "scans" / "mr_rle_compressed" / "dicom"
    for path in source.iterdir():
        data = pydicom.dcmread(path)
        if data.InstanceNumber == 3:
            data.PixelData = encapsulate([b"\x01" * 300])
            data["PixelData"].is_undefined_length = True
        data.save_as(tmp_path / path.name)
    # The slices were numbered from the last to the first: the third is at index 1.
    volume, whole = open_volume(tmp_path), np.asarray(open_volume(source).data)
    np.testing.assert_array_equal(volume.data[2:], whole[2:])
    with pytest.raises(UnreadableFile, match=r"0003\.dcm"):
        volume.data[1]
