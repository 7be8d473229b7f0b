"""Arrays in a Zarr v3 group, kept so that damage is noticed; and rows that leave memory."""

from __future__ import annotations

import mmap
import os
import sys
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .files import writable


class PagedRows:
    """Rows that come in any order: in memory, or in a nameless file that the system may page out.

    The file is gone when nobody holds its rows any more, however the process ends.

    Parameters
    ----------
    count, length
        Of the rows.
    folder
        Where the file is made; None for memory, where all is kept but on Linux.

    Attributes
    ----------
    rows
        float32 [n, d].

    Raises
    ------
    UnwritableOutput
        The file cannot be made, or there is no room for it.
    """

    def __init__(self, count: int, length: int, folder: Path | None = None) -> None:
        self._map: mmap.mmap | None = None
        if folder is None or sys.platform != "linux" or not count * length:
            self.rows = np.empty((count, length), np.float32)
            return
        size = 4 * count * length
        with writable(folder):
            folder.mkdir(parents=True, exist_ok=True)
            with TemporaryFile(dir=folder) as file:
                # Reserved: a disk that is full when a mapped page is written ends the process.
                os.posix_fallocate(file.fileno(), 0, size)
                self._map = mmap.mmap(file.fileno(), size)
        self.rows = np.frombuffer(self._map, np.float32).reshape(count, length)

    def put(self, indices: NDArray[np.intp], values: NDArray[np.float32]) -> None:
        """Set some rows."""
        self.rows[indices] = values
        if self._map is not None:
            self._map.madvise(mmap.MADV_DONTNEED)


def put_array(
    group: Any,
    name: str,
    data: NDArray[Any],
    chunks: tuple[int, ...],
    shards: tuple[int, ...] | None = None,
) -> None:
    """Write an array under ``name``, compressed and with a checksum for each chunk.

    Parameters
    ----------
    shards
        Shape of what one file holds, a multiple of ``chunks``; a chunk a file by default.
    """
    from zarr.codecs import ZstdCodec

    array = group.create_array(
        name,
        shape=data.shape,
        dtype=data.dtype,
        chunks=chunks,
        shards=shards,
        compressors=ZstdCodec(level=1, checksum=True),
        # A chunk of zeros is written too, so that a chunk that is missing is a chunk lost.
        config={"write_empty_chunks": True},
    )
    if data.size:
        array[...] = data


def get_array(group: Any, name: str) -> NDArray[Any]:
    """Read a whole array that :func:`put_array` wrote.

    Raises
    ------
    KeyError
        There is no such array.
    ValueError, RuntimeError
        A chunk is missing, or does not fit its checksum.
    """
    array = group[name]
    require_whole(array)
    return np.asarray(array[...])


def require_whole(array: Any) -> None:
    """Raise ValueError where a file of an array is missing or empty: it would read as zeros."""
    files = Path(array.store.root, array.path, "c").rglob("*")
    is_emptied = any(path.is_file() and not path.stat().st_size for path in files)
    if is_emptied or array.nchunks_initialized < array.nchunks:
        raise ValueError(f"chunks of {array.basename} are missing")
