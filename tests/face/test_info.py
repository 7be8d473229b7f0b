"""``microtome info`` says what was understood of a file, and ends well or by name."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from microtome.cli.app import app
from microtome.engine.ingest import ingest_slide
from microtome.engine.slides import open_slide
from microtome.engine.tiles import read_overview
from microtome.storage.commit import new_product
from microtome.storage.errors import TruncatedFile, UnreadableFile

SVS = "slides/aperio/CMU-1-Small-Region.svs"
OME = "slides/derived/CMU-1-Small-Region.ome.tif"


def info(*arguments: object):
    return CliRunner().invoke(app, ["info", *map(str, arguments)], env={"COLUMNS": "200"})


def described(*arguments: object) -> dict:
    result = info(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_of_a_slide_gives_levels_resolution_and_its_source(shared_data):
    found = described(shared_data / OME)
    assert (found["kind"], found["reader"], found["vendor"]) == ("slide", "tifffile", "ome-tiff")
    assert found["mpp"] == {"y": 0.499, "x": 0.499}
    assert found["mpp_source"] == "OME PhysicalSizeX"
    assert [level["width_px"] for level in found["levels"]] == [2220, 1110, 555, 277, 138]
    assert found["levels"][0]["tile_px"] == [256, 256]
    assert found["size_mm"]["width"] == pytest.approx(2220 * 0.499 / 1000)


def test_of_a_dicom_folder_names_it_as_such(shared_data):
    found = described(shared_data / "slides/derived/CMU-1-Small-Region_dicom_exact")
    assert found["vendor"] == "dicom"
    assert set(found["associated"]) == {"label", "macro", "thumbnail"}


def test_tells_what_is_odd(shared_data):
    text = " ".join(described(shared_data / "slides/synthetic/boxes.tiff")["odd"])
    assert "72 dpi" in text
    assert "no usable pixel size" in text


def test_the_users_resolution_is_taken_and_named(shared_data):
    found = described(shared_data / "slides/plain/kidney-48-5.tif", "--mpp", "2.5")
    assert found["mpp"] == {"y": 2.5, "x": 2.5}
    assert found["mpp_source"] == "--slide-mpp"


def test_as_a_table_for_people(shared_data):
    result = info(shared_data / SVS)
    assert result.exit_code == 0
    for words in ("aperio.MPP", "2967 × 2220", "240 × 240", "label, macro, thumbnail"):
        assert words in result.stdout


def test_of_several_files_prints_a_line_each_and_goes_on_after_a_bad_one(shared_data):
    bad = shared_data / "slides/bad/broken.svs"
    result = info(shared_data / SVS, bad, shared_data / OME, "--json")
    assert result.exit_code == 3
    assert [json.loads(line)["vendor"] for line in result.stdout.splitlines()] == [
        "aperio",
        "ome-tiff",
    ]
    assert "broken.svs" in result.stderr


@pytest.mark.parametrize(
    ("folder", "shape"),
    [("scans/mr_siemens_mosaic", [2, 5, 72, 72]), ("scans/nifti/spm12_PET.nii", [91, 109, 91])],
)
def test_of_a_scan_gives_axes_spacing_and_orientation(shared_data, folder, shape):
    found = described(shared_data / folder)
    assert found["kind"] == "scan"
    assert found["shape"] == shape
    assert found["axes"] == "tzyx"[-len(shape) :]
    assert len(found["orientation"]) == 3
    affine = np.array(found["affine"])
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    assert [found["spacing_mm"][axis] for axis in "xyz"] == pytest.approx(spacing.tolist())


def test_of_dicom_with_a_tiffs_preamble_is_still_a_scan(shared_data):
    with (shared_data / "scans/single/CT_small.dcm").open("rb") as file:
        assert file.read(4) == b"II*\0"
    assert described(shared_data / "scans/single/CT_small.dcm")["modality"] == "CT"


def test_of_a_product_gives_its_commit_record(tmp_path):
    with new_product(tmp_path / "p", kind="bag", key="abc", about={"encoder": "x@1"}):
        pass
    found = described(tmp_path / "p")
    assert (found["kind"], found["product"], found["key"]) == ("product", "bag", "abc")
    assert found["about"] == {"encoder": "x@1"}


def test_writes_a_picture_of_the_slide(shared_data, tmp_path):
    out = tmp_path / "new" / "slide.png"
    result = info(shared_data / SVS, "--thumbnail", out)
    assert result.exit_code == 0
    with Image.open(out) as picture:
        assert picture.size == (766, 1024)
    assert info(shared_data / SVS, shared_data / OME, "--thumbnail", out).exit_code == 2


def test_named_errors_come_through(shared_data, tmp_path):
    cut = tmp_path / "cut.svs"
    cut.write_bytes((shared_data / SVS).read_bytes()[:100_000])
    assert isinstance(info(cut).exception, TruncatedFile)
    assert isinstance(info(shared_data / "scans/bad/no_meta.dcm").exception, UnreadableFile)


def test_a_bad_file_ends_the_command_with_3_and_one_line(shared_data):
    ran = subprocess.run(
        [sys.executable, "-m", "microtome", "info", shared_data / "slides/bad/unopenable.tiff"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "MICROTOME_DEBUG": "0"},
    )
    assert ran.returncode == 3
    assert ran.stdout == ""
    assert ran.stderr.startswith("microtome: unreadable: ")
    assert ran.stderr.count("\n") == 1


class Ranges(SimpleHTTPRequestHandler):
    """Serves files, and parts of them, as every object store does."""

    def do_GET(self) -> None:
        wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        path = Path(self.translate_path(self.path))
        if wanted is None or not path.is_file():
            super().do_GET()
            return
        data = path.read_bytes()
        start, stop = wanted.groups()
        low = int(start) if start else max(0, len(data) - int(stop))
        high = min(int(stop) + 1, len(data)) if start and stop else len(data)
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {low}-{high - 1}/{len(data)}")
        self.send_header("Content-Length", str(high - low))
        self.end_headers()
        self.wfile.write(data[low:high])

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_a_slide_on_the_network_is_described_and_drawn(shared_data, tmp_path):
    ingest_slide(shared_data / SVS, tmp_path, name="skin")
    handler = partial(Ranges, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/skin.ome.zarr"
        found = described(url, "--thumbnail", tmp_path / "skin.png")
        server.shutdown()
    assert found["path"] == url
    assert (found["kind"], found["height_px"], found["width_px"]) == ("slide", 2967, 2220)
    assert found["mpp"]["y"] == pytest.approx(0.499)
    picture = np.asarray(Image.open(tmp_path / "skin.png").convert("RGB"), np.float64)
    with open_slide(shared_data / SVS) as slide:
        expected, _ = read_overview(slide, max_px=1024)
    assert np.abs(picture - expected).max() <= 1
