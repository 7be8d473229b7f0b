"""A TIFF is all there: its directories lead somewhere, and to an end."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import tifffile

from microtome.engine.slides import open_slide
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
