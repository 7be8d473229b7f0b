"""Zarr v3 shards: arrays of which one file holds many inner chunks, written whole by one writer.

Layout of a shard (Zarr v3 ``sharding_indexed``, index at the end): the encoded inner chunks, then
for each in C order its offset and length as little-endian uint64 (2^64 - 1 twice where it holds
nothing but the fill value), then the CRC-32C of that index. The index comes last, so a shard that
was cut off has none, and a shard with a sound index is whole.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from .codecs import ChunkCodec, Zstd, codec_from, crc32c
from .errors import BadProduct, DamagedChunk
from .files import new_file, write_text

Box = tuple[slice, ...]
Index = tuple[int, ...]

_EMPTY = 2**64 - 1
_CRC_BYTES = 4


@dataclass(frozen=True)
class ShardedArray:
    """An array cut into shards, and shards into chunks.

    Attributes
    ----------
    shape
        Of the whole array.
    dtype
        Of its values.
    shard
        Shape of what one file holds; a multiple of ``chunk`` on every axis.
    chunk
        Shape of what is encoded, and read, at once.
    names
        One name an axis.
    codec
        How chunks are encoded.
    fill
        The value of every chunk that is not written.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    shard: tuple[int, ...]
    chunk: tuple[int, ...]
    names: tuple[str, ...]
    codec: ChunkCodec = field(default_factory=Zstd)
    fill: int = 0

    writes_empty: ClassVar[bool] = False
    """Whether a chunk of nothing but the fill value is written all the same."""

    def __post_init__(self) -> None:
        axes = {len(self.shape), len(self.shard), len(self.chunk), len(self.names)}
        sizes = (*self.shape, *self.shard, *self.chunk)
        if len(axes) > 1 or min(sizes) < 1 or any(np.mod(self.shard, self.chunk)):
            raise ValueError(f"shards {self.shard} of chunks {self.chunk} do not tile {self.shape}")

    @property
    def grid(self) -> tuple[int, ...]:
        """Number of shards along each axis."""
        return tuple(map(_ceil_div, self.shape, self.shard))

    @property
    def chunks(self) -> tuple[int, ...]:
        """Number of chunks in a shard, along each axis."""
        return tuple(s // c for s, c in zip(self.shard, self.chunk, strict=True))

    def indices(self) -> Iterator[Index]:
        """Every shard, in C order."""
        return itertools.product(*map(range, self.grid))

    def box(self, index: Index) -> Box:
        """The part of the array that a shard holds."""
        return tuple(
            slice(i * s, min((i + 1) * s, n))
            for i, s, n in zip(index, self.shard, self.shape, strict=True)
        )

    def file(self, folder: Path, index: Index) -> Path:
        """The file of a shard, in the folder of the array."""
        return folder.joinpath("c", *map(str, index))

    def metadata(self) -> dict[str, Any]:
        """The array's ``zarr.json``."""
        return {
            "zarr_format": 3,
            "node_type": "array",
            "shape": list(self.shape),
            "data_type": self.dtype.name,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(self.shard)}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": float(self.fill) if self.dtype.kind == "f" else self.fill,
            "codecs": [
                {
                    "name": "sharding_indexed",
                    "configuration": {
                        "chunk_shape": list(self.chunk),
                        "codecs": self.codec.metadata(),
                        "index_codecs": [
                            {"name": "bytes", "configuration": {"endian": "little"}},
                            {"name": "crc32c"},
                        ],
                        "index_location": "end",
                    },
                }
            ],
            "attributes": {},
            "dimension_names": list(self.names),
        }

    def packed(self, chunks: Iterable[bytes | None]) -> Iterator[bytes]:
        """What a shard's file holds, part by part, of its encoded chunks in C order.

        Parameters
        ----------
        chunks
            All of the shard; None for one that holds nothing but the fill value. Asked for one by
            one, so that a shard need not be in memory.
        """
        index = np.full((math.prod(self.chunks), 2), _EMPTY, "<u8")
        offset = 0
        for number, chunk in enumerate(chunks):
            if chunk is not None:
                index[number] = offset, len(chunk)
                offset += len(chunk)
                yield chunk
        yield index.tobytes()
        yield crc32c(index.tobytes())

    def index_of(self, file: FileIO, path: Path) -> NDArray[np.uint64]:
        """Offsets and lengths [n, 2] of the chunks in an opened shard; BadProduct on damage."""
        length = 16 * math.prod(self.chunks)
        size = file.seek(0, 2)
        file.seek(max(0, size - length - _CRC_BYTES))
        tail = file.read()
        if len(tail) != length + _CRC_BYTES or crc32c(tail[:length]) != tail[length:]:
            raise BadProduct("a shard is cut off or damaged", where=path, remedy=_AGAIN)
        index = np.frombuffer(tail[:length], "<u8").reshape(-1, 2)
        ends = index[:, 0] + index[:, 1]
        ends[index[:, 0] == _EMPTY] = 0
        if int(ends.max()) != size - len(tail):
            raise BadProduct(
                "a shard is damaged: its index does not fit it", where=path, remedy=_AGAIN
            )
        return index

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any]) -> ShardedArray:
        """The layout that a ``zarr.json`` of ours describes; KeyError or BadProduct for others."""
        (sharding,) = metadata["codecs"]
        inner = sharding["configuration"]
        if sharding["name"] != "sharding_indexed" or inner["index_location"] != "end":
            raise BadProduct("the array is not sharded as Microtome does it")
        return cls(
            shape=tuple(metadata["shape"]),
            dtype=np.dtype(metadata["data_type"]),
            shard=tuple(metadata["chunk_grid"]["configuration"]["chunk_shape"]),
            chunk=tuple(inner["chunk_shape"]),
            names=tuple(metadata["dimension_names"]),
            codec=codec_from(inner["codecs"]),
            fill=int(metadata["fill_value"]),
        )


