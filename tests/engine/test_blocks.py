"""Blocks of scans lie where nibabel says, hold what other resamplers give, and fit each other."""

from __future__ import annotations

from pathlib import Path

import cv2
import nibabel
import nibabel.processing
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.affines import apply_affine
from scipy import ndimage

from microtome.engine.volumes import Volume, Voxels, open_volume
from microtome.engine.volumes.blocks import (
    BlockGrid,
    foreground_fraction,
    read_blocks,
    read_lattice,
)
from microtome.engine.volumes.windows import (
    WINDOWS,
    Window,
    body_window,
    find_foreground,
    modality_of,
    robust_window,
    window_of,
    without_bias,
)
from microtome.storage.errors import BadGeometry, BadResolution, NoModality, NoTissue


def volume_of(data: np.ndarray, affine: np.ndarray, modality: str = "CT") -> Volume:
    voxels = Voxels(data.shape, data.dtype, data.__getitem__)
    return Volume(Path("scan"), "test", voxels, affine, modality=modality, unit="HU")


def affine_of(spacing_zyx: tuple[float, float, float], seed: int = 0) -> np.ndarray:
    """Oblique: a rotation by any angle, and a mirror, as scanners have them."""
    rng = np.random.default_rng(seed)
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    affine = np.eye(4)
    affine[:3, :3] = turn * np.array(spacing_zyx[::-1])
    affine[:3, 3] = rng.normal(0, 50, 3)
    return affine


@pytest.fixture(scope="module")
def noise() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(24, 30, 36)).astype(np.float32)


class TestSamples:
    @pytest.mark.parametrize("factor", [1.5, 2.0, 3.0])
    def test_are_opencvs_means_by_area(self, noise, factor):
        volume = volume_of(noise, affine_of((1, 1, 1)))
        ours = read_lattice(volume, BlockGrid.over(volume, spacing_mm=factor, block_px=1))
        depth, height, width = (round(n / factor) for n in noise.shape)
        planes = [cv2.resize(p, (width, height), interpolation=cv2.INTER_AREA) for p in noise]
        flat = np.stack(planes).reshape(len(noise), -1)
        theirs = cv2.resize(flat, (flat.shape[1], depth), interpolation=cv2.INTER_AREA)
        np.testing.assert_allclose(ours, theirs.reshape(ours.shape), atol=1e-5)

    def test_of_a_smooth_scan_are_those_that_nibabel_interpolates(self):
        z, y, x = np.meshgrid(*(np.arange(n) for n in (20, 30, 40)), indexing="ij")
        data = np.sin(z / 6) + np.cos(y / 9) * np.sin(x / 8)
        affine = affine_of((2.5, 1.0, 1.0), seed=3)
        volume = volume_of(data, affine)
        grid = BlockGrid.over(volume, spacing_mm=2.5, block_px=1)
        step = np.array(grid.step_vox)
        scaled = affine @ nibabel.affines.from_matvec(np.diag(step[::-1]), (step[::-1] - 1) / 2)
        image = nibabel.Nifti1Image(data.transpose(2, 1, 0), affine)
        target = (grid.lattice_px[::-1], scaled)
        theirs = nibabel.processing.resample_from_to(image, target, order=3).get_fdata()
        np.testing.assert_allclose(
            read_lattice(volume, grid)[1:-1, 1:-1, 1:-1],
            theirs.transpose(2, 1, 0)[1:-1, 1:-1, 1:-1],
            atol=0.02,
        )

    def test_are_the_voxels_themselves_within_half_a_percent(self, noise):
        volume = volume_of(noise, affine_of((1.0, 0.998, 1.003)))
        grid = BlockGrid.over(volume, spacing_mm=1.0, block_px=6)
        assert grid.step_vox == (1, 1, 1)
        np.testing.assert_array_equal(read_lattice(volume, grid), noise)

    def test_detail_finer_than_the_lattice_does_not_fold_into_it(self):
        stripes = np.tile(np.array([-1.0, 1.0]), 60)
        data = np.broadcast_to(stripes, (8, 8, 120)).copy()
        volume = volume_of(data, affine_of((1, 1, 1)))
        lattice = read_lattice(volume, BlockGrid.over(volume, spacing_mm=2.0, block_px=4))
        np.testing.assert_allclose(lattice, 0, atol=1e-6)

    def test_what_is_no_number_spoils_only_what_it_is_part_of(self, noise):
        holed = noise.copy()
        holed[5, 7, 9] = np.nan
        volume = volume_of(holed, affine_of((1, 1, 1)))
        lattice = read_lattice(volume, BlockGrid.over(volume, spacing_mm=1.5, block_px=4))
        assert np.argwhere(np.isnan(lattice)).tolist() == [[3, 4, 6], [3, 5, 6]]

    def test_of_a_scan_on_disk_are_those_of_its_array(self, noise, tmp_path):
        affine = affine_of((3.0, 1.0, 1.0))
        path = tmp_path / "scan.nii.gz"
        nibabel.save(nibabel.Nifti1Image(noise.transpose(2, 1, 0), affine), path)
        opened, held = open_volume(path), volume_of(noise, affine)
        grids = [BlockGrid.over(v, spacing_mm=3.0, block_px=3) for v in (opened, held)]
        pair = [read_lattice(v, g) for v, g in zip((opened, held), grids, strict=True)]
        np.testing.assert_allclose(*pair, atol=1e-5)


