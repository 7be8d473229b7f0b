"""Objects in a store (S3, and whatever else fsspec reaches): looked up, read, written, checked.

A connection that is cut on the way costs the part that was on it; it is asked for again. Whether a
store answers at all, and with which credentials it lets in, is configured as for its own tools
(``AWS_ENDPOINT_URL``, ``AWS_PROFILE`` …).
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from .errors import InputError, MissingDependency, MissingFile, NoStore, first_line

R = TypeVar("R")

PART_BYTES = 8 * 1024**2
"""What is asked for, or sent, at once: a cut connection costs that much."""

_ATTEMPTS = 4
_FIRST_PAUSE_S = 0.5
_URL = re.compile(r"([a-z][a-z0-9+.-]+):/+(.+)")
_MD5 = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class Remote:
    """One object.

    Attributes
    ----------
    key
        As fsspec names it: bucket and key.
    size
        In bytes.
    etag
        What changes with its content; empty where the store states none.
    """

    key: str
    size: int
    etag: str = ""

    @property
    def md5(self) -> str | None:
        """The MD5 of its content, where the tag is of that form."""
        return self.etag if _MD5.fullmatch(self.etag) else None

    @classmethod
    def of(cls, key: str, info: dict[str, Any]) -> Remote:
        """By what fsspec says of it."""
        return cls(key, int(info.get("size") or 0), str(info.get("ETag") or "").strip('"'))


def url_of(place: str | Path) -> str | None:
    """The URL that a place is, also one that was taken for a path (``s3:/bucket/key``)."""
    found = _URL.fullmatch(str(place))
    return f"{found[1]}://{found[2]}" if found else None


def connect(url: str) -> tuple[Any, str]:
    """The file system of fsspec that an URL is in, and its key there.

    Raises
    ------
    InputError
        Nobody knows that kind of URL.
    MissingDependency
        The package for it is not installed.
    """
    from fsspec.core import url_to_fs

    try:
        store, key = url_to_fs(url, use_listings_cache=False)
    except ValueError as error:
        raise InputError(f"no such kind of URL ({first_line(error)})", where=url) from error
    except ImportError as error:
        raise MissingDependency(first_line(error), where=url, remedy="Install it") from error
    return store, str(key).rstrip("/")


@cache
def _troubles() -> tuple[type[Exception], ...]:
    """What a connection may end with."""
    from aiohttp import ClientError
    from botocore.exceptions import BotoCoreError
    from botocore.exceptions import ClientError as Refused

    return OSError, ClientError, BotoCoreError, Refused


def patiently(ask: Callable[[], R], where: str) -> R:
    """Ask a store, again and again where the connection is cut, a little later each time.

    Raises
    ------
    MissingFile
        There is no such object.
    NoStore
        It refuses, or does not answer at any time.
    """
    for attempt in range(_ATTEMPTS):
        try:
            return ask()
        except FileNotFoundError as error:
            raise MissingFile("no such object", where=where, remedy="Check the URL") from error
        except PermissionError as error:
            raise NoStore(
                f"the store lets nobody in without the right credentials ({first_line(error)})",
                where=where,
                remedy="Configure them as for the store's own tools, on every node",
            ) from error
        except _troubles() as error:
            if attempt + 1 == _ATTEMPTS:
                raise NoStore(
                    f"the store does not answer ({first_line(error)}), {_ATTEMPTS} times",
                    where=where,
                    remedy="Run it again to go on; for other stores than Amazon's set "
                    "AWS_ENDPOINT_URL",
                ) from error
            time.sleep(_FIRST_PAUSE_S * 2**attempt)
    raise AssertionError("unreachable")


def look_up(store: Any, key: str) -> Remote:
    """Size and tag of an object; raises as :func:`patiently`."""
    return Remote.of(key, patiently(lambda: store.info(key), key))


def read_part(store: Any, remote: Remote, start: int) -> bytes:
    """The part of an object that begins at ``start``; raises as :func:`patiently`."""
    end = min(start + PART_BYTES, remote.size)

    def ask() -> bytes:
        data = bytes(store.cat_file(remote.key, start=start, end=end))
        if len(data) != end - start:
            raise OSError(f"{len(data)} bytes came of {end - start}")
        return data

    return patiently(ask, remote.key)


def read_small(store: Any, key: str) -> bytes:
    """The whole of a small object; raises as :func:`patiently`."""
    return patiently(lambda: bytes(store.cat_file(key)), key)


def put(store: Any, path: Path, key: str) -> None:
    """Write a file as an object, and see that what arrived is what was sent.

    Raises
    ------
    NoStore
        As :func:`patiently`; or what arrives is always something else.
    """
    expected = etag_of(path)

    def send() -> None:
        store.put_file(str(path), key, chunksize=PART_BYTES)
        found = Remote.of(key, store.info(key))
        if not is_same(store, found, path.stat().st_size, expected):
            raise OSError(f"what arrived ({found.size} bytes, {found.etag}) is not what was sent")

    patiently(send, key)


def remove(store: Any, key: str) -> None:
    """Delete an object; raises as :func:`patiently`."""
    patiently(lambda: store.rm_file(key), key)


def is_same(store: Any, remote: Remote, size: int, etag: str) -> bool:
    """Whether an object has this size and, where its tag is one of content, this tag."""
    if remote.size != size:
        return False
    return not remote.etag or remote.etag == etag or not _says_content(store, remote)


def _says_content(store: Any, remote: Remote) -> bool:
    """Whether a tag is made of the content: not so where the store encrypts with a user's key."""
    if not hasattr(store, "call_s3"):
        return False
    bucket, key, _ = store.split_path(remote.key)
    head = patiently(lambda: store.call_s3("head_object", Bucket=bucket, Key=key), remote.key)
    is_plain = head.get("ServerSideEncryption") in (None, "AES256")
    return is_plain and "SSECustomerAlgorithm" not in head


def etag_of(path: Path) -> str:
    """The tag that S3 gives to a file that :func:`put` sends, whole or in parts."""
    if path.stat().st_size < 2 * PART_BYTES:
        return md5_of(path)
    parts = []
    with path.open("rb") as file:
        while data := file.read(PART_BYTES):
            parts.append(hashlib.md5(data, usedforsecurity=False).digest())
    whole = hashlib.md5(b"".join(parts), usedforsecurity=False).hexdigest()
    return f"{whole}-{len(parts)}"


def md5_of(path: Path) -> str:
    """MD5 of a file, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def content_is(store: Any, remote: Remote, path: Path) -> bool:
    """Whether a file holds an object's content, as far as its tag says what that is."""
    if path.stat().st_size != remote.size:
        return False
    stated = remote.md5
    return stated is None or md5_of(path) == stated or not _says_content(store, remote)
