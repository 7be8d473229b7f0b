"""What a slide is to the rest of Microtome, whatever file it came from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ...storage.errors import NoJpegTiles, NotBrightfield, UnreadableFile
from ...storage.virtual import TileSpans

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Level:
    """One level of the pyramid.

    Attributes
    ----------
    height_px, width_px
        Size in this level's own pixels.
    downsample_y, downsample_x
        Level-0 pixels per pixel of this level, never cut to a whole number (:func:`downsample`).
    tile_px
        (height, width) of the file's own tiles, or None where the file is not tiled.
    """

    height_px: int
    width_px: int
    downsample_y: float
    downsample_x: float
    tile_px: tuple[int, int] | None = None


@dataclass(frozen=True)
class Bounds:
    """The part of level 0 that was scanned, in level-0 pixels of the whole image."""

    y_px: int
    x_px: int
    height_px: int
    width_px: int


@dataclass(frozen=True)
class SlideInfo:
    """What is known of a slide without decoding it.

    Attributes
    ----------
    levels
        Finest first.
    mpp
        (y, x) micrometres per pixel at level 0, or None: never guessed.
    mpp_source
        Where the resolution was read (``openslide.mpp-x``, ``OME PhysicalSizeX``, ``--mpp`` …).
    mpp_refused
        What the file states of its resolution that cannot be true, and was not used.
    objective_power
        Nominal magnification as stated; never used in place of ``mpp``.
    bounds
        None where the file states none.
    properties
        The vendor's own properties, unchanged.
    notes
        What is odd about the file, in sentences for its user.
    channels
        Names of the channels of an image that is not RGB, such as fluorescence; read by
        :class:`ChannelSlide`. Empty for RGB.
    dtype
        Of the file's values.
    """

    path: Path
    backend: str
    vendor: str
    levels: tuple[Level, ...]
    mpp: tuple[float, float] | None
    mpp_source: str | None
    objective_power: float | None
    bounds: Bounds | None
    associated: tuple[str, ...]
    properties: Mapping[str, str]
    mpp_refused: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    channels: tuple[str, ...] = ()
    dtype: str = "uint8"

    @property
    def height_px(self) -> int:
        """Height of level 0."""
        return self.levels[0].height_px

    @property
    def width_px(self) -> int:
        """Width of level 0."""
        return self.levels[0].width_px


class Closing(ABC):
    """Makes a context manager of whatever is closed in the end: what readers have in common."""

    @abstractmethod
    def close(self) -> None:
        """Release the file."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


@runtime_checkable
class Slide(Protocol):
    """An opened whole-slide image; use as a context manager. Not shared between processes."""

    @property
    def info(self) -> SlideInfo:
        """What is known of the slide without decoding it."""
        ...

    def read(self, level: int, y_px: int, x_px: int, height_px: int, width_px: int) -> Pixels:
        """Read a rectangle of a level.

        Parameters
        ----------
        level
            0 is the finest.
        y_px, x_px, height_px, width_px
            Top left corner and size **in the pixels of that level**, wholly inside it.

        Returns
        -------
        uint8 [height_px, width_px, 3]
            RGB. Where the file is transparent (never scanned), white.

        Raises
        ------
        ValueError
            The rectangle leaves the level.
        UnreadableFile
            The pixels cannot be decoded: nothing is invented in their place.
        NotBrightfield
            The slide has channels, not colours.
        """
        ...

    def associated_image(self, name: str) -> Pixels:
        """Label, macro or thumbnail as uint8 [h, w, 3]; KeyError where there is none."""
        ...

    def close(self) -> None:
        """Release the file."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


@runtime_checkable
class ChannelSlide(Slide, Protocol):
    """A slide whose values can be had as they are: fluorescence, more than 8 bits."""

    def read_channels(
        self, level: int, y_px: int, x_px: int, height_px: int, width_px: int
    ) -> NDArray[Any]:
        """Read a rectangle of a level, as :meth:`Slide.read` does.

        Returns
        -------
        ``info.dtype`` [c, height_px, width_px]
            In the order of ``info.channels``; red, green, blue where that is empty. Where nothing
            was ever written, 0.
        """
        ...


@runtime_checkable
class JpegTiled(Slide, Protocol):
    """A slide that can give its file's own tiles out, without decoding them."""

    def require_jpeg_tiles(self) -> None:
        """Raise NoJpegTiles unless every level is made of JPEG tiles of RGB.

        Their size is ``info.levels[…].tile_px``.
        """
        ...

    def jpeg_tile(self, level: int, row: int, column: int) -> bytes | None:
        """A tile as a JPEG file of its own, or None where none was ever written.

        Its scan is the file's, byte for byte. Tables that the file keeps apart are put before it,
        and a statement that its colours are red, green and blue where only the file knows.

        Raises
        ------
        UnreadableFile
            It does not begin as a JPEG stream. It is not decoded here.
        """
        ...


