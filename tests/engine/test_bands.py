"""What is done in bands gives what is done at once, value for value."""

from __future__ import annotations

import numpy as np
import pytest

from microtome.engine.tissue import brightfield, fold, pen, shapes
from microtome.engine.tissue.brightfield import density, density_of, entropy, glass_colour
from microtome.engine.tissue.detect import label_tissue
from microtome.engine.tissue.shapes import (
    bands,
    counts,
    looked_up,
    without_holes,
    without_specks,
)


@pytest.fixture
def image() -> np.ndarray:
    import cv2

    rng = np.random.default_rng(0)
    noise = cv2.resize(rng.integers(60, 256, (20, 30, 3)).astype(np.uint8), (151, 97))
    return np.asarray(np.clip(noise + rng.normal(0, 3, noise.shape), 0, 255), np.uint8)


@pytest.fixture
def narrow(monkeypatch) -> None:
    monkeypatch.setattr(shapes, "_BAND_PX", 151 * 7)


@pytest.mark.usefixtures("narrow")
class TestBands:
    def test_they_cover_every_row_once(self, image):
        rows = np.concatenate([np.arange(len(image))[part] for part in bands(image.shape)])
        np.testing.assert_array_equal(rows, np.arange(len(image)))
        assert len(list(bands(image.shape))) == 14

    def test_look_ups_and_counts_are_numpys(self, image):
        values, where = image[..., 0], image[..., 1] > 128
        table = np.random.default_rng(1).random(256)
        np.testing.assert_array_equal(looked_up(table, values), table[values])
        np.testing.assert_array_equal(counts(values, 256), np.bincount(values.ravel(), None, 256))
        np.testing.assert_array_equal(
            counts(values, 256, where), np.bincount(values[where], minlength=256)
        )

    def test_glass_is_the_median_of_the_brightest(self, image):
        brightness = image.max(2)
        tenth = np.searchsorted(np.bincount(brightness.ravel()).cumsum(), 0.9 * brightness.size)
        expected = np.median(image[brightness >= tenth], axis=0)
        if 255 * (expected.max() - expected.min()) > 40 * expected.max():
            expected[:] = expected.max()
        np.testing.assert_allclose(glass_colour(image), expected)

    @pytest.mark.parametrize("values", [[3], [1, 2], [5, 5, 9, 9], [0, 7, 7, 200]])
    def test_the_median_of_a_histogram_is_numpys(self, values):
        assert brightfield._median(np.bincount(values, minlength=256)) == np.median(values)

    def test_density_is_lambert_and_beers(self, image):
        glass = glass_colour(image)
        expected = np.clip(-np.log10(np.maximum(image, 1) / glass), 0, None)
        np.testing.assert_allclose(density_of(image, glass), expected, rtol=1e-5, atol=1e-6)

    def test_smoothing_a_part_is_a_part_of_smoothing_all(self, image):
        import cv2

        glass, mpp = glass_colour(image), 8.0
        whole = cv2.GaussianBlur(density_of(image, glass), (0, 0), 15 / mpp)
        for part in ((slice(0, 40), slice(0, 30)), (slice(50, 97), slice(20, 151))):
            found = fold._smooth_density(image, glass, part, mpp)
            np.testing.assert_allclose(found, whole[part], rtol=0, atol=1e-6)

    def test_red_ink_is_told_by_its_densities(self, image):
        image[:9, :9] = (240, 60, 60)
        light = np.maximum(image, 1) / 243
        red, green, blue = np.moveaxis(-np.log10(light), 2, 0)
        expected = (green > 0.45) & (blue > 0.7 * green) & (red < 0.25 * green)
        np.testing.assert_array_equal(pen._red(image), expected)
        assert expected[:9, :9].all()

    @pytest.mark.parametrize("seed", range(4))
    def test_specks_and_holes_are_those_of_scikit_image(self, seed):
        from scipy.ndimage import gaussian_filter
        from skimage.measure import label

        noise = np.random.default_rng(seed).normal(size=(140, 60))
        mask = gaussian_filter(noise, (3, 1)) > (-0.05, 0.05, 0.1, -0.1)[seed]
        for least_px in (3, 11, 40.5, 300):
            numbers = label(mask, connectivity=2)
            areas = np.bincount(numbers.ravel())
            expected = mask & (areas >= least_px)[numbers]
            np.testing.assert_array_equal(without_specks(mask, least_px), expected)
            numbers = label(~mask, connectivity=2)
            areas = np.bincount(numbers.ravel())
            rim = np.concatenate([numbers[0], numbers[-1], numbers[:, 0], numbers[:, -1]])
            areas[rim] = numbers.size
            expected = mask | (~mask & (areas < least_px)[numbers])
            np.testing.assert_array_equal(without_holes(mask, least_px), expected)

    @pytest.mark.parametrize("share", [0.0, 0.3, 0.8])
    def test_the_median_over_a_mask_is_numpys(self, image, share):
        values = np.maximum(image[..., 0].astype(np.float32) - 90, 0) / 7
        for more in (0, 1):
            where = np.random.default_rng(2).random(values.shape) > share
            where[0, 0] = where.sum() % 2 == more
            found = fold._median(lambda part: part.copy(), values, where, 0)
            assert found == np.median(values[where])


@pytest.mark.parametrize("figure", [density, entropy])
def test_narrow_bands_change_no_figure(image, monkeypatch, figure):
    whole = figure(image, 8.0)
    monkeypatch.setattr(shapes, "_BAND_PX", 151 * 7)
    np.testing.assert_array_equal(figure(image, 8.0), whole)


def test_narrow_bands_change_no_mask(monkeypatch):
    from microtome.engine.synthetic import Painter, plan_slide

    recipe = plan_slide(5, height_px=6144, width_px=6144, tissue_fraction=0.5)
    image = np.ascontiguousarray(Painter(recipe).paint(0, 0, 6144, 6144)[::16, ::16])
    image[40:60, 30:200] = (20, 90, 200)
    image[200:206] = 170
    whole = label_tissue(image, mpp=8.0)
    assert len(np.unique(whole)) >= 3
    monkeypatch.setattr(shapes, "_BAND_PX", image.shape[1] * 9)
    np.testing.assert_array_equal(label_tissue(image, mpp=8.0), whole)
