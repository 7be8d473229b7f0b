"""Small arrays in a Zarr v3 group, kept so that a lost or damaged chunk is noticed."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def put_array(group: Any, name: str, data: NDArray[Any], chunks: tuple[int, ...]) -> None:
    """Write an array under ``name``, compressed and with a checksum for each chunk."""
    from zarr.codecs import ZstdCodec

    array = group.create_array(
        name,
        shape=data.shape,
        dtype=data.dtype,
        chunks=chunks,
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
    if array.nchunks_initialized < array.nchunks:
        raise ValueError(f"chunks of {name} are missing")
    return np.asarray(array[...])
