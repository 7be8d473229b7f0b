"""Tiles of many slides in an order that a seed decides, and that can be taken up anywhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...engine.datasets import TileDataset, TiledSlide
from ...engine.slides import open_slide
from ...engine.slides.base import Pixels
from ...storage.errors import BadGeometry, CorruptTiles, UnreadableFile
from ..encode import tissue_tiles
from ..encode_options import EncodeOptions
from ..slide_list import SlideItem

RUN_TILES = 8
"""Tiles of one slide that follow each other, so that slides are not opened over and over."""

_MOST_LOST = 16

Indices = NDArray[np.int64]


def tile_slide(item: SlideItem, *, options: EncodeOptions) -> TiledSlide:
    """The tiles of a slide to train on: those on tissue.

    Parameters
    ----------
    options
        Its ``tile_px`` and ``mpp`` must be there; masks and least tissue are as for bags.

    Raises
    ------
    NoResolution, BadResolution, BadGeometry, NoTissue, CorruptTiles, UnreadableFile, MissingFile
        The slide cannot be used.
    """
    assert options.tile_px is not None
    assert options.mpp is not None
    with open_slide(item.path, mpp=item.mpp) as slide:
        grid, _, _ = tissue_tiles(
            slide, item.id, tile_px=options.tile_px, mpp=options.mpp, options=options
        )
    return TiledSlide(item.path, grid, item.mpp)


def order_of_epoch(counts: Sequence[int], seed: int, epoch: int) -> Indices:
    """All tiles of slides with so many tiles each, shuffled in runs of one slide's tiles.

    Returns
    -------
    int64 [sum of counts]
        Numbers of tiles as :class:`~microtome.engine.datasets.TileDataset` counts them.
    """
    rng = np.random.default_rng([seed, epoch])
    ends = np.cumsum(counts)
    within = [end - n + rng.permutation(n) for end, n in zip(ends, counts, strict=True)]
    runs = [len(tiles) // RUN_TILES + 1 for tiles in within]
    first = np.cumsum(runs) - runs
    run = [k + np.arange(len(tiles)) // RUN_TILES for k, tiles in zip(first, within, strict=True)]
    place = rng.permutation(sum(runs))
    by_run = np.argsort(place[np.concatenate(run)], kind="stable")
    return np.concatenate(within)[by_run].astype(np.int64)


@dataclass(frozen=True)
class Batches:
    """The batches from one step on, without end; each epoch shuffles anew and drops its rest.

    Attributes
    ----------
    counts
        Tiles of each slide.
    batch
        Tiles a step, of all processes together.
    seed
        Decides the order.
    start
        First step.
    rank, size
        This process takes every ``size``-th tile of a batch, beginning at ``rank``.
    """

    counts: Sequence[int]
    batch: int
    seed: int
    start: int = 0
    rank: int = 0
    size: int = 1

    def __iter__(self) -> Iterator[list[int]]:
        per_epoch = sum(self.counts) // self.batch
        epoch, place = divmod(self.start, per_epoch)
        while True:
            order = order_of_epoch(self.counts, self.seed, epoch)
            for step in range(place, per_epoch):
                chosen = order[step * self.batch : (step + 1) * self.batch]
                yield chosen[self.rank :: self.size].tolist()
            epoch, place = epoch + 1, 0


class DecodableTiles:
    """A map-style dataset of (tile, 1 where it had to be replaced, else 0).

    A tile that cannot be decoded is replaced by the next one that can.
    """

    def __init__(self, slides: Sequence[TiledSlide]) -> None:
        self.tiles = TileDataset(slides)

    @property
    def counts(self) -> list[int]:
        """Tiles of each slide."""
        return [len(slide.grid) for slide in self.tiles.slides]

    def __len__(self) -> int:
        return len(self.tiles)

    def close(self) -> None:
        """Close the slides that this process opened."""
        self.tiles.close()

    def __getitem__(self, index: int) -> tuple[Pixels, int]:
        """Read one tile, uint8 [t, t, 3].

        Raises
        ------
        CorruptTiles
            It cannot be decoded, nor can the 15 that follow it.
        """
        for further in range(_MOST_LOST):
            try:
                return self.tiles[(index + further) % len(self)]["tile"], min(further, 1)
            except UnreadableFile as error:
                last = error
        raise CorruptTiles(
            f"{_MOST_LOST} tiles in a row cannot be decoded ({last.what})",
            where=last.where,
            remedy="Copy the slide again, or leave it out",
        )


def require_fit(slides: Sequence[TiledSlide], tile_px: int, mpp: float) -> None:
    """Refuse tiles of another size or resolution."""
    for slide in slides:
        if (slide.grid.tile_px, slide.grid.mpp) != (tile_px, mpp):
            raise BadGeometry(
                f"tiles of {slide.grid.tile_px} px at {slide.grid.mpp:g} µm/px, where the options "
                f"say {tile_px} px at {mpp:g}",
                where=slide.path,
                remedy="Tile the slides with the options' tile_px and mpp",
            )


def require_enough(slides: Sequence[TiledSlide], batch: int) -> None:
    """Refuse fewer tiles than one batch takes."""
    count = sum(len(slide.grid) for slide in slides)
    if count < batch:
        raise BadGeometry(
            f"the slides have {count} tiles together, fewer than a batch of {batch}",
            remedy="Give more slides, or smaller --tile-px or --batch",
        )


def sample_of(tiles: DecodableTiles, most: int, seed: int) -> Pixels:
    """The first tiles of the first epoch, uint8 [n, t, t, 3]."""
    chosen = order_of_epoch(tiles.counts, seed, 0)[:most]
    return np.stack([tiles[index][0] for index in chosen.tolist()])


def load_batches(
    tiles: DecodableTiles, batches: Batches, *, workers: int, pin: bool
) -> Iterator[tuple[torch.Tensor, int]]:
    """Batches as uint8 [b, 3, t, t], with how many of their tiles had to be replaced."""
    loader: Any = torch.utils.data.DataLoader(
        tiles,  # type: ignore[arg-type]
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=_collate,
        pin_memory=pin,
    )
    yield from loader


def _collate(samples: Sequence[tuple[Pixels, int]]) -> tuple[torch.Tensor, int]:
    stacked = torch.from_numpy(np.stack([tile for tile, _ in samples]))
    return stacked.permute(0, 3, 1, 2), sum(lost for _, lost in samples)
