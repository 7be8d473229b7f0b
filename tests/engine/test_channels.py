"""Fluorescence stays channels of the file's own values, and is never taken for colours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from typer.testing import CliRunner

from microtome.cli.app import app
from microtome.engine.slides import open_slide
from microtome.engine.slides.base import ChannelSlide
from microtome.engine.tiles import read_overview
from microtome.storage.errors import NotBrightfield, UnreadableFile
from microtome.tasks.encode import SlideItem, encode_slide

VECTRA = "slides/akoya/small_vectra.qptiff"
TWO = "slides/synthetic/cells-2c.ome.tif"
GREY_16 = "slides/synthetic/cells-gray16.tif"


def all_of(slide: ChannelSlide, level: int = 0) -> np.ndarray:
    size = slide.info.levels[level]
    return slide.read_channels(level, 0, 0, size.height_px, size.width_px)


class TestRealFiles:
    @pytest.mark.parametrize(
        ("file", "names", "dtype", "mpp"),
        [
            (VECTRA, ("DAPI", "FITC", "Cy3"), "uint8", 0.4965),
            (TWO, ("channel 1", "channel 2"), "uint8", 0.25),
            (GREY_16, ("channel 1",), "uint16", 0.25),
        ],
    )
    def test_values_and_names_and_resolution_are_the_files(
        self, shared_data, file, names, dtype, mpp
    ):
        theirs = tifffile.imread(shared_data / file)
        theirs = theirs if theirs.ndim == 3 else theirs[None]
        with open_slide(shared_data / file) as slide:
            assert isinstance(slide, ChannelSlide)
            assert (slide.info.channels, slide.info.dtype) == (names, dtype)
            assert slide.info.mpp == pytest.approx((mpp, mpp), rel=1e-3)
            values = all_of(slide)
            assert values.dtype == np.dtype(dtype)
            np.testing.assert_array_equal(values, theirs)
            part = slide.read_channels(0, 11, 7, 60, 50)
            np.testing.assert_array_equal(part, theirs[:, 11:71, 7:57])
            assert part.flags.c_contiguous
            part[...] = 0
            np.testing.assert_array_equal(all_of(slide), theirs)

    def test_colours_of_channels_are_refused_by_name_wherever_they_are_asked_for(
        self, shared_data, tmp_path
    ):
        path = shared_data / VECTRA
        with open_slide(path) as slide:
            for ask in (lambda: slide.read(0, 0, 0, 9, 9), lambda: read_overview(slide, max_px=50)):
                with pytest.raises(NotBrightfield, match="DAPI, FITC, Cy3"):
                    ask()
        with pytest.raises(NotBrightfield, match="small_vectra"):
            encode_slide(SlideItem("vectra", path), out=tmp_path)
        assert NotBrightfield.state == "rejected"

    def test_info_names_them(self, shared_data):
        said = CliRunner().invoke(app, ["info", str(shared_data / VECTRA), "--json"])
        assert said.exit_code == 0
        assert '"channels": ["DAPI", "FITC", "Cy3"]' in said.stdout

    def test_the_thumbnail_beside_them_is_rgb(self, shared_data):
        with open_slide(shared_data / VECTRA) as slide, tifffile.TiffFile(slide.info.path) as tif:
            np.testing.assert_array_equal(
                slide.associated_image("thumbnail"), tif.series[1].asarray()
            )

    @pytest.mark.parametrize(("file", "what"), [("cells-2t", "2 times"), ("cells-2z", "2 depths")])
    def test_no_depth_or_time_is_picked(self, shared_data, file, what):
        with pytest.raises(UnreadableFile, match=what):
            open_slide(shared_data / "slides/synthetic" / f"{file}.ome.tif")

    def test_an_rgb_slide_has_colours_for_channels(self, shared_data):
        path = shared_data / "slides/aperio/CMU-1-Small-Region.svs"
        with open_slide(path) as slide:
            assert slide.info.channels == ()
            np.testing.assert_array_equal(
                slide.read_channels(0, 100, 200, 300, 250).transpose(1, 2, 0),
                slide.read(0, 100, 200, 300, 250),
            )


class TestContainers:
    @pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
    @pytest.mark.parametrize("compression", [None, "zlib", "lzw"])
    @pytest.mark.parametrize("how", [{"tile": (64, 96)}, {"rowsperstrip": 17}])
    @pytest.mark.parametrize("byteorder", ["<", ">"])
    def test_a_pyramid_comes_back_as_it_was_stored(
        self, tmp_path: Path, dtype, compression, how, byteorder
    ):
        rng = np.random.default_rng(2)
        values = rng.integers(0, 120, (4, 210, 333)).astype(dtype)
        path = tmp_path / "channels.ome.tif"
        options = {"compression": compression, "photometric": "minisblack", **how}
        with tifffile.TiffWriter(path, ome=True, byteorder=byteorder) as tif:
            about = {"axes": "CYX", "Channel": {"Name": ["DAPI", "CD3", "CD8", "PanCK"]}}
            tif.write(values, subifds=1, metadata=about, **options)
            tif.write(values[:, ::2, ::2], subfiletype=1, **options)
        with open_slide(path) as slide:
            assert slide.info.channels == ("DAPI", "CD3", "CD8", "PanCK")
            assert slide.info.dtype == dtype
            assert [level.downsample_y for level in slide.info.levels] == [1, 2]
            for level, truth in enumerate([values, values[:, ::2, ::2]]):
                read = all_of(slide, level)
                assert read.dtype == np.dtype(dtype)
                np.testing.assert_array_equal(read, truth)
            tile = slide.read_channels(0, 64, 96, 64, 96)
            assert tile.dtype == np.dtype(dtype)
            np.testing.assert_array_equal(tile, values[:, 64:128, 96:192])

    def test_what_was_never_written_is_0(self, tmp_path):
        path = tmp_path / "sparse.tif"
        values = np.full((256, 256), 900, np.uint16)
        tifffile.imwrite(path, values, tile=(128, 128), compression="zlib")
        with tifffile.TiffFile(path, mode="r+") as tif:
            counts = tif.pages.first.tags[325]
            counts.overwrite((counts.value[0], 0, *counts.value[2:]))
        with open_slide(path) as slide:
            values[:128, 128:] = 0
            np.testing.assert_array_equal(all_of(slide)[0], values)
            assert "read as 0" in slide.info.notes[0]

    def test_jpeg_of_one_channel_is_decoded_as_grey(self, tmp_path):
        path = tmp_path / "jpeg.tif"
        ramp = np.add.outer(np.arange(128), np.arange(128)).astype(np.uint8)
        tifffile.imwrite(path, ramp, tile=(64, 64), compression="jpeg", photometric="minisblack")
        with open_slide(path, reader="tifffile") as slide:
            np.testing.assert_array_equal(all_of(slide)[0], tifffile.imread(path))
