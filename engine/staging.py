"""Slides that lie in an object store, brought to this node's own disk while they are worked on.

Readers of slides seek in files; over a network each seek would be a request. So a slide is fetched
whole, once for each stage that reads it, and given up afterwards. A stage whose product is known to
be of the very same object, with the same options, is not begun at all: beside the product a note
says of which version of the object it was made (``.<product>.origin``).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import gettempdir
from typing import Any, TypeVar

from ..storage.claims import claim
from ..storage.commit import RECORD, begin
from ..storage.errors import OutputBusy
from ..storage.fetching import fetch_all, remote_files, version_of
from ..storage.files import writable, write_text
from ..storage.objects import Remote, url_of
from .schedule import Skipped

R = TypeVar("R")

SCRATCH = "MICROTOME_SCRATCH"
"""Environment variable: a folder on the node's own disk, in place of that for temporary files."""

_LEFT_S = 6 * 3600
"""How long what a killed process left may be of use to the next that fetches the same slide."""

_PLACES = 100


@contextmanager
def at_hand(path: Path) -> Iterator[Path]:
    """A slide as a file of this machine: where its path is a URL, fetched, and deleted afterwards.

    What was cut off is gone on with, also by another process of the same node. The file has the
    object's own name, as readers look at suffixes.

    Raises
    ------
    MissingFile, NoStore, UnwritableOutput
        There is no such object; the store does not answer; the disk is full.
    """
    url = url_of(path)
    if url is None:
        yield path
        return
    store, files = remote_files(url)
    with _fetched(url, store, files) as local:
        yield local


@contextmanager
def _fetched(url: str, store: Any, files: dict[str, Remote]) -> Iterator[Path]:
    root = Path(os.environ.get(SCRATCH) or gettempdir()) / f"microtome-staged-{os.getuid()}"
    with writable(root / "x"):
        root.chmod(0o700)
    _sweep(root)
    name = hashlib.sha256(url.encode()).hexdigest()[:12]
    with ExitStack() as stack:
        place = _own_place(root, name, stack)
        try:
            fetch_all(store, files, place)
            yield place / url.rstrip("/").rsplit("/", 1)[-1]
        finally:
            shutil.rmtree(place, ignore_errors=True)


def _own_place(root: Path, name: str, stack: ExitStack) -> Path:
    """A folder that no living process uses; the same for the same slide, where it can be."""
    for number in range(_PLACES):
        place = root / f"{name}-{number}"
        try:
            stack.enter_context(claim(place))
        except OutputBusy:
            continue
        place.mkdir(exist_ok=True)
        return place
    raise OutputBusy(f"{_PLACES} processes work on this slide here", where=root)


def _sweep(root: Path) -> None:
    """Delete what killed processes left long ago."""
    for place in root.iterdir():
        if place.is_dir() and time.time() - place.stat().st_mtime > _LEFT_S:
            try:
                with claim(place):
                    shutil.rmtree(place, ignore_errors=True)
            except OutputBusy:
                continue


def unless_known(
    path: Path,
    product: Path,
    request: str,
    *,
    known: Callable[[], R | None],
    work: Callable[[Path], R | Skipped[R]],
) -> R | Skipped[R]:
    """Work on a slide where it is at hand; one in a store is fetched only if it has to be.

    Parameters
    ----------
    path
        The slide; perhaps a URL.
    product
        What is made of it.
    request
        Key over all, besides the slide, that decides what is made.
    known
        What the product is that is there; None where it is not all there.
    work
        Makes it of a file, or says that it is there already.
    """
    url = url_of(path)
    if url is None:
        return work(path)
    store, files = remote_files(url)
    note = product.parent / f".{product.name}.origin"
    origin = {"url": url, "version": version_of(files), "request": request}
    if _read(note) == {**origin, "product": _digest(product)}:
        found = known()
        if found is not None:
            return Skipped(found)
    begin(product)
    with _fetched(url, store, files) as local:
        made = work(local)
    with writable(note):
        write_text(note, json.dumps({**origin, "product": _digest(product)}, indent=1))
    return made


def _read(note: Path) -> Any:
    try:
        return json.loads(note.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _digest(product: Path) -> str | None:
    """Of the commit record: whoever makes the product anew writes another one."""
    record = product / RECORD
    return hashlib.sha256(record.read_bytes()).hexdigest() if record.is_file() else None
