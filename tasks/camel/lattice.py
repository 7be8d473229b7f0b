"""Instances as networks take them: pixels, or the built-in features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .images import ImageSet, instances

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

    Stains are estimated for each group: it is a slide, and its images share them.

    Raises
    ------
    BadGeometry
        Images that do not part into the lattice.
    """
    cut = instances(images.pixels, grid)
    n, px = len(images), cut.shape[3]
    tiles = cut.reshape(n, grid**2, px, px, 3)
    groups = np.array(images.groups)
    values = _features(tiles, groups, mpp) if backbone == FEATURES else tiles
    return Lattice(values, images.labels, groups)


def _features(
    tiles: NDArray[np.uint8], groups: NDArray[np.str_], mpp: float
) -> NDArray[np.float32]:
    from ...storage.errors import NoStains
    from ..encoders import load_encoder

    encoder = load_encoder(mpp=mpp, tile_px=tiles.shape[2])
    features = np.empty((*tiles.shape[:2], encoder.dim), np.float32)
    for group in np.unique(groups):
        rows = np.flatnonzero(groups == group)
        own = tiles[rows].reshape(-1, *tiles.shape[2:])
        sample = own[:: -(-len(own) // encoder.sample_tiles)]
        try:
            adapted = encoder.for_slide(sample)
        except NoStains:
            # Published reference stains: what the encoder uses where none can be estimated.
            adapted = encoder
        features[rows] = adapted.encode(own).reshape(len(rows), tiles.shape[1], -1)
    return features
