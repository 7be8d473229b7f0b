"""JPEG in TIFF: the same pixels as other decoders, and no damage passed over."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import imagecodecs
import numpy as np
import openslide
import pytest
import tifffile
from PIL import Image

from microtome.engine.slides import open_slide
from microtome.engine.slides.jpeg import decode_segment
from microtome.storage.errors import UnreadableFile

SVS = "slides/aperio/CMU-1-Small-Region.svs"
OME = "slides/derived/CMU-1-Small-Region.ome.tif"


@pytest.fixture(scope="module")
def tissue(shared_data: Path) -> np.ndarray:
    with open_slide(shared_data / SVS) as slide:
        return slide.read(0, 300, 300, 210, 333)


def whole(path: Path) -> np.ndarray:
    with open_slide(path, reader="tifffile") as slide:
        return slide.read(0, 0, 0, slide.info.height_px, slide.info.width_px)


def jpeg(pixels: np.ndarray, **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=90, **options)
    return file.getvalue()


def write_tiles(path: Path, tiles: list[bytes], **options) -> None:
    """A 100 × 150 px TIFF of 64 × 96 px tiles."""
    tifffile.imwrite(
        path, iter(tiles), shape=(100, 150, 3), dtype=np.uint8, tile=(64, 96), metadata=None,
        compression="jpeg", **options,
    )  # fmt: skip


class TestPixels:
    @pytest.mark.parametrize("layout", [{"tile": (64, 96)}, {"rowsperstrip": 48}])
    @pytest.mark.parametrize("sampling", [(1, 1), (2, 1), (2, 2)])
    def test_of_ycbcr_are_libtiffs(self, tissue, tmp_path, layout, sampling):
        path = tmp_path / "ycbcr.tif"
        tifffile.imwrite(
            path, tissue, photometric="ycbcr", compression="jpeg", subsampling=sampling,
            compressionargs={"level": 85}, metadata=None, **layout,
        )  # fmt: skip
        # Pillow's libtiff smooths halved chroma by libjpeg as well; OpenSlide opens tiles only.
        np.testing.assert_array_equal(whole(path), np.asarray(Image.open(path).convert("RGB")))
        if "tile" in layout:
            with openslide.OpenSlide(path) as theirs:
                region = theirs.read_region((0, 0), 0, tissue.shape[1::-1]).convert("RGB")
            np.testing.assert_array_equal(whole(path), np.asarray(region))

    @pytest.mark.parametrize("layout", [{"tile": (64, 96)}, {"rowsperstrip": 48}])
    def test_of_rgb_components_are_not_turned_into_other_colours(self, tissue, tmp_path, layout):
        path = tmp_path / "rgb.tif"
        tifffile.imwrite(
            path, tissue, photometric="rgb", compression="jpeg", metadata=None,
            compressionargs={"level": 95, "colorspace": "rgb", "outcolorspace": "rgb"}, **layout,
        )  # fmt: skip
        pixels = whole(path)
        np.testing.assert_array_equal(pixels, np.asarray(Image.open(path)))
        assert np.abs(pixels.astype(int) - tissue).mean() < 3

    def test_of_single_colour_planes_are_tifffiles(self, tissue, tmp_path):
        path = tmp_path / "planes.tif"
        tifffile.imwrite(
            path, tissue.transpose(2, 0, 1), photometric="rgb", planarconfig="separate",
            compression="jpeg", tile=(64, 96), metadata=None,
        )  # fmt: skip
        np.testing.assert_array_equal(whole(path), tifffile.imread(path).transpose(1, 2, 0))

    def test_the_tiffs_colours_win_over_an_adobe_marker_of_the_stream(self, tissue):
        ycbcr_in_rgb = imagecodecs.jpeg8_encode(tissue, colorspace="rgb", outcolorspace="rgb")
        marked = ycbcr_in_rgb[:2] + b"\xff\xee\x00\x0eAdobe\x00\x64\0\0\0\0\x01" + ycbcr_in_rgb[2:]
        for stream in (ycbcr_in_rgb, marked):
            np.testing.assert_array_equal(
                decode_segment(stream, tissue.shape[:2], samples=3, is_rgb=True),
                imagecodecs.jpeg8_decode(stream, colorspace="rgb", outcolorspace="rgb"),
            )

    def test_of_tiles_that_were_cut_to_the_image_are_whole(self, tissue, tmp_path):
        path = tmp_path / "cut.tif"
        parts = [
            tissue[y : min(y + 64, 100), x : min(x + 96, 150)] for y in (0, 64) for x in (0, 96)
        ]
        tiles = [jpeg(part) for part in parts]
        write_tiles(path, tiles, photometric="ycbcr")
        truth = [np.asarray(Image.open(io.BytesIO(tile))) for tile in tiles]
        rows = [np.concatenate(truth[at : at + 2], 1) for at in (0, 2)]
        np.testing.assert_array_equal(whole(path), np.concatenate(rows))


class TestDamage:
    @pytest.mark.parametrize("file", [SVS, OME])
    def test_of_one_bit_is_noticed_wherever_openslide_notices_it(self, shared_data, tmp_path, file):
        path = tmp_path / Path(file).name
        shutil.copy(shared_data / file, path)
        path.chmod(0o644)
        data = path.read_bytes()
        with tifffile.TiffFile(path) as tif:
            page = tif.pages.first
            spots = list(zip(page.dataoffsets, page.databytecounts, strict=True))
            tall, wide = page.tilelength, page.tilewidth
            columns = -(-page.imagewidth // wide)
        rng, noticed = np.random.default_rng(8), 0
        with path.open("r+b") as stream:
            for _ in range(80):
                row, column = int(rng.integers(0, 8)), int(rng.integers(0, 8))
                offset, size = spots[row * columns + column]
                at = offset + int(rng.integers(size // 3, size))
                stream.seek(at)
                stream.write(bytes([data[at] ^ 1 << int(rng.integers(0, 8))]))
                stream.flush()
                place = (row * tall, column * wide)
                ours = self.ours(path, place, (tall, wide))
                theirs = self.openslides(path, place, (tall, wide))
                stream.seek(at)
                stream.write(data[at : at + 1])
                noticed += ours is None
                # OpenSlide stops after the last row; what is wrong behind that we notice as well.
                if ours is not None:
                    assert theirs is not None
                    np.testing.assert_array_equal(ours, theirs)
        # Huffman codes catch up with themselves: many a bit no decoder can miss.
        assert noticed >= 20

    def ours(self, path, place, size) -> np.ndarray | None:
        with open_slide(path, reader="tifffile") as slide:
            try:
                return slide.read(0, *place, *size)
            except UnreadableFile:
                return None

    def openslides(self, path, place, size) -> np.ndarray | None:
        with openslide.OpenSlide(path) as slide:
            try:
                region = slide.read_region(place[::-1], 0, size[::-1])
            except openslide.OpenSlideError:
                return None
        return np.asarray(region.convert("RGB"))

    @pytest.mark.parametrize("size", [(40, 96), (64, 95), (64, 97), (65, 96), (1000, 1000)])
    def test_a_tile_of_another_size_is_refused(self, tissue, tmp_path, size):
        path = tmp_path / "odd.tif"
        right, wrong = jpeg(np.resize(tissue, (64, 96, 3))), jpeg(np.resize(tissue, (*size, 3)))
        write_tiles(path, [wrong, right, right, right], photometric="ycbcr")
        with open_slide(path) as slide:
            slide.read(0, 64, 0, 36, 150)
            with pytest.raises(UnreadableFile, match=r"tile \(0, 0\)"):
                slide.read(0, 0, 0, 10, 10)

    def test_a_stated_size_of_gigabytes_is_not_believed(self, tissue):
        stream = bytearray(jpeg(tissue[:64, :96]))
        at = stream.find(b"\xff\xc0")
        stream[at + 5 : at + 9] = b"\xff\xdc\xff\xdc"
        with pytest.raises(ValueError, match="65500"):
            decode_segment(bytes(stream), (64, 96), samples=3)

    @pytest.mark.parametrize("kept", [0, 1, 2, 3, 20, 300, -3, -2, -1])
    @pytest.mark.parametrize("is_rgb", [False, True])
    def test_a_stream_that_is_cut_short_is_refused(self, tissue, kept, is_rgb):
        stream = jpeg(tissue[:64, :96])
        decode_segment(stream, (64, 96), samples=3, is_rgb=is_rgb)
        with pytest.raises(ValueError, match=r"JPEG|Premature"):
            decode_segment(stream[:kept], (64, 96), samples=3, is_rgb=is_rgb)
