"""The store by which zarr-python reads a view: metadata from the view, chunks from the slide."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path
from threading import Lock
from typing import Any, NoReturn

import numpy as np
from zarr.abc.store import (
    ByteRequest,
    OffsetByteRequest,
    RangeByteRequest,
    Store,
    SuffixByteRequest,
)
from zarr.core.buffer import Buffer, BufferPrototype, default_buffer_prototype

from .virtual import View, Window, open_view

_NUMBER = r"(0|[1-9]\d{0,9})"
_CHUNK = re.compile(rf"{_NUMBER}/c/0/{_NUMBER}/{_NUMBER}")

Place = tuple[int, int, int]
"""(level, row, column) of a tile."""

# Inside the class ``list`` is Zarr's method.
Names = list[str]
Buffers = list[Buffer | None]


class VirtualStore(Store):
    """A view of a slide (``microtome ingest --profile virtual``) as OME-Zarr 0.5; read-only.

    Pickled, it is a path: another process opens the slide for itself.

    Parameters
    ----------
    path
        The view's folder.
    read_only
        Always true.

    Raises
    ------
    MissingFile, BadProduct
        There is no finished view; or the slide that it looks into is not there any more.
    StaleProduct
        The slide has changed since.

    Examples
    --------
    >>> import zarr
    >>> group = zarr.open_group(VirtualStore("case-17.ome.zarr"), mode="r")  # doctest: +SKIP
    >>> group["0"][:, :256, :256].shape  # doctest: +SKIP
    (3, 256, 256)
    """

    supports_writes = False
    supports_deletes = False
    supports_partial_writes = False
    supports_listing = True

    def __init__(self, path: str | Path, *, read_only: bool = True) -> None:
        if not read_only:
            raise ValueError("a view of a slide is read-only")
        super().__init__(read_only=True)
        self._path = Path(path).absolute()
        self._lock = Lock()
        self._held: Window | None = Window(open_view(self._path))

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self._path}

    def __setstate__(self, state: dict[str, Any]) -> None:
        Store.__init__(self, read_only=True)
        self._path, self._lock, self._held = state["path"], Lock(), None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, VirtualStore) and self._path == other._path

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"VirtualStore('{self._path}')"

    def __str__(self) -> str:
        return f"virtual://{self._path.as_posix()}"

    def with_read_only(self, read_only: bool = False) -> VirtualStore:
        """The same store again; ValueError unless read-only."""
        return VirtualStore(self._path, read_only=read_only)

    def close(self) -> None:
        """Release the slide's file; it is opened again when it is needed."""
        with self._lock:
            if self._held is not None:
                self._held.close()
                self._held = None
        super().close()

    # --- what is there

    def get_sync(
        self,
        key: str,
        *,
        prototype: BufferPrototype | None = None,
        byte_range: ByteRequest | None = None,
    ) -> Buffer | None:
        """The value of a key, or the part of it that is asked for; None where there is none."""
        data = self._value(key)
        if data is None:
            return None
        buffer = (prototype or default_buffer_prototype()).buffer
        return buffer.from_bytes(data if byte_range is None else _part(data, byte_range))

    async def get(
        self,
        key: str,
        prototype: BufferPrototype | None = None,
        byte_range: ByteRequest | None = None,
    ) -> Buffer | None:
        """As :meth:`get_sync`, in a thread: a disk may be slow."""
        return await asyncio.to_thread(
            self.get_sync, key, prototype=prototype, byte_range=byte_range
        )

    async def get_partial_values(
        self,
        prototype: BufferPrototype,
        key_ranges: Iterable[tuple[str, ByteRequest | None]],
    ) -> Buffers:
        """Several values or parts of them, in the order that they were asked for."""
        asked = [self.get(key, prototype, byte_range) for key, byte_range in key_ranges]
        return list(await asyncio.gather(*asked))

    async def exists(self, key: str) -> bool:
        """Whether there is a value; that of a tile that was never written is not."""
        return key in self._view.documents or self._place(key) is not None

    def _value(self, key: str) -> bytes | None:
        document = self._view.documents.get(key)
        if document is not None:
            return json.dumps(document, allow_nan=False).encode()
        place = self._place(key)
        return None if place is None else self._window().tile(*place)

    def _place(self, key: str) -> Place | None:
        """The tile of a key, where there is one."""
        named = _CHUNK.fullmatch(key)
        if named is None:
            return None
        level, row, column = map(int, named.groups())
        if level >= len(self._view.levels):
            return None
        sizes = self._view.levels[level].sizes
        inside = row < sizes.shape[0] and column < sizes.shape[1]
        return (level, row, column) if inside and sizes[row, column] else None

    @property
    def _view(self) -> View:
        return self._window().view

    def _window(self) -> Window:
        held = self._held
        if held is None:
            with self._lock:
                held = self._held = self._held or Window(open_view(self._path))
        return held

    # --- names

    async def list(self) -> AsyncIterator[str]:
        """Every key."""
        for key in self._keys():
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Every key that begins so."""
        for key in self._keys():
            if key.startswith(prefix):
                yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """The names next below a prefix."""
        for name in self._names(prefix.strip("/").split("/") if prefix.strip("/") else []):
            yield name

    def _keys(self) -> Iterator[str]:
        yield from self._view.documents
        for level, spans in enumerate(self._view.levels):
            for row, column in np.argwhere(spans.sizes).tolist():
                yield f"{level}/c/0/{row}/{column}"

    def _names(self, parts: Names) -> Names:
        levels = {str(number): spans.sizes for number, spans in enumerate(self._view.levels)}
        if not parts:
            return ["zarr.json", *levels]
        sizes = levels.get(parts[0], np.empty((0, 0), np.int64))
        has_tiles = bool(sizes.any())
        match parts[1:]:
            case [] if parts[0] in levels:
                return ["zarr.json", "c"] if has_tiles else ["zarr.json"]
            case ["c"] if has_tiles:
                return ["0"]
            case ["c", "0"]:
                return [str(row) for row in np.flatnonzero(sizes.any(axis=1))]
            case ["c", "0", row] if re.fullmatch(_NUMBER, row) and int(row) < len(sizes):
                return [str(column) for column in np.flatnonzero(sizes[int(row)])]
        return []

    # --- what a view does not do

    async def set(self, key: str, value: Buffer) -> None:
        """Always ValueError."""
        self._refuse()

    async def set_partial_values(self, key_start_values: Iterable[tuple[str, int, bytes]]) -> None:
        """Always ValueError."""
        self._refuse()

    async def delete(self, key: str) -> None:
        """Always ValueError."""
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise ValueError(f"{self._path} is a view of a slide, and read-only")


def _part(data: bytes, asked: ByteRequest) -> bytes:
    if isinstance(asked, RangeByteRequest):
        return data[asked.start : asked.end]
    if isinstance(asked, OffsetByteRequest):
        return data[asked.offset :]
    if isinstance(asked, SuffixByteRequest):
        return data[max(0, len(data) - asked.suffix) :]
    raise TypeError(f"no part of bytes is {asked!r}")
