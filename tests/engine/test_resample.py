"""Tilted, uneven and incomplete stacks: refused, or on request exactly what interpolation gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nibabel.eulerangles import euler2mat
from nibabel.processing import resample_from_to
from pydicom.dataset import Dataset
from scipy.ndimage import shift as scipy_shift

from microtome.engine.volumes import Volume, open_volume
from microtome.engine.volumes.resample import shift_plane
from microtome.storage.errors import BadGeometry

Writer = Callable[..., Path]
SIZE = (7, 9)
SPACING = (1.25, 0.75)  # row, column
STEP = 1e-5
RAMP = np.array([0.7, -1.1, 0.4]), 13.0
"""An affine function of LPS millimetres; linear interpolation gives it back."""


def ramp(lps: np.ndarray) -> np.ndarray:
    gradient, offset = RAMP
    return lps @ gradient + offset


def write_ramp(
    writer: Writer, folder: Path, places: Sequence[Sequence[float]], turn: np.ndarray | None = None
) -> Path:
    """Slices whose first pixels lie at ``places`` (column, row, normal direction; mm)."""
    turn = np.eye(3) if turn is None else turn
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    inside = np.stack([columns * SPACING[1], rows * SPACING[0], 0.0 * rows], axis=-1)
    values = [np.round(ramp((inside + place) @ turn.T) / STEP).astype(np.int32) for place in places]

    def scaled(_: int, data: Dataset) -> None:
        data.RescaleSlope = str(STEP)

    return writer(
        folder,
        np.stack(values),
        [turn @ np.array(place, float) for place in places],
        orientation=turn.T[:2].ravel(),
        spacing_mm=SPACING,
        change=scaled,
    )


def assert_ramp(volume: Volume) -> None:
    """Where there is a value it is the ramp's at that place of the world."""
    index = np.stack(np.meshgrid(*map(np.arange, volume.shape), indexing="ij"), axis=-1)
    ras = index[..., ::-1] @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    data = np.asarray(volume.data)
    known = np.isfinite(data)
    assert known.sum() >= len(data) * (SIZE[0] - 1) * (SIZE[1] - 1)
    # As near as the ramp changes over the thousandth of a millimetre within which planes coincide.
    near = 1.5e-3 * np.linalg.norm(RAMP[0])
    np.testing.assert_allclose(data[known], ramp(ras * [-1, -1, 1])[known], rtol=0, atol=near)


def oblique(seed: int) -> np.ndarray:
    return np.asarray(euler2mat(*np.random.default_rng(seed).uniform(-1, 1, 3)))


def assert_right_angled(volume: Volume) -> None:
    axes = volume.affine[:3, :3] / np.linalg.norm(volume.affine[:3, :3], axis=0)
    np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-6)


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    seed=st.integers(0, 1000),
    tilt_mm=st.tuples(st.floats(-2, 2), st.floats(-2, 2)).filter(lambda t: max(map(abs, t)) > 0.2),
    gaps_mm=st.lists(st.sampled_from([1.0, 2.0, 2.5, 3.7]), min_size=3, max_size=6),
)
def test_a_ramp_of_the_world_is_kept_through_tilt_and_uneven_spacing(
    tmp_path_factory: pytest.TempPathFactory,
    write_slices: Writer,
    seed: int,
    tilt_mm: tuple[float, float],
    gaps_mm: list[float],
) -> None:
    depth = np.cumsum([0, *gaps_mm])
    places = [(tilt_mm[0] * d / 4, tilt_mm[1] * d / 4, d) for d in depth]
    folder = tmp_path_factory.mktemp("scan") / "s"
    write_ramp(write_slices, folder, places, oblique(seed))
    with pytest.raises(BadGeometry, match="--resample"):
        open_volume(folder)
    volume = open_volume(folder, resample=True)
    assert_right_angled(volume)
    assert_ramp(volume)
    assert volume.stored.dtype == np.float32


