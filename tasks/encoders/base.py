"""What an encoder is to the rest of Microtome."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Tiles = NDArray[np.uint8]
Features = NDArray[np.float32]

BATCH_TILES = 64
"""Tiles that are handed to an encoder at once; the last of a slide are fewer."""


@runtime_checkable
class Encoder(Protocol):
    """Tile pixels to feature vectors.

    Its ``tile_px`` and ``mpp`` decide how a slide is tiled: pixels are never resized to fit it.
    """

    @property
    def name(self) -> str:
        """What the user asks for it by."""
        ...

    @property
    def version(self) -> str:
        """Changes whenever the same pixels would give other features: part of every key."""
        ...

    @property
    def tile_px(self) -> int:
        """Side of the tiles that it takes, in pixels."""
        ...

    @property
    def mpp(self) -> float:
        """Micrometres per pixel that it was made for."""
        ...

    @property
    def dim(self) -> int:
        """Length of a feature vector."""
        ...

    @property
    def feature_names(self) -> tuple[str, ...]:
        """``dim`` names, or none where features have no meaning of their own."""
        ...

    @property
    def licence(self) -> str:
        """Terms of use of the method and of its weights."""
        ...

    @property
    def sample_tiles(self) -> int:
        """How many tiles of a slide :meth:`for_slide` wants to see; 0 for none."""
        ...

    def for_slide(self, tiles: Tiles) -> Self:
        """Adapt to one slide (its stains), given some of its tiles; returns a new encoder."""
        ...

    def encode(self, tiles: Tiles) -> Features:
        """Encode a batch.

        Parameters
        ----------
        tiles
            uint8 [b, tile_px, tile_px, 3], RGB at ``mpp``.

        Returns
        -------
        float32 [b, dim]
            A row depends on its own tile alone.

        Raises
        ------
        ValueError
            Tiles of another size.
        """
        ...


@runtime_checkable
class ThreadedEncoder(Encoder, Protocol):
    """An encoder of which each call keeps one core busy, and that several threads may call.

    Its rows are the same, bit for bit, whatever tiles are encoded together.
    """

    @property
    def is_threaded(self) -> bool:
        """True, and there for its name alone."""
        ...


@dataclass(frozen=True, kw_only=True)
class NetworkEncoder:
    """What encoders have in common that are a trained network, the same for every slide.

    Attributes
    ----------
    name, version, tile_px, mpp, dim, licence
        See :class:`Encoder`.
    mean, std
        Per channel of RGB in 0 … 1: what the network was trained with.
    """

    name: str
    version: str
    tile_px: int
    mpp: float
    dim: int
    licence: str = "not stated"
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    feature_names: ClassVar[tuple[str, ...]] = ()
    sample_tiles: ClassVar[int] = 0

    def for_slide(self, tiles: Tiles) -> Self:
        """The encoder itself: nothing of it depends on the slide."""
        return self


def check_tiles(tiles: Tiles, tile_px: int, encoder: str) -> None:
    """Refuse pixels that an encoder was not made for."""
    if tiles.dtype != np.uint8 or tiles.ndim != 4 or tiles.shape[1:] != (tile_px, tile_px, 3):
        raise ValueError(
            f"{encoder} takes uint8 [b, {tile_px}, {tile_px}, 3], "
            f"not {tiles.dtype} {list(tiles.shape)}"
        )
