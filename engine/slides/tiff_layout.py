"""What is where in a TIFF: the slide's levels, its associated images, and whether all is there."""

from __future__ import annotations

import logging
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from math import ceil, prod
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from ...storage.errors import UnreadableFile
from .tiff_check import AGAIN, is_tiff, require_whole_tiff

PARSE_ERRORS = (
    ValueError, LookupError, TypeError, AttributeError, ArithmeticError, AssertionError,
    RuntimeError, EOFError, OSError, MemoryError, struct.error,
)  # fmt: skip
"""What tifffile and imagecodecs raise on bytes that are not what they claim to be."""

_YCBCR, _RGB, _JPEG = 6, 2, 7
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
    """

    page: Any
    height_px: int
    width_px: int
    segment_px: tuple[int, int]
    planes: int
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]

    @property
    def is_tiled(self) -> bool:
        """Whether the segments are tiles."""
        return bool(self.page.is_tiled)

    @property
    def is_rgb_jpeg(self) -> bool:
        """Whether JPEG streams hold red, green, blue, which Aperio's do not say of themselves."""
        return bool(self.planes == 1 and self.page.photometric == _RGB and not self.page.is_jfif)

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
    """The images of a TIFF that are a slide."""

    vendor: str
    description: str
    levels: tuple[Plane, ...]
    associated: dict[str, Plane]
    notes: tuple[str, ...]


def open_tiff(path: Path) -> tuple[tifffile.TiffFile, Layout]:
    """Open a TIFF, and find the levels and associated images in it.

    Raises
    ------
    TruncatedFile
        Something that it refers to lies beyond the end of the file.
    UnreadableFile
        It makes no sense; the image is not 8-bit RGB, or stored in a way that we do not decode.
    """
    if not is_tiff(path):
        raise UnreadableFile("not a TIFF", where=path, remedy="Let the reader be chosen for it")
    require_whole_tiff(path)
    with _overheard() as notes, ExitStack() as on_error:
        try:
            tif = on_error.enter_context(tifffile.TiffFile(path))
            layout = _lay_out(tif, path, notes)
        except PARSE_ERRORS as error:
            raise UnreadableFile(f"damaged TIFF: {error}", where=path, remedy=AGAIN) from error
        on_error.pop_all()
        return tif, layout


def is_native(path: Path) -> bool:
    """Whether tifffile gives a TIFF's pixels exactly as they were meant."""
    with _overheard():
        try:
            with tifffile.TiffFile(path) as tif:
                return _is_decoded(tif.pages.first)
        except PARSE_ERRORS:
            return True


def _is_decoded(page: Any) -> bool:
    return page.compression in _CODECS and (page.photometric != _YCBCR or page.compression == _JPEG)


def _lay_out(tif: tifffile.TiffFile, path: Path, notes: list[str]) -> Layout:
    images = [one for one in tif.series if not _is_associated(one)]
    if not images:
        raise UnreadableFile("the TIFF holds no image", where=path, remedy=AGAIN)
    main = max(images, key=lambda one: prod(one.shape))
    if len(images) > 1:
        notes.append(f"{len(images)} images in the file; the largest is the slide ({main.name!r})")
    levels = tuple(_plane(level, path) for level in main.levels)
    levels = tuple(sorted(levels, key=lambda level: -level.height_px * level.width_px))
    if main.axes.replace("S", "") != "YX":
        raise _not_rgb(path, f"its axes are {main.axes}")
    for level in levels:
        _require_decodable(level, path)
        if missing := int((level.sizes == 0).sum()):
            notes.append(
                f"{missing} of {len(level.sizes)} tiles of the {level.width_px} × "
                f"{level.height_px} px level were never written; they read as white"
            )
    associated = {}
    for one in tif.series:
        if name := _is_associated(one):
            plane = _plane(one, path)
            associated[name] = plane
    vendor = {"svs": "aperio", "ome": "ome-tiff"}.get(main.kind, "generic-tiff")
    description = tif.pages.first.description or ""
    return Layout(vendor, description, levels, associated, tuple(dict.fromkeys(notes)))


def _is_associated(series: Any) -> str | None:
    name = (series.name or "").lower().removesuffix(" image").strip()
    return name if name in _ASSOCIATED else None


def _plane(series: Any, path: Path) -> Plane:
    if series.pages[0] is None:
        raise UnreadableFile("an image that it lists is not there", where=path, remedy=AGAIN)
    page = series.pages[0].aspage()
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
        offsets=np.asarray(page.dataoffsets, np.int64),
        sizes=np.asarray(page.databytecounts, np.int64),
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
    if page.photometric not in (_RGB, _YCBCR) or page.samplesperpixel != 3:
        raise _not_rgb(path, f"{page.samplesperpixel} samples a pixel")
    if (turned := page.tags.valueof(274, 1)) != 1:
        raise UnreadableFile(
            f"its rows and columns are stored turned or mirrored (TIFF Orientation {turned})",
            where=path,
            remedy="Export it upright; we do not turn tissue unasked",
        )
    if page.dtype != np.uint8:
        raise _not_rgb(path, f"{page.bitspersample} bits a sample")
    if not _is_decoded(page):
        raise UnreadableFile(
            f"its compression ({page.compression!s}, photometric {page.photometric!s}) "
            "is not decoded here",
            where=path,
            remedy="Convert it to a tiled TIFF with JPEG, deflate or LZW compression",
        )
    segment_bytes = 3 * prod(plane.segment_px)
    if segment_bytes > _MAX_SEGMENT_BYTES and not page.is_memmappable:
        raise UnreadableFile(
            f"its pixels are compressed in pieces of {segment_bytes // 1024**2} MiB",
            where=path,
            remedy="Convert it to a tiled TIFF, for instance with libvips' tiffsave",
        )


def _not_rgb(path: Path, why: str) -> UnreadableFile:
    return UnreadableFile(
        f"not an RGB brightfield image: {why}",
        where=path,
        remedy="Fluorescence and 16-bit images cannot be read yet; export it as 8-bit RGB",
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
