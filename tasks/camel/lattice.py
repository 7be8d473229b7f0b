"""Instances as networks take them: pixels, or the built-in features."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .images import ImageSet, Pixels, instances

FEATURES = "features"


@dataclass(frozen=True)
class Cuts:
    """Pixels of instances, cut from their images where they are asked for.

    Indexed like uint8 [n, m, px, px, 3]. The images themselves may be mapped from disk; however
    often and however finely they are cut, only what is asked for is copied.

    Attributes
    ----------
    pixels
        uint8 [i, side, side, 3]: images.
    grid
        Instances along their side.
    where
        int64 [n, m]: which instance of the images, counted image by image, row by row.
    """

    pixels: Pixels
    grid: int
    where: NDArray[np.int64]

    @property
    def shape(self) -> tuple[int, ...]:
        """As of the array."""
        px = self.pixels.shape[1] // self.grid
        return (*self.where.shape, px, px, 3)

    def __len__(self) -> int:
        return len(self.where)

    def __getitem__(self, key: Any) -> Pixels:
        image, place = np.divmod(self.where[key], self.grid**2)
        cut: Pixels = instances(self.pixels, self.grid)[image, *np.divmod(place, self.grid)]
        return cut


@dataclass(frozen=True)
class Lattice:
    """The instances of some images.

    Attributes
    ----------
    values
        float32 [n, m, d] features, or pixels uint8 [n, m, px, px, 3]; m instances an image, row by
        row.
    labels
        bool [n], of the images.
    groups
        [n]: slide or patient.
    """

    values: NDArray[Any] | Cuts
    labels: NDArray[np.bool_]
    groups: NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.values)

    @property
    def count(self) -> int:
        """Instances an image, m."""
        return int(self.values.shape[1])

    def subset(self, rows: NDArray[np.int64]) -> Lattice:
        """Some of the images."""
        return Lattice(self._taken(rows), self.labels[rows], self.groups[rows])

    def parts(
        self, images: NDArray[np.int64], places: NDArray[np.int64], labels: NDArray[np.bool_]
    ) -> Lattice:
        """A lattice of some instances: of image ``images[k]`` those at ``places[k]`` [k, p]."""
        values = self._taken((images[:, None], places))
        return Lattice(values, labels, self.groups[images])

    def some(self, numbers: NDArray[np.int64]) -> NDArray[Any]:
        """Values [b, ...] of instances, counted image by image."""
        return self.values[np.divmod(numbers, self.count)]

    def _taken(self, key: Any) -> NDArray[Any] | Cuts:
        if isinstance(self.values, Cuts):
            return replace(self.values, where=self.values.where[key])
        taken: NDArray[Any] = self.values[key]
        return taken


def describe(images: ImageSet, grid: int, *, backbone: str, mpp: float) -> Lattice:
    """Cut images into instances, and compute their features where the backbone takes features.

    Stains are estimated for each slide, as its images share them.

    Raises
    ------
    BadGeometry
        Images that do not part into the lattice.
    """
    values: NDArray[Any] | Cuts
    if backbone == FEATURES:
        values = _features(images, grid, mpp)
    else:
        instances(images.pixels[:1], grid)
        values = Cuts(images.pixels, grid, np.arange(len(images) * grid**2).reshape(-1, grid**2))
    return Lattice(values, images.labels, np.array(images.groups))


def _tiles(pixels: Pixels, grid: int) -> Pixels:
    """uint8 [n, m, px, px, 3]."""
    cut = instances(pixels, grid)
    return cut.reshape(len(pixels), grid**2, *cut.shape[3:])


def _features(images: ImageSet, grid: int, mpp: float) -> NDArray[np.float32]:
    """float32 [n, m, d], slide by slide: the pixels of others stay where they are mapped."""
    from ...storage.errors import NoStains
    from ..encoders import load_encoder

    encoder = load_encoder(mpp=mpp, tile_px=instances(images.pixels[:1], grid).shape[3])
    features = np.empty((len(images), grid**2, encoder.dim), np.float32)
    slides = np.array(images.slides)
    for slide in np.unique(slides):
        rows = np.flatnonzero(slides == slide)
        own = np.concatenate(_tiles(images.pixels[rows], grid))
        sample = own[:: -(-len(own) // encoder.sample_tiles)]
        try:
            adapted = encoder.for_slide(sample)
        except NoStains:
            # Published reference stains: what the encoder uses where none can be estimated.
            adapted = encoder
        features[rows] = adapted.encode(own).reshape(len(rows), grid**2, -1)
    return features
