"""Stream a synthetic slide to a pyramidal, tiled, JPEG-compressed TIFF in bounded memory."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from ...storage.commit import product_key
from ...storage.files import new_file, writable
from .paint import BLOCK_PX, Painter
from .recipe import SlideRecipe

Pixels = NDArray[np.uint8]

TILE_PX = 256
QUALITY = 85
FACTOR = 4
"""Each level is this much coarser than the one below it."""

_BAND_PX = FACTOR * TILE_PX
_SMALLEST_PX = 1024
_DESCRIPTION = "Microtome synthetic slide, not tissue; key "


def write_slide(
    path: Path,
    recipe: SlideRecipe,
    *,
    quality: int = QUALITY,
    on_progress: Callable[[float], None] | None = None,
) -> None:
    """Paint a slide and write it as a generic pyramidal BigTIFF, whole or not at all.

    Level 0 is painted band by band; as a band is done its tiles go to the file and its area
    average to the next level, whose encoded tiles wait in an anonymous temporary file beside
    ``path``. Memory is that of one band of encoded tiles and grows with the width alone.

    Parameters
    ----------
    path
        The file; its resolution tags hold the recipe's ``mpp`` as a fraction of a centimetre.
    quality
        Of the JPEG tiles (YCbCr, chroma halved both ways).
    on_progress
        Called with the fraction that is done.

    Raises
    ------
    UnwritableOutput
        Permission denied, read-only or full file system.
    """
    import tifffile

    sizes = level_sizes(recipe.height_px, recipe.width_px)
    with writable(path), new_file(path) as file, tempfile.TemporaryFile(dir=path.parent) as spool:
        levels = _levels(sizes[1:], spool, quality)
        tiles = _base_tiles(Painter(recipe), levels, quality, on_progress or _ignore)
        with tifffile.TiffWriter(file, bigtiff=True) as writer:
            for index, (height, width) in enumerate(sizes):
                if index == 1:
                    levels[0].finish()
                writer.write(
                    tiles if index == 0 else levels[index - 1].encoded(),
                    shape=(height, width, 3),
                    dtype=np.uint8,
                    tile=(TILE_PX, TILE_PX),
                    photometric="rgb",
                    compression="jpeg",
                    subsampling=(2, 2),
                    subfiletype=1 if index else 0,
                    description=None if index else _DESCRIPTION + slide_key(recipe, quality),
                    software=False,
                    metadata=None,
                    resolution=(_per_cm(recipe.mpp * FACTOR**index),) * 2,
                    resolutionunit="CENTIMETER",
                )


def slide_key(recipe: SlideRecipe, quality: int = QUALITY) -> str:
    """SHA-256 that changes whenever the file would."""
    return product_key(kind="synthetic slide", recipe=recipe.key, quality=quality)


def key_in(path: Path) -> str | None:
    """Key that a slide file of ours was made with; None where it is none."""
    import tifffile

    try:
        with tifffile.TiffFile(path) as file:
            description = file.pages.first.description
    except (OSError, tifffile.TiffFileError):
        return None
    return description.removeprefix(_DESCRIPTION) if description.startswith(_DESCRIPTION) else None


def level_sizes(height_px: int, width_px: int) -> list[tuple[int, int]]:
    """(height, width) of the levels: each a quarter of the last, pixels wholly covered by it."""
    sizes = [(height_px, width_px)]
    while max(sizes[-1]) > _SMALLEST_PX and min(sizes[-1]) >= 4 * FACTOR:
        sizes.append((sizes[-1][0] // FACTOR, sizes[-1][1] // FACTOR))
    return sizes


def _per_cm(mpp: float) -> tuple[int, int]:
    """Pixels per centimetre as the fraction that the resolution tags hold."""
    ratio = (10_000 / Fraction(str(mpp))).limit_denominator(100_000)
    return ratio.numerator, ratio.denominator


def _ignore(_: float) -> None:
    """Tell nobody."""


class _Level:
    """A coarser level: takes strips from above, keeps encoded tiles, passes its average on."""

    def __init__(
        self, height: int, width: int, spool: IO[bytes], quality: int, coarser: _Level | None
    ) -> None:
        self.height, self.width = height, width
        self._spool, self._quality, self._coarser = spool, quality, coarser
        self._waiting: list[Pixels] = []
        self._rows_left = height
        self._places: list[tuple[int, int]] = []

    def put(self, strip: Pixels) -> None:
        """Take the next rows; they may reach over the level's lower and right edge."""
        self._waiting.append(strip[: self._rows_left, : self.width])
        self._rows_left -= len(self._waiting[-1])
        if sum(map(len, self._waiting)) >= TILE_PX:
            self._encode_row()

    def finish(self) -> None:
        """Encode what is left; then the coarser level likewise."""
        if any(map(len, self._waiting)):
            self._encode_row()
        if self._coarser is not None:
            self._coarser.finish()

    def encoded(self) -> Iterator[bytes]:
        """Encoded tiles, row by row."""
        for offset, size in self._places:
            self._spool.seek(offset)
            yield self._spool.read(size)

    def _encode_row(self) -> None:
        rows = np.concatenate(self._waiting)
        self._waiting = []
        if self._coarser is not None:
            self._coarser.put(_reduced(rows))
        short, narrow = TILE_PX - len(rows), -rows.shape[1] % TILE_PX
        rows = np.pad(rows, ((0, short), (0, narrow), (0, 0)), mode="edge")
        self._spool.seek(0, 2)
        for x in range(0, self.width, TILE_PX):
            tile = _jpeg(rows[:, x : x + TILE_PX], self._quality)
            self._places.append((self._spool.tell(), len(tile)))
            self._spool.write(tile)


