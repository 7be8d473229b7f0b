"""TIFF slides by the file's own tiles: each is read, decoded by its own codec, and kept a while."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...storage.errors import MicrotomeError, UnreadableFile
from ...storage.jpeg import standalone
from ...storage.virtual import TileSpans
from . import resolution
from .base import (
    Bounds,
    Closing,
    Level,
    Pixels,
    SlideInfo,
    bad_tile,
    downsample,
    native_box,
    no_jpeg_tiles,
    not_brightfield,
    require_inside,
)
from .jpeg import decode_segment
from .tiff_check import is_tiff
from .tiff_layout import PARSE_ERRORS, Layout, Plane, is_native, open_tiff

Values = NDArray[Any]

CACHE_BYTES = 16 * 1024**2
_LARGE_BYTES = 8 * 1024**2
"""Of a reading of so much, only the tiles at its border are kept: its neighbours share those."""

_WHITE, _JPEG, _ASCII = 255, 7, 2


def is_ours(path: Path) -> bool:
    """Whether a file is a TIFF of no vendor but Aperio, whose pixels tifffile gives as they are.

    A TIFF that OpenSlide does not know is ours too: to open, or to say what is wrong with it.
    """
    import openslide

    if not is_tiff(path):
        return False
    try:
        vendor = openslide.OpenSlide.detect_format(path)
    except openslide.OpenSlideError:
        vendor = None
    return vendor is None or (vendor in ("aperio", "generic-tiff") and is_native(path))


class TiffSlide(Closing):
    """A slide in a TIFF: Aperio SVS, OME-TIFF, generic; tiled or in strips; pyramidal or flat.

    Parameters
    ----------
    path
        The file.
    mpp
        Overrides the file's resolution.
    cache_bytes
        Bound on the decoded tiles that are kept. Two rows of tiles within it are enough for every
        tile to be decoded once when the slide is read row by row.

    Notes
    -----
    Pixels are those of the file's codec (libjpeg-turbo, OpenJPEG …), without colour management.
    Tiles that were never written read as white, which ``info.notes`` says.
    """

    def __init__(
        self, path: Path, mpp: resolution.Override | None = None, *, cache_bytes: int = CACHE_BYTES
    ) -> None:
        self._path = path
        self._file, self._layout = open_tiff(path)
        self._tiles = TileCache(cache_bytes)
        try:
            self._info = _describe(path, self._layout, mpp)
        except MicrotomeError:
            self.close()
            raise

    @property
    def info(self) -> SlideInfo:
        """What is known of the slide without decoding it."""
        return self._info

    def read(self, level: int, y_px: int, x_px: int, height_px: int, width_px: int) -> Pixels:
        """Read a rectangle of a level; see :class:`~microtome.engine.slides.base.Slide`."""
        if self._info.channels:
            raise not_brightfield(self._info)
        part = Bounds(y_px, x_px, height_px, width_px)
        require_inside(self._info, level, part)
        return self._assemble(self._layout.levels[level][0], f"level {level}", part)

    def read_channels(
        self, level: int, y_px: int, x_px: int, height_px: int, width_px: int
    ) -> Values:
        """Read values [c, h, w]; see :class:`~microtome.engine.slides.base.ChannelSlide`."""
        part = Bounds(y_px, x_px, height_px, width_px)
        require_inside(self._info, level, part)
        planes = self._layout.levels[level]
        parts = [
            self._assemble(plane, f"level {level}, channel {number}", part)
            for number, plane in enumerate(planes, 1)
        ]
        return np.ascontiguousarray(np.concatenate(parts, axis=-1).transpose(2, 0, 1))

    def native_tile(self, level: int, row: int, column: int) -> Pixels:
        """Decode a tile; see :class:`~microtome.engine.slides.base.NativeTiled`."""
        if self._info.channels:
            raise not_brightfield(self._info)
        box = native_box(self._info.levels[level], row, column)
        plane = self._layout.levels[level][0]
        return self._decoded(plane, f"level {level}", row, column)[: box.height_px, : box.width_px]

    def associated_image(self, name: str) -> Pixels:
        """Label, macro or thumbnail as uint8 [h, w, 3]; KeyError where there is none."""
        plane = self._layout.associated[name]
        whole = Bounds(0, 0, plane.height_px, plane.width_px)
        pixels = self._assemble(plane, f"the {name} image", whole)
        if pixels.dtype != np.uint8 or pixels.shape[2] not in (1, 3):
            raise UnreadableFile(
                f"the {name} image is neither RGB nor grey of 8 bits",
                where=self._path,
                remedy="It shows no tissue; the slide itself can be read without it",
            )
        return pixels if pixels.shape[2] == 3 else np.repeat(pixels, 3, axis=2)

    def require_jpeg_tiles(self) -> None:
        """Raise NoJpegTiles unless every level is made of JPEG tiles of RGB."""
        if self._info.channels:
            raise no_jpeg_tiles(self._path, "it has channels, not colours")
        for number, (plane, *_) in enumerate(self._layout.levels):
            if why := _obstacle(plane):
                raise no_jpeg_tiles(self._path, f"level {number} {why}")

    def jpeg_tile(self, level: int, row: int, column: int) -> bytes | None:
        """A tile as it is; see :class:`~microtome.engine.slides.base.JpegTiled`."""
        plane = self._layout.levels[level][0]
        try:
            raw = self._segment(plane, row * plane.columns + column)
            return raw and standalone(raw, plane.page.jpegtables, is_rgb=plane.is_rgb_jpeg)
        except PARSE_ERRORS as error:
            raise bad_tile(self._path, f"level {level}", row, column, error) from error

    def tile_spans(self, level: int) -> TileSpans:
        """Where a level's tiles lie; see :class:`~microtome.engine.slides.base.JpegSpanned`."""
        plane = self._layout.levels[level][0]
        grid = (-1, plane.columns)
        return TileSpans(
            plane.offsets.reshape(grid),
            plane.sizes.reshape(grid),
            plane.page.jpegtables,
            plane.is_rgb_jpeg,
        )

    def close(self) -> None:
        """Release the file."""
        self._file.close()
        self._tiles.clear()

    def _assemble(self, plane: Plane, where: str, part: Bounds) -> Values:
        bottom, right = part.y_px + part.height_px, part.x_px + part.width_px
        if plane.page.is_memmappable and plane.planes == 1:
            stored = plane.page.asarray(out="memmap")[part.y_px : bottom, part.x_px : right]
            values = np.array(stored, _native(stored.dtype))
            return values.reshape(part.height_px, part.width_px, plane.samples)
        tall, wide = plane.segment_px
        if _is_one_tile(plane, part):
            return self._only_tile(plane, where, part)
        shape = (part.height_px, part.width_px, plane.samples)
        out = np.empty(shape, _native(plane.page.dtype))
        is_large = out.nbytes >= _LARGE_BYTES
        for row in range(part.y_px // tall, (bottom - 1) // tall + 1):
            for column in range(part.x_px // wide, (right - 1) // wide + 1):
                top, left = row * tall - part.y_px, column * wide - part.x_px
                keep = not (is_large and _is_within(plane, row, column, part))
                tile = self._tile(plane, where, row, column, keep=keep)
                target = out[max(0, top) : top + tall, max(0, left) : left + wide]
                seen = tile[max(0, -top) :, max(0, -left) :]
                target[...] = seen[: target.shape[0], : target.shape[1]]
        return out

    def _only_tile(self, plane: Plane, where: str, part: Bounds) -> Values:
        """One whole tile; as its reader has all of it, it is not kept for a second reading."""
        row, column = part.y_px // plane.segment_px[0], part.x_px // plane.segment_px[1]
        tile = self._tiles.get((id(plane), row, column))
        tile = self._decoded(plane, where, row, column) if tile is None else tile.copy()
        inside = tile[: part.height_px, : part.width_px]
        owned: Values = np.require(inside, _native(tile.dtype), requirements=("C", "W"))
        return owned

    def _tile(self, plane: Plane, where: str, row: int, column: int, *, keep: bool) -> Values:
        key = (id(plane), row, column)
        tile = self._tiles.get(key)
        if tile is None:
            tile = self._decoded(plane, where, row, column)
            if keep:
                self._tiles.put(key, tile)
        return tile

    def _decoded(self, plane: Plane, where: str, row: int, column: int) -> Values:
        try:
            tile = self._decode(plane, row * plane.columns + column)
            _require_size(tile, plane, row, column)
        except PARSE_ERRORS as error:
            raise bad_tile(self._path, where, row, column, error) from error
        return tile

    def _decode(self, plane: Plane, index: int) -> Values:
        parts = [
            self._decode_segment(plane, index + colour * plane.per_plane)
            for colour in range(plane.planes)
        ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)

    def _decode_segment(self, plane: Plane, index: int) -> Values:
        page, samples = plane.page, plane.samples // plane.planes
        raw = self._segment(plane, index)
        if raw is None:
            blank = _WHITE if plane.samples == 3 else 0
            return np.full((*plane.segment_px, samples), blank, _native(page.dtype))
        if page.compression != _JPEG:
            tile, _, _ = page.decode(raw, index)
            pixels: Values = tile[0]
            return pixels
        return decode_segment(
            raw, plane.segment_px, samples=samples, tables=page.jpegtables, is_rgb=plane.is_rgb_jpeg
        )

    def _segment(self, plane: Plane, index: int) -> bytes | None:
        size = int(plane.sizes[index])
        if size == 0:
            return None
        raw = os.pread(self._file.fileno(), size, int(plane.offsets[index]))
        if len(raw) < size:
            raise EOFError("the file ends before it")
        return raw


def _obstacle(plane: Plane) -> str:
    """Why the tiles of a level cannot be kept, or nothing."""
    if plane.page.compression != _JPEG:
        return f"is compressed as {getattr(plane.page.compression, 'name', 'unknown')}, not as JPEG"
    if not plane.is_tiled:
        return "is in strips, not in tiles"
    return "keeps its colours apart" if plane.planes > 1 else ""


def _native(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The type in this machine's byte order, whatever the file's."""
    return dtype.newbyteorder("=")


def _is_within(plane: Plane, row: int, column: int, part: Bounds) -> bool:
    """Whether a rectangle holds all of a tile that lies in the image."""
    spans = (
        (row, plane.segment_px[0], plane.height_px, part.y_px, part.height_px),
        (column, plane.segment_px[1], plane.width_px, part.x_px, part.width_px),
    )
    return all(
        number * side >= start and min((number + 1) * side, whole) <= start + length
        for number, side, whole, start, length in spans
    )


def _is_one_tile(plane: Plane, part: Bounds) -> bool:
    """Whether a rectangle is one tile of the file, as much of it as lies in the image."""
    spans = (
        (part.y_px, part.height_px, plane.segment_px[0], plane.height_px),
        (part.x_px, part.width_px, plane.segment_px[1], plane.width_px),
    )
    return all(
        start % side == 0 and length == min(side, whole - start)
        for start, length, side, whole in spans
    )


def _require_size(tile: Values, plane: Plane, row: int, column: int) -> None:
    """Refuse a tile of another size: some encoders cut those at the edge to the image, no more."""
    tall, wide = plane.segment_px
    height, width = tile.shape[:2]
    least_tall = min(tall, plane.height_px - row * tall)
    least_wide = min(wide, plane.width_px - column * wide)
    if not (least_tall <= height <= tall and least_wide <= width <= wide):
        raise ValueError(f"it is {height} × {width} px, not {tall} × {wide}")


class TileCache:
    """Decoded tiles, the least recently used dropped first; bounded in bytes."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._tiles: OrderedDict[tuple[int, int, int], Values] = OrderedDict()
        self._bytes = 0

    @property
    def held_bytes(self) -> int:
        """Bytes held now."""
        return self._bytes

    def get(self, key: tuple[int, int, int]) -> Values | None:
        """The tile, which becomes the most recently used, or None."""
        tile = self._tiles.get(key)
        if tile is not None:
            self._tiles.move_to_end(key)
        return tile

    def put(self, key: tuple[int, int, int], tile: Values) -> None:
        """Keep a tile, unless it is larger than the whole cache."""
        if tile.nbytes > self._limit_bytes:
            return
        self._tiles[key] = tile
        self._bytes += tile.nbytes
        while self._bytes > self._limit_bytes:
            self._bytes -= self._tiles.popitem(last=False)[1].nbytes

    def clear(self) -> None:
        """Drop all."""
        self._tiles.clear()
        self._bytes = 0


def _describe(path: Path, layout: Layout, mpp: resolution.Override | None) -> SlideInfo:
    first = [planes[0] for planes in layout.levels]
    base_px = (first[0].height_px, first[0].width_px)
    found = resolution.resolve(_statements(layout), mpp)
    return SlideInfo(
        path=path,
        backend="tifffile",
        vendor=layout.vendor,
        levels=tuple(
            Level(
                level.height_px,
                level.width_px,
                *downsample(base_px, (level.height_px, level.width_px)),
                level.segment_px if level.is_tiled else None,
            )
            for level in first
        ),
        mpp=found.mpp,
        mpp_source=found.source,
        objective_power=_objective_power(layout),
        bounds=None,
        associated=tuple(sorted(layout.associated)),
        properties=_properties(layout),
        mpp_refused=found.refused,
        notes=layout.notes,
        channels=layout.channels,
        dtype=str(_native(first[0].page.dtype)),
    )


def _statements(layout: Layout) -> list[resolution.Statement]:
    base = layout.levels[0][0]
    page, text = base.page, layout.description
    x_per_unit, y_per_unit = (_ratio(page.tags.valueof(code)) for code in (282, 283))
    tags = resolution.from_tiff_tags(x_per_unit, y_per_unit, int(page.tags.valueof(296, 2)))
    if layout.vendor == "ome-tiff":
        return resolution.from_ome(text, base.height_px, base.width_px) + tags
    return resolution.from_description(text, x_per_unit) + tags


def _ratio(value: object) -> float:
    if not (isinstance(value, tuple) and len(value) == 2 and value[1]):
        return float("nan")
    return float(value[0]) / float(value[1])


def _objective_power(layout: Layout) -> float | None:
    if layout.vendor == "ome-tiff":
        return resolution.ome_objective_power(layout.description)
    power = resolution.aperio_fields(layout.description).get("AppMag")
    try:
        return None if power is None else float(power)
    except ValueError:
        return None


def _properties(layout: Layout) -> Mapping[str, str]:
    page = layout.levels[0][0].page
    properties = {
        f"tiff.{tag.name}": str(tag.value)
        for tag in page.tags.values()
        if tag.count < 64 or tag.dtype == _ASCII
    }
    if layout.vendor == "aperio":
        fields = resolution.aperio_fields(layout.description)
        properties |= {f"aperio.{name}": value for name, value in fields.items()}
    return properties
