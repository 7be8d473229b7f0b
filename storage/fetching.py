"""Objects onto a disk: resumed after whatever cut it off, and checked before they count."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from .errors import NoStore
from .files import sync_folder, writable
from .objects import PART_BYTES, Remote, connect, content_is, look_up, patiently, read_part

_AT_ONCE = 8


def remote_files(url: str) -> tuple[Any, dict[str, Remote]]:
    """What a slide in a store is made of: objects by the name of the file that each becomes.

    One object; all below a folder, such as a DICOM slide's or an OME-Zarr's; or a MIRAX file with
    the folder beside it.

    Raises
    ------
    MissingFile, NoStore, InputError, MissingDependency
        As :func:`~microtome.storage.objects.connect` and ``patiently``.
    """
    store, root = connect(url)
    name = root.rsplit("/", 1)[-1]
    if patiently(lambda: bool(store.isfile(root)), url):
        found = {name: look_up(store, root)}
        if name.lower().endswith(".mrxs"):
            found |= _below(store, root[: -len(".mrxs")])
        return store, found
    return store, _below(store, root) or {name: look_up(store, root)}


def _below(store: Any, folder: str) -> dict[str, Remote]:
    name = folder.rsplit("/", 1)[-1]
    listed = patiently(lambda: store.find(folder, detail=True), folder)
    return {
        f"{name}/{key.removeprefix(folder + '/')}": Remote.of(key, info)
        for key, info in sorted(listed.items())
    }


def version_of(files: dict[str, Remote]) -> str:
    """Identity of objects by names, sizes and tags: of what would be fetched now."""
    digest = hashlib.sha256()
    for name, remote in files.items():
        digest.update(f"{name}\0{remote.size}\0{remote.etag}\0".encode())
    return digest.hexdigest()


def fetch_all(store: Any, files: dict[str, Remote], folder: Path) -> None:
    """Fetch objects into a folder; those that are there whole are not fetched again.

    Raises
    ------
    NoStore, MissingFile, UnwritableOutput
        As :func:`fetch`.
    """
    for name, remote in files.items():
        fetch(store, remote, folder / name)


def fetch(store: Any, remote: Remote, path: Path) -> None:
    """Fetch one object to a file, which under its name is whole or absent.

    What an earlier try left is gone on with, where the object is still the same.

    Raises
    ------
    NoStore
        The store does not answer; the object was changed meanwhile; what comes is not what its
        tag says.
    MissingFile, UnwritableOutput
        It is gone; the file cannot be written.
    """
    if path.is_file() and path.stat().st_size == remote.size:
        return
    part = part_path(remote, path)
    with writable(path):
        with part.open("ab") as file:
            file.truncate(file.tell() // PART_BYTES * PART_BYTES)
            for data in _parts(store, remote, file.seek(0, 2)):
                file.write(data)
        _require_same(store, remote, part)
        part.replace(path)
        sync_folder(path.parent)


def part_path(remote: Remote, path: Path) -> Path:
    """Where an object lies while it is fetched: elsewhere for each version of it."""
    said = f"{remote.key}\0{remote.size}\0{remote.etag}"
    tag = hashlib.sha256(said.encode()).hexdigest()[:12]
    return path.parent / f".{path.name}.{tag}.part"


def _parts(store: Any, remote: Remote, start: int) -> Iterator[bytes]:
    """The parts from a place on, in their order, a few of them asked for at once."""
    starts = range(start, remote.size, PART_BYTES)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for first in range(0, len(starts), _AT_ONCE):
            group = starts[first : first + _AT_ONCE]
            yield from pool.map(partial(read_part, store, remote), group)


def _require_same(store: Any, remote: Remote, part: Path) -> None:
    now = look_up(store, remote.key)
    what = None
    if (now.size, now.etag) != (remote.size, remote.etag):
        what = "the object was changed while it was fetched"
    elif not content_is(store, remote, part):
        what = "what came is not what the store says that it holds"
    if what is not None:
        part.unlink()
        raise NoStore(what, where=remote.key, remedy="Run it again")
