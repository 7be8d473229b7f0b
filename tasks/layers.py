"""What can be laid over one another: a slide, and maps of values or labels over it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..engine.slides.base import Level, Pixels, Slide
from ..engine.tiles import read_overview
from ..storage.maps import MapPlan, StoredMap
from ..storage.shards import read_box
from .zoom import Box, Place

_WHITE = 255
_MOST_PX = 4096
"""Side of what is read of a slide for one tile, in pixels of its level, at most."""

Rgba = NDArray[np.uint8]


@dataclass(frozen=True)
class Swatch:
    """A colour of a legend, (red, green, blue), and what it stands for."""

    name: str
    colour: tuple[int, int, int]


class Layer(Protocol):
    """Something that can be drawn at any place of a slide."""

    @property
    def name(self) -> str:
        """As the user sees it."""
        ...

    @property
    def legend(self) -> Sequence[Swatch]:
        """What its colours stand for; empty for a slide."""
        ...

    def draw(self, place: Place) -> Rgba:
        """A tile: uint8 [h, w, 3] of a slide, [h, w, 4] of what lies over one."""
        ...


@dataclass
class SlideLayer:
    """A slide's own pixels, resampled from the level that is just fine enough.

    Parameters
    ----------
    slide
        An opened slide; read by one thread at a time.
    """

    slide: Slide
    name: str = "slide"
    legend: Sequence[Swatch] = ()
    _lock: Lock = field(default_factory=Lock, repr=False)
    _overview: tuple[Pixels, tuple[float, float]] | None = None

    def draw(self, place: Place) -> Rgba:
        """uint8 [h, w, 3]; white beyond the slide's edge."""
        levels = self.slide.info.levels
        fine = [n for n, level in enumerate(levels) if _downsample(level) <= place.scale * 1.001]
        number = max(fine, default=0)
        level = levels[number]
        scale = (level.downsample_y, level.downsample_x)
        if max(place.box.height / scale[0], place.box.width / scale[1]) > _MOST_PX:
            return self._from_overview(place)

        def read(y: int, x: int, height: int, width: int) -> Pixels:
            with self._lock:
                return self.slide.read(number, y, x, height, width)

        return _resampled(read, (level.height_px, level.width_px), scale, place)

    def _from_overview(self, place: Place) -> Rgba:
        """Of a slide whose levels are all too fine: made once, from blocks."""
        with self._lock:
            if self._overview is None:
                self._overview = read_overview(self.slide, max_px=_MOST_PX)
        image, scale = self._overview

        def read(y: int, x: int, height: int, width: int) -> Pixels:
            return image[y : y + height, x : x + width]

        return _resampled(read, (image.shape[0], image.shape[1]), scale, place)


def _downsample(level: Level) -> float:
    return max(level.downsample_y, level.downsample_x)


def _resampled(
    read: Any, size: tuple[int, int], scale: tuple[float, float], place: Place
) -> Pixels:
    """A tile from the pixels of a level, area-averaged; white beyond it."""
    from PIL import Image

    tile = np.full((*place.shape, 3), _WHITE, np.uint8)
    starts = (place.box.y / scale[0], place.box.x / scale[1])
    spans = (place.box.height / scale[0], place.box.width / scale[1])
    low = [max(0, math.floor(start)) for start in starts]
    high = [
        min(limit, math.ceil(start + span - 1e-6))
        for limit, start, span in zip(size, starts, spans, strict=True)
    ]
    if high[0] <= low[0] or high[1] <= low[1]:
        return tile
    region = read(low[0], low[1], high[0] - low[0], high[1] - low[1])
    step = [span / side for span, side in zip(spans, place.shape, strict=True)]
    # Whole pixels of the tile that the level covers.
    covered = [
        max(1, min(side, round((end - start) / one)))
        for side, end, start, one in zip(place.shape, high, starts, step, strict=True)
    ]
    box = (
        starts[1] - low[1],
        starts[0] - low[0],
        min(high[1] - low[1], starts[1] - low[1] + covered[1] * step[1]),
        min(high[0] - low[0], starts[0] - low[0] + covered[0] * step[0]),
    )
    shape = (covered[1], covered[0])
    picture = Image.fromarray(region).resize(shape, Image.Resampling.BILINEAR, box=box)
    tile[: covered[0], : covered[1]] = np.asarray(picture)
    return tile


@dataclass(frozen=True)
class RasterLayer:
    """Codes over a slide, held in memory: a mask, the scores of tiles, clusters.

    Attributes
    ----------
    codes
        uint8 [h, w].
    palette
        uint8 [256, 4]: red, green, blue, alpha of each code.
    origin_px, pixel_px
        (y, x) of the corner and of a pixel's extent, in level-0 pixels.
    """

    name: str
    codes: NDArray[np.uint8]
    palette: Rgba
    pixel_px: tuple[float, float]
    origin_px: tuple[float, float] = (0.0, 0.0)
    legend: Sequence[Swatch] = ()

    def draw(self, place: Place) -> Rgba:
        """uint8 [h, w, 4]; the code at the centre of each pixel."""
        rows, columns = _centres(place, self.origin_px, self.pixel_px)
        return self.palette[_looked_up(self.codes, rows, columns)]


@dataclass(frozen=True)
class MapLayer:
    """A probability map at rest, read where it is looked at, from the level that is fine enough."""

    name: str
    stored: StoredMap
    palette: Rgba
    legend: Sequence[Swatch] = ()

    def draw(self, place: Place) -> Rgba:
        """uint8 [h, w, 4]; the probability at the centre of each pixel."""
        frame = self.stored.frame
        plan = MapPlan(frame)
        ratio = place.scale / max(frame.pixel_px)
        level = min(len(plan.sizes_px) - 1, max(0, int(math.log2(max(1.0, ratio)))))
        pixel = (frame.pixel_px[0] * 2**level, frame.pixel_px[1] * 2**level)
        rows, columns = _centres(place, frame.origin_px, pixel)
        spans = [
            slice(max(0, int(places.min())), min(n, int(places.max()) + 1), 1)
            for places, n in zip((rows, columns), plan.sizes_px[level], strict=True)
        ]
        if any(span.stop <= span.start for span in spans):
            return np.zeros((*place.shape, 4), np.uint8)
        box = (spans[0], spans[1])
        codes = read_box(plan.array(level), self.stored.path / str(level), box)
        return self.palette[_looked_up(codes, rows - spans[0].start, columns - spans[1].start)]


def _centres(
    place: Place, origin_px: tuple[float, float], pixel_px: tuple[float, float]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Row and column of a raster that the centre of each row and column of a tile lies in."""
    box: Box = place.box
    sides = ((box.y, box.height, place.shape[0]), (box.x, box.width, place.shape[1]))
    rows, columns = (
        np.floor(
            (start + (np.arange(n) + 0.5) * extent / n - origin_px[axis]) / pixel_px[axis]
        ).astype(np.intp)
        for axis, (start, extent, n) in enumerate(sides)
    )
    return rows, columns


def _looked_up(
    codes: NDArray[np.uint8], rows: NDArray[np.intp], columns: NDArray[np.intp]
) -> NDArray[np.uint8]:
    """Codes at rows x columns; 0 outside."""
    height, width = codes.shape
    inside_y, inside_x = (rows >= 0) & (rows < height), (columns >= 0) & (columns < width)
    found = codes[np.clip(rows, 0, height - 1)][:, np.clip(columns, 0, width - 1)]
    return np.where(inside_y[:, None] & inside_x, found, np.uint8(0))
