"""Whole-slide DICOM that OpenSlide refuses is read by wsidicom, to the same pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openslide
import pydicom
import pytest
from pydicom.uid import RLELossless

from microtome.engine.slides import open_slide
from microtome.engine.slides.registry import find_reader
from microtome.storage.errors import UnreadableFile

DICOM = "slides/derived/CMU-1-Small-Region_dicom_exact"
PYRAMID = "slides/derived/CMU-1-Small-Region_dicom_pyramid"
SVS = "slides/aperio/CMU-1-Small-Region.svs"


@pytest.fixture(scope="module")
def run_length(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Levels 2 to 4 of the pyramid, their frames compressed by run lengths."""
    folder = tmp_path_factory.mktemp("rle")
    for level in (2, 3, 4):
        data = pydicom.dcmread(shared_data / PYRAMID / f"level{level}.dcm")
        data.decompress(as_rgb=True)
        data.compress(RLELossless, generate_instance_uid=False)
        data.save_as(folder / f"level{level}.dcm")
    return folder


class TestRunLength:
    def test_openslide_refuses_it(self, run_length):
        with pytest.raises(openslide.OpenSlideError, match="transfer syntax"):
            openslide.OpenSlide(run_length / "level2.dcm")

    @pytest.mark.parametrize("entry", ["", "level2.dcm", "level4.dcm"])
    def test_every_level_has_the_frames_pixels(self, run_length, entry):
        with open_slide(run_length / entry) as slide:
            assert slide.info.backend == "wsidicom"
            assert slide.info.mpp == pytest.approx((0.499 * 4,) * 2, rel=0.01)
            assert slide.info.mpp_source == "DICOM PixelSpacing"
            assert [level.downsample_y for level in slide.info.levels] == [1, 2, 4]
            assert slide.info.levels[0].tile_px == (256, 256)
            for number, level in enumerate(slide.info.levels):
                height, width = level.height_px, level.width_px
                read = slide.read(number, 0, 0, height, width)
                frames = pydicom.dcmread(run_length / f"level{number + 2}.dcm").pixel_array
                frames = frames.reshape(-1, 256, 256, 3)
                for index, frame in enumerate(frames):
                    row, column = divmod(index, -(-width // 256))
                    seen = read[row * 256 :, column * 256 :][:256, :256]
                    np.testing.assert_array_equal(seen, frame[: seen.shape[0], : seen.shape[1]])
                part = slide.read(number, 20, 30, 100, 90)
                np.testing.assert_array_equal(part, read[20:120, 30:120])
            with pytest.raises(ValueError, match="leaves level 0"):
                slide.read(0, 0, 0, 10**6, 1)
            with pytest.raises(KeyError):
                slide.associated_image("label")

    @pytest.mark.parametrize("kept", [0.1, 0.5, 0.9])
    def test_a_truncated_file_is_an_error(self, run_length, tmp_path, kept):
        data = (run_length / "level2.dcm").read_bytes()
        (tmp_path / "cut.dcm").write_bytes(data[: int(len(data) * kept)])
        with pytest.raises(UnreadableFile), open_slide(tmp_path / "cut.dcm") as slide:
            slide.read(0, 0, 0, slide.info.height_px, slide.info.width_px)


def test_what_openslide_reads_stays_with_it_and_wsidicom_agrees(shared_data):
    assert find_reader(shared_data / DICOM).name == "openslide"
    with (
        open_slide(shared_data / DICOM, reader="wsidicom") as ours,
        open_slide(shared_data / SVS) as svs,
    ):
        assert set(ours.info.associated) == {"label", "macro"}
        np.testing.assert_array_equal(
            ours.read(0, 500, 600, 700, 800), svs.read(0, 500, 600, 700, 800)
        )
        for name in ours.info.associated:
            assert ours.associated_image(name).shape == svs.associated_image(name).shape


@pytest.mark.parametrize("file", [SVS, "slides/bad/broken.svs", "slides/SOURCE.md"])
def test_what_is_no_dicom_is_refused_by_name(shared_data, file):
    with pytest.raises(UnreadableFile, match="no whole-slide DICOM"):
        open_slide(shared_data / file, reader="wsidicom")
