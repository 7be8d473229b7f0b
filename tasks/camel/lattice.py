"""Instances as networks take them: pixels, or the built-in features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .images import ImageSet, Pixels, instances

FEATURES = "features"


@dataclass(frozen=True)
class Lattice:
    """The instances of some images.

    Attributes
    ----------
    values
        float32 [n, m, d] features, or uint8 [n, m, px, px, 3] pixels; m instances an image, row by
        row.
    labels
        bool [n], of the images.
    groups
        [n]: slide or patient.
    """

    values: NDArray[Any]
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
        return Lattice(self.values[rows], self.labels[rows], self.groups[rows])


def describe(images: ImageSet, grid: int, *, backbone: str, mpp: float) -> Lattice:
    """Cut images into instances, and compute their features where the backbone takes features.

    Stains are estimated for each slide, as its images share them.

    Raises
    ------
    BadGeometry
        Images that do not part into the lattice.
    """
    values = _features(images, grid, mpp) if backbone == FEATURES else _tiles(images.pixels, grid)
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
