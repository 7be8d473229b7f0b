"""Views of slides: OME-Zarr whose chunks stay where they are, in the slide's own file.

A view is a product that holds no pixels: ``virtual.json`` says what Zarr's metadata would say, and
which file is meant; ``<level>.npy`` says where in it each tile lies. There is no ``zarr.json``: who
opens the folder as plain Zarr is told that there is none, and not shown white in place of tissue.
:class:`~microtome.storage.virtual_store.VirtualStore` gives it to zarr-python.
"""

from __future__ import annotations

import base64
import io
import json
import os
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .commit import file_identity, require_commit, write_bytes
from .errors import BadProduct, MissingFile, StaleProduct, UnreadableFile
from .jpeg import standalone

KIND = "slide view"
ABOUT = "virtual.json"
VERSION = 1

_TILE = np.dtype([("offset", "<u8"), ("size", "<u4")])
_AGAIN = "Ingest the slide again with --profile virtual"

Json = dict[str, Any]


@dataclass(frozen=True, eq=False)
class TileSpans:
    """Where the JPEG tiles of a level lie in their file.

    Attributes
    ----------
    offsets, sizes
        int64 [rows, columns], in bytes; size 0 where a tile was never written.
    tables
        What the file keeps apart and every tile needs before it, or None.
    is_rgb
        The components are red, green and blue, which the tiles do not say of themselves.
    """

    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]
    tables: bytes | None
    is_rgb: bool


@dataclass(frozen=True)
class Original:
    """The file that a view looks into, as it was when the view was made.

    Attributes
    ----------
    path
        Where it was.
    beside
        The same, as seen from the view.
    size_bytes, mtime_ns, identity
        What it was like (:func:`~microtome.storage.commit.file_identity`).
    """

    path: str
    beside: str
    size_bytes: int
    mtime_ns: int
    identity: str

    @classmethod
    def of(cls, file: Path, view: Path) -> Original:
        """Describe a file for a view that will lie at ``view``."""
        file, stat = _without_links(file), file.stat()
        beside = os.path.relpath(file, _without_links(view))
        return cls(str(file), beside, stat.st_size, stat.st_mtime_ns, file_identity(file))

    def find(self, view: Path) -> Path:
        """Where it is now: as it was seen from the view, or where it was.

        Raises
        ------
        MissingFile
            It is in neither place.
        StaleProduct
            A file is there, but another, or changed.
        UnreadableFile
            It, or its folder, may not be read.
        """
        beside = Path(os.path.normpath(_without_links(view) / self.beside))
        with _readable():
            places = [place for place in (beside, Path(self.path)) if place.is_file()]
            for place in places:
                if self.is_same(place):
                    return place
        if not places:
            either = self.path if str(beside) == self.path else f"{self.path} nor {beside}"
            raise MissingFile(
                f"the slide that this is a view of is not there: {either}",
                where=view,
                remedy="Put it back, or ingest it with --profile virtual from where it is now",
            )
        raise _changed(view, places[0])

    def is_same(self, file: Path) -> bool:
        """Whether a file is the one that was viewed; its content is asked where its time differs.

        Raises
        ------
        UnreadableFile
            It may not be read.
        """
        stat = file.stat()
        if stat.st_size != self.size_bytes:
            return False
        return stat.st_mtime_ns == self.mtime_ns or file_identity(file) == self.identity


@contextmanager
def _readable() -> Iterator[None]:
    try:
        yield
    except PermissionError as error:
        raise UnreadableFile(
            "the file may not be read", where=error.filename, remedy="Mend its permissions"
        ) from error


def _without_links(path: Path) -> Path:
    """The path through real folders; the last name may still be a link."""
    return path.absolute().parent.resolve() / path.name


def _changed(view: Path, file: Path) -> StaleProduct:
    return StaleProduct(
        f"{file} is not what this is a view of, or has changed since",
        where=view,
        remedy="Put the file back that was viewed, or ingest this one with --profile virtual "
        "--overwrite",
    )


def view_files(
    documents: Mapping[str, Json], spans: Sequence[TileSpans], original: Original
) -> dict[str, bytes]:
    """What a view is made of: its files by their names.

    Parameters
    ----------
    documents
        Zarr's metadata by their keys: ``zarr.json`` of the image, ``0/zarr.json`` …
    spans
        Of each level, finest first.
    original
        The file.
    """
    indices = {f"{level}.npy": _packed(tiles) for level, tiles in enumerate(spans)}
    about = {
        "version": VERSION,
        "source": asdict(original),
        "levels": [
            {
                "index": name,
                "crc32c": _crc32c(indices[name]),
                "tables": tiles.tables and base64.b64encode(tiles.tables).decode(),
                "is_rgb": tiles.is_rgb,
            }
            for name, tiles in zip(indices, spans, strict=True)
        ],
        "zarr": documents,
    }
    return {**indices, ABOUT: json.dumps(about, indent=1, allow_nan=False).encode()}