def test_a_tilted_stack_keeps_its_first_slice_and_its_spacing(
    tmp_path: Path, write_slices: Writer
) -> None:
    places = [(0, 0.5 * k, 2.0 * k) for k in range(6)]
    folder = write_ramp(write_slices, tmp_path / "s", places)
    with pytest.raises(BadGeometry, match=r"sheared by 14\.0° \(tilted gantry\).*--resample"):
        open_volume(folder)
    volume = open_volume(folder, resample=True)
    # 2.5 mm of shear are 2 rows.
    assert volume.shape == (6, SIZE[0] + 2, SIZE[1])
    assert volume.spacing_mm == pytest.approx((2.0, *SPACING))
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    lps = np.stack([columns * SPACING[1], rows * SPACING[0], 0.0 * rows], axis=-1)
    np.testing.assert_allclose(volume.data[0, : SIZE[0]], ramp(lps), atol=1e-5)
    assert np.isnan(volume.data[0, SIZE[0] :]).all()
    assert np.isnan(volume.data[-1, :2]).all()
    assert "up to 2.00 rows and 0.00 columns" in volume.notes[0]
    assert "NaN" in volume.notes[0]


def test_slices_that_are_there_are_kept_between_those_that_are_made(
    tmp_path: Path, write_slices: Writer
) -> None:
    """Thin slices, then thick ones: 2.5 mm below and 5 mm above, as in scans of the head."""
    depth = [0, 2.5, 5, 7.5, 12.5, 17.5]
    folder = write_ramp(write_slices, tmp_path / "s", [(0, 0, d) for d in depth])
    with pytest.raises(BadGeometry, match="--resample"):
        open_volume(folder)
    volume = open_volume(folder, resample=True)
    assert volume.shape == (8, *SIZE)
    assert volume.spacing_mm[0] == pytest.approx(2.5)
    assert_ramp(volume)
    assert "6 slices 2.500 to 5.000 mm apart gave 8 that are 2.500 mm apart" in volume.notes[0]
    assert volume.notes[0].endswith("linearly interpolated: slices 5, 7")


def test_a_gap_is_filled_only_on_request_and_the_note_names_the_slices(
    tmp_path: Path, write_slices: Writer
) -> None:
    values = np.random.default_rng(0).integers(-1000, 1000, (5, *SIZE)).astype(np.int16)
    places = [(0, 0, 2.0 * k) for k in (0, 1, 2, 5, 6)]
    folder = write_slices(tmp_path / "s", values, places, spacing_mm=SPACING)
    with pytest.raises(BadGeometry, match=r"2 slices are missing after slice 3.*complete; or pass"):
        open_volume(folder)
    volume = open_volume(folder, resample=True)
    assert volume.shape == (7, *SIZE)
    for there, made in zip((0, 1, 2, 5, 6), values, strict=True):
        np.testing.assert_array_equal(volume.data[there], made)
    between = values[2] + (values[3].astype(float) - values[2]) / 3
    np.testing.assert_allclose(volume.data[3], between, rtol=1e-6, atol=1e-4)
    assert "2 slices are missing after slice 3" in volume.notes[0]
    assert volume.notes[0].endswith("interpolated: slices 4-5")
    assert volume.is_rescaled is False


def test_any_part_is_read_as_the_whole_has_it(tmp_path: Path, write_slices: Writer) -> None:
    places = [(0.3 * k, -0.4 * k, d) for k, d in enumerate([0, 1, 2, 4, 5])]
    folder = write_ramp(write_slices, tmp_path / "s", places)
    volume = open_volume(folder, resample=True)
    whole = np.asarray(volume.data)
    for part in (np.s_[1:4, 2:5, 3:], np.s_[-1], np.s_[:, 3], np.s_[2, 1, 4], np.s_[::-2, :, 1]):
        np.testing.assert_array_equal(volume.data[part], whole[part])


def test_a_regular_stack_is_left_as_it_is(tmp_path: Path, write_slices: Writer) -> None:
    folder = write_ramp(write_slices, tmp_path / "s", [(0, 0, 2.0 * k) for k in range(4)])
    plain, asked = open_volume(folder), open_volume(folder, resample=True)
    assert asked.stored.dtype == plain.stored.dtype == np.int32
    assert asked.notes == plain.notes == ()
    np.testing.assert_array_equal(asked.affine, plain.affine)


