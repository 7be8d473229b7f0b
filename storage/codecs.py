"""How the bytes of one inner chunk are made: one small class a codec.

A codec names itself in Zarr v3's terms, so that any Zarr reader can undo it. What has no checksum
of its own (Blosc, JPEG, plain values) is given a CRC-32C by :class:`Checked`, so that damage is
never read as pixels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from .errors import BadProduct
from .jpeg import Jpeg

BLOSC_HEADER_BYTES = 16

_CRC_BYTES = 4
_BYTES = {"name": "bytes", "configuration": {"endian": "little"}}


class ChunkCodec(Protocol):
    """Turns an inner chunk into bytes and back."""

    @property
    def loss(self) -> str:
        """How pixels are changed by encoding them, in words; empty where they are not."""
        ...

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
    loss: ClassVar[str] = ""

    def metadata(self) -> list[dict[str, Any]]:
        """The codec chain, as Zarr v3 writes it inside a shard."""
        return [
            _BYTES,
            {"name": "zstd", "configuration": {"level": self.level, "checksum": True}},
        ]

    def encode(self, chunk: NDArray[Any]) -> bytes:
        """Encode one whole chunk."""
        from numcodecs import zstd

        return bytes(zstd.compress(_little(chunk), self.level, True))

    def decode(self, data: bytes, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """Decode what :meth:`encode` made; ValueError or RuntimeError where it is damaged."""
        from numcodecs import zstd

        return _values(zstd.decompress(data), shape, dtype)


@dataclass(frozen=True)
class Raw:
    """Little-endian values as they are."""

    loss: ClassVar[str] = ""

    def metadata(self) -> list[dict[str, Any]]:
        """The codec chain, as Zarr v3 writes it inside a shard."""
        return [_BYTES]

    def encode(self, chunk: NDArray[Any]) -> bytes:
        """Encode one whole chunk."""
        return _little(chunk).tobytes()

    def decode(self, data: bytes, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """Decode what :meth:`encode` made; ValueError where its length is wrong."""
        return _values(data, shape, dtype)


@dataclass(frozen=True)
class Blosc:
    """Blosc with Zstandard inside, for values of one byte; it has no checksum.

    Attributes
    ----------
    level
        0 … 9.
    """

    level: int = 1
    loss: ClassVar[str] = ""

    def metadata(self) -> list[dict[str, Any]]:
        """The codec chain, as Zarr v3 writes it inside a shard."""
        configuration = {
            "cname": "zstd",
            "clevel": self.level,
            "shuffle": "noshuffle",
            "typesize": 1,
            "blocksize": 0,
        }
        return [_BYTES, {"name": "blosc", "configuration": configuration}]

    def encode(self, chunk: NDArray[Any]) -> bytes:
        """Encode one whole chunk."""
        from imagecodecs import blosc_encode

        # By one thread: several write their blocks in the order in which they end.
        return bytes(
            blosc_encode(
                _little(chunk).tobytes(),
                level=self.level,
                compressor="zstd",
                shuffle=0,
                typesize=1,
                blocksize=0,
                numthreads=1,
            )
        )

    def decode(self, data: bytes, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """Decode what :meth:`encode` made; ValueError or RuntimeError where it is cut off."""
        from numcodecs import blosc

        if not is_whole_blosc(data, len(data), math.prod(shape) * dtype.itemsize):
            raise ValueError("its Blosc header does not fit it")
        return _values(blosc.decompress(data), shape, dtype)


def is_whole_blosc(head: bytes, stored_bytes: int, plain_bytes: int) -> bool:
    """Whether a Blosc frame that begins so has the lengths that its header states."""
    if len(head) < BLOSC_HEADER_BYTES:
        return False
    plain, _, stored = np.frombuffer(head[4:BLOSC_HEADER_BYTES], "<u4").tolist()
    return bool(plain == plain_bytes and stored == stored_bytes)


@dataclass(frozen=True)
class Checked:
    """Another codec, with a CRC-32C behind each chunk."""

    codec: ChunkCodec

    @property
    def loss(self) -> str:
        """What the other one's is."""
        return self.codec.loss

    def metadata(self) -> list[dict[str, Any]]:
        """The codec chain, as Zarr v3 writes it inside a shard."""
        return [*self.codec.metadata(), {"name": "crc32c"}]

    def encode(self, chunk: NDArray[Any]) -> bytes:
        """Encode one whole chunk."""
        data = self.codec.encode(chunk)
        return data + crc32c(data)

    def decode(self, data: bytes, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """Decode what :meth:`encode` made; ValueError or RuntimeError where it is damaged."""
        data, check = data[:-_CRC_BYTES], data[-_CRC_BYTES:]
        if crc32c(data) != check:
            raise ValueError("its checksum does not fit it")
        return self.codec.decode(data, shape, dtype)


def crc32c(data: bytes) -> bytes:
    """The CRC-32C of some bytes, little-endian as Zarr puts it behind them."""
    import google_crc32c

    return int(google_crc32c.value(data)).to_bytes(_CRC_BYTES, "little")


def _little(chunk: NDArray[Any]) -> NDArray[Any]:
    return np.ascontiguousarray(chunk, chunk.dtype.newbyteorder("<"))


def _values(data: bytes, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    values: NDArray[Any] = np.frombuffer(data, dtype.newbyteorder("<"))
    return values.reshape(shape).astype(dtype.newbyteorder("="), copy=False)


CODECS = ("zstd", "blosc", "none", "jpeg")
"""Names of the ways to encode a slide's pixels anew."""

_LEVELS = {"zstd": range(1, 23), "blosc": range(10)}
_QUALITY = 85


def codec_named(name: str, level: int | None = None, quality: int | None = None) -> ChunkCodec:
    """A codec for slides, by its name.

    Parameters
    ----------
    name
        One of :data:`CODECS`. ``jpeg`` changes the pixels; colours keep their full resolution.
    level
        Of zstd (1 … 22; 1 by default) and blosc (0 … 9; 1 by default).
    quality
        Of jpeg, 1 … 100; 85 by default.

    Raises
    ------
    ValueError
        There is none of that name, or it takes no such level or quality.
    """
    if name not in CODECS:
        raise ValueError(f"no codec is called {name!r}; choose from {', '.join(CODECS)}")
    if level is not None and level not in _LEVELS.get(name, ()):
        raise ValueError(f"{name} has no level {level}")
    if quality is not None and not (name == "jpeg" and 1 <= quality <= 100):
        raise ValueError(f"{name} has no quality {quality}")
    if name == "zstd":
        return Zstd() if level is None else Zstd(level)
    if name == "blosc":
        return Checked(Blosc() if level is None else Blosc(level))
    return Checked(Raw() if name == "none" else Jpeg(_QUALITY if quality is None else quality))


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
    if names == ["bytes", "crc32c"]:
        return Checked(Raw())
    if names == ["transpose", "jpeg", "crc32c"]:
        return Checked(Jpeg.from_metadata(metadata))
    if names == ["bytes", "blosc", "crc32c"]:
        blosc = Blosc(int(metadata[1]["configuration"]["clevel"]))
        if metadata[1] == blosc.metadata()[1]:
            return Checked(blosc)
    raise BadProduct(f"chunks encoded by {names} are not read here")