def _levels(sizes: list[tuple[int, int]], spool: IO[bytes], quality: int) -> list[_Level]:
    levels: list[_Level] = []
    for height, width in reversed(sizes):
        levels.insert(0, _Level(height, width, spool, quality, levels[0] if levels else None))
    return levels


def _base_tiles(
    painter: Painter, levels: list[_Level], quality: int, on_progress: Callable[[float], None]
) -> Iterator[bytes]:
    """Encoded tiles of level 0, row by row; fills the coarser levels on the way."""
    height, width = painter.recipe.height_px, painter.recipe.width_px
    columns = -(-width // TILE_PX)
    glass = np.ascontiguousarray(painter.glass_tile)
    empty = _jpeg(glass, quality)
    for top in range(0, height, _BAND_PX):
        tile_rows: list[list[bytes]] = [[] for _ in range(FACTOR)]
        strips = []
        for left in range(0, width, BLOCK_PX):
            part = painter.paint(top, left, _BAND_PX, BLOCK_PX)
            for y, row in enumerate(tile_rows):
                for x in range(0, BLOCK_PX, TILE_PX):
                    tile = part[y * TILE_PX : (y + 1) * TILE_PX, x : x + TILE_PX]
                    row.append(empty if np.array_equal(tile, glass) else _jpeg(tile, quality))
            strips.append(_reduced(part))
        if levels:
            levels[0].put(np.concatenate(strips, axis=1))
        on_progress(min(top + _BAND_PX, height) / height)
        rows = -(-min(_BAND_PX, height - top) // TILE_PX)
        for tiles in tile_rows[:rows]:
            yield from tiles[:columns]


def _reduced(pixels: Pixels) -> Pixels:
    """Average over squares of ``FACTOR`` pixels; what does not fill one is left out."""
    import cv2

    height, width = pixels.shape[0] // FACTOR, pixels.shape[1] // FACTOR
    if not height or not width:
        return np.empty((height, width, 3), np.uint8)
    whole = pixels[: height * FACTOR, : width * FACTOR]
    return np.asarray(cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def _jpeg(tile: Pixels, quality: int) -> bytes:
    import imagecodecs

    encoded = imagecodecs.jpeg8_encode(
        np.ascontiguousarray(tile),
        level=quality,
        colorspace="RGB",
        outcolorspace="YCBCR",
        subsampling=(2, 2),
    )
    return bytes(encoded)
