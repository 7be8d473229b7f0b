"""Files: written whole or not at all, and an operating system's refusal turned into words."""

from __future__ import annotations

import errno
import os
import re
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from .errors import UnwritableOutput

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_REFUSALS = (
    *_FULL,
    errno.EACCES,
    errno.EPERM,
    errno.EEXIST,
    errno.EISDIR,
    errno.ENOTDIR,
    errno.ENAMETOOLONG,
)
_SYNC_THREADS = 8
_BUFFER_BYTES = 2**20
_STRAY = re.compile(r"\..+\.[0-9a-f]{12}\.tmp")


@contextmanager
def writable(path: Path) -> Iterator[None]:
    """Make the parent of ``path`` and turn an operating system's refusal into a named error.

    Only a refusal of ``path``, or of its hidden siblings ``.<name>.*``, is translated: a source
    that may not be read is no fault of the output's.

    Raises
    ------
    UnwritableOutput
        Permission denied, read-only or full file system, a file where a folder should be.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _refusal(path, error) from error
    try:
        yield
    except OSError as error:
        if error.errno in _REFUSALS and _concerns(error, path):
            raise _refusal(path, error) from error
        raise


def _refusal(path: Path, error: OSError) -> UnwritableOutput:
    return UnwritableOutput(
        f"cannot write here ({error.strerror or error})",
        where=path,
        remedy="Choose another output with --out, or mend rights and space in this one",
    )


def _concerns(error: OSError, path: Path) -> bool:
    named = [name for name in (error.filename, error.filename2) if isinstance(name, str)]
    if not named:
        return error.errno in _FULL
    for name in map(Path, named):
        if name == path.parent:
            return True
        if name.is_relative_to(path.parent):
            first = name.relative_to(path.parent).parts[0]
            if first == path.name or first.startswith(f".{path.name}."):
                return True
    return False


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """Write a file whole or not at all: temporary sibling, fsync, rename where the block ends."""
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex[:12]}.tmp"
    try:
        with temporary.open("wb", _BUFFER_BYTES) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a small file whole or not at all."""
    with new_file(path) as file:
        file.write(data)


def write_text(path: Path, text: str) -> None:
    """Write a small UTF-8 text file whole or not at all."""
    write_bytes(path, text.encode("utf-8"))


def remove_strays(folder: Path) -> None:
    """Delete the temporary files that killed writers left anywhere below a folder."""
    for root, _, files in os.walk(folder):
        for name in files:
            if _STRAY.fullmatch(name):
                (Path(root) / name).unlink(missing_ok=True)


def sync_tree(folder: Path) -> None:
    """Force everything below a folder to the disk, so that a commit record never lies."""
    paths: list[Path] = []
    for root, _, files in os.walk(folder):
        paths += (Path(root) / name for name in files)
        paths.append(Path(root))
    # Side by side: a file system that is asked several times at once writes its journal once.
    with ThreadPoolExecutor(_SYNC_THREADS) as pool:
        for _ in pool.map(_sync, paths):
            pass


def sync_folder(folder: Path) -> None:
    """Force a folder's list of names to the disk."""
    _sync(folder)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
