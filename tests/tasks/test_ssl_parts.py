"""The loss against its paper's equations, and views against what they say they do."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from microtome.engine.stain import REFERENCE
from microtome.engine.stain.augment import restain as restain_one
from microtome.engine.synthetic import Painter, plan_slide
from microtome.tasks.ssl.loss import barlow_twins, cross_correlation, effective_rank, spread
from microtome.tasks.ssl.views import (
    View,
    ViewOptions,
    blur,
    crop,
    draw_view,
    expose,
    make_view,
    restain,
)

STILL = ViewOptions(1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


def views(n: int, d: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    a = rng.normal(size=(n, d)) * rng.uniform(0.1, 9, d) + rng.normal(size=d) * 5
    return a, a + rng.normal(size=(n, d))


def by_the_paper(a: np.ndarray, b: np.ndarray, redundancy: float) -> float:
    """Equations 1 and 2, term by term."""
    a, b = a - a.mean(0), b - b.mean(0)
    total = 0.0
    for i in range(a.shape[1]):
        for j in range(a.shape[1]):
            above = sum(a[k, i] * b[k, j] for k in range(len(a)))
            below = np.sqrt(sum(v**2 for v in a[:, i])) * np.sqrt(sum(v**2 for v in b[:, j]))
            c = above / below
            total += (1 - c) ** 2 if i == j else redundancy * c**2
    return total


@given(st.integers(2, 9), st.integers(1, 6), st.floats(0, 1), st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_the_loss_is_equations_1_and_2_of_the_paper(n, d, redundancy, seed) -> None:
    a, b = views(n, d, seed)
    ours = barlow_twins(torch.from_numpy(a), torch.from_numpy(b), redundancy=redundancy)
    assert float(ours) == pytest.approx(by_the_paper(a, b, redundancy), rel=1e-9)


def test_the_cross_correlation_is_that_of_numpy() -> None:
    a, b = views(20, 5, 0)
    ours = cross_correlation(torch.from_numpy(a), torch.from_numpy(b)).numpy()
    np.testing.assert_allclose(ours, np.corrcoef(a.T, b.T)[:5, 5:], atol=1e-12)


def test_the_gradient_is_that_of_finite_differences() -> None:
    a, b = (torch.from_numpy(v).requires_grad_() for v in views(6, 3, 1))
    assert torch.autograd.gradcheck(lambda x, y: barlow_twins(x, y, redundancy=0.3), (a, b))


def test_agreeing_uncorrelated_views_lose_nothing_and_constant_outputs_everything() -> None:
    hadamard = torch.tensor([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
    assert float(barlow_twins(hadamard, 3 * hadamard + 2, redundancy=1.0)) == pytest.approx(0)
    assert float(barlow_twins(torch.ones(8, 3), torch.ones(8, 3))) == pytest.approx(3)


def test_views_of_other_shapes_or_a_single_tile_are_refused() -> None:
    for a, b in ((torch.ones(1, 3), torch.ones(1, 3)), (torch.ones(4, 3), torch.ones(4, 2))):
        with pytest.raises(ValueError, match="two views"):
            barlow_twins(a, b)


def test_spread_tells_collapse_from_every_direction() -> None:
    rng = torch.Generator().manual_seed(0)
    assert spread(torch.randn(4000, 32, generator=rng)) == pytest.approx(1, abs=0.02)
    assert spread(torch.randn(32, generator=rng).expand(100, 32)) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_effective_rank_counts_equally_strong_directions(rank) -> None:
    basis, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(40, rank)))
    basis, _ = np.linalg.qr(basis - basis.mean(0))
    into, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(16, rank)))
    assert effective_rank(torch.from_numpy(basis @ into.T + 7)) == pytest.approx(rank, rel=1e-6)
    assert effective_rank(torch.ones(9, 4)) == 0


@pytest.fixture(scope="module")
def painted() -> np.ndarray:
    """Four tiles of a synthetic slide, uint8 [4, 96, 96, 3]."""
    recipe = plan_slide(3, height_px=1024, width_px=1024, tissue_fraction=0.7, tumour_fraction=0.2)
    pixels = Painter(recipe).paint(0, 0, 1024, 1024)
    places = [(300, 300), (500, 450), (420, 610), (0, 0)]
    return np.stack([pixels[y : y + 96, x : x + 96] for y, x in places])


@pytest.fixture(scope="module")
def tiles(painted) -> torch.Tensor:
    return torch.from_numpy(painted).permute(0, 3, 1, 2).float() / 255


def drawn(options: ViewOptions, count: int = 4, seed: int = 0) -> View:
    return draw_view(count, options, torch.Generator().manual_seed(seed))


def test_equal_seeds_give_equal_views_and_others_do_not(tiles) -> None:
    options = ViewOptions()
    first, again, other = (make_view(tiles, drawn(options, seed=s)) for s in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other, atol=0.05)


def test_some_tiles_of_a_batch_are_seen_as_in_the_whole_batch(tiles) -> None:
    view = drawn(ViewOptions())
    whole = make_view(tiles, view)
    part = make_view(tiles[1::2], view.rows(slice(1, None, 2)))
    torch.testing.assert_close(part, whole[1::2], atol=1e-5, rtol=0)


def test_views_keep_shape_and_range_and_leave_the_tiles_alone(tiles) -> None:
    before = tiles.clone()
    seen = make_view(tiles, drawn(ViewOptions(zoom=2, brightness=0.5, contrast=0.5)))
    assert seen.shape == tiles.shape
    assert 0 <= float(seen.min()) <= float(seen.max()) <= 1
    assert torch.equal(tiles, before)


def test_without_zoom_a_tile_is_laid_in_one_of_eight_ways_pixel_for_pixel(tiles) -> None:
    seen = make_view(tiles.repeat(16, 1, 1, 1), drawn(STILL, 64)).numpy()
    found = set()
    for number, one in enumerate(seen):
        own = tiles[number % 4].numpy()
        ways = [np.rot90(m, k, (1, 2)) for m in (own, own[:, :, ::-1]) for k in range(4)]
        near = [k for k, way in enumerate(ways) if np.abs(one - way).max() < 5e-3]
        assert near
        found.add(near[0])
    assert len(found) == 8


def test_zoom_shows_a_part_of_the_tile_enlarged(tiles) -> None:
    ramp = torch.linspace(0, 1, 96).expand(4, 3, 96, 96)
    view = drawn(STILL)
    still = torch.zeros(4, dtype=torch.int64)
    shift = torch.tensor([[-1.0, 0], [0, 0], [1, 0], [0, 1]])
    view = replace(view, zoom=torch.full((4,), 2.0), turns=still, is_mirrored=still, shift=shift)
    seen = crop(ramp, view)[:, 0, 48]
    starts = torch.tensor([0, 0.25, 0.5, 0.25])
    torch.testing.assert_close(seen[:, 0], starts, atol=0.01, rtol=0)
    torch.testing.assert_close(seen[:, -1] - seen[:, 0], torch.full((4,), 0.5), atol=0.01, rtol=0)


def test_stains_are_changed_as_the_engine_changes_them(painted, tiles) -> None:
    alpha = torch.tensor([[1.2, 0.8], [0.9, 1.1], [1.0, 1.0], [1.2, 1.2]])
    beta = torch.tensor([[0.1, -0.1], [0.2, 0.0], [0.0, 0.0], [0.2, 0.2]])
    ours = restain(tiles, alpha, beta).permute(0, 2, 3, 1).numpy() * 255
    for own, tile, a, b in zip(ours, painted, alpha.numpy(), beta.numpy(), strict=True):
        np.testing.assert_allclose(own, restain_one(tile, REFERENCE, a, b), atol=1.01)
    assert np.abs(ours[0] - painted[0]).mean() > 5


def test_empty_glass_is_not_stained() -> None:
    glass = torch.full((1, 3, 8, 8), 0.95)
    stained = restain(glass, torch.full((1, 2), 1.2), torch.full((1, 2), 0.2))
    torch.testing.assert_close(stained, glass)


def test_blur_is_scipys_gaussian_of_each_tiles_own_width(tiles) -> None:
    sigma = torch.tensor([0.0, 0.5, 1.0, 1.3])
    seen = blur(tiles, sigma).numpy()
    for own, tile, s in zip(seen, tiles.numpy(), sigma.tolist(), strict=True):
        wanted = gaussian_filter(tile, (0, s, s), mode="mirror", radius=4) if s else tile
        np.testing.assert_allclose(own, wanted, atol=1e-4)


def test_brightness_scales_the_mean_and_contrast_the_deviation(tiles) -> None:
    half = tiles * 0.5 + 0.2
    seen = expose(half, torch.full((4,), 1.1), torch.full((4,), 0.8))
    torch.testing.assert_close(seen.mean((1, 2, 3)), 1.1 * half.mean((1, 2, 3)))
    torch.testing.assert_close(seen.std((1, 2, 3)), 0.88 * half.std((1, 2, 3)))


def test_a_share_of_tiles_loses_its_colour(tiles) -> None:
    many = tiles[:1].expand(400, -1, -1, -1)[:, :, :8, :8]
    seen = make_view(many, drawn(ViewOptions(grey=0.25), 400))
    is_grey = (seen.amax(1) - seen.amin(1)).amax((1, 2)) < 1e-6
    assert 0.17 < float(is_grey.float().mean()) < 0.33


@pytest.mark.parametrize("wrong", [{"zoom": 0.5}, {"stain_alpha": 1.5}, {"grey": -0.1}])
def test_views_that_cannot_be_are_refused(wrong) -> None:
    with pytest.raises(ValueError, match="zoom"):
        ViewOptions(**wrong)
