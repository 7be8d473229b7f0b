"""Colour deconvolution and a slide's own stains."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from microtome.engine.stain import (
    REFERENCE,
    RUIFROK_HED,
    estimate_stains,
    optical_density,
    separate,
)

FAMILIES = {
    "purple": ((0.65, 0.70, 0.29), (0.07, 0.99, 0.11)),
    "blue": ((0.82, 0.50, 0.28), (0.10, 0.92, 0.38)),
}


def expose(amounts: np.ndarray, stains: np.ndarray) -> np.ndarray:
    """Beer and Lambert's law: amounts [..., k] of stains [k, 3] to uint8 RGB."""
    return np.clip(np.rint(255 * 10.0 ** -(amounts @ stains)), 0, 255).astype(np.uint8)


def unit(vectors) -> np.ndarray:
    v = np.asarray(vectors, float)
    return v / np.linalg.norm(v, axis=-1, keepdims=True)


def angle_degrees(a, b) -> float:
    return float(np.degrees(np.arccos(np.clip(unit(a) @ unit(b), -1, 1))))


@pytest.fixture(scope="module")
def tissue() -> np.ndarray:
    """Amounts [h, w, 2]: eosin everywhere, haematoxylin in a tenth of the pixels."""
    rng = np.random.default_rng(0)
    eosin = rng.gamma(8, 0.4 / 8, (256, 256))
    haematoxylin = np.where(rng.random((256, 256)) < 0.1, rng.gamma(20, 0.6 / 20, (256, 256)), 0.02)
    return np.stack([haematoxylin, eosin * np.where(haematoxylin > 0.1, 0.2, 1)], axis=-1)


def test_deconvolution_equals_skimage():
    from skimage.color import hed_from_rgb, rgb2hed, separate_stains

    rgb = np.random.default_rng(0).integers(1, 256, (64, 80, 3), dtype=np.uint8)
    # skimage takes logarithms to the base of 1e-6, we to that of 10.
    np.testing.assert_allclose(separate(rgb, RUIFROK_HED), 6 * rgb2hed(rgb), atol=2e-6)
    np.testing.assert_allclose(
        separate(rgb, RUIFROK_HED), 6 * separate_stains(rgb, hed_from_rgb), atol=2e-6
    )


def test_optical_density_is_zero_for_white_and_finite_for_black():
    rgb = np.array([[[255, 0, 128]]], np.uint8)
    np.testing.assert_allclose(
        optical_density(rgb)[0, 0], [0, np.log10(255), np.log10(255 / 128)], rtol=1e-6
    )


def test_batches_are_separated_as_their_tiles_are():
    rgb = np.random.default_rng(1).integers(0, 256, (3, 16, 24, 3), dtype=np.uint8)
    whole = REFERENCE.separate(rgb)
    assert whole.shape == (3, 16, 24, 2)
    for tile, amounts in zip(rgb, whole, strict=True):
        np.testing.assert_array_equal(REFERENCE.separate(tile), amounts)


@settings(max_examples=50, deadline=None)
@given(
    amounts=st.tuples(*[st.floats(0, 0.8)] * 2),
    family=st.sampled_from(sorted(FAMILIES)),
)
def test_known_amounts_come_back(amounts, family):
    stains = np.vstack([unit(FAMILIES[family]), unit(np.cross(*FAMILIES[family]))])
    rgb = expose(np.array([[[*amounts, 0.0]]]), stains)
    # Rounding to 8 bits moves the density of a channel at intensity I by 0.5 / (I ln 10) at most.
    moved = 0.5 / (max(int(rgb.min()), 1) * np.log(10)) * np.abs(np.linalg.inv(stains)).sum(0).max()
    np.testing.assert_allclose(separate(rgb, stains)[0, 0, :2], amounts, atol=moved + 1e-5)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_planted_stains_are_found(tissue, family):
    planted = unit(FAMILIES[family])
    found = estimate_stains(expose(tissue, planted))
    assert found.source == "estimated"
    assert angle_degrees(found.haematoxylin, planted[0]) < 5
    assert angle_degrees(found.eosin, planted[1]) < 5


def test_normalised_amounts_agree_between_laboratories(tissue):
    """The same tissue, stained in other shades and half as strong, gives the same amounts."""
    purple = expose(tissue, unit(FAMILIES["purple"]))
    blue = expose(0.6 * tissue, unit(FAMILIES["blue"]))
    a, b = (estimate_stains(rgb).separate(rgb) for rgb in (purple, blue))
    raw = np.abs(REFERENCE.separate(purple) - REFERENCE.separate(blue)).mean()
    assert np.abs(a - b).mean() < 0.03
    assert np.abs(a - b).mean() < raw / 3


@pytest.mark.parametrize(
    "rgb",
    [
        pytest.param(np.full((64, 64, 3), 250, np.uint8), id="glass"),
        pytest.param(np.zeros((0, 0, 3), np.uint8), id="nothing"),
        pytest.param(
            expose(
                np.random.default_rng(2).gamma(8, 0.05, (64, 64, 1)),
                unit([FAMILIES["purple"][1]]),
            ),
            id="eosin alone",
        ),
        pytest.param(
            np.random.default_rng(3).integers(0, 256, (64, 64, 3), dtype=np.uint8), id="noise"
        ),
    ],
)
def test_reference_stains_where_the_slide_cannot_tell(rgb):
    found = estimate_stains(rgb)
    assert found.source == "reference"
    assert angle_degrees(found.haematoxylin, RUIFROK_HED[0]) < 0.1
    assert angle_degrees(found.eosin, RUIFROK_HED[1]) < 0.1
