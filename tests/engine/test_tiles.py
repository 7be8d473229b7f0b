"""A tile's pixels are those under its footprint, and an overview is the mean of all of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import openslide
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from microtome.engine import tiles
from microtome.engine.grid import TileGrid
from microtome.engine.slides import open_slide
from microtome.engine.slides.base import Bounds, Level, SlideInfo, require_inside
from microtome.engine.tiles import read_overview, read_tile, read_tiles
from microtome.storage.errors import BadResolution, NoResolution, UnreadableFile

SVS = "slides/aperio/CMU-1-Small-Region.svs"
OME = "slides/derived/CMU-1-Small-Region.ome.tif"
KIDNEY = "slides/plain/kidney-48-5.tif"


class Picture:
    """An array as a slide of one level: the protocol without a file."""

    def __init__(self, pixels: np.ndarray, mpp: float | None = 1.0, tile_px=None) -> None:
        height, width = pixels.shape[:2]
        self.pixels, self.largest_px = pixels, 0
        self.info = SlideInfo(
            path=Path("picture"), backend="array", vendor="none",
            levels=(Level(height, width, 1.0, 1.0, tile_px),),
            mpp=None if mpp is None else (mpp, mpp), mpp_source=None, objective_power=None,
            bounds=None, associated=(), properties={},
        )  # fmt: skip

    def read(self, level, y_px, x_px, height_px, width_px):
        require_inside(self.info, level, Bounds(y_px, x_px, height_px, width_px))
        self.largest_px = max(self.largest_px, height_px * width_px)
        return self.pixels[y_px : y_px + height_px, x_px : x_px + width_px].copy()


@pytest.fixture(scope="module")
def tissue(shared_data):
    with open_slide(shared_data / SVS) as slide:
        return slide.read(0, 0, 0, 2967, 2220)


class TestTiles:
    def test_at_the_slides_own_resolution_are_openslides_region(self, shared_data):
        handle = openslide.OpenSlide(shared_data / SVS)
        with open_slide(shared_data / SVS) as slide:
            grid = TileGrid.over(slide.info, tile_px=256, mpp=0.5)
            assert not grid.is_rescaled
            for index in range(0, len(grid), 7):
                y, x = grid.coords_px[index].tolist()
                theirs = np.asarray(handle.read_region((x, y), 0, (256, 256)).convert("RGB"))
                np.testing.assert_array_equal(read_tile(slide, grid, index), theirs)

    @pytest.mark.parametrize("mpp", [0.6, 0.75, 1.3])
    def test_at_another_resolution_are_pillows_resize_of_the_exact_footprint(
        self, shared_data, tissue, mpp
    ):
        whole = Image.fromarray(tissue)
        with open_slide(shared_data / SVS) as slide:
            grid = TileGrid.over(slide.info, tile_px=200, mpp=mpp)
            assert grid.is_rescaled
            for index in range(0, len(grid), 5):
                y, x = grid.coords_px[index].tolist()
                extent = 200 * mpp / 0.499
                box = (x, y, x + extent, y + extent)
                theirs = whole.resize((200, 200), Image.Resampling.BILINEAR, box=box)
                ours = read_tile(slide, grid, index).astype(int)
                assert np.abs(ours - np.asarray(theirs)).max() <= 1

    def test_come_from_the_coarser_level_where_it_is_fine_enough(self, shared_data):
        with open_slide(shared_data / OME) as slide:
            grid = TileGrid.over(slide.info, tile_px=128, mpp=2.5)
            level = slide.info.levels[2]
            picture = Image.fromarray(slide.read(2, 0, 0, level.height_px, level.width_px))
            assert grid.level == 2
            extent = 128 * 2.5 / 0.499 / 4
            for index in range(len(grid)):
                y, x = grid.coords_px[index] / 4
                theirs = picture.resize(
                    (128, 128), Image.Resampling.BILINEAR, box=(x, y, x + extent, y + extent)
                )
                assert np.abs(read_tile(slide, grid, index).astype(int) - theirs).max() <= 1

    def test_show_the_same_tissue_from_whichever_level_they_are_read(self, shared_data, tissue):
        with open_slide(shared_data / OME) as slide:
            grid = TileGrid.over(slide.info, tile_px=64, mpp=0.499 * 8)
            assert grid.level == 3
            for index in range(len(grid)):
                y, x = grid.coords_px[index].tolist()
                below = cv2.resize(
                    tissue[y : y + 512, x : x + 512], (64, 64), interpolation=cv2.INTER_AREA
                )
                assert np.abs(read_tile(slide, grid, index).astype(int) - below).mean() < 4

    def test_of_a_straight_ramp_lie_where_they_say(self):
        ramp = np.repeat((np.arange(1000) / 4).astype(np.uint8)[None, :, None], 600, 0)
        slide = Picture(np.repeat(ramp, 3, 2))
        grid = TileGrid.over(slide.info, tile_px=50, mpp=2.73)
        for index in range(len(grid)):
            centre = grid.coords_px[index, 1] + (np.arange(50) + 0.5) * 2.73
            inner = read_tile(slide, grid, index)[25, 5:-5, 0]
            assert np.abs(inner - (centre[5:-5] - 0.5 - 1.5) / 4).max() < 1.0

    @pytest.mark.parametrize("mpp", [1.0, 1.7])
    def test_together_they_are_the_picture_without_a_seam(self, tissue, mpp):
        slide = Picture(tissue[:680, :680])
        grid = TileGrid.over(slide.info, tile_px=100, mpp=mpp)
        side = round(len(grid) ** 0.5)
        pixels = np.concatenate([batch for _, batch in read_tiles(slide, grid, batch=5)])
        sewn = pixels.reshape(side, side, 100, 100, 3).swapaxes(1, 2).reshape(side * 100, -1, 3)
        extent = side * 100 * mpp
        whole = Image.fromarray(tissue[:680, :680]).resize(
            (side * 100, side * 100), Image.Resampling.BILINEAR, box=(0, 0, extent, extent)
        )
        assert np.abs(sewn.astype(int) - whole).max() <= 1

    @pytest.mark.parametrize("mpp", [1.0, 1.9])
    def test_padding_is_white_beyond_the_edge_and_nowhere_else(self, mpp):
        slide = Picture(np.full((310, 410, 3), 40, np.uint8))
        grid = TileGrid.over(slide.info, tile_px=128, mpp=mpp, edge="pad")
        covered = np.zeros(2)
        for indices, batch in read_tiles(slide, grid):
            for index, tile in zip(indices, batch, strict=True):
                start = grid.coords_px[index]
                inside = [min(128, (n - s) / mpp) for s, n in zip(start, (310, 410), strict=True)]
                covered = np.maximum(covered, start + np.array(inside) * mpp)
                h, w = (int(n) - (1 if n < 128 and mpp > 1 else 0) for n in inside)
                assert (tile[:h, :w] == 40).all()
                assert (tile[int(np.ceil(inside[0])) + 1 :] == 255).all()
                assert (tile[:, int(np.ceil(inside[1])) + 1 :] == 255).all()
        assert covered.tolist() == pytest.approx([310, 410])

    def test_a_tile_larger_than_the_slide_is_padded(self):
        slide = Picture(np.zeros((30, 50, 3), np.uint8))
        grid = TileGrid.over(slide.info, tile_px=64, mpp=1.0, edge="pad")
        tile = read_tile(slide, grid, 0)
        assert tile.shape == (64, 64, 3)
        assert (tile == 0).all(-1).sum() == 30 * 50

    def test_come_in_grid_order_in_batches_with_none_left_out(self, shared_data):
        with open_slide(shared_data / SVS) as slide:
            grid = TileGrid.over(slide.info, tile_px=224, mpp=0.5)
            grid = grid.select(np.arange(len(grid)) % 2 == 0)
            batches = list(read_tiles(slide, grid, batch=9))
            indices = np.concatenate([index for index, _ in batches])
            assert indices.dtype == np.intp
            assert indices.tolist() == list(range(len(grid)))
            assert [len(pixels) for _, pixels in batches[:-1]] == [9] * (len(batches) - 1)
            for index, pixels in batches:
                assert pixels.dtype == np.uint8
                for i, tile in zip(index, pixels, strict=True):
                    y, x = grid.coords_px[i].tolist()
                    np.testing.assert_array_equal(tile, slide.read(0, y, x, 224, 224))

    def test_an_empty_grid_has_none(self, shared_data):
        with open_slide(shared_data / SVS) as slide:
            grid = TileGrid.over(slide.info, tile_px=224, mpp=0.5)
            assert list(read_tiles(slide, grid.select(np.zeros(len(grid), bool)))) == []

    @settings(max_examples=60, deadline=None)
    @given(
        height=st.integers(40, 400), width=st.integers(40, 400), tile_px=st.integers(8, 64),
        mpp=st.floats(0.996, 9), edge=st.sampled_from(["drop", "keep", "pad"]),
    )  # fmt: skip
    def test_have_the_asked_size_whatever_the_slide(self, height, width, tile_px, mpp, edge):
        slide = Picture(np.full((height, width, 3), 128, np.uint8))
        grid = TileGrid.over(slide.info, tile_px=tile_px, mpp=mpp, edge=edge)
        for _, batch in read_tiles(slide, grid):
            assert batch.shape[1:] == (tile_px, tile_px, 3)
            assert edge == "pad" or (batch == 128).all()

    def test_a_tile_that_cannot_be_decoded_is_an_error(self, shared_data):
        with open_slide(shared_data / "slides/bad/unreadable.svs") as slide:
            grid = TileGrid.over(slide.info, tile_px=16, mpp=0.5)
            with pytest.raises(UnreadableFile, match=r"tile \(0, 0\) of level 0"):
                list(read_tiles(slide, grid))


class TestOverview:
    @settings(max_examples=25, deadline=None)
    @given(
        height=st.integers(1, 150), width=st.integers(1, 150), max_px=st.integers(1, 150),
        block=st.integers(7, 64), seed=st.integers(0, 99),
    )  # fmt: skip
    def test_is_the_mean_under_each_pixel_whatever_the_blocks(
        self, height, width, max_px, block, seed
    ):
        pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
        slide = Picture(pixels, tile_px=(block, block + 3))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tiles, "_BLOCK_PX", 2)
            image, downsample = read_overview(slide, max_px=max_px)
        h, w = image.shape[:2]
        assert downsample == (height / h, width / w)
        theirs = np.einsum(
            "oy,yxc,px->opc", shares(height, h), pixels, shares(width, w), optimize=True
        )
        assert np.abs(image - theirs).max() <= 0.5 + 1e-3

    def test_agrees_with_opencvs_area_average(self, shared_data, tissue):
        with open_slide(shared_data / SVS) as slide:
            image, downsample = read_overview(slide, max_px=700)
        theirs = cv2.resize(tissue, image.shape[1::-1], interpolation=cv2.INTER_AREA)
        assert image.shape == (700, 524, 3)
        assert downsample == (2967 / 700, 2220 / 524)
        assert np.abs(image.astype(int) - theirs).max() <= 1

    def test_of_a_pyramid_is_the_mean_of_the_coarsest_level_that_is_fine_enough(self, shared_data):
        with open_slide(shared_data / OME) as slide:
            image, downsample = read_overview(slide, mpp=0.499 * 10)
            level = slide.read(3, 0, 0, 370, 277)
        assert image.shape == (297, 222, 3)
        assert downsample == (8 * 370 / 297, 8 * 277 / 222)
        theirs = cv2.resize(level, (222, 297), interpolation=cv2.INTER_AREA)
        assert np.abs(image.astype(int) - theirs).max() <= 1

    def test_of_strips_is_whole(self, shared_data):
        with open_slide(shared_data / KIDNEY) as slide:
            image, _ = read_overview(slide, max_px=300)
        theirs = cv2.resize(
            tifffile.imread(shared_data / KIDNEY), image.shape[1::-1],
            interpolation=cv2.INTER_AREA,
        )  # fmt: skip
        assert np.abs(image.astype(int) - theirs).max() <= 1

    def test_reads_a_large_flat_slide_in_small_blocks(self):
        slide = Picture(np.broadcast_to(np.uint8(77), (9000, 9000, 3)), tile_px=(256, 256))
        image, _ = read_overview(slide, max_px=90)
        assert (image == 77).all()
        assert slide.largest_px <= 1024**2

    def test_is_never_larger_than_the_slide(self, tissue):
        small = Picture(tissue[:50, :80], mpp=0.5)
        image, downsample = read_overview(small, max_px=10_000)
        np.testing.assert_array_equal(image, tissue[:50, :80])
        assert downsample == (1.0, 1.0)
        with pytest.raises(BadResolution, match="never enlarged"):
            read_overview(small, mpp=0.25)

    def test_by_resolution_needs_one(self, tissue):
        slide = Picture(tissue[:50, :80], mpp=None)
        assert read_overview(slide, max_px=40)[0].shape == (25, 40, 3)
        with pytest.raises(NoResolution):
            read_overview(slide, mpp=8.0)
        slide.info = replace(slide.info, mpp_refused=("72 dpi",))
        with pytest.raises(BadResolution, match="72 dpi"):
            read_overview(slide, mpp=8.0)

    def test_needs_one_size_and_not_two(self, tissue):
        slide = Picture(tissue[:50, :80])
        for both_or_none in ({}, {"max_px": 10, "mpp": 2.0}):
            with pytest.raises(ValueError, match="either"):
                read_overview(slide, **both_or_none)


def shares(n_in: int, n_out: int) -> np.ndarray:
    """Share of input pixels in output pixels, by the overlap of intervals; float [out, in]."""
    edge = np.arange(n_out + 1) * n_in / n_out
    low, high = np.arange(n_in)[None], np.arange(1, n_in + 1)[None]
    overlap = np.minimum(edge[1:, None], high) - np.maximum(edge[:-1, None], low)
    return np.clip(overlap, 0, None) * n_out / n_in
