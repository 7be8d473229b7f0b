"""Tiles of a slide, read ahead of whoever works on them; those that are damaged are counted."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from ..engine.grid import TileGrid
from ..engine.slides import Slide
from ..engine.tiles import read_tile
from ..storage.errors import CorruptTiles, UnreadableFile
from .encoders import Tiles

_BATCH = 64
_BATCHES_AHEAD = 2

Indices = NDArray[np.intp]


class TileReader:
    """Tiles of a grid, decoded ahead by one thread; those that cannot be are left out."""

    def __init__(self, slide: Slide, grid: TileGrid, allowed_corrupt: int) -> None:
        self._slide, self._grid, self._allowed = slide, grid, allowed_corrupt

    def sample(self, count: int) -> Tiles:
        """Up to ``count`` tiles, evenly spread over the grid; raises if not one can be decoded."""
        chosen = np.linspace(0, len(self._grid) - 1, min(count, len(self._grid)))
        wanted = np.unique(chosen.astype(np.intp))
        tiles = self._decode(wanted)[1]
        if len(wanted) and not len(tiles):
            raise too_corrupt(
                self._slide, "at least " + share_of_tiles(len(wanted), len(self._grid))
            )
        return tiles

    def batches(self) -> Iterator[tuple[Indices, Tiles]]:
        """All tiles in grid order; raises at the end if too many could not be decoded."""
        n, corrupt = len(self._grid), 0
        for wanted, indices, tiles in self._ahead():
            corrupt += len(wanted) - len(indices)
            # What is refused is counted to its end, but encoded no further.
            if corrupt <= self._allowed and len(indices):
                yield indices, tiles
        if corrupt > min(self._allowed, n - 1):
            raise too_corrupt(self._slide, share_of_tiles(corrupt, n))

    def _ahead(self) -> Iterator[tuple[Indices, Indices, Tiles]]:
        n = len(self._grid)
        chunks = (np.arange(i, min(i + _BATCH, n), dtype=np.intp) for i in range(0, n, _BATCH))
        with ThreadPoolExecutor(max_workers=1) as thread:
            ahead: deque[tuple[Indices, Future[tuple[Indices, Tiles]]]] = deque()
            while True:
                for chunk in islice(chunks, 1 + _BATCHES_AHEAD - len(ahead)):
                    ahead.append((chunk, thread.submit(self._decode, chunk)))
                if not ahead:
                    return
                wanted, future = ahead.popleft()
                yield wanted, *future.result()

    def _decode(self, indices: Indices) -> tuple[Indices, Tiles]:
        px = self._grid.tile_px
        tiles = np.empty((len(indices), px, px, 3), np.uint8)
        is_read = np.zeros(len(indices), np.bool_)
        for row, index in enumerate(indices.tolist()):
            try:
                tiles[row] = read_tile(self._slide, self._grid, index)
            except UnreadableFile:
                continue
            is_read[row] = True
        return indices[is_read], tiles[is_read]


def share_of_tiles(corrupt: int, tiles: int) -> str:
    """In words."""
    return f"{100 * corrupt / tiles:.3g} % of tiles ({corrupt} of {tiles})"


def too_corrupt(slide: Slide, what: str) -> CorruptTiles:
    """The error for a slide of which too much is damaged."""
    return CorruptTiles(
        f"{what} cannot be decoded",
        where=slide.info.path,
        remedy="Copy the slide again, or allow more with --max-corrupt",
    )
