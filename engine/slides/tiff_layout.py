"""What is where in a TIFF: the slide's levels, its associated images, and whether all is there."""

from __future__ import annotations

import io
import logging
import struct
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain
from math import ceil, prod
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from ...storage.errors import MicrotomeError, UnreadableFile
from . import channels
from .tiff_check import AGAIN, Table, is_tiff, require_whole_tiff

PARSE_ERRORS = (
    ValueError, LookupError, TypeError, AttributeError, ArithmeticError, AssertionError,
    RuntimeError, EOFError, OSError, MemoryError, struct.error,
)  # fmt: skip
"""What tifffile and imagecodecs raise on bytes that are not what they claim to be."""

_GREY, _RGB, _PALETTE, _YCBCR, _JPEG = 1, 2, 3, 6, 7
_SHADES = {0: "inverted grey", 2: "RGB", 3: "numbers of colours", 5: "CMYK", 8: "CIELAB"}
_CODECS = frozenset(
    (1, 5, _JPEG, 8, 32773, 32946, 33005, 34712, 34933, 34934, 50000, 50001, 50002, 52546)
)
"""None, LZW, JPEG, deflate, PackBits, JPEG 2000, PNG, Zstandard, WebP, JPEG XL."""

_MAX_SEGMENT_BYTES = 512 * 1024**2
_ASSOCIATED = ("label", "macro", "thumbnail")


@dataclass(frozen=True, eq=False)
class Plane:
    """One image in the file: a level of the pyramid or an associated image.

    Attributes
    ----------
    page
        tifffile's page, with tables and decoder.
    height_px, width_px
        Size of the image.
    segment_px
        (height, width) of the tiles, or of the strips: the parts that are compressed each alone.
    planes
        1 where the samples of a pixel lie together, 3 where each colour has its own segments.
    offsets, sizes
        int64 [planes * rows * columns]: where each segment lies; size 0 where none was written.
    is_rgb_jpeg
        Whether JPEG streams hold red, green, blue, which Aperio's do not say of themselves.
    """

    page: Any
    height_px: int
    width_px: int
    segment_px: tuple[int, int]
    planes: int
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]
    is_rgb_jpeg: bool

    @property
    def samples(self) -> int:
        """Values of a pixel: 3 of RGB, 1 of a channel."""
        return int(self.page.samplesperpixel)

    @property
    def is_tiled(self) -> bool:
        """Whether the segments are tiles."""
        return bool(self.page.is_tiled)

    @property
    def columns(self) -> int:
        """Segments in a row."""
        return ceil(self.width_px / self.segment_px[1])

    @property
    def per_plane(self) -> int:
        """Segments of one colour plane, or of all three where they lie together."""
        return len(self.offsets) // self.planes


@dataclass(frozen=True, eq=False)
class Layout:
    """The images of a TIFF that are a slide.

    Attributes
    ----------
    levels
        Finest first; of each, one plane of RGB, or one a channel.
    channels
        Their names; empty for RGB.
    """

    vendor: str
    description: str
    levels: tuple[tuple[Plane, ...], ...]
    channels: tuple[str, ...]
    associated: dict[str, Plane]
    notes: tuple[str, ...]


class CoveredTiff(io.FileIO):
    """A TIFF whose long tables of tiles are read as if they had one entry.

    tifffile unpacks them into tuples of Python's integers: of ten gigapixels 20 MB, a fifth of what
    a process needs. As arrays they have a fifth of that.
    """

    def __init__(self, path: Path, tables: Mapping[int, Table]) -> None:
        super().__init__(path)
        self._covers = {at: raw for one in tables.values() for at, raw in one.covers.items()}

    def read(self, size: int | None = -1, /) -> bytes:
        """Bytes from where the file stands; all that follow by default."""
        start = self.tell()
        raw = super().read(-1 if size is None else size) or b""
        return bytes(self._covered(bytearray(raw), start))

    def _covered(self, raw: bytearray, start: int) -> bytearray:
        end = start + len(raw)
        for at, cover in self._covers.items():
            first, last = max(at, start), min(at + len(cover), end)
            if first < last:
                raw[first - start : last - start] = cover[first - at : last - at]
        return raw