class TestPlaces:
    @pytest.mark.parametrize("seed", range(4))
    def test_a_ramp_in_millimetres_says_where_a_block_is(self, seed):
        """The mean of an affine function over whole voxels is its value in their middle."""
        shape, slope = (18, 40, 45), np.array([0.3, -0.7, 1.1])
        affine = affine_of((3.0, 1.2, 0.8), seed)
        index = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), axis=-1)
        data = apply_affine(affine, index[..., ::-1]) @ slope
        volume = volume_of(data, affine)
        grid = BlockGrid.over(volume, spacing_mm=3.0, block_mm=12.0)
        middle = grid.corner_vox + np.array(grid.footprint_vox) / 2 - 0.5
        expected = apply_affine(affine, middle[:, ::-1]) @ slope
        means = read_blocks(volume, grid).mean((1, 2, 3))
        np.testing.assert_allclose(means, expected, atol=2e-3)
        np.testing.assert_allclose(grid.footprint_vox, (4, 10, 15), rtol=1e-6)

    @settings(deadline=None, max_examples=60)
    @given(
        n=st.tuples(*[st.integers(3, 40)] * 3),
        block=st.integers(1, 12),
        stride=st.integers(1, 14),
        edge=st.sampled_from(["drop", "keep", "pad"]),
    )
    def test_edges(self, n, block, stride, edge):
        volume = volume_of(np.zeros(n, np.float32), np.eye(4))
        if edge != "pad" and block > min(n):
            with pytest.raises(BadGeometry, match="not one block"):
                BlockGrid.over(volume, spacing_mm=1, block_px=block, stride_px=stride, edge=edge)
            return
        grid = BlockGrid.over(volume, spacing_mm=1, block_px=block, stride_px=stride, edge=edge)
        assert len(np.unique(grid.starts_px, axis=0)) == len(grid)
        for axis, size in enumerate(n):
            starts = np.unique(grid.starts_px[:, axis])
            before, after = starts[0], size - (starts[-1] + block)
            if edge != "pad":
                assert before >= 0
                assert after >= 0
            if edge == "keep":
                assert (before, after) == (0, 0)
            else:
                assert abs(before - after) <= 1
                assert set(np.diff(starts)) <= {stride}

    def test_blocks_that_touch_or_overlap_agree_to_the_bit(self, noise):
        volume = volume_of(noise, affine_of((1, 0.7, 0.8)))
        lattice = read_lattice(volume, BlockGrid.over(volume, spacing_mm=1.3, block_px=1))
        for edge in ("drop", "keep", "pad"):
            grid = BlockGrid.over(volume, spacing_mm=1.3, block_px=7, stride_px=4, edge=edge)
            padded = np.pad(lattice, 7, constant_values=np.nan)
            for start, block in zip(grid.starts_px + 7, read_blocks(volume, grid), strict=True):
                z, y, x = start
                np.testing.assert_array_equal(block, padded[z : z + 7, y : y + 7, x : x + 7])

    def test_slices_are_taken_one_by_one_or_with_their_neighbours(self, noise):
        volume = volume_of(noise, affine_of((5, 1, 1)))
        single = BlockGrid.slices(volume, tile_px=30, spacing_mm=1.0)
        stacked = BlockGrid.slices(volume, tile_px=30, spacing_mm=1.0, depth=3)
        assert (len(single), len(stacked)) == (24, 22)
        np.testing.assert_array_equal(read_blocks(volume, single)[:, 0], noise[:, :, 3:33])
        np.testing.assert_array_equal(read_blocks(volume, stacked)[4], noise[4:7, :, 3:33])


