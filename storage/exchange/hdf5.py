"""HDF5 files of other tools, read with suspicion and written whole or not at all."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BadProduct, MissingFile, UnreadableFile, first_line
from ..files import writable

MAX_INFLATION = 1100
"""Deflate packs at most 1032 : 1: a dataset that claims to be more than this many times its
file is a damaged header, and must not be allocated."""

DAMAGE = (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError, SystemError)
"""What h5py raises on damaged files, according to which part of the file is hit."""


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """Open an HDF5 file to read; whatever h5py trips over within the block is a named error.

    Raises
    ------
    MissingFile, UnreadableFile
        Nothing is there; or it is not HDF5, or damaged.
    """
    import h5py

    if not path.is_file():
        raise MissingFile("no such file", where=path, remedy="Check the path")
    try:
        # Files of a cluster are often on file systems without locks, and are only read.
        with h5py.File(path, "r", locking=False) as file:
            yield file
    except DAMAGE as error:
        raise UnreadableFile(
            f"this HDF5 file is damaged, or is none ({first_line(error)})",
            where=path,
            remedy="Copy it again, or have its tool make it again",
        ) from error


def array(file: Any, name: str, path: Path) -> NDArray[Any]:
    """Read a whole dataset of numbers.

    Raises
    ------
    BadProduct
        There is none of that name, or it does not hold numbers.
    UnreadableFile
        Its header promises more than the file can hold.
    """
    import h5py

    dataset = file.get(name)
    if not isinstance(dataset, h5py.Dataset) or dataset.dtype.kind not in "iuf":
        raise BadProduct(f"there is no dataset {name} of numbers", where=path)
    if dataset.nbytes > MAX_INFLATION * path.stat().st_size:
        raise UnreadableFile(
            f"{name} claims {dataset.nbytes:,} bytes, more than this file can hold",
            where=path,
            remedy="Copy it again",
        )
    values: NDArray[Any] = dataset[...]
    return values


def attributes(thing: Any, names: tuple[str, ...]) -> dict[str, Any]:
    """Those of the named attributes that are there; text is decoded, scalars are scalars.

    Others are not touched: HDF5's own library is at its most brittle where an attribute is hurt.
    """
    return {name: _plain(thing.attrs[name]) for name in names if name in thing.attrs}


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value.item() if isinstance(value, np.generic) else value


def number(values: dict[str, Any], name: str, path: Path) -> float | None:
    """A positive number among attributes; None where there is none.

    Raises
    ------
    BadProduct
        Something else stands there. TRIDENT writes ``None`` as text: that counts as absent.
    """
    value = values.get(name)
    if value is None or value == "None":
        return None
    if not isinstance(value, int | float) or not np.isfinite(value) or value <= 0:
        raise BadProduct(f"attribute {name} is {value!r}, not a positive number", where=path)
    return float(value)


@contextmanager
def new_h5(path: Path) -> Iterator[Any]:
    """Write an HDF5 file whole or not at all; equal content gives equal bytes."""
    import h5py

    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex[:12]}.tmp"
    with writable(path):
        try:
            with h5py.File(temporary, "w", track_order=True) as file:
                yield file
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def put(file: Any, name: str, values: NDArray[Any]) -> Any:
    """Write a dataset of rows that may grow, as CLAM's own can."""
    rows = min(max(len(values), 1), 4096)
    return file.create_dataset(
        name,
        data=values,
        chunks=(rows, *(max(size, 1) for size in values.shape[1:])),
        maxshape=(None, *values.shape[1:]),
        track_times=False,
    )
