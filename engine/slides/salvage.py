"""A slide in spite of its damage: for a look at the whole of it, not for tiles."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ...storage.errors import UnreadableFile
from .base import Bounds, Closing, Pixels, Slide, SlideInfo, require_inside

_WHITE = 255
_ROWS_PX = 64
"""Where the file has no tiles, this many rows are given up at once."""


class Salvaged(Closing):
    """Reads a slide; what cannot be decoded is white, and is listed in ``lost``.

    Parameters
    ----------
    slide
        An opened slide, which stays the caller's to close.

    Attributes
    ----------
    lost
        The undecodable parts that were met so far, in level-0 pixels.
    """

    def __init__(self, slide: Slide) -> None:
        self._slide = slide
        self.lost: set[Bounds] = set()

    @property
    def info(self) -> SlideInfo:
        """What is known of the slide without decoding it."""
        return self._slide.info

    @property
    def lost_fraction(self) -> float:
        """Share of the slide that is lost, as far as it was read."""
        area = sum(part.height_px * part.width_px for part in self.lost)
        return area / (self.info.height_px * self.info.width_px)

    def read(self, level: int, y_px: int, x_px: int, height_px: int, width_px: int) -> Pixels:
        """Read a rectangle of a level; see :class:`~microtome.engine.slides.base.Slide`."""
        part = Bounds(y_px, x_px, height_px, width_px)
        require_inside(self.info, level, part)
        try:
            return self._slide.read(level, y_px, x_px, height_px, width_px)
        except UnreadableFile:
            return self._in_pieces(level, part)

    def associated_image(self, name: str) -> Pixels:
        """Label, macro or thumbnail as uint8 [h, w, 3]; KeyError where there is none."""
        return self._slide.associated_image(name)

    def close(self) -> None:
        """Release the file."""
        self._slide.close()

    def _in_pieces(self, level: int, part: Bounds) -> Pixels:
        out = np.full((part.height_px, part.width_px, 3), _WHITE, np.uint8)
        for piece in self._pieces(level, part):
            top, left = piece.y_px - part.y_px, piece.x_px - part.x_px
            box = (piece.y_px, piece.x_px, piece.height_px, piece.width_px)
            try:
                pixels = self._slide.read(level, *box)
            except UnreadableFile:
                self.lost.add(self._on_level_0(level, piece))
            else:
                out[top : top + piece.height_px, left : left + piece.width_px] = pixels
        return out

    def _pieces(self, level: int, part: Bounds) -> Iterator[Bounds]:
        """The part, cut along the file's own tiles: one that is damaged takes no other along."""
        whole = self.info.levels[level]
        tall, wide = whole.tile_px or (_ROWS_PX, whole.width_px)
        for y, height in _cuts(part.y_px, part.height_px, tall):
            for x, width in _cuts(part.x_px, part.width_px, wide):
                yield Bounds(y, x, height, width)

    def _on_level_0(self, level: int, piece: Bounds) -> Bounds:
        at = self.info.levels[level]
        top, left = int(piece.y_px * at.downsample_y), int(piece.x_px * at.downsample_x)
        bottom = int(np.ceil((piece.y_px + piece.height_px) * at.downsample_y))
        right = int(np.ceil((piece.x_px + piece.width_px) * at.downsample_x))
        return Bounds(top, left, bottom - top, right - left)


def _cuts(start: int, length: int, step: int) -> Iterator[tuple[int, int]]:
    """(start, length) of each part of an interval that lies between two multiples of ``step``."""
    at, stop = start, start + length
    while at < stop:
        following = min((at // step + 1) * step, stop)
        yield at, following - at
        at = following
