"""A slide of any size, quickly: one painted square of tissue, its JPEG tiles repeated.

Run: ``python benchmarks/large_slide.py SIDE_PX OUT.tif``. Every level of the large slide repeats
the square's encoded tiles of that level, so that ten gigapixels are written in seconds, and each
pixel is still real, textured JPEG.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import simplejpeg
import tifffile
from numpy.typing import NDArray

TILE_PX, SQUARE_PX = 256, 4096
QUALITY = 85
MPP = 0.5
PIXELS_PER_CM = 10_000 / MPP

Tiles = list[list[bytes]]


def write_large_slide(path: Path, side_px: int) -> Path:
    """Write a pyramid of ``side_px`` × ``side_px``, halved down to one tile."""
    levels = encoded_square()
    with tifffile.TiffWriter(path, bigtiff=True) as out:
        for number in range(max(0, math.ceil(math.log2(side_px / TILE_PX))) + 1):
            size = math.ceil(side_px / 2**number)
            out.write(
                _repeated(levels[min(number, len(levels) - 1)], math.ceil(size / TILE_PX)),
                shape=(size, size, 3),
                dtype=np.uint8,
                photometric="ycbcr",
                compression="jpeg",
                subsampling=(2, 2),
                tile=(TILE_PX, TILE_PX),
                subfiletype=int(number > 0),
                resolution=(PIXELS_PER_CM / 2**number,) * 2,
                resolutionunit="CENTIMETER",
                metadata=None,
            )
    return path


def encoded_square() -> list[Tiles]:
    """The painted square's tiles as JPEG, [row][column], of each level down to one tile."""
    from microtome.engine.synthetic import Painter, plan_slide

    recipe = plan_slide(0, height_px=SQUARE_PX, width_px=SQUARE_PX, tissue_fraction=0.7)
    pixels = Painter(recipe).paint(0, 0, SQUARE_PX, SQUARE_PX)
    levels = [_encoded(pixels)]
    while pixels.shape[0] > TILE_PX:
        side = pixels.shape[0] // 2
        pixels = np.asarray(cv2.resize(pixels, (side, side), interpolation=cv2.INTER_AREA))
        levels.append(_encoded(pixels))
    return levels


def _encoded(pixels: NDArray[np.uint8]) -> Tiles:
    starts = range(0, pixels.shape[0], TILE_PX)
    return [[_jpeg(pixels[y : y + TILE_PX, x : x + TILE_PX]) for x in starts] for y in starts]


def _jpeg(tile: NDArray[np.uint8]) -> bytes:
    whole = np.ascontiguousarray(tile)
    return bytes(simplejpeg.encode_jpeg(whole, quality=QUALITY, colorsubsampling="420"))


def _repeated(tiles: Tiles, across: int) -> Iterator[bytes]:
    for row in range(across):
        for column in range(across):
            yield tiles[row % len(tiles)][column % len(tiles)]


if __name__ == "__main__":
    write_large_slide(Path(sys.argv[2]), int(sys.argv[1]))
