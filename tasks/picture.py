"""A slide's small picture, and what is laid over it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..engine.slides.base import Slide
from ..storage.errors import BadGeometry
from ..storage.qupath import Frame
from .overlay import Image, as_jpeg, as_png, draw_outlines, lay_over
from .rasters import Outline, Tiled

MAX_PX = 1200
"""Longer side of a picture by default."""

OPACITY = 0.6
"""How much of the slide the colours hide in a picture that cannot be adjusted."""


@dataclass(frozen=True)
class Canvas:
    """Where pictures of one slide lie.

    Attributes
    ----------
    overview
        uint8 [h, w, 3] of the whole of level 0; None where the slide is not at hand.
    shape
        (h, w) of a picture of the whole of level 0.
    downsample
        (y, x) level-0 pixels per pixel of the picture.
    rows, columns
        The part that is shown.
    lost_fraction
        Share of the slide that cannot be decoded: white in the overview.
    """

    overview: Image | None
    shape: tuple[int, int]
    downsample: tuple[float, float]
    rows: slice
    columns: slice
    lost_fraction: float = 0.0

    @property
    def shown_px(self) -> tuple[int, int]:
        """(height, width) of what is shown, in pixels of the picture."""
        return self.rows.stop - self.rows.start, self.columns.stop - self.columns.start


@dataclass(frozen=True)
class Layers:
    """Pictures of one slide that lie over one another, as a report shows them.

    Attributes
    ----------
    size_px
        (height, width) of all of them.
    slide_jpeg
        The slide, or None where it could not be read.
    values_png
        The coloured tiles, opaque; transparent where there are none.
    outlines
        Of the truth where it is known, [m, 2] (y, x) in pixels of the pictures.
    """

    size_px: tuple[int, int]
    slide_jpeg: bytes | None
    values_png: bytes
    outlines: tuple[Outline, ...] = ()


def canvas_for(
    tiles: Tiled, slide: Slide | None, *, crop: bool = True, max_px: int = MAX_PX
) -> Canvas:
    """Lay out the pictures of a slide, at most ``max_px`` on the longer side of level 0.

    Raises
    ------
    BadGeometry
        The slide is not of the size that the tiles were made from.
    """
    lost = 0.0
    if slide is None:
        scale = max(1.0, max(tiles.slide_px) / max_px)
        overview, downsample = None, (scale, scale)
        shape = (max(1, round(tiles.slide_px[0] / scale)), max(1, round(tiles.slide_px[1] / scale)))
    else:
        from ..engine.slides.salvage import Salvaged
        from ..engine.tiles import read_overview

        _require_size(slide, tiles)
        salvaged = Salvaged(slide)
        overview, downsample = read_overview(salvaged, max_px=max_px)
        lost = salvaged.lost_fraction
        shape = (overview.shape[0], overview.shape[1])
    y, x, height, width = Frame(tiles.slide_px, tiles.bounds_px, crop).box_px
    rows = slice(round(y / downsample[0]), round((y + height) / downsample[0]))
    columns = slice(round(x / downsample[1]), round((x + width) / downsample[1]))
    return Canvas(overview, shape, downsample, rows, columns, lost)


def smaller(canvas: Canvas, max_px: int) -> Canvas:
    """The same pictures with at most ``max_px`` on the longer side of level 0."""
    factor = max(canvas.shape) / max_px
    if factor <= 1:
        return canvas
    shape = (max(1, round(canvas.shape[0] / factor)), max(1, round(canvas.shape[1] / factor)))
    scale = (canvas.shape[0] / shape[0], canvas.shape[1] / shape[1])
    overview = canvas.overview
    if overview is not None:
        import cv2

        size = (shape[1], shape[0])
        overview = np.asarray(cv2.resize(overview, size, interpolation=cv2.INTER_AREA), np.uint8)
    return Canvas(
        overview,
        shape,
        (canvas.downsample[0] * scale[0], canvas.downsample[1] * scale[1]),
        slice(round(canvas.rows.start / scale[0]), round(canvas.rows.stop / scale[0])),
        slice(round(canvas.columns.start / scale[1]), round(canvas.columns.stop / scale[1])),
        canvas.lost_fraction,
    )


def layers(
    canvas: Canvas,
    colours: Image,
    truth: Sequence[Outline] = (),
    *,
    size_px: tuple[int, int] | None = None,
) -> Layers:
    """Pack what is shown of the slide and of ``colours``, RGBA [h, w, 4] over level 0.

    A larger ``size_px`` leaves room to the right and below, white and without colours.
    """
    shown = _filled_up(_shown(canvas, colours), size_px, 0)
    jpeg = None
    if canvas.overview is not None:
        jpeg = as_jpeg(_filled_up(_shown(canvas, canvas.overview), size_px, 255))
    return Layers(
        size_px=(shown.shape[0], shown.shape[1]),
        slide_jpeg=jpeg,
        values_png=as_png(shown),
        outlines=_placed(canvas, truth),
    )


def blend(
    canvas: Canvas, colours: Image, truth: Sequence[Outline] = (), *, opacity: float = OPACITY
) -> Image | None:
    """The slide with colours and outlines over it; None where the slide is not at hand."""
    if canvas.overview is None:
        return None
    whole = lay_over(canvas.overview, colours, opacity)
    return draw_outlines(_shown(canvas, whole), _placed(canvas, truth))


def _require_size(slide: Slide, tiles: Tiled) -> None:
    size = (slide.info.height_px, slide.info.width_px)
    if size != tuple(tiles.slide_px):
        raise BadGeometry(
            f"the slide has {size[1]} x {size[0]} px, but the tiles of {tiles.id} were made "
            f"from one of {tiles.slide_px[1]} x {tiles.slide_px[0]} px",
            where=slide.info.path,
            remedy="Encode this slide again, or put back the one that was encoded",
        )


def _shown(canvas: Canvas, image: Image) -> Image:
    return np.ascontiguousarray(image[canvas.rows, canvas.columns])


def _filled_up(image: Image, size_px: tuple[int, int] | None, value: int) -> Image:
    if size_px is None:
        return image
    room = [(0, want - have) for want, have in zip(size_px, image.shape[:2], strict=True)]
    return np.pad(image, [*room, (0, 0)], constant_values=value)


def _placed(canvas: Canvas, outlines: Sequence[Outline]) -> tuple[Outline, ...]:
    corner = np.array([canvas.rows.start, canvas.columns.start])
    return tuple(np.asarray(o, np.float64) / canvas.downsample - corner for o in outlines)
