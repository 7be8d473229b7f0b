"""Readers of tiles, ours and others', and an encoder that leaves all the time to them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from microtome.engine.grid import TileGrid

Tiles = NDArray[np.uint8]
TILE_PX, MPP, BATCH = 224, 0.5, 64
CORES = len(os.sched_getaffinity(0))
NONE = "picked"
OURS, OPENSLIDE = "microtome", "openslide-python + DataLoader"
PATCHES, DATASET = "tiatoolbox, patch extractor", "tiatoolbox, WSIPatchDataset + DataLoader"


class Picked:
    """An encoder that costs nothing: every 28th pixel."""

    name, version, licence = NONE, "1", "Apache-2.0"
    tile_px, mpp, dim, sample_tiles = TILE_PX, MPP, 192, 0
    feature_names: tuple[str, ...] = ()

    def for_slide(self, tiles: Tiles) -> Picked:
        """Itself."""
        return self

    def encode(self, tiles: Tiles) -> NDArray[np.float32]:
        """float32 [b, 192]."""
        return tiles[:, ::28, ::28].reshape(len(tiles), -1).astype(np.float32)


def grid_of(path: Path) -> TileGrid:
    """All tiles of a slide."""
    from microtome.engine.grid import TileGrid
    from microtome.engine.slides import open_slide

    with open_slide(path) as slide:
        return TileGrid.over(slide.info, tile_px=TILE_PX, mpp=MPP)


Read = Callable[[], Iterator[Tiles]]
"""Gives every tile of a slide once, in batches, each time it is called."""


def with_microtome(path: Path, grid: TileGrid) -> Read:
    """Our reader, opened anew for each pass."""
    from microtome.engine.slides import open_slide
    from microtome.tasks.tile_reader import TileReader

    def read() -> Iterator[Tiles]:
        with open_slide(path) as slide:
            reader = TileReader(slide, grid, 0, readers=CORES)
            for batch in reader.batches(lambda tiles: (tiles, {})):
                yield batch.tiles

    return read


class Regions:
    """A dataset as CLAM and TRIDENT have it: OpenSlide, opened by each worker for itself."""

    def __init__(self, path: Path, grid: TileGrid) -> None:
        self._path, self._coords, self._slide = path, grid.coords_px, None

    def __len__(self) -> int:
        return len(self._coords)

    def __getitem__(self, index: int) -> Tiles:
        import openslide

        if self._slide is None:
            self._slide = openslide.OpenSlide(self._path)
        y, x = self._coords[index].tolist()
        return np.array(self._slide.read_region((x, y), 0, (TILE_PX, TILE_PX)).convert("RGB"))


def with_openslide(path: Path, grid: TileGrid) -> Read:
    """openslide-python in the workers of a DataLoader."""
    return _loaded(Regions(path, grid), lambda batch: batch.numpy())


def with_dataset(path: Path, grid: TileGrid) -> Read:
    """tiatoolbox's dataset of patches, which its engines read, in the workers of a DataLoader."""
    from tiatoolbox.models.dataset import WSIPatchDataset

    patches = WSIPatchDataset(
        path, patch_input_shape=(TILE_PX, TILE_PX), stride_shape=(TILE_PX, TILE_PX),
        resolution=MPP, units="mpp", auto_get_mask=False,
    )  # fmt: skip
    return _loaded(patches, lambda batch: batch["image"].numpy())


def _loaded(dataset: Any, tiles_of: Callable[[Any], Tiles]) -> Read:
    from torch.utils.data import DataLoader

    loader = DataLoader(dataset, BATCH, num_workers=CORES, persistent_workers=True)

    def read() -> Iterator[Tiles]:
        for batch in loader:
            yield tiles_of(batch)

    return read


def with_patches(path: Path, grid: TileGrid) -> Read:
    """tiatoolbox's extractor of patches, iterated as its manual does."""
    from tiatoolbox.tools.patchextraction import SlidingWindowPatchExtractor

    extractor = SlidingWindowPatchExtractor(
        path, patch_size=(TILE_PX, TILE_PX), resolution=MPP, units="mpp", within_bound=True
    )

    def read() -> Iterator[Tiles]:
        for index in range(len(extractor)):
            yield extractor[index][None]

    return read


READERS: dict[str, Callable[[Path, TileGrid], Read]] = {
    OURS: with_microtome,
    OPENSLIDE: with_openslide,
    DATASET: with_dataset,
    PATCHES: with_patches,
}
