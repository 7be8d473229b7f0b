"""The reader of a file is found by its content, and other packages may add one."""

from __future__ import annotations

import shutil
import sys

import numpy as np
import pytest
from slide_files import DICOM, OME, SVS, whole

from microtome.doctor import examine
from microtome.engine.slides import open_slide, registry
from microtome.storage.errors import (
    MissingDependency,
)


class TestRegistry:
    def test_tiff_goes_to_its_own_tiles_and_the_rest_to_openslide(self, shared_data):
        for file, backend in [(SVS, "tifffile"), (OME, "tifffile"), (DICOM, "openslide")]:
            assert registry.find_reader(shared_data / file).name == backend

    def test_dicom_with_a_tiffs_preamble_is_dicom(self, shared_data, tmp_path):
        data = (shared_data / DICOM / "level0.dcm").read_bytes()
        path = tmp_path / "both.dcm"
        path.write_bytes(b"II*\0" + data[4:])
        with open_slide(path) as slide, open_slide(shared_data / SVS) as svs:
            assert slide.info.vendor == "dicom"
            np.testing.assert_array_equal(whole(slide), whole(svs))

    def test_content_decides_not_the_name(self, shared_data, tmp_path):
        path = tmp_path / "slide.txt"
        shutil.copy(shared_data / SVS, path)
        with open_slide(path) as slide:
            assert slide.info.vendor == "aperio"

    def test_another_package_adds_a_reader(self, shared_data, tmp_path, monkeypatch):
        (tmp_path / "guest.py").write_text(
            "from microtome.engine.slides.registry import BUILT_IN, Reader\n"
            "from dataclasses import replace\n"
            "READER = replace(BUILT_IN[0], name='guest', priority=99)\n"
        )
        info = tmp_path / "guest-1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: guest\nVersion: 1\n")
        (info / "entry_points.txt").write_text("[microtome.readers]\nguest = guest:READER\n")
        monkeypatch.syspath_prepend(tmp_path)
        registry.readers.cache_clear()
        try:
            assert registry.find_reader(shared_data / SVS).name == "guest"
        finally:
            registry.readers.cache_clear()

    @pytest.mark.parametrize("value", ["nowhere_at_all:READER", "guest:NOTHING", "guest:NO_READER"])
    def test_one_that_does_not_import_is_named(self, shared_data, tmp_path, monkeypatch, value):
        (tmp_path / "guest.py").write_text("NO_READER = 7\n")
        info = tmp_path / "guest-1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: guest\nVersion: 1\n")
        (info / "entry_points.txt").write_text(f"[microtome.readers]\nguest = {value}\n")
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "guest", raising=False)
        registry.readers.cache_clear()
        try:
            with pytest.raises(MissingDependency, match=f"guest .{value}"):
                open_slide(shared_data / SVS)
            broken = [check for check in examine() if check.state == "broken"]
            assert value in next(check.found for check in broken if "reader" in check.name)
        finally:
            registry.readers.cache_clear()

    def test_the_doctor_lists_them_in_order(self):
        listed = [check.name for check in examine() if check.name.startswith("reader ")]
        assert listed == [f"reader {reader.name}" for reader in registry.readers()]
        assert listed[0] == "reader tifffile"
