"""Finished products into an object store, commit record last.

An object is whole or absent, but nothing renames a folder of them. So a product is made on a disk,
as ever, and then published: its files first, each checked by size and checksum as it arrives, and
its commit record when all others are there. Whoever looks for the record finds a whole product or
none; what was cut off is gone on with by publishing again. Where another product is replaced, its
record goes first.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .commit import RECORD
from .errors import MissingFile, StaleProduct
from .objects import Remote, connect, etag_of, is_same, patiently, put, read_small, remove

_AT_ONCE = 8
_OURS = re.compile(r"\..+\.(lock|tmp|part|partial|dead|now|key|origin)")
"""Names of what is under way, and of what is nobody else's business: never published."""


@dataclass(frozen=True)
class Published:
    """What was done.

    Attributes
    ----------
    sent, kept
        Files that were sent, and that were there already.
    bytes_sent
        Length of those that were sent.
    """

    sent: int = 0
    kept: int = 0
    bytes_sent: int = 0

    def __add__(self, other: Published) -> Published:
        return Published(
            self.sent + other.sent, self.kept + other.kept, self.bytes_sent + other.bytes_sent
        )


def is_private(path: Path) -> bool:
    """Whether a file or folder is under way, or a secret, and so never published."""
    return _OURS.fullmatch(path.name) is not None


def publish(place: Path, url: str, *, overwrite: bool = False) -> Published:
    """Publish a folder, with all products in it, or one file, as what is below ``url``.

    Files that lie there already, with the same size and checksum, are not sent again. In a
    product nothing is left that is not in it here; around products nothing is ever deleted.

    Parameters
    ----------
    place
        A folder or file.
    url
        What it is to be: ``s3://bucket/results/slides/a.ome.zarr``.
    overwrite
        Replace products that were published with another key.

    Raises
    ------
    MissingFile
        There is nothing to publish.
    StaleProduct
        A product with another key is published there and ``overwrite`` is false.
    NoStore
        The store refuses, or does not answer; publishing again goes on.
    """
    if not place.exists():
        raise MissingFile("nothing is here to publish", where=place, remedy="Check the path")
    store, root = connect(url)
    if place.is_file():
        there = patiently(lambda: store.find(root, detail=True), url)
        return _send(store, {root: place}, _remotes(there))
    there = _remotes(patiently(lambda: store.find(root, detail=True), url))
    done = Published()
    for owner, files in _by_product(place):
        keys = {f"{root}/{file.relative_to(place).as_posix()}": file for file in files}
        if owner is None:
            done += _send(store, keys, there)
        else:
            prefix = "/".join((root, *owner.relative_to(place).parts))
            done += _send_product(store, owner, prefix, keys, there, overwrite=overwrite)
    return done


def published_key(url: str) -> str | None:
    """The key of the product that is published as ``url``; None where there is no whole one."""
    store, root = connect(url)
    record = f"{root}/{RECORD}"
    if not patiently(lambda: bool(store.isfile(record)), url):
        return None
    return _key(read_small(store, record))


def _remotes(listed: Mapping[str, dict[str, Any]]) -> dict[str, Remote]:
    return {key: Remote.of(key, info) for key, info in listed.items()}


def _by_product(folder: Path) -> Iterator[tuple[Path | None, list[Path]]]:
    """The files of each product in a folder, the innermost products first; then all others."""
    owned: defaultdict[Path | None, list[Path]] = defaultdict(list)
    for file in _files(folder):
        inside = (folder, *(folder / p for p in reversed(file.relative_to(folder).parents[:-1])))
        owners = [p for p in inside if (p / RECORD).is_file()]
        owned[owners[-1] if owners else None].append(file)
    for owner in sorted(filter(None, owned), key=lambda path: (-len(path.parts), path)):
        yield owner, owned[owner]
    if None in owned:
        yield None, owned[None]


def _files(folder: Path) -> Iterator[Path]:
    for child in sorted(folder.iterdir()):
        if is_private(child):
            continue
        if child.is_dir():
            yield from _files(child)
        else:
            yield child


def _send_product(
    store: Any,
    owner: Path,
    prefix: str,
    keys: Mapping[str, Path],
    there: Mapping[str, Remote],
    *,
    overwrite: bool,
) -> Published:
    record = f"{prefix}/{RECORD}"
    mine = (owner / RECORD).read_bytes()
    theirs = read_small(store, record) if record in there else None
    rest = {key: file for key, file in keys.items() if key != record}
    if theirs == mine:
        # Its files were checked before it was written.
        return _send(store, rest, there, by_size=True) + Published(kept=1)
    if theirs is not None:
        if _key(theirs) != _key(mine) and not overwrite:
            raise StaleProduct(
                "a product made from another input or with other parameters is published here",
                where=prefix,
                remedy="Publish elsewhere, or pass --overwrite to replace it",
            )
        remove(store, record)
    done = _send(store, rest, there)
    inner = {path.parent for path in owner.rglob(RECORD)} - {owner}
    kept = {f"{prefix}/{path.relative_to(owner).as_posix()}/" for path in inner}
    for key in there:
        is_ours = key.startswith(prefix + "/") and not key.startswith(tuple(kept))
        if is_ours and key not in keys:
            remove(store, key)
    put(store, owner / RECORD, record)
    return done + Published(1, 0, len(mine))


def _key(record: bytes) -> str | None:
    try:
        found = json.loads(record)
    except ValueError:
        return None
    return str(found.get("key")) if isinstance(found, dict) else None


def _send(
    store: Any,
    keys: Mapping[str, Path],
    there: Mapping[str, Remote],
    *,
    by_size: bool = False,
) -> Published:
    """Send what is not there yet, by size and checksum, or by size alone; several at once."""

    def send(item: tuple[str, Path]) -> Published:
        key, file = item
        size = file.stat().st_size
        found = there.get(key)
        if found is None or found.size != size:
            is_there = False
        else:
            is_there = by_size or is_same(store, found, size, etag_of(file))
        if is_there:
            return Published(kept=1)
        put(store, file, key)
        return Published(1, 0, size)

    return _sum(_side_by_side(send, keys.items()))


def _side_by_side(
    send: Callable[[tuple[str, Path]], Published], items: Iterable[tuple[str, Path]]
) -> Iterator[Published]:
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        yield from pool.map(send, items)


def _sum(parts: Iterable[Published]) -> Published:
    done = Published()
    for part in parts:
        done += part
    return done