def _packed(tiles: TileSpans) -> bytes:
    index = np.empty(tiles.sizes.shape, _TILE)
    index["offset"], index["size"] = tiles.offsets, tiles.sizes
    buffer = io.BytesIO()
    np.save(buffer, index, allow_pickle=False)
    return buffer.getvalue()


def _crc32c(data: bytes) -> int:
    import google_crc32c

    return int(google_crc32c.value(data))


def write_view(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write what :func:`view_files` made."""
    for name, data in files.items():
        write_bytes(folder / name, data)


def holds(view: Path, files: Mapping[str, bytes]) -> bool:
    """Whether a view is made of just these files."""
    return all(
        (view / name).is_file() and (view / name).read_bytes() == files[name] for name in files
    )


@dataclass(frozen=True, eq=False)
class View:
    """A finished view, for reading; holds no open file.

    Attributes
    ----------
    path
        Its folder.
    original
        The file that it looks into.
    documents
        Zarr's metadata by their keys.
    levels
        Where the tiles of each level lie.
    """

    path: Path
    original: Original
    documents: Mapping[str, Json]
    levels: tuple[TileSpans, ...]

    @cached_property
    def about(self) -> Json:
        """The image's attribute ``microtome``: what OME-Zarr has no word for."""
        found: Json = self.documents["zarr.json"]["attributes"]["microtome"]
        return found


def open_view(path: str | Path) -> View:
    """Open a view; whether its slide is there is not asked yet.

    Raises
    ------
    MissingFile, BadProduct
        Nothing is there; or it is unfinished, damaged or no view.
    """
    path = Path(path)
    require_commit(path, KIND)
    try:
        about = json.loads((path / ABOUT).read_text(encoding="utf-8"))
        if about["version"] != VERSION:
            raise ValueError(f"version {about['version']}")
        levels = tuple(_unpacked(path, level) for level in about["levels"])
        return View(path, Original(**about["source"]), about["zarr"], levels)
    except (OSError, LookupError, TypeError, ValueError) as error:
        raise BadProduct(f"damaged view ({error!r})", where=path, remedy=_AGAIN) from error


def _unpacked(path: Path, level: Json) -> TileSpans:
    data = (path / level["index"]).read_bytes()
    if _crc32c(data) != level["crc32c"]:
        raise ValueError(f"{level['index']} is not what was written")
    index = np.load(io.BytesIO(data), allow_pickle=False)
    tables = level["tables"] and base64.b64decode(level["tables"])
    offsets, sizes = index["offset"].astype(np.int64), index["size"].astype(np.int64)
    return TileSpans(offsets, sizes, tables, bool(level["is_rgb"]))


class Window:
    """A view with its file opened: gives out the tiles, as long as the file stays what it was.

    Reads carry their own position, so threads and forked processes may share it.

    Raises
    ------
    MissingFile, StaleProduct, UnreadableFile
        The file is gone, has changed, or may not be read.
    """

    def __init__(self, view: View) -> None:
        self.view = view
        self.file = view.original.find(view.path)
        with _readable():
            self._descriptor = os.open(self.file, os.O_RDONLY | os.O_CLOEXEC)
        # Stores are rarely closed by those who use them.
        self._closing = weakref.finalize(self, os.close, self._descriptor)
        self._seen = _state(self._descriptor)

    def tile(self, level: int, row: int, column: int) -> bytes | None:
        """A tile as a JPEG file of its own, or None where none was ever written.

        Raises
        ------
        StaleProduct
            The file has been changed meanwhile.
        UnreadableFile
            The tile does not begin as a JPEG stream.
        """
        spans = self.view.levels[level]
        size = int(spans.sizes[row, column])
        if size == 0:
            return None
        raw = os.pread(self._descriptor, size, int(spans.offsets[row, column]))
        if _state(self._descriptor) != self._seen:
            self._look_again()
        try:
            if len(raw) < size:
                raise ValueError("the file ends before it")
            return standalone(raw, spans.tables, is_rgb=spans.is_rgb)
        except ValueError as error:
            raise UnreadableFile(
                f"tile ({row}, {column}) of level {level} cannot be decoded: {error}",
                where=self.file,
                remedy="Copy the file again from its source; if it is no better there, scan anew",
            ) from error

    def _look_again(self) -> None:
        """A new time is no change yet: a backup may set it."""
        seen = _state(self._descriptor)
        if not (self.file.is_file() and self.view.original.is_same(self.file)):
            raise _changed(self.view.path, self.file)
        self._seen = seen

    def close(self) -> None:
        """Release the file."""
        self._closing()


def _state(descriptor: int) -> tuple[int, int]:
    stat = os.fstat(descriptor)
    return stat.st_size, stat.st_mtime_ns
