"""The pipeline from file to features: what is decoded, by how many threads, in which precision."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from microtome.engine.grid import TileGrid
from microtome.engine.slides import Bounds, open_slide
from microtome.engine.slides.tifffile_reader import TiffSlide
from microtome.engine.synthetic import plan_slide, write_slide
from microtome.engine.tiles import level_box, read_tile, read_tiles
from microtome.storage.bags import Bag, read_bag
from microtome.storage.errors import UnreadableFile
from microtome.tasks.encode import EncodeOptions, encode, encode_cohort
from microtome.tasks.encoders import load_encoder
from microtome.tasks.encoders.torch_forward import TOLERANCE
from microtome.tasks.shared_slide import DecodedOnce, OneAtATime, shared
from microtome.tasks.slide_list import SlideItem
from microtome.tasks.tile_reader import TileReader

SVS = "slides/aperio/CMU-1-Small-Region.svs"


class Counting(TiffSlide):
    """Counts how often each of the file's own tiles goes through its codec."""

    def __init__(self, path: Path) -> None:
        self.decoded: Counter[tuple[int, int]] = Counter()
        self.threads: set[int] = set()
        super().__init__(path)

    def _decode(self, plane, index):
        self.decoded[plane.height_px, index] += 1
        self.threads.add(threading.get_ident())
        return super()._decode(plane, index)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    """A synthetic pyramid of 2048 px, tiles of 256 px, 0.25 µm/px."""
    path = tmp_path_factory.mktemp("drawn") / "drawn.tif"
    plan = plan_slide(3, height_px=2048, width_px=2048, tissue_fraction=0.7)
    write_slide(path, plan)
    return path


@pytest.fixture(scope="module")
def svs(shared_data) -> Path:
    return shared_data / SVS


def same(one: Bag, other: Bag) -> None:
    np.testing.assert_array_equal(one.coords_px, other.coords_px)
    assert one.features.tobytes() == other.features.tobytes()
    assert one.quality.keys() == other.quality.keys()
    for name, column in one.quality.items():
        assert column.tobytes() == other.quality[name].tobytes()