class TestRefusals:
    def test_a_scan_is_never_enlarged(self, noise):
        volume = volume_of(noise, affine_of((5.0, 0.5, 0.5)))
        with pytest.raises(BadResolution, match=r"5 × 0\.5 × 0\.5 mm.*never enlarged"):
            BlockGrid.over(volume, spacing_mm=1.0, block_px=4)
        with pytest.raises(BadResolution, match=r"the 0\.4 mm asked for"):
            BlockGrid.slices(volume, tile_px=8, spacing_mm=0.4)

    def test_a_block_is_a_whole_number_of_samples(self, noise):
        volume = volume_of(noise, affine_of((1, 1, 1)))
        with pytest.raises(BadGeometry, match="--block-mm 18 or 21"):
            BlockGrid.over(volume, spacing_mm=3.0, block_mm=20.0)

    def test_time_points_and_sheared_voxels(self, noise):
        with pytest.raises(BadGeometry, match="2 time points"):
            BlockGrid.over(volume_of(noise[None][[0, 0]], np.eye(4)), spacing_mm=1, block_px=2)
        sheared = np.eye(4)
        sheared[0, 1] = 0.2
        with pytest.raises(BadGeometry, match="not right-angled"):
            BlockGrid.over(volume_of(noise, sheared), spacing_mm=1.5, block_px=2)

    def test_a_modality_is_never_guessed(self, noise):
        unknown = volume_of(noise, np.eye(4), modality="unknown")
        with pytest.raises(NoModality, match="--modality"):
            modality_of(unknown)
        assert modality_of(unknown, "mr") == "MR"
        with pytest.raises(NoModality, match="this is CT, not MR"):
            modality_of(volume_of(noise, np.eye(4)), "mr")
        with pytest.raises(NoModality, match="ct, mr or pt"):
            modality_of(unknown, "us")

    @pytest.mark.parametrize("text", ["liver", "40", "40/0", "a/b", "nan/3"])
    def test_a_window_that_is_none(self, text):
        with pytest.raises(BadGeometry, match="CENTRE/WIDTH"):
            window_of(text)


class TestIntensities:
    @pytest.mark.parametrize("name", WINDOWS)
    def test_windows_are_those_that_pydicom_applies(self, name):
        from pydicom.dataset import Dataset
        from pydicom.pixels import apply_windowing

        window, hu = WINDOWS[name], np.arange(-1200, 3000, 7, dtype=np.int16)
        header = Dataset()
        header.WindowCenter = (window.low + window.high) / 2
        header.WindowWidth = window.high - window.low
        header.VOILUTFunction = "LINEAR_EXACT"
        header.PhotometricInterpretation = "MONOCHROME2"
        header.BitsStored, header.PixelRepresentation = 16, 1
        theirs = (apply_windowing(hu, header) + 32768) / 65535
        np.testing.assert_allclose(window.apply(hu.astype(np.float32)), theirs, atol=1e-6)

    def test_a_window_in_figures(self):
        assert window_of("40/80") == Window("40/80", 0.0, 80.0)
        np.testing.assert_array_equal(
            window_of("40/80").apply(np.array([-5, 20, 99, np.nan], np.float32)), [0, 0.25, 1, 0]
        )

    def test_the_body_is_found_with_its_lungs(self):
        z, y, x = np.meshgrid(*(np.arange(n) for n in (6, 60, 80)), indexing="ij")
        body = ((y - 30) / 22) ** 2 + ((x - 40) / 30) ** 2 < 1
        lung = ((y - 30) / 10) ** 2 + ((x - 28) / 8) ** 2 < 1
        hu = np.where(lung, -850, np.where(body, 40, -1000)) + ndimage.gaussian_filter(
            np.random.default_rng(0).normal(0, 20, z.shape), 0.5
        )
        found = find_foreground(hu.astype(np.float32), *body_window(hu, "CT"), where=Path("x"))
        np.testing.assert_array_equal(found, body)
        volume = volume_of(hu, np.eye(4))
        grid = BlockGrid.over(volume, spacing_mm=1, block_px=6)
        expected = [
            body[z : z + 6, y : y + 6, x : x + 6].mean() for z, y, x in grid.starts_px.tolist()
        ]
        np.testing.assert_allclose(foreground_fraction(grid, found), expected, rtol=1e-6)

    def test_where_nothing_differs_there_is_no_body(self):
        with pytest.raises(NoTissue):
            find_foreground(np.full((4, 5, 6), 7, np.float32), 0, 9, where=Path("x"))

    def test_bias_is_found_and_undone(self):
        """Two tissues under a smooth field: each is nearly flat again, and they stay apart."""
        z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in (24, 40, 40)), indexing="ij")
        body = z**2 + y**2 + x**2 < 0.9
        inner = body & (np.sin(6 * y) * np.sin(6 * x) * np.cos(5 * z) > 0)
        true = np.where(inner, 180.0, np.where(body, 100.0, 0.0))
        rng = np.random.default_rng(0)
        biased = true * np.exp(0.35 * x + 0.2 * y * z) + rng.normal(0, 2, true.shape) * body
        flat = without_bias(biased.astype(np.float32), body, (2.0, 2.0, 2.0))
        for tissue in (inner, body & ~inner):
            before = biased[tissue].std() / biased[tissue].mean()
            after = flat[tissue].std() / flat[tissue].mean()
            assert after < before / 3
        window = robust_window(flat, body, where=Path("x"))
        scaled = window.apply(flat)
        assert scaled[inner].mean() - scaled[body & ~inner].mean() > 0.6
