"""How the bytes of one inner chunk are made: one small class a codec.

A codec names itself in Zarr v3's terms, so that any Zarr reader can undo it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .errors import BadProduct
from .jpeg import Jpeg


class ChunkCodec(Protocol):
    """Turns an inner chunk into bytes and back."""

    def metadata(self) -> list[dict[str, Any]]:
        """The codec chain, as Zarr v3 writes it inside a shard."""
        ...

    def encode(self, chunk: NDArray[Any]) -> bytes:
        """Encode one whole chunk."""
        ...

    def decode(self, data: bytes, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """Decode what :meth:`encode` made; ValueError or RuntimeError where it is damaged."""
        ...


@dataclass(frozen=True)
class Zstd:
    """Zstandard on little-endian values, with its own checksum in every chunk."""

    level: int = 1

    def metadata(self) -> list[dict[str, Any]]:
        """The codec chain, as Zarr v3 writes it inside a shard."""
        return [
            {"name": "bytes", "configuration": {"endian": "little"}},
            {"name": "zstd", "configuration": {"level": self.level, "checksum": True}},
        ]

    def encode(self, chunk: NDArray[Any]) -> bytes:
        """Encode one whole chunk."""
        from numcodecs import zstd

        little = np.ascontiguousarray(chunk, chunk.dtype.newbyteorder("<"))
        return bytes(zstd.compress(little, self.level, True))

    def decode(self, data: bytes, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """Decode what :meth:`encode` made; ValueError or RuntimeError where it is damaged."""
        from numcodecs import zstd

        values: NDArray[Any] = np.frombuffer(zstd.decompress(data), dtype.newbyteorder("<"))
        return values.reshape(shape).astype(dtype.newbyteorder("="), copy=False)


PROFILES: Mapping[str, ChunkCodec] = {"compatible": Zstd()}
"""Ways to encode a slide anew, by name: ``compatible`` opens in every tool that reads Zarr v3."""


def codec_from(metadata: Sequence[Mapping[str, Any]]) -> ChunkCodec:
    """The codec that a shard's metadata names.

    Raises
    ------
    BadProduct
        None of ours.
    """
    names = [step.get("name") for step in metadata]
    if names == ["bytes", "zstd"]:
        return Zstd(int(metadata[1]["configuration"]["level"]))
    if names == ["transpose", "jpeg"]:
        return Jpeg.from_metadata(metadata)
    raise BadProduct(f"chunks encoded by {names} are not read here")
