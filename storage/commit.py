"""Products: keys, atomic writes, commit records, locks.

A *product* is a directory whose commit record (``commit.json``) is written last. It is made in a
hidden sibling and renamed into place, so that under its final name it is whole or absent.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import socket
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Literal

import psutil

from .errors import BadProduct, MissingFile, OutputBusy, StaleProduct, UnwritableOutput

RECORD = "commit.json"
FORMAT_VERSION = 1
_SAMPLE_BYTES = 64 * 1024
_SAMPLES = 16
_REFUSALS = (
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EEXIST,
    errno.ENOTDIR,
)

State = Literal["absent", "done", "stale", "damaged"]


def product_key(**parts: Any) -> str:
    """SHA-256 over everything that decides what a product contains.

    Parameters
    ----------
    **parts
        JSON-serialisable values: input identity, every parameter, encoder or model version. The
        format version of the stores is always part of the key.

    Returns
    -------
    str
        64 hexadecimal digits. Equal parts give equal keys in whatever order they are named.
    """
    canonical = json.dumps({"format": FORMAT_VERSION, **parts}, sort_keys=True, allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def file_identity(path: Path) -> str:
    """Identify a file, or a folder of files, by content without reading a gigapixel.

    SHA-256 over the size and 16 evenly spread blocks of 64 KiB (the whole file where it is
    smaller), the first and the last block always among them. The name and the modification time
    play no part: a copied slide is the same slide.

    Raises
    ------
    MissingFile
        Nothing is there.
    """
    if path.is_dir():
        digest = hashlib.sha256()
        for child in sorted(p for p in path.rglob("*") if p.is_file()):
            digest.update(child.relative_to(path).as_posix().encode() + b"\0")
            digest.update(file_identity(child).encode())
        return digest.hexdigest()
    if not path.is_file():
        raise MissingFile("no such file", where=path, remedy="Check the path")
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        if size <= _SAMPLES * _SAMPLE_BYTES:
            digest.update(file.read())
        else:
            for i in range(_SAMPLES):
                file.seek((size - _SAMPLE_BYTES) * i // (_SAMPLES - 1))
                digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()


@dataclass(frozen=True)
class Commit:
    """The record of a finished product."""

    kind: str
    key: str
    made: str
    about: Mapping[str, Any]


def read_commit(product: Path) -> Commit | None:
    """Read the commit record of a product; None where there is none (absent or unfinished).

    Raises
    ------
    BadProduct
        A record is there but cannot be read.
    """
    try:
        raw = json.loads((product / RECORD).read_text(encoding="utf-8"))
        return Commit(kind=raw["kind"], key=raw["key"], made=raw["made"], about=raw["about"])
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (json.JSONDecodeError, KeyError, UnicodeDecodeError) as error:
        raise BadProduct(
            f"the commit record is damaged ({error})",
            where=product,
            remedy="Delete the product and make it again",
        ) from error


def product_state(product: Path, key: str) -> State:
    """Say whether a product is there and whether it is the one that ``key`` asks for."""
    if not product.exists():
        return "absent"
    record = read_commit(product)
    if record is None:
        return "damaged"
    return "done" if record.key == key else "stale"


def require_commit(product: Path, kind: str) -> Commit:
    """Read the commit record of a product that must be there, whole, and of the given kind."""
    if not product.exists():
        raise MissingFile(f"no such {kind}", where=product, remedy="Check the path")
    record = read_commit(product)
    if record is None:
        raise BadProduct(
            f"not a finished {kind}: it has no commit record",
            where=product,
            remedy="Make it again; what was interrupted is resumed",
        )
    if record.kind != kind:
        raise BadProduct(f"this is a {record.kind}, not a {kind}", where=product)
    return record


@contextmanager
def new_product(
    path: Path, *, kind: str, key: str, about: Mapping[str, Any], overwrite: bool = False
) -> Iterator[Path]:
    """Write a product: yields a hidden sibling folder, publishes it when the block ends well.

    Parameters
    ----------
    path
        The product's final place.
    kind, key, about
        Go into the commit record.
    overwrite
        Replace a product that was made with another key. Without it that is an error, so that
        results of different parameters are never mixed or silently lost.

    Yields
    ------
    pathlib.Path
        An empty folder to write into.

    Raises
    ------
    StaleProduct
        ``path`` exists, with another key, and ``overwrite`` is false.
    OutputBusy
        Another living process is writing the same product.
    UnwritableOutput
        Permission denied, read-only or full file system.
    """
    state = product_state(path, key)
    if state in ("stale", "damaged") and not overwrite:
        raise StaleProduct(
            f"this {kind} was made from another input or with other parameters"
            if state == "stale"
            else f"something that is not a finished {kind} is in the way",
            where=path,
            remedy="Choose another output, or pass --overwrite to replace it",
        )
    with writable(path), claim(path):
        for orphan in path.parent.glob(f".{path.name}.*.partial"):
            shutil.rmtree(orphan)
        partial = path.parent / f".{path.name}.{uuid.uuid4().hex[:12]}.partial"
        partial.mkdir()
        try:
            yield partial
            record = {"kind": kind, "key": key, "made": _now(), "about": dict(about)}
            sync_tree(partial)
            write_text(partial / RECORD, json.dumps(record, indent=1, sort_keys=True))
            _publish(partial, path)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _publish(partial: Path, path: Path) -> None:
    doomed = path.parent / f".{path.name}.{uuid.uuid4().hex[:12]}.partial"
    if path.exists():
        path.rename(doomed)
    partial.rename(path)
    _sync_folder(path.parent)
    if doomed.is_dir():
        shutil.rmtree(doomed)
    elif doomed.exists():
        doomed.unlink()


@contextmanager
def claim(path: Path) -> Iterator[None]:
    """Hold the exclusive right to write ``path``; a dead owner on this host loses it.

    Raises
    ------
    OutputBusy
        A living process, or one on another host, holds it.
    """
    lock = path.parent / f".{path.name}.lock"
    me = {"host": socket.gethostname(), "pid": os.getpid(), "started": _process_start()}
    while True:
        try:
            descriptor = os.open(lock, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            _break_if_dead(lock, path)
            continue
        with os.fdopen(descriptor, "w") as file:
            json.dump(me, file)
        break
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)


def _break_if_dead(lock: Path, path: Path) -> None:
    try:
        owner = json.loads(lock.read_text())
        host, pid, started = owner["host"], int(owner["pid"]), float(owner["started"])
    except FileNotFoundError:
        return
    except (json.JSONDecodeError, KeyError, ValueError):
        host, pid, started = "unknown", 0, 0.0
    if host == socket.gethostname() and not _is_alive(pid, started):
        lock.unlink(missing_ok=True)
        return
    raise OutputBusy(
        f"another run is writing this (process {pid} on {host})",
        where=path,
        remedy=f"Wait for it, or delete {lock} if that run is dead",
    )


def _is_alive(pid: int, started: float) -> bool:
    try:
        return abs(psutil.Process(pid).create_time() - started) < 2.0
    except psutil.NoSuchProcess:
        return False


def _process_start() -> float:
    return float(psutil.Process().create_time())


@contextmanager
def writable(path: Path) -> Iterator[None]:
    """Make the parent of ``path`` and turn an operating system's refusal into a named error.

    Only a refusal at or near ``path`` is translated: a source that may not be read is no fault of
    the output's.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        ours = error.filename is None or Path(error.filename).is_relative_to(path.parent)
        blocked = isinstance(error, FileExistsError | NotADirectoryError)
        if error.errno in _REFUSALS and (ours or blocked):
            raise UnwritableOutput(
                f"cannot write here ({error.strerror or error})",
                where=path,
                remedy="Choose another output with --out, or mend rights and space in this one",
            ) from error
        raise


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """Write a file whole or not at all: temporary sibling, fsync, rename where the block ends."""
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex[:12]}.tmp"
    try:
        with temporary.open("wb") as file:
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


def sync_tree(folder: Path) -> None:
    """Force everything below a folder to the disk, so that a commit record never lies."""
    for root, _, files in os.walk(folder):
        for name in files:
            descriptor = os.open(Path(root) / name, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        _sync_folder(Path(root))


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
