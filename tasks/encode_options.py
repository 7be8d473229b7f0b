"""What, besides the slide, decides a bag."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..engine.grid import Edge
from ..engine.stain import Method
from .encoders import DEFAULT, Encoder, Precision, load_encoder


@dataclass(frozen=True)
class EncodeOptions:
    """What, besides the slide, decides a bag; small enough to travel between processes.

    Attributes
    ----------
    encoder
        As :func:`~microtome.tasks.encoders.load_encoder` takes it.
    mpp, tile_px
        In place of what the encoder asks for.
    stride_px
        Step between tiles at ``mpp``; by default tiles neither overlap nor leave gaps.
    min_tissue
        Tiles with less than this fraction of tissue are left out.
    max_corrupt
        A slide of whose tiles more than this fraction cannot be decoded is rejected.
    precision, device
        Of deep encoders.
    masks
        Folder of ``<id>.tissue.zarr`` to take in place of finding the tissue: masks that were
        made otherwise, or that a person edited. A slide that has none there is rejected.
    stain
        How tiles are given one look before they are encoded, by statistics of the whole slide
        (:func:`~microtome.engine.stain.make_normaliser`); none by default.
    edge
        What becomes of tiles at the edge (:class:`~microtome.engine.grid.TileGrid`).
    readers
        Threads that read a slide, as :func:`encode` takes them; no bit of a bag depends on it.
    is_compiled
        Deep encoders go through ``torch.compile`` first.
    half
        Features are kept in 16 bits.
    """

    encoder: str = DEFAULT
    mpp: float | None = None
    tile_px: int | None = None
    stride_px: int | None = None
    min_tissue: float = 0.5
    max_corrupt: float = 0.02
    precision: Precision = "fp32"
    device: str = "cpu"
    masks: Path | None = None
    stain: Method | None = None
    edge: Edge = "drop"
    readers: int | None = None
    is_compiled: bool = False
    half: bool = False

    def load(self) -> Encoder:
        """Load the encoder; the same one each time within a process."""
        return _load(
            self.encoder,
            device=self.device,
            mpp=self.mpp,
            tile_px=self.tile_px,
            precision=self.precision,
            is_compiled=self.is_compiled,
        )


@lru_cache(maxsize=1)
def _load(spec: str, **how: Any) -> Encoder:
    return load_encoder(spec, **how)
