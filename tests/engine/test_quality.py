"""Tile quality: on real tiles that are blurred, painted over and whitened by known amounts."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from skimage.filters import gaussian

from microtome.engine.quality import focus, ink, ink_pixels, tile_quality, white
from microtome.engine.slides import open_slide


@pytest.fixture(scope="module")
def tiles(shared_data) -> np.ndarray:
    """Twelve tiles of real skin at 0.5 µm/px, with tissue all over."""
    with open_slide(shared_data / "slides/aperio/CMU-1-Small-Region.svs") as slide:
        places = [(y, x) for y in (1700, 1960, 2220, 2480) for x in (900, 1160, 1420)]
        return np.stack([slide.read(0, y, x, 256, 256) for y, x in places])


def blurred(tiles: np.ndarray, sigma: float) -> np.ndarray:
    smooth = [gaussian(t, sigma, channel_axis=2, preserve_range=True) for t in tiles]
    return np.rint(smooth).astype(np.uint8)


def test_one_float32_figure_a_tile(tiles):
    columns = tile_quality(tiles)
    assert set(columns) == {"focus", "white", "ink"}
    for column in columns.values():
        assert column.shape == (12,)
        assert column.dtype == np.float32
        assert np.isfinite(column).all()


def test_no_tiles_give_no_figures():
    columns = tile_quality(np.zeros((0, 256, 256, 3), np.uint8))
    assert all(column.shape == (0,) for column in columns.values())


def test_every_tile_loses_focus_with_every_blur(tiles):
    series = np.stack([focus(tiles)] + [focus(blurred(tiles, s)) for s in (0.7, 1.5, 3.0)])
    assert (np.diff(series, axis=0) < 0).all()
    assert (series[2] < 0.3 * series[0]).all()


def test_one_threshold_tells_blurred_from_sharp_whatever_the_tissue(tiles):
    assert focus(blurred(tiles, 2.0)).max() < 0.5 * focus(tiles).min()


def test_focus_does_not_follow_the_strength_of_the_stain(tiles):
    paler = np.rint(255 - (255 - tiles.astype(float)) * 0.5).astype(np.uint8)
    assert focus(paler) == pytest.approx(focus(tiles), rel=0.15)


def test_a_uniform_tile_has_no_focus():
    assert focus(np.full((1, 64, 64, 3), 200, np.uint8))[0] == 0


@pytest.mark.parametrize("fraction", [0.0, 0.25, 0.5, 1.0])
def test_white_is_the_share_that_was_whitened(fraction):
    tile = np.full((1, 128, 128, 3), (200, 120, 170), np.uint8)
    tile[:, :, : round(128 * fraction)] = (238, 236, 240)
    assert white(tile)[0] == pytest.approx(fraction)


def test_grey_and_pale_pink_are_not_white():
    assert white(np.full((1, 32, 32, 3), 150, np.uint8))[0] == 0
    assert white(np.full((1, 32, 32, 3), (240, 210, 225), np.uint8))[0] == 0


@pytest.mark.parametrize(
    "colour",
    [(30, 60, 160), (20, 120, 70), (30, 30, 35)],
    ids=["blue", "green", "black"],
)
def test_ink_is_the_share_that_was_inked(tiles, colour):
    inked = tiles.copy()
    inked[:, 64:160, :] = colour
    assert ink(inked) == pytest.approx(96 / 256, abs=0.07)


def test_stained_tissue_is_not_ink(tiles):
    assert ink(tiles).max() < 0.02


def test_no_mixture_of_haematoxylin_and_eosin_is_green_or_blue_ink():
    """All amounts of Ruifrok's and of Macenko's vectors, up to an optical density of 1.2."""
    amounts = np.stack(np.meshgrid(np.linspace(0, 1.2, 60), np.linspace(0, 1.2, 60)), -1)
    for vectors in (
        [[0.650, 0.704, 0.286], [0.072, 0.990, 0.105]],
        [[0.5626, 0.7201, 0.4062], [0.2159, 0.8012, 0.5581]],
    ):
        rgb = np.rint(255 * 10 ** -(amounts @ np.array(vectors))).astype(np.uint8)
        bright = cv2.cvtColor(rgb, cv2.COLOR_RGB2HSV)[..., 2] >= 70
        assert not ink_pixels(rgb)[bright].any()
