"""Tiles of a slide, read and prepared by threads ahead of whoever encodes them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from ..engine.grid import TileGrid
from ..engine.slides import Slide
from ..engine.tiles import read_tile
from ..storage.errors import CorruptTiles, UnreadableFile
from .encoders import Tiles
from .encoders.base import BATCH_TILES
from .shared_slide import shared

STRIP_PX = 8192
"""Of a strip that a wide slide is read in: the file's tiles of two rows are 12 MiB."""
_BATCHES_AHEAD = 2
_PIECE_TILES = 8
MOST_READERS = 8

Indices = NDArray[np.intp]
Columns = Mapping[str, NDArray[np.float32]]
Prepare = Callable[[Tiles], tuple[Tiles, Columns]]
"""What is done to tiles [b, …] by the thread that read them: to what the encoder is handed, and
columns, float32 [b] or [b, d]. It must do the same to a tile whatever others are with it."""


@dataclass(frozen=True)
class Batch:
    """Tiles that are read one after the other.

    Attributes
    ----------
    indices
        intp [b]: those of the grid that could be decoded.
    tiles
        uint8 [b, t, t, 3], prepared.
    columns
        What was found while they were prepared.
    """

    indices: Indices
    tiles: Tiles
    columns: Columns


class TileReader:
    """Tiles of a grid, decoded ahead; those that cannot be decoded are left out.

    A batch is always the same :data:`~microtome.tasks.encoders.base.BATCH_TILES` tiles of the
    grid, and at most three are held, however many threads fill them, eight tiles at a time.

    Parameters
    ----------
    slide, grid
        What to read.
    allowed_corrupt
        More undecodable tiles than these are refused.
    sample_tiles
        How many tiles :meth:`sample` gives.
    readers
        Threads.
    strip_px
        Read a slide that is wider in strips, one after the other, so that as much of it is held
        at once as of a narrow one; in pixels of the level. Batches then are of a strip each,
        but for those where one ends and the next begins.
    """

    def __init__(
        self,
        slide: Slide,
        grid: TileGrid,
        allowed_corrupt: int,
        *,
        sample_tiles: int = 0,
        readers: int = 1,
        strip_px: int | None = None,
    ) -> None:
        self._grid, self._allowed, self._readers = grid, allowed_corrupt, readers
        chosen = np.linspace(0, len(grid) - 1, min(sample_tiles, len(grid)))
        self._sampled = np.unique(chosen.astype(np.intp))
        self._slide = shared(slide, grid, (*self._sampled.tolist(), *range(len(grid))))
        self._corrupt = 0
        self._order = np.arange(len(grid), dtype=np.intp)
        if strip_px is not None:
            strips = grid.coords_px[:, 1] // round(strip_px * grid.downsample[1])
            self._order = np.argsort(strips, kind="stable")

    def sample(self) -> Tiles:
        """Some tiles, evenly spread over the grid; raises if not one can be decoded."""
        sampled = self._sampled
        tiles = self._empty(len(sampled))
        with self._threads() as threads:
            pieces = [
                threads.submit(self._decode, sampled[part], tiles[part])
                for part in _pieces(len(sampled))
            ]
            is_read = np.concatenate([np.zeros(0, np.bool_), *(p.result() for p in pieces)])
        if len(sampled) and not is_read.any():
            raise too_corrupt(
                self._slide, "at least " + share_of_tiles(len(sampled), len(self._grid))
            )
        found: Tiles = tiles[is_read]
        return found

    def batches(self, prepare: Prepare) -> Iterator[Batch]:
        """All tiles in grid order, or strip by strip; raises at the end if too many are corrupt."""
        n = len(self._grid)
        for batch in self._ahead(prepare):
            # What is refused is counted to its end, but encoded no further.
            if not self._is_refused and len(batch.indices):
                yield batch
        if self._corrupt > min(self._allowed, n - 1):
            raise too_corrupt(self._slide, share_of_tiles(self._corrupt, n))

    @property
    def _is_refused(self) -> bool:
        return self._corrupt > self._allowed

    def _ahead(self, prepare: Prepare) -> Iterator[Batch]:
        starts = iter(range(0, len(self._grid), BATCH_TILES))
        threads = self._threads()
        try:
            ahead: deque[_Filling] = deque()
            while True:
                for start in islice(starts, 1 + _BATCHES_AHEAD - len(ahead)):
                    ahead.append(self._fill(threads, start, prepare))
                if not ahead:
                    return
                yield self._filled(ahead.popleft())
        finally:
            threads.shutdown(cancel_futures=True)

    def _fill(self, threads: ThreadPoolExecutor, start: int, prepare: Prepare) -> _Filling:
        indices = self._order[start : start + BATCH_TILES]
        tiles = self._empty(len(indices))
        pieces = [
            threads.submit(self._prepared, indices[part], tiles[part], prepare)
            for part in _pieces(len(indices))
        ]
        return _Filling(indices, tiles, pieces)

    def _filled(self, filling: _Filling) -> Batch:
        done = [piece.result() for piece in filling.pieces]
        is_read = np.concatenate([piece[0] for piece in done])
        self._corrupt += int((~is_read).sum())
        found = [columns for _, columns in done if columns]
        names = found[0] if found else {}
        columns = {name: np.concatenate([piece[name] for piece in found]) for name in names}
        tiles = filling.tiles if is_read.all() else filling.tiles[is_read]
        return Batch(filling.indices[is_read], tiles, columns)

    def _prepared(
        self, indices: Indices, tiles: Tiles, prepare: Prepare
    ) -> tuple[NDArray[np.bool_], Columns]:
        is_read = self._decode(indices, tiles)
        if self._is_refused or not is_read.any():
            return is_read, {}
        tiles[is_read], columns = prepare(tiles if is_read.all() else tiles[is_read])
        return is_read, columns

    def _decode(self, indices: Indices, tiles: Tiles) -> NDArray[np.bool_]:
        """Read tiles into an array; which of them could be."""
        is_read = np.zeros(len(indices), np.bool_)
        for row, index in enumerate(indices.tolist()):
            try:
                tiles[row] = read_tile(self._slide, self._grid, index)
            except UnreadableFile:
                continue
            is_read[row] = True
        return is_read

    def _empty(self, count: int) -> Tiles:
        px = self._grid.tile_px
        return np.empty((count, px, px, 3), np.uint8)

    def _threads(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self._readers, thread_name_prefix="tiles")


@dataclass(frozen=True)
class _Filling:
    """A batch that threads are at work on."""

    indices: Indices
    tiles: Tiles
    pieces: list[Future[tuple[NDArray[np.bool_], Columns]]]


def _pieces(count: int) -> list[slice]:
    return [slice(at, min(at + _PIECE_TILES, count)) for at in range(0, count, _PIECE_TILES)]


def default_readers(jobs: int = 1) -> int:
    """Threads for each of ``jobs`` processes: its share of the cores it may use, 8 at most."""
    # Knows control groups and affinity.
    from dask.system import cpu_count

    return max(1, min(MOST_READERS, cpu_count() // jobs))


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
