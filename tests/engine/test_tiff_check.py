"""A TIFF is all there: its directories lead somewhere, and to an end."""

from __future__ import annotations

import struct
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from microtome.engine.slides import open_slide
from microtome.engine.slides.tiff_check import require_whole_tiff
from microtome.engine.slides.tiff_layout import CoveredTiff
from microtome.storage.errors import UnreadableFile


def pyramid(path: Path, levels: int, **options: object) -> list[np.ndarray]:
    """Levels as SubIFDs, which tifffile also chains to each other."""
    pixels = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)
    images = [np.ascontiguousarray(pixels[:: 2**n, :: 2**n]) for n in range(levels)]
    with tifffile.TiffWriter(path, **options) as tif:
        for n, image in enumerate(images):
            parts = {"subifds": levels - 1} if n == 0 else {"subfiletype": 1}
            tif.write(image, tile=(64, 64), photometric="rgb", compression="deflate", **parts)
    return images


@pytest.mark.parametrize("bigtiff", [False, True])
@pytest.mark.parametrize("levels", [1, 2, 4])
def test_levels_that_are_listed_and_chained_are_no_circle(
    tmp_path: Path, levels: int, bigtiff: bool
) -> None:
    images = pyramid(tmp_path / "a.tif", levels, bigtiff=bigtiff)
    with open_slide(tmp_path / "a.tif") as slide:
        assert len(slide.info.levels) == levels
        for number, image in enumerate(images):
            np.testing.assert_array_equal(slide.read(number, 0, 0, *image.shape[:2]), image)


def test_directories_that_run_in_a_circle_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    pyramid(path, 1)
    data = bytearray(path.read_bytes())
    (first,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, first)
    struct.pack_into("<I", data, first + 2 + 12 * count, first)
    path.write_bytes(data)
    with pytest.raises(UnreadableFile, match=r"a\.tif: its directories run in a circle"):
        open_slide(path)


UUIDS = ("6a0b8e8e-0c5e-4b8e-9a55-2f6d6d1b0c01", "6a0b8e8e-0c5e-4b8e-9a55-2f6d6d1b0c02")
FORMS = [
    {"bigtiff": big, "byteorder": order, "compression": compression, **parts}
    for big in (False, True)
    for order in "<>"
    for compression in ("deflate", "lzw")
    for parts in ({"tile": (64, 64)}, {"rowsperstrip": 16})
]


@pytest.mark.parametrize("form", FORMS, ids=lambda form: "-".join(map(str, form.values())))
def test_tables_are_those_of_tifffile_which_then_sees_one_entry(
    tmp_path: Path, form: dict[str, Any]
) -> None:
    parts = dict(form)
    options = {name: parts.pop(name) for name in ("bigtiff", "byteorder")}
    pixels = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path, **options) as out:
        for step in (1, 2, 4):
            image = np.ascontiguousarray(pixels[::step, ::step])
            out.write(image, photometric="rgb", subfiletype=int(step > 1), metadata=None, **parts)
    tables = require_whole_tiff(path)
    with tifffile.TiffFile(path) as tif, CoveredTiff(path, tables) as file:
        covered = tifffile.TiffFile(file)
        for page, bare in zip(tif.pages, covered.pages, strict=True):
            assert len(page.dataoffsets) > 1
            assert tuple(tables[page.offset].offsets) == page.dataoffsets
            assert tuple(tables[page.offset].sizes) == page.databytecounts
            assert bare.dataoffsets == page.dataoffsets[:1]
            assert bare.databytecounts == page.databytecounts[:1]


def test_a_file_is_covered_wherever_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    pyramid(path, 3)
    tables = require_whole_tiff(path)
    expected = bytearray(path.read_bytes())
    for table in tables.values():
        for at, cover in table.covers.items():
            expected[at : at + len(cover)] = cover
    assert expected != path.read_bytes()
    with CoveredTiff(path, tables) as file:
        for step in (1, 3, 7, 1000):
            file.seek(0)
            parts = list(iter(partial(file.read, step), b""))
            assert b"".join(parts) == expected
        file.seek(0)
        assert file.read() == expected


def test_an_image_that_lies_in_another_file_is_refused(tmp_path: Path) -> None:
    """tifffile follows OME-XML into other files, whose tiles are not where this one's are."""
    planes = np.random.default_rng(0).integers(0, 256, (2, 300, 400), np.uint8)
    about = (
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0">'
        '<Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint8" SizeX="400" SizeY="300" '
        'SizeC="2" SizeZ="1" SizeT="1"><Channel ID="Channel:0:0" SamplesPerPixel="1"/>'
        '<Channel ID="Channel:0:1" SamplesPerPixel="1"/>{}</Pixels></Image></OME>'
    )
    data = "".join(
        f'<TiffData FirstC="{n}" PlaneCount="1"><UUID FileName="{n}.ome.tif">urn:uuid:{uuid}'
        "</UUID></TiffData>"
        for n, uuid in enumerate(UUIDS)
    )
    for n, uuid in enumerate(UUIDS):
        described = about.format(data).replace("<OME ", f'<OME UUID="urn:uuid:{uuid}" ')
        tifffile.imwrite(
            tmp_path / f"{n}.ome.tif", planes[n], tile=(64, 64), compression="deflate",
            description=described, metadata=None,
        )  # fmt: skip
    with tifffile.TiffFile(tmp_path / "0.ome.tif") as tif:
        np.testing.assert_array_equal(tif.asarray(), planes)
    with pytest.raises(UnreadableFile, match=r"a part of it lies in another file: 1\.ome\.tif"):
        open_slide(tmp_path / "0.ome.tif")