def encoded_chunks(array: ShardedArray, values: NDArray[Any]) -> Iterator[bytes | None]:
    """Encode a shard's chunks, in C order; None for what holds nothing but the fill value."""
    for place in itertools.product(*map(range, array.chunks)):
        corner = [i * c for i, c in zip(place, array.chunk, strict=True)]
        part = values[tuple(slice(a, a + c) for a, c in zip(corner, array.chunk, strict=True))]
        chunk = _padded(part, array)
        empty = part.size == 0 or (_is_empty(chunk, array) and not array.writes_empty)
        yield None if empty else array.codec.encode(chunk)


def _is_empty(chunk: NDArray[Any], array: ShardedArray) -> bool:
    if array.fill == 0:
        # By its bits: -0.0 is no emptiness.
        return not chunk.view(np.uint8).any()
    return bool((chunk == array.fill).all())


def _padded(part: NDArray[Any], array: ShardedArray) -> NDArray[Any]:
    if part.shape == array.chunk:
        return np.ascontiguousarray(part)
    if array.codec.loss and part.size:
        # A jump at the image's edge would ring into it.
        beyond = [(0, c - n) for c, n in zip(array.chunk, part.shape, strict=True)]
        return np.pad(part, beyond, mode="edge")
    whole = np.full(array.chunk, array.fill, part.dtype)
    whole[tuple(slice(n) for n in part.shape)] = part
    return whole


def write_shard(array: ShardedArray, folder: Path, index: Index, values: NDArray[Any]) -> int:
    """Encode and write one shard, whole or not at all; returns its length in bytes.

    Parameters
    ----------
    values
        The part of the array that the shard holds (:meth:`ShardedArray.box`), in its dtype.
    """
    with ShardWriter() as writer:
        writer.write(array, folder, index, encoded_chunks(array, values))
    return writer.bytes_written


class ShardWriter:
    """Writes shards, each whole or not at all: one is forced to disk while the next is made.

    Used in a ``with`` block: where it ends without an error, all is on the disk.

    Attributes
    ----------
    bytes_written
        Length of all shards.
    """

    def __init__(self) -> None:
        self.bytes_written = 0
        self._disk = ThreadPoolExecutor(1)
        self._forced: Future[None] | None = None

    def write(
        self, array: ShardedArray, folder: Path, index: Index, chunks: Iterable[bytes | None]
    ) -> None:
        """Write a shard as its chunks come (:meth:`ShardedArray.packed`).

        Raises
        ------
        OSError
            This shard, or the one before it, cannot be written.
        """
        path = array.file(folder, index)
        path.parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as unfinished:
            file = unfinished.enter_context(new_file(path))
            for part in array.packed(chunks):
                self.bytes_written += file.write(part)
            self._settle()
            self._forced = self._disk.submit(unfinished.pop_all().close)

    def _settle(self) -> None:
        """Wait for the last shard; raises what befell it."""
        if self._forced is not None:
            self._forced.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._disk.shutdown()
        if error is None:
            self._settle()


