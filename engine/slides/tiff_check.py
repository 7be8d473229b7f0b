"""Whether a TIFF is all there: its directories, the values of their tags, and its pixels."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from ...storage.errors import TruncatedFile, UnreadableFile

AGAIN = "Copy or download it again"
MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_TYPE_BYTES = {
    1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4,
    16: 8, 17: 8, 18: 8,
}  # fmt: skip
_WHOLE_NUMBERS = {3: "u2", 4: "u4", 13: "u4", 16: "u8", 18: "u8"}
_SUB_DIRECTORIES = 330
_PIXELS = ((273, 279), (324, 325))
"""Tags: offsets and lengths of strips, and of tiles."""
_COMPRESSION, _UNCOMPRESSED, _LSM = 259, 1, 34412
_MAX_DIRECTORIES = 65_536
_FAR = np.uint64(2**60)


@dataclass(frozen=True, eq=False)
class Table:
    """Where the strips or tiles of one image lie.

    Attributes
    ----------
    offsets, sizes
        int64, one for each: byte in the file, and length.
    covers
        The two tags as they would be with their first value alone, by their places in the file.
    """

    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]
    covers: dict[int, bytes]


def is_tiff(path: Path) -> bool:
    """Whether a file begins as TIFF or BigTIFF does, and is not DICOM with such a preamble."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        head = file.read(132)
    return head[:4] in MAGIC and head[128:] != b"DICM"


def require_whole_tiff(path: Path) -> dict[int, Table]:
    """Check that everything a TIFF or BigTIFF refers to lies inside the file.

    Libraries leave out the directories, tags and tiles that they cannot reach; a slide would lose
    levels, its resolution or its lower half in silence.

    Returns
    -------
    dict of Table
        Of each compressed image, by the place of its directory.

    Raises
    ------
    TruncatedFile
        Something lies beyond the end of the file.
    UnreadableFile
        The directories run in a circle.
    """
    file_bytes = path.stat().st_size
    tables: dict[int, Table] = {}
    with path.open("rb") as file:
        form = _Form.of(file.read(4))
        chains = [form.number(_take(file, path, form.start, form.word))]
        seen: set[int] = set()
        is_lsm = False
        while chains:
            offset, chain = chains.pop(), set[int]()
            # What is listed as a part of another directory may also follow on its neighbour.
            while offset and (offset in chain or offset not in seen):
                if offset in chain or len(seen) > _MAX_DIRECTORIES:
                    raise UnreadableFile(
                        "its directories run in a circle", where=path, remedy=AGAIN
                    )
                chain.add(offset)
                seen.add(offset)
                at = offset
                tags, offset = _directory(file, path, form, at)
                chains += _values(file, path, form, tags.get(_SUB_DIRECTORIES)).tolist()
                table = _require_inside(file, path, form, tags, file_bytes)
                if table is not None:
                    tables[at] = table
                is_lsm |= _LSM in tags
    # Beyond 4 GB, those of an LSM file are wrong, and mended by tifffile.
    return {} if is_lsm else tables


def _require_inside(
    file: BinaryIO, path: Path, form: _Form, tags: dict[int, _Tag], file_bytes: int
) -> Table | None:
    """See that tags' values and pixels are all there; the table of a compressed image."""
    for tag in tags.values():
        if tag.at + tag.size > file_bytes:
            raise _truncated(path, f"the value of its tag {tag.code}")
    table = None
    compression = _values(file, path, form, tags.get(_COMPRESSION))
    is_packed = any(compression != _UNCOMPRESSED)
    for codes in _PIXELS:
        offsets, sizes = (_values(file, path, form, tags.get(code)) for code in codes)
        if len(offsets) == len(sizes) and _end(offsets, sizes) > file_bytes:
            raise _truncated(path, "its pixels")
        if is_packed and min(len(offsets), len(sizes)) > 1:
            covers = {tags[code].entry: _alone(file, path, form, tags[code]) for code in codes}
            table = Table(offsets, sizes, covers)
    return table


def _alone(file: BinaryIO, path: Path, form: _Form, tag: _Tag) -> bytes:
    """A tag's entry in its directory, with the first of its values only."""
    first = _take(file, path, tag.at, _TYPE_BYTES[tag.kind]).ljust(form.word, b"\0")
    return struct.pack(form.entry, tag.code, tag.kind, 1) + first


def _end(offsets: NDArray[np.int64], sizes: NDArray[np.int64]) -> int:
    return int((offsets + sizes).max(where=sizes > 0, initial=0))


@dataclass(frozen=True)
class _Form:
    """Byte order and widths: classic TIFF (32-bit offsets) or BigTIFF (64-bit)."""

    order: str
    is_big: bool

    @classmethod
    def of(cls, magic: bytes) -> _Form:
        return cls("<" if magic[:2] == b"II" else ">", b"+" in magic)

    @property
    def start(self) -> int:
        """Where the header keeps the offset of the first directory."""
        return 8 if self.is_big else 4

    @property
    def word(self) -> int:
        """Bytes of an offset."""
        return 8 if self.is_big else 4

    @property
    def entry(self) -> str:
        """Code, type and count of a tag; its values follow, or where they lie."""
        return self.order + ("HHQ" if self.is_big else "HHI")

    def number(self, raw: bytes) -> int:
        """An unsigned number of 2, 4 or 8 bytes."""
        return int.from_bytes(raw, "little" if self.order == "<" else "big")


@dataclass(frozen=True)
class _Tag:
    code: int
    kind: int
    count: int
    at: int
    entry: int

    @property
    def size(self) -> int:
        return _TYPE_BYTES[self.kind] * self.count


def _directory(file: BinaryIO, path: Path, form: _Form, offset: int) -> tuple[dict[int, _Tag], int]:
    head, entry = (8, 20) if form.is_big else (2, 12)
    count = form.number(_take(file, path, offset, head))
    raw = _take(file, path, offset + head, count * entry)
    tags = dict(_tags(raw, form, offset + head, entry))
    return tags, form.number(_take(file, path, offset + head + count * entry, form.word))


def _tags(raw: bytes, form: _Form, at: int, entry: int) -> Iterator[tuple[int, _Tag]]:
    for i in range(0, len(raw), entry):
        code, kind, count = struct.unpack_from(form.entry, raw, i)
        if kind not in _TYPE_BYTES:
            continue
        value = i + entry - form.word
        fits = _TYPE_BYTES[kind] * count <= form.word
        place = at + value if fits else form.number(raw[value : value + form.word])
        yield code, _Tag(code, kind, count, place, at + i)


def _values(file: BinaryIO, path: Path, form: _Form, tag: _Tag | None) -> NDArray[np.int64]:
    if tag is None or tag.kind not in _WHOLE_NUMBERS:
        return np.empty(0, np.int64)
    raw = _take(file, path, tag.at, tag.size)
    values = np.frombuffer(raw, form.order + _WHOLE_NUMBERS[tag.kind])
    clipped: NDArray[np.uint64] = np.minimum(values, _FAR, dtype=np.uint64)
    return clipped.view(np.int64)


def _take(file: BinaryIO, path: Path, offset: int, count: int) -> bytes:
    if offset + count > path.stat().st_size:
        raise _truncated(path, "one of its directories")
    file.seek(offset)
    return file.read(count)


def _truncated(path: Path, what: str) -> TruncatedFile:
    return TruncatedFile(f"the file ends before {what}", where=path, remedy=AGAIN)