class TestDecoding:
    @pytest.mark.parametrize("readers", [1, 8])
    @pytest.mark.parametrize("lattice", [(224, 1, 224), (96, 2, 96), (128, 1.3, 80)])
    @pytest.mark.parametrize("source", ["svs", "drawn"])
    def test_each_of_the_files_tiles_is_decoded_once(self, request, source, readers, lattice):
        tile_px, times_mpp, stride_px = lattice
        with Counting(request.getfixturevalue(source)) as slide:
            mpp = slide.info.mpp[0] * times_mpp
            grid = TileGrid.over(slide.info, tile_px=tile_px, mpp=mpp, stride_px=stride_px)
            reader = TileReader(slide, grid, 0, sample_tiles=64, readers=readers)
            assert len(reader.sample()) == min(64, len(grid))
            seen = [b.indices for b in reader.batches(lambda tiles: (tiles, {}))]
            np.testing.assert_array_equal(np.concatenate(seen), np.arange(len(grid)))
            level = slide.info.levels[grid.level]
            touched = {
                (level.height_px, row * -(-level.width_px // level.tile_px[1]) + column)
                for row, column in _touched(slide, grid)
            }
            assert slide.decoded.keys() == touched
            assert set(slide.decoded.values()) == {1}
            assert len(slide.threads) <= 2 * readers

    def test_pixels_are_those_of_a_plain_reading(self, svs):
        with open_slide(svs) as slide:
            grid = TileGrid.over(slide.info, tile_px=200, mpp=0.7, stride_px=150, edge="pad")
            plain = np.concatenate([tiles for _, tiles in read_tiles(slide, grid)])
            reader = TileReader(slide, grid, 0, readers=4)
            tiles = np.concatenate([b.tiles.copy() for b in reader.batches(lambda t: (t, {}))])
        np.testing.assert_array_equal(tiles, plain)

    def test_what_is_held_is_let_go_and_bounded(self, drawn):
        with open_slide(drawn) as slide:
            grid = TileGrid.over(slide.info, tile_px=224, mpp=slide.info.mpp[0])
            boxes = [level_box(slide.info, grid, i) for i in range(len(grid))]
            for limit in (2**30, 5 * 256 * 256 * 3):
                once = DecodedOnce(slide, 0, boxes, limit_bytes=limit)
                held = []
                for index in range(len(grid)):
                    np.testing.assert_array_equal(
                        read_tile(once, grid, index), read_tile(slide, grid, index)
                    )
                    held.append(once.held_bytes)
                # A row of the file is 8 tiles; the row that a row of the grid ends in stays.
                assert 0 < max(held) <= min(limit, 2 * 8 * 256 * 256 * 3)
                assert held[-1] == 0

    def test_a_wide_slide_is_read_in_strips_and_no_bit_of_its_bag_tells(
        self, drawn, tmp_path, monkeypatch
    ):
        def made(scratch: Path | None) -> Bag:
            with open_slide(drawn) as slide:
                grid = TileGrid.over(slide.info, tile_px=100, mpp=slide.info.mpp[0])
                encoder = load_encoder(tile_px=100, mpp=slide.info.mpp[0])
                few = grid.select(np.arange(len(grid)) % 4 == 0)
                return encode(slide, few, encoder, scratch=scratch)

        whole = made(None)
        monkeypatch.setattr("microtome.tasks.encode.STRIP_PX", 600)
        same(whole, made(tmp_path))
        # The features were in a file without a name.
        assert list(tmp_path.iterdir()) == []

    def test_a_strip_holds_two_rows_of_its_own_width(self, drawn):
        with open_slide(drawn) as slide:
            grid = TileGrid.over(slide.info, tile_px=200, mpp=slide.info.mpp[0])
            reader = TileReader(slide, grid, 0, strip_px=600)
            held, seen = [], []
            for batch in reader.batches(lambda tiles: (tiles, {})):
                held.append(reader._slide.held_bytes)
                seen.append(batch.indices)
            order = np.concatenate(seen)
            expected = np.lexsort((grid.coords_px[:, 0], grid.coords_px[:, 1] // 600))
            np.testing.assert_array_equal(np.sort(order), np.arange(len(grid)))
            strips = grid.coords_px[order, 1] // 600
            np.testing.assert_array_equal(strips, grid.coords_px[expected, 1] // 600)
            # Strips of 600 px touch four of the file's tiles in a row, and the next begins.
            assert max(held) <= (2 * 4 + 2 * 4) * 256 * 256 * 3

    def test_a_tile_that_cannot_be_decoded_is_an_error_for_all_who_wait_for_it(self, svs):
        class Damaged(Counting):
            def _decode(self, plane, index):
                if index == 12:
                    raise ValueError("damaged")
                return super()._decode(plane, index)

        boxes = [Bounds(200, 440, 80, 80)] * 20

        def failed(slide: DecodedOnce) -> bool:
            with pytest.raises(UnreadableFile, match=r"tile \(1, 2\) of level 0"):
                slide.read(0, 200, 440, 80, 80)
            return True

        with Damaged(svs) as slide, ThreadPoolExecutor(8) as threads:
            once = DecodedOnce(slide, 0, boxes)
            assert all(threads.map(failed, [once] * len(boxes)))
            assert once.held_bytes == 0

    def test_files_without_tiles_of_their_own_are_read_by_one_thread_at_a_time(self, shared_data):
        path = shared_data / "slides/plain/kidney-48-5.tif"
        with open_slide(path, mpp=0.5) as slide:
            grid = TileGrid.over(slide.info, tile_px=64, mpp=0.5)
            assert isinstance(shared(slide, grid, range(len(grid))), OneAtATime)
            plain = np.concatenate([tiles for _, tiles in read_tiles(slide, grid)])
            reader = TileReader(slide, grid, 0, readers=4)
            tiles = np.concatenate([b.tiles.copy() for b in reader.batches(lambda t: (t, {}))])
        np.testing.assert_array_equal(tiles, plain)


def _touched(slide: TiffSlide, grid: TileGrid) -> set[tuple[int, int]]:
    """File tiles that hold a pixel of any box, by a picture of the level with a pixel a tile."""
    level = slide.info.levels[grid.level]
    tall, wide = level.tile_px
    is_read = np.zeros((level.height_px, level.width_px), bool)
    for index in range(len(grid)):
        box = level_box(slide.info, grid, index)
        is_read[box.y_px : box.y_px + box.height_px, box.x_px : box.x_px + box.width_px] = True
    y, x = np.nonzero(is_read)
    return set(zip((y // tall).tolist(), (x // wide).tolist(), strict=True))


class TestThreads:
    def test_eight_threads_give_the_bits_of_one(self, svs):
        with open_slide(svs) as slide:
            grid = TileGrid.over(slide.info, tile_px=256, mpp=0.5)
            bags = [encode(slide, grid, readers=readers) for readers in (1, 8)]
        same(*bags)

    def test_neither_threads_nor_processes_change_a_bit_of_a_deep_encoders(
        self, svs, drawn, tmp_path
    ):
        items = [SlideItem("real", svs), SlideItem("drawn", drawn, mpp=0.5)]
        ways = {"one": (1, 1), "eight": (8, 1), "dask": (None, 2)}
        for way, (readers, jobs) in ways.items():
            options = EncodeOptions(encoder="timm:test_resnet", readers=readers, min_tissue=0.9)
            ends = encode_cohort(items, out=tmp_path / way, options=options, jobs=jobs)
            assert [end.state for end in ends] == ["done", "done"]
        for item in items:
            one, *others = (read_bag(tmp_path / way / f"{item.id}.bag.zarr") for way in ways)
            assert len(one) > 8
            for other in others:
                same(one, other)

    def test_a_tile_has_the_same_features_whatever_tiles_are_encoded_with_it(self, svs):
        encoder = load_encoder("timm:test_resnet")
        with open_slide(svs) as slide:
            grid = TileGrid.over(slide.info, tile_px=encoder.tile_px, mpp=encoder.mpp)
            every = encode(slide, grid, encoder)
            some = np.zeros(len(grid), bool)
            some[5::7] = True
            few = encode(slide, grid.select(some), encoder)
        np.testing.assert_array_equal(few.features, every.features[some])


class TestPrecision:
    @pytest.mark.parametrize("precision", ["bf16", "fp16"])
    @pytest.mark.parametrize("model", ["test_resnet", "test_vit", "test_convnext"])
    def test_half_precisions_stay_within_the_tolerance_that_is_stated(self, svs, model, precision):
        exact = load_encoder(f"timm:{model}")
        half = load_encoder(f"timm:{model}", precision=precision)
        with open_slide(svs) as slide:
            grid = TileGrid.over(slide.info, tile_px=exact.tile_px, mpp=0.5)
            tiles = next(read_tiles(slide, grid, batch=24))[1]
        full, rounded = exact.encode(tiles), half.encode(tiles)
        error = np.linalg.norm(rounded - full, axis=1) / np.linalg.norm(full, axis=1)
        assert 0 < error.max() < TOLERANCE[precision]
        assert rounded.dtype == np.float32

    def test_blank_tiles_that_fill_a_batch_change_nothing(self, svs):
        from dataclasses import replace

        plain = load_encoder("timm:test_resnet")
        filled = replace(plain, is_compiled=True)
        with open_slide(svs) as slide:
            grid = TileGrid.over(slide.info, tile_px=plain.tile_px, mpp=0.5)
            tiles = next(read_tiles(slide, grid, batch=5))[1]
        np.testing.assert_allclose(filled.encode(tiles), plain.encode(tiles), rtol=1e-5, atol=1e-6)
        assert filled.encode(tiles).shape == (5, plain.dim)
