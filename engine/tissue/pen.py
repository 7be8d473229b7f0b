"""Strokes of pens: colours that stains do not have, in pieces as large as strokes are."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ..quality import ink_pixels
from ..slides.base import Pixels
from .shapes import Mask, by_bands, counts, dilated, looked_up, opened, pieces, without_specks

_SMALLEST_UM2 = 40_000.0
_MARGIN_UM = 40.0
_RED_WIDTH_UM = 120.0
_RED_ON_GLASS = 0.25
"""Share of the rim of a red piece, at least, that is glass: strokes cross it, blood is inside."""
_WHITE = 243.0


def pen_strokes(image: Pixels, *, mpp: float) -> Mask:
    """Find green, blue, black and red pen strokes, with a margin of 40 µm.

    The picture is first made as bright as glass commonly is, so that a dim one has no black ink.
    Pieces of the colours of :func:`~microtome.engine.quality.ink_pixels` count from 0.04 mm² on.
    For red, which eosin and blood come near, more is asked: it absorbs blue at least 0.7 times as
    much as green (eosin: less) and a quarter of that of red light at most, is 120 µm wide, and a
    quarter of its outline lies on glass. Red strokes wholly on tissue are so not found, nor are
    pink or magenta ones anywhere; a lake of blood at the edge of a section may be taken for one.

    Parameters
    ----------
    image
        uint8 [h, w, 3] RGB.
    mpp
        Micrometres per pixel of ``image``.

    Returns
    -------
    bool [h, w]
    """
    import cv2

    table = _brightening(image)

    def bright(look: Callable[[Pixels], Mask]) -> Mask:
        return by_bands(lambda part: look(np.asarray(cv2.LUT(part, table))), image)

    red = opened(bright(_red), _RED_WIDTH_UM / 2 / mpp)
    if red.any():
        red = _touching_glass(red, bright(_is_glass), mpp)
    ink = without_specks(bright(ink_pixels) | red, _SMALLEST_UM2 / mpp**2)
    return dilated(ink, _MARGIN_UM / mpp) if ink.any() else ink


def _brightening(image: Pixels) -> NDArray[np.uint8]:
    """What each of the 256 values becomes."""
    glass = float(np.quantile(image.max(2), 0.95))
    if glass >= _WHITE or glass == 0:
        return np.arange(256, dtype=np.uint8)
    brighter = np.clip(np.rint(np.arange(256) * (_WHITE / glass)), 0, 255)
    return np.asarray(brighter, np.uint8)


def _red(image: Pixels) -> Mask:
    table = -np.log10(np.maximum(np.arange(256), 1).astype(np.float32) / np.float32(_WHITE))
    red, green, blue = np.moveaxis(table[image], 2, 0)
    return np.asarray((green > 0.45) & (blue > 0.7 * green) & (red < 0.25 * green))


def _is_glass(image: Pixels) -> Mask:
    import cv2

    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    return np.asarray(cv2.inRange(hsv, (0, 0, 200), (180, 30, 255))) > 0


def _touching_glass(red: Mask, glass: Mask, mpp: float) -> Mask:
    import cv2

    numbers, _ = pieces(red)
    # The rim is a step away, beyond the pixels where ink and glass are mixed.
    step = max(2.0, _MARGIN_UM / mpp)
    reach = cv2.dilate(numbers.astype(np.float32), np.ones((2 * round(step) + 1,) * 2))
    rim = np.where(dilated(red, step / 2), 0, reach).astype(np.int32)
    count = int(numbers.max()) + 1
    all_round, on_glass = counts(rim, count), counts(rim, count, glass)
    keep = on_glass >= _RED_ON_GLASS * np.maximum(all_round, 1)
    keep[0] = False
    return looked_up(keep, numbers)
