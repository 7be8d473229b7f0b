"""What decides how a scan becomes a bag: blocks or slices, spacing, windows, encoder."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..engine.volumes import Modality
from ..engine.volumes.blocks import Edge
from ..engine.volumes.windows import HEAD_WINDOWS, window_of
from ..storage.errors import BadModel, NoModality
from .encoders import Encoder, Features, Precision, load_encoder
from .encoders.block_texture import BlockTexture
from .encoders.slice_pictures import Depth, SlicePictures

DEFAULT = BlockTexture.name
BLOCK_MM, BLOCK_SPACING_MM, SLICE_SPACING_MM = 16.0, 2.0, 1.0
LEAST_IN_CUBE, LEAST_IN_SLICE = 0.5, 0.1
UM_PER_MM = 1000.0


class BlockEncoder(Protocol):
    """Blocks float32 [b, c, z, y, x] of 0 to 1 to features float32 [b, dim]."""

    @property
    def name(self) -> str:
        """What the user asks for it by."""
        ...

    @property
    def version(self) -> str:
        """Changes whenever the same blocks would give other features."""
        ...

    @property
    def dim(self) -> int:
        """Length of a feature vector."""
        ...

    @property
    def feature_names(self) -> tuple[str, ...]:
        """``dim`` names, or none where features have no meaning of their own."""
        ...

    def encode(self, blocks: NDArray[np.float32]) -> Features:
        """Encode a batch; a row depends on its own block alone."""
        ...


@dataclass(frozen=True)
class ScanOptions:
    """What, besides the scan, decides its bag; small enough to travel between processes.

    Attributes
    ----------
    encoder
        ``block-texture`` for cubes; any other encoder of
        :func:`~microtome.tasks.encoders.load_encoder` is shown slices as pictures.
    block_mm, spacing_mm
        Side of a cube, 16 by default, and distance between samples: by default 2 in cubes and 1
        in the plane of slices. A scan that is coarser is refused.
    tile_px
        Side of a slice's picture, in place of what the encoder asks for.
    stride_px
        Step between blocks in samples; by default they neither overlap nor leave gaps.
    depth
        Slices that an encoder of pictures sees at once, 1 or 3.
    windows
        CT: names or ``CENTRE/WIDTH``, one channel each; by default brain, subdural and bone, and
        brain alone where ``depth`` is 3.
    modality
        ``ct``, ``mr`` or ``pt``, for files that do not state it.
    robust
        PET: scale by percentiles of the body where there are no uptake values.
    bias
        MR: find and divide by the bias field (N4) before percentiles are taken.
    min_foreground
        Blocks with less body are left out: by default cubes with less than half, and slices with
        less than a tenth, as there is air round a head.
    edge
        :class:`~microtome.engine.volumes.blocks.BlockGrid`; ``keep`` for cubes and ``drop`` for
        slices by default.
    series, resample
        As :func:`~microtome.engine.volumes.open_volume` takes them.
    half
        Features are kept in 16 bits.
    precision, device
        Of deep encoders.
    """

    encoder: str = DEFAULT
    block_mm: float = BLOCK_MM
    spacing_mm: float | None = None
    tile_px: int | None = None
    stride_px: int | None = None
    depth: Depth = 1
    windows: tuple[str, ...] = ()
    modality: str | None = None
    robust: bool = False
    bias: bool = True
    min_foreground: float | None = None
    edge: Edge | None = None
    series: str | None = None
    resample: bool = False
    precision: Precision = "fp32"
    half: bool = False
    device: str = "cpu"

    @property
    def is_cubes(self) -> bool:
        """Whether instances are cubes, not slices."""
        return self.encoder == DEFAULT

    @property
    def least_foreground(self) -> float:
        """Fraction of a block that must be body."""
        if self.min_foreground is not None:
            return self.min_foreground
        return LEAST_IN_CUBE if self.is_cubes else LEAST_IN_SLICE

    @property
    def samples_mm(self) -> float:
        """Distance between samples."""
        return self.spacing_mm or (BLOCK_SPACING_MM if self.is_cubes else SLICE_SPACING_MM)

    def channels(self, modality: Modality) -> tuple[str, ...]:
        """Names of the windows, one a channel.

        Raises
        ------
        NoModality
            CT windows for what is no CT.
        BadModel
            As many as make no picture.
        """
        if modality != "CT":
            if self.windows:
                raise NoModality(
                    f"CT windows are asked for, and this is {modality}",
                    where="--window",
                    remedy="Leave --window out",
                )
            if modality == "MR":
                return ("unbiased" if self.bias else "intensity",)
            return ("intensity" if self.robust else "suv",)
        usual = HEAD_WINDOWS if self.is_cubes or self.depth == 1 else HEAD_WINDOWS[:1]
        names = tuple(window_of(text).name for text in self.windows) or usual
        if not self.is_cubes and len(names) * self.depth not in (1, 3):
            raise BadModel(
                f"{len(names)} windows of {self.depth} slices make no picture in red, green, blue",
                where="--window",
                remedy="Name one window, or three of a single slice",
            )
        return names

    def load(self, channels: tuple[str, ...]) -> tuple[BlockEncoder, tuple[int, int, int]]:
        """The encoder of these channels, and the (z, y, x) samples of the blocks it is shown."""
        if self.is_cubes:
            side = round(self.block_mm / self.samples_mm)
            return BlockTexture(channels), (side, side, side)
        tiles = self.load_pictures()
        return SlicePictures(tiles, self.depth), (self.depth, tiles.tile_px, tiles.tile_px)

    def load_pictures(self) -> Encoder:
        """The encoder of pictures; the same one each time within a process."""
        tiles = _load(self.encoder, self.device, self.samples_mm, self.tile_px, self.precision)
        if tiles.sample_tiles:
            raise BadModel(
                f"{tiles.name} is made for stained slides, not for scans",
                where="--encoder",
                remedy=f"Leave --encoder out for {DEFAULT}, or name a deep encoder",
            )
        return tiles


@lru_cache(maxsize=1)
def _load(
    spec: str, device: str, spacing_mm: float, tile_px: int | None, precision: Precision
) -> Encoder:
    mpp = spacing_mm * UM_PER_MM
    return load_encoder(spec, device, mpp=mpp, tile_px=tile_px, precision=precision)