def open_tiff(path: Path) -> tuple[CoveredTiff, Layout]:
    """Open a TIFF, and find the levels and associated images in it.

    Raises
    ------
    TruncatedFile
        Something that it refers to lies beyond the end of the file.
    UnreadableFile
        It makes no sense, has depths or times, or is stored in a way that we do not decode.
    """
    if not is_tiff(path):
        raise UnreadableFile("not a TIFF", where=path, remedy="Let the reader be chosen for it")
    tables = require_whole_tiff(path)
    with _overheard() as notes, ExitStack() as on_error:
        try:
            file = on_error.enter_context(CoveredTiff(path, tables))
            layout = _lay_out(tifffile.TiffFile(file), path, notes, tables)
        except PARSE_ERRORS as error:
            raise UnreadableFile(f"damaged TIFF: {error}", where=path, remedy=AGAIN) from error
        on_error.pop_all()
        return file, layout


def is_native(path: Path) -> bool:
    """Whether tifffile gives a TIFF's pixels exactly as they were meant."""
    with _overheard():
        try:
            with CoveredTiff(path, require_whole_tiff(path)) as file:
                return _is_decoded(tifffile.TiffFile(file).pages.first)
        except (*PARSE_ERRORS, MicrotomeError):
            # What is wrong with it is said by who opens it.
            return True


def _is_decoded(page: Any) -> bool:
    return page.compression in _CODECS and (page.photometric != _YCBCR or page.compression == _JPEG)


def _lay_out(
    tif: tifffile.TiffFile, path: Path, notes: list[str], tables: Mapping[int, Table]
) -> Layout:
    images = [one for one in tif.series if not _is_associated(one)]
    if not images:
        raise UnreadableFile("the TIFF holds no image", where=path, remedy=AGAIN)
    main = max(images, key=lambda one: prod(one.shape))
    if len(images) > 1:
        notes.append(f"{len(images)} images in the file; the largest is the slide ({main.name!r})")
    is_rgb = _is_rgb(main)
    if not is_rgb:
        _require_channels(main, path)
    levels = tuple(_planes(level, path, tables) for level in main.levels)
    levels = tuple(sorted(levels, key=lambda one: -one[0].height_px * one[0].width_px))
    if len({len(planes) for planes in levels}) > 1:
        raise UnreadableFile("its levels differ in channels", where=path, remedy=AGAIN)
    for plane in chain.from_iterable(levels):
        _require_decodable(plane, path)
        if missing := int((plane.sizes == 0).sum()):
            notes.append(
                f"{missing} of {len(plane.sizes)} tiles of the {plane.width_px} × "
                f"{plane.height_px} px level were never written; they read as "
                + ("white" if is_rgb else "0")
            )
    associated = {
        name: _plane(one.pages[0], path, tables)
        for one in tif.series
        if (name := _is_associated(one))
    }
    vendor = {"svs": "aperio", "ome": "ome-tiff", "qpi": "akoya"}.get(main.kind, "generic-tiff")
    description = tif.pages.first.description or ""
    names = () if is_rgb else _channel_names(main, description, levels[0][0])
    unique = tuple(dict.fromkeys(notes))
    return Layout(vendor, description, levels, names, associated, unique)


def _is_rgb(series: Any) -> bool:
    page = series.pages[0]
    return bool(
        series.axes.replace("S", "") == "YX"
        and page is not None
        and page.aspage().photometric in (_RGB, _YCBCR)
        and page.samplesperpixel == 3
        and page.dtype == np.uint8
    )


def _require_channels(series: Any, path: Path) -> None:
    """Refuse what is neither RGB nor one plane of values a channel."""
    if "S" in series.axes:
        page = series.pages[0]
        raise UnreadableFile(
            f"neither RGB of 8 bits nor single channels: {page.samplesperpixel} samples a pixel "
            f"of {page.bitspersample} bits",
            where=path,
            remedy="Export it as 8-bit RGB without transparency, or with a grey plane a channel",
        )
    if series.axes not in ("YX", "CYX"):
        more = {"Z": "depths", "T": "times"}
        sizes = ", ".join(
            f"{size} {more.get(axis, 'images')}"
            for axis, size in zip(series.axes, series.shape, strict=True)
            if axis not in "YXC"
        )
        raise UnreadableFile(
            f"neither RGB nor channels of one plane: it has {sizes} (axes {series.axes})",
            where=path,
            remedy="Export the depth and the time that you want; none is picked unasked",
        )
    for page in series.pages:
        if page is None:
            raise UnreadableFile("an image that it lists is not there", where=path, remedy=AGAIN)
        shade = page.aspage().photometric
        # OME and ImageJ keep a colour table for the eye; the values are intensities all the same.
        if shade != _GREY and not (shade == _PALETTE and series.kind in ("ome", "imagej")):
            raise UnreadableFile(
                f"neither RGB nor channels: its values are {_SHADES.get(shade, f'kind {shade}')}",
                where=path,
                remedy="Export it as 8-bit RGB, or with a plain grey plane a channel",
            )