def test_frames_of_time_are_resampled_alike(tmp_path: Path, write_slices: Writer) -> None:
    depth = [0, 1, 2, 4]
    frames = np.random.default_rng(0).integers(0, 99, (2, 4, *SIZE)).astype(np.int16)
    for t, frame in enumerate(frames):

        def at_time(_: int, data: Dataset, t: int = t) -> None:
            data.SeriesInstanceUID, data.TemporalPositionIdentifier = "1.2.3", t + 1

        write_slices(
            tmp_path / "s", frame, [(0, 0, d) for d in depth], modality="MR",
            change=at_time, prefix=str(t),
        )  # fmt: skip
    volume = open_volume(tmp_path / "s", resample=True)
    assert volume.shape == (2, 5, *SIZE)
    np.testing.assert_array_equal(volume.data[:, 4], frames[:, 3])
    np.testing.assert_allclose(volume.data[1, 3], frames[1, 2:].mean(axis=0))
    np.testing.assert_array_equal(volume.data[1], np.asarray(volume.data)[1])


@pytest.mark.parametrize(
    ("places", "words"),
    [
        ([(0, 0, 0), (0, 0, 1), (0, 0, 1), (0, 0, 2)], "between 1 and 2 pictures"),
        ([(0, 0, 0), (0, 0, 40), (0, 0, 40.1), (0, 0, 80)], "made up for the most part"),
    ],
)
def test_copies_and_slices_all_but_at_one_place_are_refused_all_the_same(
    tmp_path: Path, write_slices: Writer, places: list[tuple[float, float, float]], words: str
) -> None:
    folder = write_ramp(write_slices, tmp_path / "s", places)
    with pytest.raises(BadGeometry, match=words):
        open_volume(folder, resample=True)


def test_a_slice_out_of_line_is_noticed(tmp_path: Path, write_slices: Writer) -> None:
    """First and last are in line: only those between tell."""
    places = [(0, 0, 0), (0, 0.8, 1), (0, 0.8, 2), (0, 0, 3)]
    folder = write_ramp(write_slices, tmp_path / "s", places)
    with pytest.raises(BadGeometry, match=r"displaced sideways by up to 0\.80 mm.*--resample"):
        open_volume(folder)
    assert_ramp(open_volume(folder, resample=True))


@given(
    shift=st.tuples(st.integers(0, 3 * 64), st.integers(0, 3 * 64)), seed=st.integers(0, 99)
)  # fmt: skip
def test_a_plane_is_shifted_as_scipy_shifts_it(shift: tuple[int, int], seed: int) -> None:
    plane = np.random.default_rng(seed).random((6, 8))
    padded = np.zeros((10, 12))
    padded[:6, :8] = plane
    ours = shift_plane(plane, np.array(shift) / 64, (10, 12))
    theirs = scipy_shift(padded, np.array(shift) / 64, order=1, mode="constant", cval=np.nan)
    # Where the plane reaches; SciPy sees the padding beside it and leaves its own edge out.
    known = np.isfinite(ours)
    assert known.sum() >= (6 - 1) * (8 - 1)
    np.testing.assert_allclose(
        theirs[known & np.isfinite(theirs)], ours[known & np.isfinite(theirs)]
    )


def test_a_tilted_scan_comes_out_as_nibabel_resamples_it(
    tmp_path: Path, write_slices: Writer
) -> None:
    """Noise, so that nothing but the same interpolation at the same places can agree."""
    values = np.random.default_rng(0).integers(-1000, 1000, (6, *SIZE)).astype(np.int16)
    places = [(0.3 * k, -0.7 * k, 2.0 * k) for k in range(6)]
    volume = open_volume(
        write_slices(tmp_path / "s", values, places, spacing_mm=SPACING), resample=True
    )
    sheared = np.eye(4)
    sheared[:3, :3] = np.array([[SPACING[1], 0, 0], [0, SPACING[0], 0], places[1]]).T
    tilted = nibabel.Nifti1Image(values.T.astype(np.float64), np.diag([-1, -1, 1, 1]) @ sheared)
    expected = resample_from_to(
        tilted, (volume.shape[::-1], volume.affine), order=1, cval=np.nan
    ).get_fdata()
    ours = np.asarray(volume.data).T
    both = np.isfinite(ours) & np.isfinite(expected)
    assert both.sum() >= 6 * (SIZE[0] - 2) * (SIZE[1] - 2)
    np.testing.assert_allclose(ours[both], expected[both], atol=1e-3)