def read_index(array: ShardedArray, path: Path) -> NDArray[np.uint64]:
    """Offsets and lengths [n, 2] of a shard's chunks.

    Raises
    ------
    BadProduct
        The shard is missing, cut off or damaged.
    """
    with _opened(path) as file:
        return array.index_of(file, path)


@contextmanager
def _opened(path: Path) -> Iterator[FileIO]:
    try:
        file = path.open("rb", buffering=0)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise BadProduct("a shard is missing", where=path, remedy=_AGAIN) from error
    with file:
        yield file


_AGAIN = "Delete the product and make it again"


def is_whole(array: ShardedArray, folder: Path, index: Index) -> bool:
    """Whether a shard is there, with a sound index that fits its length."""
    try:
        read_index(array, array.file(folder, index))
    except BadProduct:
        return False
    return True


def read_box(
    array: ShardedArray, folder: Path, box: Box, out: NDArray[Any] | None = None
) -> NDArray[Any]:
    """Read a box of the array, given by one slice an axis with start, stop and step 1.

    Parameters
    ----------
    out
        Where to read it to, in whatever order of axes in memory; new memory by default.

    Raises
    ------
    BadProduct
        A shard is missing or damaged.
    DamagedChunk
        A shard is whole, but one of the chunks that are needed cannot be decoded.
    """
    if out is None:
        shape = [part.stop - part.start for part in box]
        out = np.empty(shape, array.dtype.newbyteorder("="))
    spans = (
        range(part.start // s, _ceil_div(part.stop, s))
        for part, s in zip(box, array.shard, strict=True)
    )
    for shard in itertools.product(*spans):
        _read_shard(array, array.file(folder, shard), shard, box, out)
    return out


def _read_shard(array: ShardedArray, path: Path, shard: Index, box: Box, out: NDArray[Any]) -> None:
    spans = [
        list(_spans(part, i * s, c, n))
        for part, i, s, c, n in zip(box, shard, array.shard, array.chunk, array.chunks, strict=True)
    ]
    with _opened(path) as file:
        index = array.index_of(file, path).reshape(*array.chunks, 2)
        for parts in itertools.product(*spans):
            place, target, source = zip(*parts, strict=True)
            offset, length = index[place].tolist()
            if offset == _EMPTY:
                out[target] = array.fill
                continue
            file.seek(offset)
            out[target] = _decode(array, file.read(length), path, shard, place)[source]


def _spans(part: slice, origin: int, chunk: int, count: int) -> Iterator[tuple[int, slice, slice]]:
    """Along one axis of a shard: each chunk of a part, where it goes there, what of it goes."""
    first = max(0, part.start - origin) // chunk
    for number in range(first, min(count, _ceil_div(part.stop - origin, chunk))):
        corner = origin + number * chunk
        low, high = max(corner, part.start), min(corner + chunk, part.stop)
        there = slice(low - part.start, high - part.start)
        yield number, there, slice(low - corner, high - corner)


def _decode(
    array: ShardedArray, data: bytes, path: Path, shard: Index, place: Index
) -> NDArray[Any]:
    try:
        return array.codec.decode(data, array.chunk, array.dtype)
    except (ValueError, RuntimeError) as error:
        corner = {
            name: i * s + j * c
            for name, i, s, j, c in zip(
                array.names, shard, array.shard, place, array.chunk, strict=True
            )
        }
        raise DamagedChunk(
            f"a chunk is damaged ({error}), at {corner}", where=path, remedy=_AGAIN
        ) from error


def write_metadata(folder: Path, metadata: Mapping[str, Any], name: str = "zarr.json") -> None:
    """Write a node's metadata, readably and always the same; those of Zarr v2 by their name."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / name, json.dumps(metadata, indent=1, allow_nan=False))


def read_metadata(folder: Path, name: str = "zarr.json") -> dict[str, Any]:
    """Read a node's metadata.

    Raises
    ------
    BadProduct
        It is missing or damaged.
    """
    try:
        metadata = json.loads((folder / name).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadProduct(f"damaged metadata ({error})", where=folder, remedy=_AGAIN) from error
    if not isinstance(metadata, dict):
        raise BadProduct("damaged metadata", where=folder, remedy=_AGAIN)
    return metadata


def _ceil_div(a: int, b: int) -> int:
    return -(-a // b)
