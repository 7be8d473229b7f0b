"""Deep Zoom: which level-0 pixels a tile of a zoomable image shows. Pure geometry.

Level ``last`` is the image itself, every level below it half as large, level 0 a single pixel.
Source: Microsoft, Deep Zoom File Format Overview; as OpenSeadragon asks for tiles.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

TILE_PX = 512


@dataclass(frozen=True)
class Box:
    """A rectangle in level-0 pixels of the whole image; sides need not be whole numbers."""

    y: float
    x: float
    height: float
    width: float


@dataclass(frozen=True)
class Place:
    """What a tile shows.

    Attributes
    ----------
    box
        In level-0 pixels of the whole image.
    shape
        (height, width) of the tile; less than :data:`TILE_PX` at the right and at the bottom.
    scale
        Level-0 pixels per pixel of the tile.
    """

    box: Box
    shape: tuple[int, int]
    scale: float


@dataclass(frozen=True)
class DeepZoom:
    """The tiles of an image.

    Attributes
    ----------
    box_px
        (y, x, height, width) of what is shown, in level-0 pixels.
    """

    box_px: tuple[int, int, int, int]
    tile_px: int = TILE_PX

    @cached_property
    def last(self) -> int:
        """Number of the level that has one pixel for a level-0 pixel."""
        return (max(self.box_px[2:]) - 1).bit_length()

    def shape(self, level: int) -> tuple[int, int]:
        """(height, width) of a level in its own pixels, rounded up."""
        shift = self.last - level
        height, width = (-(-side >> shift) for side in self.box_px[2:])
        return height, width

    def place(self, level: int, column: int, row: int) -> Place | None:
        """What a tile shows; None where there is no such tile."""
        if not 0 <= level <= self.last or column < 0 or row < 0:
            return None
        height, width = self.shape(level)
        top, left = row * self.tile_px, column * self.tile_px
        if top >= height or left >= width:
            return None
        tall, wide = min(self.tile_px, height - top), min(self.tile_px, width - left)
        scale = float(2 ** (self.last - level))
        y, x = self.box_px[0] + top * scale, self.box_px[1] + left * scale
        return Place(Box(y, x, tall * scale, wide * scale), (tall, wide), scale)
