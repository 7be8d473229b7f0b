"""Pictures of values over a slide: colours all can tell apart, outlines, a colour bar."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]

COLORMAP = "viridis"
"""Even in lightness, kept apart under colour vision deficiency, and unlike any H&E colour."""

DISTINCT = (
    (0, 114, 178), (230, 159, 0), (0, 158, 115), (204, 121, 167), (213, 94, 0), (86, 180, 233),
    (240, 228, 66), (60, 60, 60),
)  # fmt: skip
"""Eight colours that stay apart under colour vision deficiency (Okabe & Ito 2008)."""

_MARGIN_PX, _SWATCH_PX, _TEXT_PX, _BAR_LENGTH_PX = 16, 18, 15, 200
_INK = (20, 20, 20)


def colour_table(name: str = COLORMAP) -> Image:
    """A matplotlib colour map as uint8 [256, 3]."""
    import matplotlib as mpl

    return np.asarray(mpl.colormaps[name](np.arange(256), bytes=True)[:, :3], np.uint8)


def colourise(
    values: NDArray[np.floating[Any]], table: Image, *, low: float = 0.0, high: float = 1.0
) -> Image:
    """Colour a map of values; transparent where there is none.

    Parameters
    ----------
    values
        [h, w], NaN where nothing is known.
    table
        uint8 [k, 3]: the colours of ``low`` … ``high``; values beyond take the end's.

    Returns
    -------
    uint8 [h, w, 4]
        RGBA, alpha 0 or 255.
    """
    known = np.isfinite(values)
    scaled = (np.where(known, values, low) - low) / (high - low)
    index = np.clip(np.rint(scaled * (len(table) - 1)), 0, len(table) - 1).astype(np.intp)
    return np.dstack([table[index], np.where(known, np.uint8(255), np.uint8(0))])


def lay_over(image: Image, layer: Image, opacity: float) -> Image:
    """Blend an RGBA layer over an RGB image of the same size."""
    alpha = layer[..., 3:].astype(np.float32) / 255 * opacity
    blended = image * (1 - alpha) + layer[..., :3] * alpha
    return np.rint(blended).astype(np.uint8)


def draw_outlines(image: Image, outlines: Sequence[NDArray[np.float64]]) -> Image:
    """Draw closed outlines, [m, 2] (y, x) in the image's pixels, white in a dark casing."""
    from PIL import Image as Picture
    from PIL import ImageDraw

    picture = Picture.fromarray(image)
    pen = ImageDraw.Draw(picture)
    for colour, width in ((_INK, 5), ((255, 255, 255), 2)):
        for outline in outlines:
            ring = [(float(x), float(y)) for y, x in (*outline, outline[0])]
            pen.line(ring, fill=colour, width=width, joint="curve")
    return np.asarray(picture)


def with_colour_bar(
    image: Image, table: Image, title: str, *, low: float = 0.0, high: float = 1.0
) -> Image:
    """Put a colour bar to the right of an image, which stays at the top left.

    Parameters
    ----------
    table
        uint8 [k, 3]: the colours of ``low`` … ``high``.
    """
    steps = np.linspace(len(table) - 1, 0, _BAR_LENGTH_PX).round().astype(np.intp)
    bar = np.repeat(table[steps, None], _SWATCH_PX, axis=1)
    ticks = ((0, high), (_BAR_LENGTH_PX // 2, (low + high) / 2), (_BAR_LENGTH_PX - 1, low))
    return _with_legend(image, bar, title, [(at, f"{value:.2g}") for at, value in ticks])


def with_key(
    image: Image, colours: Sequence[tuple[int, int, int]], names: Sequence[str], title: str
) -> Image:
    """Put a key of named colours to the right of an image, which stays at the top left."""
    step = _SWATCH_PX + 8
    patches = np.full((step * len(names), _SWATCH_PX, 3), 255, np.uint8)
    for index, colour in enumerate(colours[: len(names)]):
        patches[index * step : index * step + _SWATCH_PX] = colour
    labels = [(index * step + _SWATCH_PX // 2, name) for index, name in enumerate(names)]
    return _with_legend(image, patches, title, labels)


def _with_legend(
    image: Image, swatch: Image, title: str, labels: Sequence[tuple[int, str]]
) -> Image:
    from PIL import Image as Picture
    from PIL import ImageDraw, ImageFont

    font = ImageFont.load_default(_TEXT_PX)
    beside = max(font.getlength(text) for _, text in labels) + _SWATCH_PX + 8
    room = int(max(font.getlength(title), beside)) + 2 * _MARGIN_PX
    top, left = _MARGIN_PX + 2 * _TEXT_PX, image.shape[1] + _MARGIN_PX
    height = max(image.shape[0], top + swatch.shape[0] + _MARGIN_PX)
    canvas = Picture.new("RGB", (image.shape[1] + room, height), "white")
    canvas.paste(Picture.fromarray(image), (0, 0))
    canvas.paste(Picture.fromarray(swatch), (left, top))
    pen = ImageDraw.Draw(canvas)
    pen.text((left, _MARGIN_PX), title, fill=_INK, font=font)
    for at, text in labels:
        pen.text((left + _SWATCH_PX + 8, top + at), text, fill=_INK, font=font, anchor="lm")
    return np.asarray(canvas)


def as_png(image: Image) -> bytes:
    """An RGB or RGBA image as PNG."""
    return _packed(image, format="PNG", compress_level=6)


def as_jpeg(image: Image, quality: int = 82) -> bytes:
    """An RGB image as JPEG."""
    return _packed(image, format="JPEG", quality=quality, optimize=True)


def _packed(image: Image, **options: Any) -> bytes:
    from PIL import Image as Picture

    packed = io.BytesIO()
    Picture.fromarray(image).save(packed, **options)
    return packed.getvalue()
