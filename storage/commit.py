"""Products: keys, atomic writes, commit records, locks.

A *product* is a directory whose commit record (``commit.json``) is written last. It is made in a
hidden sibling and renamed into place, so that under its final name it is whole or absent.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from .claims import claim
from .errors import BadProduct, InputError, MissingFile, StaleProduct, UnreadableFile
from .files import (
    new_file,
    remove_strays,
    sync_folder,
    sync_tree,
    writable,
    write_bytes,
    write_text,
)

__all__ = [
    "Commit", "NotMade", "State", "begin", "claim", "file_identity", "is_done", "looking",
    "new_file", "new_product", "product_key", "product_state", "read_commit", "require_commit",
    "sync_tree", "writable", "write_bytes", "write_text",
]  # fmt: skip

RECORD = "commit.json"
FORMAT_VERSION = 1
_SAMPLE_BYTES = 64 * 1024
_SAMPLES = 16
State = Literal["absent", "done", "stale", "damaged"]
_only_looking: ContextVar[bool] = ContextVar("only_looking", default=False)


class NotMade(Exception):
    """Within :func:`looking`: this product would be made now."""


def begin(path: Path) -> None:
    """Say that something is about to be made: raises :class:`NotMade` within :func:`looking`."""
    if _only_looking.get():
        raise NotMade(path)


@contextmanager
def looking() -> Iterator[None]:
    """Ask what a function would make, by calling it: within the block nothing is made.

    What is done is found done, by the key that the function itself gives it. Where a product would
    be made, :class:`NotMade` is raised in its place, and where another is in its way,
    :class:`StaleProduct`, as ever.
    """
    token = _only_looking.set(True)
    try:
        yield
    finally:
        _only_looking.reset(token)


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
    play no part: a copied slide is the same slide. A MIRAX file counts with the folder beside it
    that holds its pixels. Labels in an OME-Zarr are said of its pixels, and do not count.

    Raises
    ------
    MissingFile, UnreadableFile
        Nothing is there; or it may not be read.
    """
    if path.is_dir():
        return _folder_identity(path)
    if not path.is_file():
        raise MissingFile("no such file", where=path, remedy="Check the path")
    try:
        own = _sampled_digest(path)
    except PermissionError as error:
        raise UnreadableFile(
            "this file may not be read", where=path, remedy="Mend its permissions"
        ) from error
    pixels = path.with_suffix("")
    if path.suffix.lower() == ".mrxs" and pixels.is_dir():
        return hashlib.sha256((own + _folder_identity(pixels)).encode()).hexdigest()
    return own


def _folder_identity(folder: Path) -> str:
    digest = hashlib.sha256()
    labels = folder / "labels" if (folder / "zarr.json").is_file() else None
    for child in sorted(p for p in folder.rglob("*") if p.is_file()):
        if labels in child.parents:
            continue
        digest.update(child.relative_to(folder).as_posix().encode() + b"\0")
        digest.update(file_identity(child).encode())
    return digest.hexdigest()


def _sampled_digest(path: Path) -> str:
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
    except (json.JSONDecodeError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise BadProduct(
            f"the commit record is damaged ({error})",
            where=product,
            remedy="Delete the product and make it again",
        ) from error


def product_state(product: Path, key: str) -> State:
    """Say whether a product is there and whether it is the one that ``key`` asks for."""
    if not product.exists():
        return "absent"
    try:
        record = read_commit(product)
    except BadProduct:
        return "damaged"
    if record is None:
        return "damaged"
    return "done" if record.key == key else "stale"


def is_done(path: Path, *, kind: str, key: str, overwrite: bool = False) -> bool:
    """Whether a product is there already; asked before work is begun on it.

    Raises
    ------
    StaleProduct, BadProduct
        What :func:`new_product` would refuse to replace is there.
    """
    _refuse_other(path, kind, key, overwrite)
    if product_state(path, key) == "done":
        return True
    begin(path)
    return False


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
    path: Path,
    *,
    kind: str,
    key: str,
    about: Mapping[str, Any],
    overwrite: bool = False,
    resume: bool = False,
) -> Iterator[Path]:
    """Write a product: yields a hidden sibling folder, publishes it when the block ends well.

    Parameters
    ----------
    path
        The product's final place.
    kind, key, about
        Go into the commit record.
    overwrite
        Replace a product of this kind that was made with another key. Without it that is an
        error, so that results of different parameters are never mixed or silently lost. What is
        not a product of this kind is never replaced.
    resume
        Go on with what an unfinished run of the same key left, and leave what this one has made
        when it cannot finish, unless its input is at fault (:class:`InputError`). The block
        itself decides which of the files there are whole.

    Yields
    ------
    pathlib.Path
        A folder to write into: empty, or with ``resume`` perhaps partly filled.

    Raises
    ------
    StaleProduct
        ``path`` exists, with another key, and ``overwrite`` is false; or it is something else.
    OutputBusy
        Another living process is writing the same product.
    UnwritableOutput
        Permission denied, read-only or full file system.
    """
    if _only_looking.get():
        _refuse_other(path, kind, key, overwrite)
        begin(path)
    with writable(path), claim(path):
        _refuse_other(path, kind, key, overwrite)
        partial = _partial(path, key if resume else uuid.uuid4().hex)
        _remove_partials(path, keep=partial)
        partial.mkdir(exist_ok=True)
        remove_strays(partial)
        keep = resume
        try:
            yield partial
            remove_strays(partial)
            sync_tree(partial)
            record = {"kind": kind, "key": key, "made": _now(), "about": dict(about)}
            write_text(partial / RECORD, json.dumps(record, indent=1, sort_keys=True))
            _publish(partial, path)
        except InputError:
            keep = False
            raise
        finally:
            if not keep:
                shutil.rmtree(partial, ignore_errors=True)


def _refuse_other(path: Path, kind: str, key: str, overwrite: bool) -> None:
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    if not (path / RECORD).is_file():
        raise StaleProduct(
            f"something that is not a {kind} is in the way",
            where=path,
            remedy="Choose another output, or move it away: it is not replaced by --overwrite",
        )
    try:
        record = read_commit(path)
    except BadProduct:
        if overwrite:
            return
        raise
    if record is not None and record.kind != kind:
        raise StaleProduct(
            f"a {record.kind} is in the way of a {kind}",
            where=path,
            remedy="Choose another output, or move it away",
        )
    if record is not None and record.key != key and not overwrite:
        raise StaleProduct(
            f"this {kind} was made from another input or with other parameters",
            where=path,
            remedy="Choose another output, or pass --overwrite to replace it",
        )


def _partial(path: Path, tag: str) -> Path:
    return path.parent / f".{path.name}.{tag[:12]}.partial"


def _remove_partials(path: Path, keep: Path) -> None:
    """Delete what dead runs left; the claim on ``path`` says that no living one needs it."""
    left = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{12}}\.partial")
    for sibling in path.parent.iterdir():
        if sibling != keep and left.fullmatch(sibling.name):
            shutil.rmtree(sibling, ignore_errors=True)


def _publish(partial: Path, path: Path) -> None:
    doomed = _partial(path, uuid.uuid4().hex)
    if path.exists():
        path.rename(doomed)
    partial.rename(path)
    sync_folder(path.parent)
    shutil.rmtree(doomed, ignore_errors=True)


def _now() -> str:
    # SOURCE_DATE_EPOCH is the convention of reproducible builds: equal runs give equal bytes.
    epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
    moment = datetime.fromtimestamp(int(epoch), UTC) if epoch.isdigit() else datetime.now(UTC)
    return moment.isoformat(timespec="seconds")
