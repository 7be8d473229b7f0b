"""Augmentation in the space of the stains: by its formula, on known amounts, and on real tissue."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from microtome.engine.slides import open_slide
from microtome.engine.stain import REFERENCE, Stains, augment, estimate_stains
from microtome.engine.stain.augment import restain

PURPLE = Stains(REFERENCE.haematoxylin, REFERENCE.eosin, scale=(0.9, 0.5))


def seeded(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def exposed(amounts: np.ndarray, stains: Stains) -> np.ndarray:
    """Light 0 … 255 through amounts [..., 2] in units of the stains' scale."""
    return 255 * 10.0 ** -(amounts * stains.scale @ stains.vectors)


@pytest.fixture(scope="module")
def tiles(shared_data) -> np.ndarray:
    """Real skin with glass beside it."""
    with open_slide(shared_data / "slides/aperio/CMU-1-Small-Region.svs") as slide:
        return np.stack([slide.read(0, y, x, 256, 256) for y in (1500, 1756) for x in (300, 900)])


@settings(max_examples=40, deadline=None)
@given(
    amounts=st.tuples(st.floats(0.3, 1), st.floats(0.3, 1)),
    alpha=st.tuples(st.floats(0.6, 1.4), st.floats(0.6, 1.4)),
    beta=st.tuples(st.floats(-0.2, 0.2), st.floats(-0.2, 0.2)),
)
def test_amounts_are_scaled_and_shifted(amounts, alpha, beta):
    seen = np.rint(exposed(np.array(amounts), PURPLE)).astype(np.uint8)
    got = restain(seen[None, None], PURPLE, np.array(alpha), np.array(beta))[0, 0]
    wanted = exposed(np.array(alpha) * amounts + beta, PURPLE)
    # The pixel was rounded before, and its amounts are of the rounded pixel.
    assert (np.abs(got - wanted) <= 1.5 + 0.05 * wanted).all()


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_without_spread_nothing_changes_bit_for_bit(seed):
    pixels = seeded(seed).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    same = augment(pixels, PURPLE, seeded(seed), sigma_alpha=0, sigma_beta=0)
    np.testing.assert_array_equal(same, pixels)
    assert same is not pixels


def test_the_generator_decides_everything(tiles):
    stains = estimate_stains(tiles[:, ::4, ::4])
    strong = {"sigma_alpha": 0.2, "sigma_beta": 0.2}
    a = augment(tiles, stains, seeded(1), **strong)
    np.testing.assert_array_equal(a, augment(tiles, stains, seeded(1), **strong))
    assert (a != augment(tiles, stains, seeded(2), **strong)).any()
    rng = seeded(1)
    parts = [augment(part, stains, rng, **strong) for part in (tiles[:1], tiles[1:])]
    np.testing.assert_array_equal(np.concatenate(parts), a)


def test_tiles_change_each_in_its_own_way():
    same = np.full((6, 8, 8, 3), (150, 90, 140), np.uint8)
    got = augment(same, PURPLE, seeded(), sigma_alpha=0.2, sigma_beta=0.2)
    assert len(np.unique(got[:, 0, 0], axis=0)) == 6


def test_glass_is_untouched_and_tissue_is_not(tiles):
    stains = estimate_stains(tiles[:, ::4, ::4])
    got = augment(tiles, stains, seeded(), sigma_alpha=0.2, sigma_beta=0.2)
    density = np.linalg.norm(-np.log10(np.maximum(tiles, 1) / 255), axis=-1)
    glass, tissue = density <= 0.0999, density > 0.3
    assert glass.mean() > 0.1
    np.testing.assert_array_equal(got[glass], tiles[glass])
    assert (got[tissue] != tiles[tissue]).any(axis=-1).mean() > 0.95


def test_no_edge_appears_between_glass_and_tissue():
    """A slow ramp from glass to tissue stays one: no step is more than a few levels."""
    ramp = exposed(np.linspace(0, 1, 2000)[:, None] * (0.5, 0.5), PURPLE)
    tile = np.rint(ramp).astype(np.uint8)[None]
    for beta in (-0.2, 0.2):
        got = restain(tile, PURPLE, np.ones(2), np.full(2, beta))[0].astype(int)
        assert np.abs(np.diff(got, axis=0)).max() <= 6


@pytest.mark.parametrize("value", [0, 1, 254, 255])
def test_extremes_neither_overflow_nor_wrap(value):
    flat = np.full((1, 4, 4, 3), value, np.uint8)
    for seed in range(20):
        got = augment(flat, PURPLE, seeded(seed), sigma_alpha=0.2, sigma_beta=0.2)
        assert got.dtype == np.uint8
        assert np.abs(got.astype(int) - flat).max() <= 40


def test_a_stain_can_be_taken_away_but_not_more_of_it_than_there_is():
    eosin = np.rint(exposed(np.array([0.0, 0.8]), PURPLE)).astype(np.uint8)[None, None]
    got = restain(eosin, PURPLE, np.ones(2), np.array([-0.5, -2.0]))
    assert got.min() >= 245


def test_impossible_spreads_are_refused():
    for wrong in ({"sigma_alpha": -0.1}, {"sigma_alpha": 1.1}, {"sigma_beta": -1}):
        with pytest.raises(ValueError, match="sigma"):
            augment(np.zeros((1, 4, 4, 3), np.uint8), PURPLE, seeded(), **wrong)
