"""A tile covers the micrometres that were asked for, where it says it does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from microtome.engine.grid import TileGrid, overlaps, tissue_fraction
from microtome.engine.slides.base import Bounds, Level, SlideInfo
from microtome.storage.errors import BadGeometry, BadResolution, NoResolution


def slide(levels, mpp=(0.25, 0.25), bounds=None, refused=()) -> SlideInfo:
    """Geometry alone: levels as (height, width), level 0 first, with the ratio as downsample."""
    (h0, w0) = levels[0]
    return SlideInfo(
        path=Path("slide.svs"), backend="none", vendor="none",
        levels=tuple(Level(h, w, h0 / h, w0 / w) for h, w in levels),
        mpp=mpp, mpp_source=None, objective_power=None, bounds=bounds, associated=(),
        properties={}, mpp_refused=refused,
    )  # fmt: skip


@st.composite
def pyramids(draw) -> SlideInfo:
    h0, w0 = draw(st.integers(3000, 90_000)), draw(st.integers(3000, 90_000))
    factors = sorted(
        draw(st.lists(st.floats(1.5, 40), max_size=5)) + draw(st.sampled_from([[], [3.99996], [4]]))
    )
    rounding = draw(st.sampled_from([np.floor, np.ceil, np.rint]))
    levels = [(h0, w0)] + [(int(rounding(h0 / f)), int(rounding(w0 / f))) for f in factors]
    mpp_y = draw(st.floats(0.1, 2))
    mpp = (mpp_y, mpp_y * (1 + draw(st.floats(-0.049, 0.049))))
    bounds = None
    if draw(st.booleans()):
        y, x = draw(st.integers(0, h0 // 2)), draw(st.integers(0, w0 // 2))
        bounds = Bounds(y, x, draw(st.integers(1, h0 - y)), draw(st.integers(1, w0 - x)))
    return slide(levels, mpp, bounds)


requests = {
    "info": pyramids(),
    "tile_px": st.sampled_from([96, 224, 256, 512]),
    "coarser": st.floats(1.0, 60),
    "overlap": st.sampled_from([1.0, 0.5, 2.0]),
}


def lay(info, tile_px, coarser, overlap, edge="drop") -> TileGrid:
    mpp = max(info.mpp) * coarser
    stride = int(tile_px * overlap)
    footprint = tile_px * mpp / np.array(info.mpp)
    assume(np.prod(np.array([info.height_px, info.width_px]) / (footprint * overlap)) < 20_000)
    return TileGrid.over(info, tile_px=tile_px, mpp=mpp, stride_px=stride, edge=edge)


@settings(max_examples=150, deadline=None)
@given(**requests)
def test_the_footprint_is_within_half_a_percent_of_the_micrometres_asked_for(
    info, tile_px, coarser, overlap
):
    grid = lay(info, tile_px, coarser, overlap)
    for footprint, box, mpp_0, downsample in zip(
        grid.footprint_px, grid.box_px, info.mpp, grid.downsample, strict=True
    ):
        assert abs(footprint * mpp_0 / (tile_px * grid.mpp) - 1) <= 0.005 + 1e-12
        assert footprint == pytest.approx(box * downsample)
        assert box >= tile_px * (1 - 1e-12)


@settings(max_examples=150, deadline=None)
@given(**requests)
def test_the_level_is_the_coarsest_that_is_fine_enough(info, tile_px, coarser, overlap):
    grid = lay(info, tile_px, coarser, overlap)
    fine_enough = [
        max(info.mpp[0] * level.downsample_y, info.mpp[1] * level.downsample_x)
        for level in info.levels
    ]
    chosen = fine_enough[grid.level]
    assert chosen <= grid.mpp * 1.005 + 1e-9
    assert all(other <= chosen + 1e-9 or other > grid.mpp * 1.005 - 1e-9 for other in fine_enough)


@settings(max_examples=150, deadline=None)
@given(**requests)
def test_dropped_edges_leave_tiles_wholly_inside_and_no_room_for_another(
    info, tile_px, coarser, overlap
):
    grid = lay(info, tile_px, coarser, overlap)
    area = info.bounds or Bounds(0, 0, info.height_px, info.width_px)
    corner = np.array([area.y_px, area.x_px])
    size = np.array([area.height_px, area.width_px])
    footprint, stride = np.array(grid.footprint_px), np.array(grid.footprint_px) * overlap
    if (footprint > size).any():
        assert len(grid) == 0
        return
    assert (grid.coords_px >= corner).all()
    assert (grid.coords_px + footprint <= corner + size + 1e-6).all()
    last = grid.coords_px.max(0) + footprint
    assert (last + stride > corner + size - 1.5).all()


@settings(max_examples=150, deadline=None)
@given(**requests, edge=st.sampled_from(["drop", "pad"]))
def test_positions_never_drift_from_the_exact_lattice(info, tile_px, coarser, overlap, edge):
    grid = lay(info, tile_px, coarser, overlap, edge)
    assume(len(grid))
    for axis in (0, 1):
        starts = np.unique(grid.coords_px[:, axis])
        exact = starts[0] + np.arange(len(starts)) * grid.footprint_px[axis] * overlap
        assert np.abs(starts - exact).max() <= 1.0
    rows, columns = (len(np.unique(grid.coords_px[:, axis])) for axis in (0, 1))
    assert len(grid) == rows * columns
    assert (np.lexsort(grid.coords_px.T[::-1]) == np.arange(len(grid))).all()


@settings(max_examples=100, deadline=None)
@given(**requests)
def test_padded_edges_cover_everything_and_nothing_lies_wholly_beyond(
    info, tile_px, coarser, overlap
):
    grid = lay(info, tile_px, coarser, overlap, "pad")
    area = info.bounds or Bounds(0, 0, info.height_px, info.width_px)
    end = np.array([area.y_px + area.height_px, area.x_px + area.width_px])
    assert (grid.coords_px < end).all()
    if overlap <= 1:
        assert (grid.coords_px.max(0) + np.array(grid.footprint_px) >= end - 1.0).all()


@settings(max_examples=100, deadline=None)
@given(**requests)
def test_kept_edges_add_whole_tiles_that_reach_the_last_pixel(info, tile_px, coarser, overlap):
    dropped, kept = (lay(info, tile_px, coarser, overlap, edge) for edge in ("drop", "keep"))
    assert {*map(tuple, dropped.coords_px)} <= {*map(tuple, kept.coords_px)}
    assert (len(kept) == 0) == (len(dropped) == 0)
    assume(len(kept))
    area = info.bounds or Bounds(0, 0, info.height_px, info.width_px)
    end = np.array([area.y_px + area.height_px, area.x_px + area.width_px])
    reach = kept.coords_px.max(0) + np.array(kept.footprint_px)
    assert (reach <= end + 1e-6).all()
    downsample = np.array(kept.downsample)
    assert (reach > end - 1.0 - downsample).all()


@settings(max_examples=30, deadline=None)
@given(**requests)
def test_the_same_request_gives_the_same_grid(info, tile_px, coarser, overlap):
    first, again = (lay(info, tile_px, coarser, overlap) for _ in range(2))
    np.testing.assert_array_equal(first.coords_px, again.coords_px)
    assert first.coords_px.dtype == np.int64


def test_a_downsample_of_3_99996_is_not_3():
    grid = TileGrid.over(slide([(99_999, 99_999), (25_000, 25_000)]), tile_px=256, mpp=1.0)
    assert grid.level == 1
    assert not grid.is_rescaled
    assert grid.footprint_px[0] == pytest.approx(1024, rel=1e-4)


def test_a_level_at_the_asked_resolution_is_read_as_it_is_and_a_finer_one_rescaled():
    info = slide([(10_000, 10_000), (5_000, 5_000)], mpp=(0.2502, 0.2502))
    as_is = TileGrid.over(info, tile_px=256, mpp=0.5)
    assert as_is.level == 1
    assert not as_is.is_rescaled
    rescaled = TileGrid.over(info, tile_px=256, mpp=0.49)
    assert rescaled.level == 0
    assert rescaled.box_px[0] == pytest.approx(256 * 0.49 / 0.2502)


def test_bounds_may_be_ignored_on_request():
    info = slide([(4000, 4000)], bounds=Bounds(1000, 2000, 1024, 512))
    assert TileGrid.over(info, tile_px=256, mpp=0.25).coords_px[0].tolist() == [1000, 2000]
    assert len(TileGrid.over(info, tile_px=256, mpp=0.25)) == 8
    free = TileGrid.over(info, tile_px=256, mpp=0.25, within_bounds=False)
    assert free.coords_px[0].tolist() == [0, 0]
    assert len(free) == 15 * 15


def test_tiles_stay_on_a_level_that_lacks_the_last_rows_of_level_0():
    # 4001 rows by 4 are 1000: the last row of level 0 is on no pixel of the level.
    level = Level(1000, 1000, 4.0, 4.0)
    whole = slide([(4001, 4003)])
    info = SlideInfo(**{**whole.__dict__, "levels": (*whole.levels, level)})
    grid = TileGrid.over(info, tile_px=250, mpp=1.0)
    assert (grid.level, len(grid)) == (1, 16)
    padded = TileGrid.over(info, tile_px=250, mpp=1.0, edge="pad")
    assert len(padded) == 16


def test_rounding_pushes_no_tile_over_the_edge():
    grid = TileGrid.over(slide([(42, 42)], mpp=(1, 1)), tile_px=7, mpp=1.5)
    starts = np.unique(grid.coords_px[:, 0])
    assert grid.footprint_px == (10.5, 10.5)
    assert len(starts) == 4
    assert starts.max() + 10.5 <= 42


def test_a_slide_is_never_enlarged():
    info = slide([(10_000, 10_000)], mpp=(0.5, 0.5))
    assert len(TileGrid.over(info, tile_px=256, mpp=0.498))
    with pytest.raises(BadResolution, match=r"coarser than the 0\.25"):
        TileGrid.over(info, tile_px=256, mpp=0.25)


def test_without_a_resolution_there_is_no_grid():
    with pytest.raises(NoResolution, match="--slide-mpp"):
        TileGrid.over(slide([(999, 999)], mpp=None), tile_px=256, mpp=0.5)
    with pytest.raises(BadResolution, match="72 dpi"):
        TileGrid.over(slide([(999, 999)], mpp=None, refused=("72 dpi",)), tile_px=256, mpp=0.5)


@pytest.mark.parametrize(
    "wrong",
    [
        {"tile_px": 0},
        {"stride_px": 0},
        {"mpp": 0.0},
        {"mpp": -1.0},
        {"mpp": float("nan")},
        {"mpp": float("inf")},
    ],
)
def test_sizes_must_be_positive(wrong):
    with pytest.raises(BadGeometry, match="positive"):
        TileGrid.over(slide([(999, 999)]), **{"tile_px": 256, "mpp": 0.5, **wrong})


def test_selected_tiles_keep_their_order():
    grid = TileGrid.over(slide([(2000, 2000)]), tile_px=256, mpp=0.25)
    keep = np.arange(len(grid)) % 3 == 0
    np.testing.assert_array_equal(grid.select(keep).coords_px, grid.coords_px[keep])


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), scale=st.sampled_from([8, 16]))
def test_tissue_fraction_is_the_share_of_mask_pixels_under_the_tile(seed, scale):
    rng = np.random.default_rng(seed)
    info = slide([(2048, 3072)])
    mask = rng.random((2048 // scale, 3072 // scale)) < rng.random()
    grid = TileGrid.over(info, tile_px=256, mpp=0.25 * 1.37)
    fractions = tissue_fraction(grid, mask, (2048, 3072))
    for (y, x), fraction in zip(grid.coords_px, fractions, strict=True):
        fy, fx = grid.footprint_px
        under = mask[
            int(y // scale) : int(np.ceil((y + fy) / scale)),
            int(x // scale) : int(np.ceil((x + fx) / scale)),
        ]
        assert fraction == pytest.approx(under.mean(), abs=1e-6)


class TestOverlaps:
    @settings(max_examples=50)
    @given(**requests, part=st.tuples(*[st.floats(0, 1)] * 4))
    def test_are_the_tiles_that_share_a_point_with_the_part(
        self, info, tile_px, coarser, overlap, part
    ):
        grid = lay(info, tile_px, coarser, overlap)
        y, x = int(part[0] * (info.height_px - 1)), int(part[1] * (info.width_px - 1))
        h = 1 + int(part[2] * (info.height_px - y - 1))
        w = 1 + int(part[3] * (info.width_px - x - 1))
        ours = overlaps(grid, [Bounds(y, x, h, w)])
        for (top, left), touched in zip(grid.coords_px[:200].tolist(), ours, strict=False):
            bottom, right = top + grid.footprint_px[0], left + grid.footprint_px[1]
            shared = min(bottom, y + h) > max(top, y) and min(right, x + w) > max(left, x)
            assert touched == shared
        assert not overlaps(grid, []).any()