@runtime_checkable
class JpegSpanned(JpegTiled, Protocol):
    """A slide whose JPEG tiles lie in one file, each in one piece."""

    def tile_spans(self, level: int) -> TileSpans:
        """Where they lie; :meth:`JpegTiled.require_jpeg_tiles` says whether they are such."""
        ...


@runtime_checkable
class NativeTiled(Slide, Protocol):
    """A slide whose file's own tiles several threads may decode at once."""

    def native_tile(self, level: int, row: int, column: int) -> Pixels:
        """Decode one of the file's own tiles, cut to the image, without keeping it.

        Their size is ``info.levels[…].tile_px``; pixels are those of :meth:`Slide.read`.

        Raises
        ------
        UnreadableFile
            It cannot be decoded.
        NotBrightfield
            The slide has channels, not colours.
        """
        ...


def native_box(level: Level, row: int, column: int) -> Bounds:
    """The rectangle of one of the file's own tiles, cut to the image, in pixels of its level."""
    assert level.tile_px is not None
    tall, wide = level.tile_px
    y, x = row * tall, column * wide
    return Bounds(y, x, min(tall, level.height_px - y), min(wide, level.width_px - x))


def bad_tile(path: Path, where: str, row: int, column: int, why: object) -> UnreadableFile:
    """The error for a tile that is damaged in the file."""
    return UnreadableFile(
        f"tile ({row}, {column}) of {where} cannot be decoded: {why}",
        where=path,
        remedy="Copy the file again from its source; if it is no better there, scan anew",
    )


def no_jpeg_tiles(path: Path, why: str) -> NoJpegTiles:
    """The error for tiles that cannot be kept."""
    return NoJpegTiles(
        f"its tiles cannot be kept as they are: {why}",
        where=path,
        remedy="Ingest it with --profile compatible, which encodes the pixels anew without loss",
    )


def not_brightfield(info: SlideInfo) -> NotBrightfield:
    """The error for RGB asked of channels."""
    return NotBrightfield(
        f"not RGB brightfield but channels of {info.dtype} ({', '.join(info.channels)})",
        where=info.path,
        remedy="Tissue, encoders and heatmaps work on stained brightfield slides; from Python, "
        "read_channels gives the values",
    )


def downsample(base_px: tuple[int, int], level_px: tuple[int, int]) -> tuple[float, float]:
    """Level-0 pixels per pixel of a level, from the (height, width) of both.

    Pyramids are made by a whole factor n, and the rows and columns that do not fill a last pixel
    are left off, or filled up: 2967 rows become 1483 or 1484, not because a pixel is 2.0007 or
    1.9993 rows high. So where one n explains both sizes, n it is; the ratio of the sizes would put
    the far edge up to one level pixel wrong. Otherwise it is the ratio, axis by axis.
    """
    ratio = (base_px[0] / level_px[0], base_px[1] / level_px[1])
    whole = _factors(base_px[0], level_px[0]) & _factors(base_px[1], level_px[1])
    if not whole:
        return ratio
    # Several explain levels of a few pixels only; powers of two are what is made.
    n = min(whole, key=lambda n: (n & (n - 1) != 0, abs(n - ratio[0])))
    return float(n), float(n)


def _factors(base: int, size: int) -> set[int]:
    """All whole n for which ``size`` is ``base / n`` rounded down or up."""
    largest = (base - 1) // (size - 1) if size > 1 else base
    return set(range(base // (size + 1) + 1, largest + 1))


def require_inside(info: SlideInfo, level: int, part: Bounds) -> None:
    """Raise ValueError unless a rectangle, in level pixels, lies inside a level that exists."""
    if not 0 <= level < len(info.levels):
        raise ValueError(f"{info.path}: no level {level}; there are {len(info.levels)}")
    whole = info.levels[level]
    fits = (
        min(part.y_px, part.x_px) >= 0
        and min(part.height_px, part.width_px) > 0
        and part.y_px + part.height_px <= whole.height_px
        and part.x_px + part.width_px <= whole.width_px
    )
    if not fits:
        raise ValueError(
            f"{info.path}: {part} leaves level {level} ({whole.height_px} × {whole.width_px} px)"
        )
