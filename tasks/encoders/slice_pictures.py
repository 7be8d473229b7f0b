"""Encoders of pictures on slices of scans: windows, or neighbouring slices, as red, green, blue."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from .base import Encoder, Features, Tiles

Blocks = NDArray[np.float32]
Depth = Literal[1, 3]


@dataclass(frozen=True)
class SlicePictures:
    """An encoder of pictures as one of blocks that are one slice thick, or three (2.5-D).

    Attributes
    ----------
    encoder
        Of tiles; its pixels are the samples of a slice.
    depth
        1: a slice becomes a picture of one channel (grey) or three (red, green, blue). 3: the
        slice before, the slice itself and the one after become red, green and blue.
    """

    encoder: Encoder
    depth: Depth
    feature_names: ClassVar[tuple[str, ...]] = ()

    @property
    def name(self) -> str:
        """That of the encoder."""
        return self.encoder.name

    @property
    def version(self) -> str:
        """That of the encoder, and how many slices it is shown."""
        return f"{self.encoder.version}/{self.depth}"

    @property
    def dim(self) -> int:
        """Length of a feature vector."""
        return self.encoder.dim

    def encode(self, blocks: Blocks) -> Features:
        """Encode blocks, float32 [b, c, depth, y, x] of 0 to 1: float32 [b, dim]."""
        return self.encoder.encode(pictures(blocks))


def pictures(blocks: Blocks) -> Tiles:
    """Blocks as RGB, uint8 [b, y, x, 3]: of [b, 1 or 3, 1, y, x] or [b, 1, 3, y, x], 0 to 1.

    Raises
    ------
    ValueError
        Neither one plane nor three.
    """
    planes = blocks.reshape(len(blocks), -1, *blocks.shape[3:])
    if planes.shape[1] not in (1, 3):
        raise ValueError(f"{planes.shape[1]} planes make no picture: one or three do")
    grey = np.rint(np.clip(planes, 0, 1) * 255).astype(np.uint8)
    rgb = np.repeat(grey, 3, axis=1) if grey.shape[1] == 1 else grey
    return np.ascontiguousarray(rgb.transpose(0, 2, 3, 1))
