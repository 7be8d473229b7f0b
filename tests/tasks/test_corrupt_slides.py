"""Damaged tiles are left out and counted; their share decides what becomes of the slide."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile

from microtome.engine.slides import Bounds, open_slide
from microtome.engine.slides.salvage import Salvaged
from microtome.storage.bags import read_bag
from microtome.storage.errors import CorruptTiles
from microtome.storage.ledger import Ledger
from microtome.tasks.encode import EncodeOptions, SlideItem, encode_cohort, encode_slide
from microtome.tasks.picture import canvas_for

SVS = "slides/aperio/CMU-1-Small-Region.svs"
TILE_PX, COLUMNS, TILES = 240, 10, 130


@pytest.fixture
def damaged(shared_data: Path, tmp_path: Path):
    """Copies of the skin slide, of whose 13 x 10 JPEG tiles those given are noise."""

    def make(name: str, tiles: list[int]) -> Path:
        path = tmp_path / f"{name}.svs"
        shutil.copyfile(shared_data / SVS, path)
        with tifffile.TiffFile(path) as tif:
            page = tif.pages.first
            spots = [(page.dataoffsets[tile], page.databytecounts[tile]) for tile in tiles]
        with path.open("r+b") as file:
            for offset, size in spots:
                file.seek(offset + size // 2)
                file.write(bytes(size // 2))
        return path

    return make


def touches(coords_px: np.ndarray, footprint_px: float, tiles: list[int]) -> np.ndarray:
    """Which tiles of a bag lie on any of the given tiles of the file."""
    corners = np.array([divmod(tile, COLUMNS) for tile in tiles]) * TILE_PX
    apart = coords_px[:, None] - corners[None]
    return ((apart < TILE_PX) & (apart > -footprint_px)).all(-1).any(-1)


class TestEncode:
    def test_few_end_in_a_warning_and_many_in_a_rejection_with_their_share(
        self, damaged, shared_data, tmp_path
    ):
        slides = {"whole": [], "few": [57], "many": list(range(40, 60))}
        items = [SlideItem(name, damaged(name, tiles)) for name, tiles in slides.items()]
        out, ledger = tmp_path / "out", tmp_path / "ledger.jsonl"
        options = EncodeOptions(max_corrupt=0.2)
        encode_cohort(items, out=out, options=options, ledger=Ledger(ledger))
        lines = [json.loads(line) for line in ledger.read_text().splitlines()]
        assert [line["state"] for line in lines] == ["done", "done", "rejected"]
        assert [line["reason"] for line in lines] == ["", "", "corrupt"]

        whole, few = (read_bag(out / f"{name}.bag.zarr") for name in ("whole", "few"))
        lost = touches(whole.coords_px, whole.footprint_px[0], slides["few"])
        np.testing.assert_array_equal(few.coords_px, whole.coords_px[~lost])
        assert lines[0]["detail"] == ""

        # Nobody knows which of the lost were glass: every one is tried, and counted.
        y, x = np.mgrid[0 : 2967 - 256 : 256.513, 0 : 2220 - 256 : 256.513].round()
        grid = np.stack([y.ravel(), x.ravel()], -1)
        for name, line, sound in (("few", lines[1], len(few)), ("many", lines[2], 0)):
            share, corrupt, tried = re.search(
                r"([\d.]+) % of tiles \((\d+) of (\d+)\)", line["detail"]
            ).groups()
            assert int(corrupt) == touches(grid, whole.footprint_px[0], slides[name]).sum()
            assert int(tried) >= sound + int(corrupt)
            assert float(share) == pytest.approx(100 * int(corrupt) / int(tried), abs=0.05)
        assert not (out / "many.bag.zarr").exists()

    def test_where_all_is_lost_the_slide_is_corrupt_and_not_without_tissue(self, damaged, tmp_path):
        item = SlideItem("lost", damaged("lost", list(range(TILES))))
        with pytest.raises(CorruptTiles, match="100 % of the slide"):
            encode_slide(item, out=tmp_path, options=EncodeOptions(max_corrupt=0.9))

    def test_half_of_a_slide_is_encoded_where_that_is_allowed(self, damaged, tmp_path):
        item = SlideItem("half", damaged("half", list(range(60, TILES))))
        made = encode_slide(item, out=tmp_path, options=EncodeOptions(max_corrupt=1.0))
        bag = read_bag(made.path)
        assert len(bag) == made.tiles > 0
        assert (bag.coords_px[:, 0] + bag.footprint_px[0] <= 6 * TILE_PX).all()
        assert made.corrupt_tiles > made.tiles

    def test_no_allowance_makes_a_bag_of_nothing(self, damaged, tmp_path):
        item = SlideItem("middle", damaged("middle", list(range(20, 110))))
        with pytest.raises(CorruptTiles, match="at least"):
            encode_slide(item, out=tmp_path, options=EncodeOptions(max_corrupt=1.0))


class TestSalvaged:
    @pytest.mark.parametrize("reader", ["tifffile", "openslide"])
    def test_loses_the_damaged_tiles_alone_and_says_where(self, damaged, shared_data, reader):
        path = damaged("two", [13, 57])
        corners = [(240, 720), (1200, 1680)]
        with (
            open_slide(path, reader=reader) as slide,
            open_slide(shared_data / SVS) as good,
        ):
            salvaged = Salvaged(slide)
            expected = good.read(0, 0, 0, 2967, 2220)
            for y, x in corners:
                expected[y : y + 240, x : x + 240] = 255
            np.testing.assert_array_equal(salvaged.read(0, 0, 0, 2967, 2220), expected)
            assert salvaged.lost == {Bounds(y, x, 240, 240) for y, x in corners}
            assert salvaged.lost_fraction == pytest.approx(2 * 240**2 / (2967 * 2220))

    def test_cuts_a_rectangle_along_the_files_tiles_wherever_it_begins(self, damaged, shared_data):
        with open_slide(damaged("one", [57])) as slide, open_slide(shared_data / SVS) as good:
            salvaged = Salvaged(slide)
            expected = good.read(0, 1100, 1650, 400, 500)
            expected[100:340, 30:270] = 255
            np.testing.assert_array_equal(salvaged.read(0, 1100, 1650, 400, 500), expected)
            assert salvaged.lost == {Bounds(1200, 1680, 240, 240)}

    def test_of_a_sound_slide_reads_the_same_and_loses_nothing(self, shared_data):
        with open_slide(shared_data / SVS) as slide:
            salvaged = Salvaged(slide)
            np.testing.assert_array_equal(
                salvaged.read(0, 5, 6, 700, 800), slide.read(0, 5, 6, 700, 800)
            )
            assert not salvaged.lost
            with pytest.raises(ValueError, match="leaves level 0"):
                salvaged.read(0, 0, 0, 10**6, 1)


class TestPicture:
    def test_of_a_damaged_slide_is_white_where_it_is_lost_and_says_how_much(
        self, damaged, tmp_path
    ):
        path = damaged("few", [57])
        options = EncodeOptions(max_corrupt=0.2)
        made = encode_slide(SlideItem("few", path), out=tmp_path, options=options)
        with open_slide(path) as slide:
            canvas = canvas_for(read_bag(made.path), slide, max_px=742)
        assert canvas.lost_fraction == pytest.approx(240**2 / (2967 * 2220))
        # Downsample 4: the lost tile begins at (1200, 1680).
        assert (canvas.overview[302:358, 422:478] == 255).all()
        assert (canvas.overview[302:358, 350:410] < 255).any()
