"""A slide that several threads read at once, each of the file's own tiles decoded once."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable
from threading import Lock

import numpy as np

from ..engine.grid import TileGrid
from ..engine.slides.base import (
    Bounds,
    Closing,
    NativeTiled,
    Pixels,
    Slide,
    SlideInfo,
    native_box,
    require_inside,
)
from ..engine.tiles import level_box

LIMIT_BYTES = 96 * 1024**2
"""Of the file's tiles that are held: two rows of a strip take less, of 1024 px even."""

Key = tuple[int, int]


def shared(slide: Slide, grid: TileGrid, indices: Iterable[int]) -> Slide:
    """A slide that several threads may read tiles from; the given one stays the caller's.

    Where the file has tiles that can be decoded one by one, each is decoded once, whatever tiles
    of the grid lie across it. Other files are read by one thread at a time.

    Parameters
    ----------
    indices
        Tiles of the grid that are going to be read, each as often as it is.
    """
    if isinstance(slide, NativeTiled) and slide.info.levels[grid.level].tile_px is not None:
        return DecodedOnce(slide, grid.level, (level_box(slide.info, grid, i) for i in indices))
    return OneAtATime(slide)


class DecodedOnce(Closing):
    """Reads one level by the file's own tiles, each held for as long as tiles of a grid need it.

    Parameters
    ----------
    slide
        An opened slide, which stays the caller's to close.
    level
        Which one.
    boxes
        The rectangles that are going to be read, in its pixels; row by row, little is held.
    limit_bytes
        Beyond it the file's tile that was decoded first is dropped, and decoded again if need be.
    """

    def __init__(
        self,
        slide: NativeTiled,
        level: int,
        boxes: Iterable[Bounds],
        *,
        limit_bytes: int = LIMIT_BYTES,
    ) -> None:
        self._slide, self._number, self._limit_bytes = slide, level, limit_bytes
        self._level = slide.info.levels[level]
        assert self._level.tile_px is not None
        self._tall, self._wide = self._level.tile_px
        self._lock = Lock()
        self._entries: OrderedDict[Key, _Entry] = OrderedDict()
        self._bytes = 0
        down = math.ceil(self._level.height_px / self._tall)
        across = math.ceil(self._level.width_px / self._wide)
        self._to_read = np.zeros((down, across), np.int32)
        for box in boxes:
            rows, columns = self._tiles_of(box)
            self._to_read[rows.start : rows.stop, columns.start : columns.stop] += 1

    @property
    def info(self) -> SlideInfo:
        """What is known of the slide without decoding it."""
        return self._slide.info

    @property
    def held_bytes(self) -> int:
        """Bytes of decoded tiles that are held now."""
        return self._bytes

    def read(self, level: int, y_px: int, x_px: int, height_px: int, width_px: int) -> Pixels:
        """Read a rectangle of a level; see :class:`~microtome.engine.slides.base.Slide`."""
        part = Bounds(y_px, x_px, height_px, width_px)
        require_inside(self.info, level, part)
        if level != self._number:
            raise ValueError(f"only level {self._number} is shared, not level {level}")
        rows, columns = self._tiles_of(part)
        keys = [(row, column) for row in rows for column in columns]
        try:
            if native_box(self._level, *keys[0]) == part:
                return self._tile(keys[0])
            out = np.empty((height_px, width_px, 3), np.uint8)
            for key in keys:
                _paste(out, part, self._tile(key), native_box(self._level, *key))
            return out
        finally:
            self._let_go(keys)

    def associated_image(self, name: str) -> Pixels:
        """Label, macro or thumbnail as uint8 [h, w, 3]; KeyError where there is none."""
        return self._slide.associated_image(name)

    def close(self) -> None:
        """Let go of all tiles."""
        with self._lock:
            self._entries.clear()
            self._bytes = 0

    def _tiles_of(self, part: Bounds) -> tuple[range, range]:
        """Rows and columns of the file's tiles that a rectangle touches."""
        bottom, right = part.y_px + part.height_px - 1, part.x_px + part.width_px - 1
        return (
            range(part.y_px // self._tall, bottom // self._tall + 1),
            range(part.x_px // self._wide, right // self._wide + 1),
        )

    def _tile(self, key: Key) -> Pixels:
        with self._lock:
            entry = self._entries.setdefault(key, _Entry())
        # Who comes second waits here for who came first, and for nobody else.
        with entry.lock:
            if entry.pixels is None:
                self._keep(key, entry, self._slide.native_tile(self._number, *key))
            assert entry.pixels is not None
            return entry.pixels

    def _keep(self, key: Key, entry: _Entry, pixels: Pixels) -> None:
        with self._lock:
            entry.pixels = pixels
            if self._entries.get(key) is not entry:
                return
            self._bytes += pixels.nbytes
            while self._bytes > self._limit_bytes:
                _, oldest = self._entries.popitem(last=False)
                self._bytes -= oldest.held_bytes

    def _let_go(self, keys: list[Key]) -> None:
        with self._lock:
            for key in keys:
                self._to_read[key] -= 1
                if self._to_read[key] <= 0 and key in self._entries:
                    self._bytes -= self._entries.pop(key).held_bytes


class _Entry:
    """One of the file's tiles, decoded or about to be."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.pixels: Pixels | None = None

    @property
    def held_bytes(self) -> int:
        return 0 if self.pixels is None else self.pixels.nbytes


def _paste(out: Pixels, part: Bounds, tile: Pixels, box: Bounds) -> None:
    """Copy what of a tile, which lies at ``box``, lies in ``part``, which is ``out``."""
    top, left = box.y_px - part.y_px, box.x_px - part.x_px
    target = out[max(0, top) : top + box.height_px, max(0, left) : left + box.width_px]
    seen = tile[max(0, -top) :, max(0, -left) :]
    target[...] = seen[: target.shape[0], : target.shape[1]]


class OneAtATime(Closing):
    """Reads a slide that is not made for several threads, for one of them at a time."""

    def __init__(self, slide: Slide) -> None:
        self._slide, self._lock = slide, Lock()

    @property
    def info(self) -> SlideInfo:
        """What is known of the slide without decoding it."""
        return self._slide.info

    def read(self, level: int, y_px: int, x_px: int, height_px: int, width_px: int) -> Pixels:
        """Read a rectangle of a level; see :class:`~microtome.engine.slides.base.Slide`."""
        with self._lock:
            return self._slide.read(level, y_px, x_px, height_px, width_px)

    def associated_image(self, name: str) -> Pixels:
        """Label, macro or thumbnail as uint8 [h, w, 3]; KeyError where there is none."""
        with self._lock:
            return self._slide.associated_image(name)

    def close(self) -> None:
        """Nothing of its own is open."""
