"""What a slide says of its pixel size, whichever reader opens it."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
from slide_files import BOXES, DICOM, KIDNEY, OME, SVS

from microtome.engine.slides import open_slide
from microtome.storage.errors import (
    BadResolution,
    NoResolution,
)


class TestResolutionOfFiles:
    @pytest.mark.parametrize(
        ("file", "mpp", "source"),
        [
            (SVS, (0.499, 0.499), "aperio.MPP"),
            (OME, (0.499, 0.499), "OME PhysicalSizeX"),
            (DICOM, (0.499, 0.499), "openslide.mpp-x"),
            (
                "slides/dicom/multi_frame_jpeg_camelyon_challenge_image.dcm",
                (28.968, 28.969),
                "openslide.mpp-x",
            ),
            (KIDNEY, None, None),
        ],
    )
    def test_is_found_and_its_place_is_told(self, shared_data, file, mpp, source):
        with open_slide(shared_data / file) as slide:
            assert slide.info.mpp == (None if mpp is None else pytest.approx(mpp))
            assert slide.info.mpp_source == source

    @pytest.mark.parametrize("reader", ["tifffile", "openslide"])
    def test_a_screen_default_of_72_dpi_is_told_and_not_used(self, shared_data, reader):
        with open_slide(shared_data / BOXES, reader=reader) as slide:
            assert slide.info.mpp is None
            assert "72 dpi" in slide.info.mpp_refused[0]

    @pytest.mark.parametrize("reader", ["tifffile", "openslide"])
    def test_the_users_value_wins(self, shared_data, reader):
        with open_slide(shared_data / SVS, mpp=0.25, reader=reader) as slide:
            assert slide.info.mpp == (0.25, 0.25)
            assert slide.info.mpp_source == "--slide-mpp"

    @pytest.mark.parametrize("reader", ["tifffile", "openslide"])
    def test_the_objective_power_stands_in_only_where_it_is_asked_to(self, tmp_path, reader):
        path = tmp_path / "a.svs"
        about = "Aperio Image Library v11\n512x512 (256x256)|AppMag = 40"
        pixels = np.full((512, 512, 3), 200, np.uint8)
        tifffile.imwrite(path, pixels, tile=(256, 256), description=about, metadata=None)
        with open_slide(path, reader=reader) as slide:
            assert (slide.info.mpp, slide.info.objective_power) == (None, 40)
        with open_slide(path, mpp="objective", reader=reader) as slide:
            assert slide.info.mpp == (0.25, 0.25)
            assert slide.info.mpp_source.startswith("objective power 40, as asked")

    def test_a_stated_pixel_size_goes_before_the_power(self, shared_data):
        with open_slide(shared_data / SVS, mpp="objective") as slide:
            assert slide.info.mpp == (0.499, 0.499)
            assert slide.info.mpp_source == "aperio.MPP"

    def test_without_a_power_nothing_stands_in(self, shared_data):
        with pytest.raises(NoResolution, match="nor an objective power"):
            open_slide(shared_data / BOXES, mpp="objective")
        with pytest.raises(BadResolution, match="'20x' is no pixel size"):
            open_slide(shared_data / BOXES, mpp="20x")

    @pytest.mark.parametrize("mpp", [0.0, -1.0, float("nan"), float("inf"), 1000.0])
    def test_a_value_that_cannot_be_is_refused_even_from_the_user(self, shared_data, mpp):
        with pytest.raises(BadResolution, match="cannot be a pixel size"):
            open_slide(shared_data / SVS, mpp=mpp)
