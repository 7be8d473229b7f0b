"""Tiles of many slides for ``torch.utils.data.DataLoader``, with as many workers as it likes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from ..storage.bags import Bag
from .grid import TileGrid
from .handles import SlideHandles
from .slides import Mpp, open_slide
from .slides.base import Pixels
from .tiles import read_tile


@dataclass(frozen=True)
class TiledSlide:
    """A slide and the tiles of it.

    Attributes
    ----------
    path
        The slide file.
    grid
        Which tiles; usually only those on tissue.
    mpp
        Micrometres per level-0 pixel, where the file states none or a wrong one.
    """

    path: str | Path
    grid: TileGrid
    mpp: Mpp | None = None

    @classmethod
    def of_bag(cls, bag: Bag) -> TiledSlide:
        """The tiles that a bag was made of, from the slide that it names.

        Raises
        ------
        MissingFile, UnreadableFile, BadResolution
            The slide is not there any more, or is another.
        """
        path = Path(bag.source)
        with open_slide(path) as slide:
            own = slide.info.mpp
        mpp = None if own == bag.slide_mpp else bag.slide_mpp[0]
        with open_slide(path, mpp=mpp) as slide:
            grid = TileGrid.over(slide.info, tile_px=bag.tile_px, mpp=bag.mpp)
        return cls(path, replace(grid, coords_px=bag.coords_px.astype(np.int64)), mpp)


class Sample(TypedDict):
    """One tile: its pixels (or what a transform made of them), its slide's number, its place."""

    tile: Any
    slide: int
    coords_px: NDArray[np.int64]


class TileDataset:
    """Tiles of slides, one after the other, each slide's in grid order.

    Works as a map-style dataset of torch: its default collation makes tensors of the arrays.
    Slides are opened where they are read, in each worker its own, a few at a time; shuffle within
    slides, or in runs of some hundred tiles, so that they are not opened over and over.

    Parameters
    ----------
    slides
        Where the tiles are.
    transform
        Makes something else of a tile, uint8 [t, t, 3]; must be picklable for workers.
    open_slides
        Slides that a worker keeps open, at most.

    Examples
    --------
    >>> tiles = TileDataset([TiledSlide.of_bag(read_bag("case-17.bag.zarr"))])  # doctest: +SKIP
    >>> for batch in DataLoader(tiles, batch_size=64, num_workers=4):  # doctest: +SKIP
    ...     batch["tile"].shape
    torch.Size([64, 256, 256, 3])
    """

    def __init__(
        self,
        slides: Iterable[TiledSlide],
        *,
        transform: Callable[[Pixels], Any] | None = None,
        open_slides: int = 8,
    ) -> None:
        self.slides: Sequence[TiledSlide] = tuple(slides)
        self._transform = transform
        self._handles = SlideHandles(open_slides)
        self._ends = np.array(list(accumulate(len(s.grid) for s in self.slides)), np.int64)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: int) -> Sample:
        """Read one tile.

        Raises
        ------
        IndexError
            There are fewer tiles.
        UnreadableFile
            Its pixels cannot be decoded.
        """
        number, row = self._locate(range(len(self))[index])
        source = self.slides[number]
        tile = read_tile(self._handles.get(source.path, source.mpp), source.grid, row)
        made = tile if self._transform is None else self._transform(tile)
        return Sample(tile=made, slide=number, coords_px=source.grid.coords_px[row])

    def _locate(self, index: int) -> tuple[int, int]:
        number = int(np.searchsorted(self._ends, index, side="right"))
        before = int(self._ends[number - 1]) if number else 0
        return number, index - before

    def close(self) -> None:
        """Close the slides that this process opened."""
        self._handles.close()
