"""Plain pictures are slides without a resolution; damaged ones are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from microtome.engine.slides import Slide, open_slide
from microtome.storage.errors import NoResolution, UnreadableFile
from microtome.tasks.encode import SlideItem, encode_slide

TILE = "slides/reference/CMU-1-Small-Region-page-0-tile_5-5.bmp"


@pytest.fixture
def tissue(shared_data: Path) -> np.ndarray:
    return np.asarray(Image.open(shared_data / TILE).convert("RGB"))


class TestPixels:
    @pytest.mark.parametrize("name", ["tissue.png", "tissue.bmp", "tissue.dat"])
    def test_are_the_files_whatever_it_is_called(self, tissue, tmp_path, name):
        path = tmp_path / name
        Image.fromarray(tissue).save(path, "PNG" if name.endswith("dat") else None, dpi=(300, 300))
        with open_slide(path) as slide:
            assert isinstance(slide, Slide)
            assert slide.info.backend == "picture"
            assert (slide.info.mpp, slide.info.mpp_source) == (None, None)
            part = slide.read(0, 10, 20, 50, 60)
            np.testing.assert_array_equal(part, tissue[10:60, 20:80])
            part[...] = 0
            np.testing.assert_array_equal(slide.read(0, 0, 0, *tissue.shape[:2]), tissue)
            with pytest.raises(ValueError, match="leaves level 0"):
                slide.read(0, 0, 0, 10**6, 1)
            with pytest.raises(KeyError):
                slide.associated_image("label")

    def test_of_a_jpeg_are_libjpegs(self, tissue, tmp_path):
        path = tmp_path / "tissue.jpg"
        Image.fromarray(tissue).save(path, quality=80)
        with open_slide(path) as slide:
            np.testing.assert_array_equal(
                slide.read(0, 0, 0, *tissue.shape[:2]), np.asarray(Image.open(path))
            )

    def test_of_another_program_equal_the_slide_they_came_from(self, shared_data, tissue):
        with (
            open_slide(shared_data / TILE) as picture,
            open_slide(shared_data / "slides/aperio/CMU-1-Small-Region.svs") as slide,
        ):
            np.testing.assert_array_equal(
                picture.read(0, 0, 0, 240, 240), slide.read(0, 1200, 1200, 240, 240)
            )

    def test_that_are_transparent_are_white(self, tissue, tmp_path):
        rgba = np.dstack([tissue, np.full(tissue.shape[:2], 255, np.uint8)])
        rgba[:40, :40, 3] = 0
        Image.fromarray(rgba).save(tmp_path / "clear.png")
        expected = tissue.copy()
        expected[:40, :40] = 255
        with open_slide(tmp_path / "clear.png") as slide:
            np.testing.assert_array_equal(slide.read(0, 0, 0, *tissue.shape[:2]), expected)

    def test_of_a_palette_are_its_colours(self, tissue, tmp_path):
        few = Image.fromarray(tissue).quantize(16)
        few.save(tmp_path / "few.png")
        with open_slide(tmp_path / "few.png") as slide:
            np.testing.assert_array_equal(
                slide.read(0, 0, 0, *tissue.shape[:2]), np.asarray(few.convert("RGB"))
            )


class TestRefusals:
    @pytest.mark.parametrize("suffix", ["png", "jpg", "bmp"])
    @pytest.mark.parametrize("kept", [0.02, 0.5, 0.97])
    def test_a_truncated_picture(self, tissue, tmp_path, suffix, kept):
        path = tmp_path / f"cut.{suffix}"
        Image.fromarray(tissue).save(path)
        data = path.read_bytes()
        path.write_bytes(data[: int(len(data) * kept)])
        with pytest.raises(UnreadableFile, match="cut"), open_slide(path) as slide:
            slide.read(0, 0, 0, 9, 9)

    def test_a_damaged_png_is_noticed_by_its_checksums(self, tissue, tmp_path):
        path = tmp_path / "bad.png"
        Image.fromarray(tissue).save(path)
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 4
        path.write_bytes(data)
        with open_slide(path) as slide, pytest.raises(UnreadableFile, match=r"bad\.png"):
            slide.read(0, 0, 0, 9, 9)

    @pytest.mark.parametrize("mode", ["L", "I;16", "1", "LA"])
    def test_grey_values(self, tmp_path, mode):
        Image.new(mode, (40, 30)).save(tmp_path / "grey.png")
        with pytest.raises(UnreadableFile, match="not 8-bit RGB"):
            open_slide(tmp_path / "grey.png")

    def test_a_photograph_that_lies_on_its_side(self, tissue, tmp_path):
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.fromarray(tissue).save(tmp_path / "turned.jpg", exif=exif)
        with pytest.raises(UnreadableFile, match="turned"):
            open_slide(tmp_path / "turned.jpg")

    def test_no_resolution_is_made_up(self, tissue, tmp_path):
        path = tmp_path / "tissue.png"
        Image.fromarray(tissue).save(path, dpi=(25400, 25400))
        with pytest.raises(NoResolution):
            encode_slide(SlideItem("tissue", path), out=tmp_path)
        with open_slide(path, mpp=0.5) as slide:
            assert slide.info.mpp == (0.5, 0.5)