def _channel_names(series: Any, description: str, plane: Plane) -> tuple[str, ...]:
    if series.kind == "ome":
        size_px = (plane.height_px, plane.width_px)
        return channels.from_ome(description, size_px, len(series.pages))
    if series.kind == "qpi":
        return channels.from_qptiff([page.aspage().description for page in series.pages])
    return channels.unnamed(len(series.pages))


def _is_associated(series: Any) -> str | None:
    name = (series.name or "").lower().removesuffix(" image").strip()
    return name if name in _ASSOCIATED else None


def _planes(series: Any, path: Path, tables: Mapping[int, Table]) -> tuple[Plane, ...]:
    count = len(series.pages) if "C" in series.axes else 1
    planes = tuple(_plane(series.pages[i], path, tables) for i in range(count))
    if len({(plane.height_px, plane.width_px) for plane in planes}) > 1:
        raise UnreadableFile("its channels differ in size", where=path, remedy=AGAIN)
    return planes


def _plane(page: Any, path: Path, tables: Mapping[int, Table]) -> Plane:
    if page is None:
        raise UnreadableFile("an image that it lists is not there", where=path, remedy=AGAIN)
    page = page.aspage()
    if Path(page.parent.filehandle.path).resolve() != path.resolve():
        raise UnreadableFile(
            f"a part of it lies in another file: {page.parent.filehandle.name}",
            where=path,
            remedy="Export it as a single OME-TIFF",
        )
    table = tables.get(page.offset)
    offsets, sizes = (
        (page.dataoffsets, page.databytecounts) if table is None else (table.offsets, table.sizes)
    )
    segment = (
        (page.tilelength, page.tilewidth)
        if page.is_tiled
        else (min(page.rowsperstrip, page.imagelength), page.imagewidth)
    )
    planes = page.samplesperpixel if page.planarconfig == 2 else 1
    plane = Plane(
        page=page,
        height_px=page.imagelength,
        width_px=page.imagewidth,
        segment_px=segment,
        planes=planes,
        offsets=np.asarray(offsets, np.int64),
        sizes=np.asarray(sizes, np.int64),
        is_rgb_jpeg=planes == 1 and page.photometric == _RGB and not page.is_jfif,
    )
    expected = planes * ceil(plane.height_px / segment[0]) * plane.columns
    if not len(plane.offsets) == len(plane.sizes) == expected:
        raise UnreadableFile(
            f"the TIFF lists {len(plane.offsets)} tiles or strips where {expected} are needed",
            where=path,
            remedy=AGAIN,
        )
    return plane


def _require_decodable(plane: Plane, path: Path) -> None:
    page = plane.page
    if (turned := page.tags.valueof(274, 1)) != 1:
        raise UnreadableFile(
            f"its rows and columns are stored turned or mirrored (TIFF Orientation {turned})",
            where=path,
            remedy="Export it upright; we do not turn tissue unasked",
        )
    if page.dtype is None or page.dtype.kind not in "uif":
        raise UnreadableFile(
            f"its values have {page.bitspersample} bits", where=path, remedy="Export it as 8-bit"
        )
    if page.compression == _JPEG and page.dtype != np.uint8:
        raise UnreadableFile(
            f"JPEG of {page.bitspersample} bits is not decoded here",
            where=path,
            remedy="Convert it with deflate or LZW compression",
        )
    if not _is_decoded(page):
        raise UnreadableFile(
            f"its compression ({page.compression!s}, photometric {page.photometric!s}) "
            "is not decoded here",
            where=path,
            remedy="Convert it to a tiled TIFF with JPEG, deflate or LZW compression",
        )
    segment_bytes = plane.samples * page.dtype.itemsize * prod(plane.segment_px)
    if segment_bytes > _MAX_SEGMENT_BYTES and not page.is_memmappable:
        raise UnreadableFile(
            f"its pixels are compressed in pieces of {segment_bytes // 1024**2} MiB",
            where=path,
            remedy="Convert it to a tiled TIFF, for instance with libvips' tiffsave",
        )


@contextmanager
def _overheard() -> Iterator[list[str]]:
    """Collect what tifffile complains of in its log: it is told to the user, not to a console."""
    heard: list[str] = []

    class _Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            heard.append(record.getMessage())

    log, listener = logging.getLogger("tifffile"), _Listener(logging.WARNING)
    was_propagating, log.propagate = log.propagate, False
    log.addHandler(listener)
    try:
        yield heard
    finally:
        log.removeHandler(listener)
        log.propagate = was_propagating
