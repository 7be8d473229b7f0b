"""What is no slide, or is a damaged one, is refused by name."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile
from slide_files import BOXES, DICOM, KIDNEY, OME, SVS, whole

from microtome.engine.slides import open_slide
from microtome.storage.errors import (
    EmptyFile,
    InputError,
    MicrotomeError,
    MissingFile,
    TruncatedFile,
    UnreadableFile,
)


class TestBadFiles:
    @pytest.mark.parametrize(
        "file", ["unopenable.tiff", "unreadable.svs", "broken.svs", "broken-html.svs"]
    )
    @pytest.mark.parametrize("reader", [None, "tifffile", "openslide"])
    def test_each_is_unreadable_and_says_which_file(self, shared_data, file, reader):
        path = shared_data / "slides/bad" / file
        with (
            pytest.raises(UnreadableFile, match=file),
            open_slide(path, reader=reader) as slide,
        ):
            whole(slide)

    @pytest.mark.parametrize("file", [DICOM, DICOM + "/level0.dcm", "slides/bad/broken.svs"])
    @pytest.mark.parametrize(("reader", "why"), [("tifffile", "not a TIFF"), ("picture", "PNG")])
    def test_a_reader_that_is_not_for_the_file_says_so(self, shared_data, file, reader, why):
        with pytest.raises(UnreadableFile, match=why):
            open_slide(shared_data / file, reader=reader)

    def test_missing_and_empty_and_unknown_are_told_apart(self, tmp_path, shared_data):
        with pytest.raises(MissingFile):
            open_slide(tmp_path / "none.svs")
        (tmp_path / "empty.svs").touch()
        with pytest.raises(EmptyFile):
            open_slide(tmp_path / "empty.svs")
        with pytest.raises(UnreadableFile, match="no reader"):
            open_slide(shared_data / "slides/SOURCE.md")
        with pytest.raises(UnreadableFile, match="no reader"):
            open_slide(tmp_path)
        with pytest.raises(InputError, match=r"tifffile, .*openslide, .*picture"):
            open_slide(shared_data / SVS, reader="crystal-ball")

    @pytest.mark.parametrize("file", [SVS, OME, BOXES, KIDNEY])
    @pytest.mark.parametrize("kept", [4, 8, 200, 0.25, 0.5, 0.75, 0.9, 0.99, -1000, -1])
    def test_a_truncated_tiff_is_noticed_at_open(self, shared_data, tmp_path, file, kept):
        data = (shared_data / file).read_bytes()
        size = int(len(data) * kept) if isinstance(kept, float) else kept
        path = tmp_path / Path(file).name
        path.write_bytes(data[:size])
        with pytest.raises(TruncatedFile, match="ends before"):
            open_slide(path)

    def test_a_truncated_dicom_is_an_error_at_open_or_read(self, shared_data, tmp_path):
        data = (shared_data / DICOM / "level0.dcm").read_bytes()
        path = tmp_path / "cut.dcm"
        for share in (0.1, 0.5, 0.95):
            path.write_bytes(data[: int(len(data) * share)])
            with pytest.raises(UnreadableFile), open_slide(path) as slide:
                whole(slide)

    @pytest.mark.parametrize("reader", ["tifffile", "openslide"])
    def test_a_bad_tile_is_an_error_each_time_and_the_others_stay_readable(
        self, shared_data, tmp_path, reader
    ):
        path = tmp_path / "one-bad-tile.svs"
        shutil.copy(shared_data / SVS, path)
        with tifffile.TiffFile(path) as tif:
            page = tif.pages.first
            offset, size = page.dataoffsets[5 * 10 + 5], page.databytecounts[5 * 10 + 5]
        with path.open("r+b") as file:
            file.seek(offset)
            file.write(bytes(size))
        with open_slide(path, reader=reader) as slide, open_slide(shared_data / SVS) as good:
            for _ in range(2):
                with pytest.raises(UnreadableFile, match="level 0"):
                    slide.read(0, 1200, 1200, 240, 240)
                np.testing.assert_array_equal(
                    slide.read(0, 0, 0, 240, 480), good.read(0, 0, 0, 240, 480)
                )

    def test_the_bad_tile_is_named(self, shared_data, tmp_path):
        path = tmp_path / "cut-tile.svs"
        shutil.copy(shared_data / SVS, path)
        with tifffile.TiffFile(path, mode="r+") as tif:
            counts = tif.pages.first.tags[325]
            counts.overwrite([n // 2 if i == 57 else n for i, n in enumerate(counts.value)])
        with open_slide(path) as slide, pytest.raises(UnreadableFile, match=r"tile \(5, 7\)"):
            slide.read(0, 1200, 1680, 10, 10)

    def test_damaged_headers_end_in_a_reading_or_a_named_error(self, shared_data, tmp_path):
        rng = np.random.default_rng(3)
        data = (shared_data / BOXES).read_bytes()
        outcomes = set()
        for _ in range(60):
            damaged = bytearray(data)
            for at in rng.integers(0, len(data), 20):
                damaged[at] = rng.integers(0, 256)
            path = tmp_path / "damaged.tif"
            path.write_bytes(damaged)
            try:
                with open_slide(path) as slide:
                    slide.read(0, 0, 0, 64, 64)
                outcomes.add("read")
            except MicrotomeError as error:
                outcomes.add(type(error).__name__)
        assert "UnreadableFile" in outcomes

    def test_a_folder_of_two_slides_says_which_there_are(self, shared_data, tmp_path):
        shutil.copy(shared_data / DICOM / "level0.dcm", tmp_path / "a.dcm")
        shutil.copy(shared_data / "slides/synthetic/boxes_0.dcm", tmp_path / "b.dcm")
        with pytest.raises(UnreadableFile, match=r"2 slides.*a\.dcm, b\.dcm"):
            open_slide(tmp_path)
