"""Rims on glass: of air bubbles, which close, and of coverslips, which run straight."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..slides.base import Pixels
from .brightfield import glass_colour
from .shapes import Mask, by_bands, closed, dilated, disk, window, without_specks

_WIDEST_UM = 120.0
_LEAST_DARK = 0.06
"""A rim is darker than what is beside it by this share of the glass's light."""
_MOST_SATURATION = 45
_GAP_UM = 40.0
_SMALLEST_RIM_UM2 = 5_000.0
_SMALLEST_BUBBLE_UM2 = 100_000.0
_ROUND = 0.85
"""Area of a bubble over that of its convex hull."""
_GLASS_BESIDE = 0.7
_GLASS_INSIDE = 0.5
_BESIDE_UM = 120.0
_LINE_UM = 1.5 * _GAP_UM
_SHORTEST_EDGE_UM = 4_000.0
_EDGE_GAP_UM = 200.0
_MARGIN_UM = 40.0


def bubbles_and_edges(image: Pixels, *, mpp: float) -> tuple[Mask, Mask]:
    """Find air bubbles and edges of the coverslip in an overview.

    Both show as grey lines of up to 120 µm on glass: darker than both sides by 6 % of the light
    at least, of a saturation below 45 / 255. A bubble is what such a line encloses, from 0.1 mm²
    on, convex to 85 %, and half of it glass at least; an edge is where it runs straight for 4 mm.
    In either case 70 % of what lies beside the line is glass, so that outlines in tissue are
    none. Bubbles with their rim mostly on tissue, or cut by the picture's edge, are so not found.

    Parameters
    ----------
    image
        uint8 [h, w, 3] RGB.
    mpp
        Micrometres per pixel of ``image``.

    Returns
    -------
    bubble, edge
        bool [h, w] each: bubbles with all they enclose, edges with a margin of 40 µm.
    """
    lines, glass = _lines(image, mpp)
    bubble = _bubbles(lines, glass, mpp)
    return bubble, _edges(lines & ~bubble, glass, mpp) & ~bubble


def _lines(image: Pixels, mpp: float) -> tuple[Mask, Mask]:
    """Thin grey lines, and what is as bright as glass."""
    import cv2

    brightest, widest = glass_colour(image).max(), disk(max(1.0, _WIDEST_UM / 2 / mpp))

    def grey_and_light(part: Pixels) -> tuple[Mask, NDArray[np.float32]]:
        light = part.max(2).astype(np.float32)
        light /= brightest
        return cv2.cvtColor(part, cv2.COLOR_RGB2HSV)[..., 1] < _MOST_SATURATION, light

    def dark(part: Pixels) -> Mask:
        grey, light = grey_and_light(part)
        return grey & (cv2.morphologyEx(light, cv2.MORPH_BLACKHAT, widest) > _LEAST_DARK)

    def bright(part: Pixels) -> Mask:
        grey, light = grey_and_light(part)
        return grey & (light > 1 - _LEAST_DARK)

    lines = closed(by_bands(dark, image, reach_px=len(widest)), _GAP_UM / mpp)
    return without_specks(lines, _SMALLEST_RIM_UM2 / mpp**2), by_bands(bright, image)


def _bubbles(lines: Mask, glass: Mask, mpp: float) -> Mask:
    import cv2

    out = np.zeros(lines.shape, np.uint8)
    outlines, tree = cv2.findContours(lines.view(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    for outline, (_, _, child, _) in zip(outlines, [] if tree is None else tree[0], strict=True):
        if child < 0 or cv2.contourArea(outline) * mpp**2 < _SMALLEST_BUBBLE_UM2:
            continue
        # The largest hole of the line is the bubble's inside; a scribble has many small ones.
        inside = max(_holes(outlines, tree[0], child), key=cv2.contourArea)
        area, hull = cv2.contourArea(inside), cv2.contourArea(cv2.convexHull(inside))
        if area * mpp**2 < _SMALLEST_BUBBLE_UM2 / 2 or area < _ROUND * hull:
            continue
        part = window(cv2.boundingRect(outline), lines.shape, 2 * _BESIDE_UM / mpp)
        shift = (-part[1].start, -part[0].start)
        hole, whole = (np.zeros(out[part].shape, np.uint8) for _ in range(2))
        cv2.drawContours(hole, [inside], -1, 1, cv2.FILLED, offset=shift)
        cv2.drawContours(whole, [outline], -1, 1, cv2.FILLED, offset=shift)
        rim = lines[part] & (whole > 0)
        is_glass = glass[part][hole > 0].mean() >= _GLASS_INSIDE
        if is_glass and _glass_beside(rim, glass[part], mpp)[rim].mean() >= _GLASS_BESIDE:
            out[part] |= whole
    return np.asarray(out > 0)


def _holes(outlines: Sequence[Any], tree: NDArray[np.int32], first: int) -> list[Any]:
    found = []
    while first >= 0:
        found.append(outlines[first])
        first = int(tree[first][0])
    return found


def _edges(lines: Mask, glass: Mask, mpp: float) -> Mask:
    import cv2

    shortest = _SHORTEST_EDGE_UM / mpp
    out = np.zeros(lines.shape, np.uint8)

    def on_glass(line: Mask, glass: Mask) -> Mask:
        return line & (_glass_beside(line, glass, mpp) >= _GLASS_BESIDE)

    lines = by_bands(on_glass, lines, glass, reach_px=_beside_px(mpp))
    if not lines.any() or np.hypot(*lines.shape) < shortest:
        return np.asarray(out > 0)
    segments = cv2.HoughLinesP(
        lines.view(np.uint8),
        1,
        np.pi / 720,
        threshold=max(10, round(0.5 * shortest)),
        minLineLength=shortest,
        maxLineGap=_EDGE_GAP_UM / mpp,
    )
    width = round(_WIDEST_UM / mpp) | 1
    for x1, y1, x2, y2 in [] if segments is None else np.asarray(segments, int).reshape(-1, 4):
        cv2.line(out, (int(x1), int(y1)), (int(x2), int(y2)), 1, width)
    return dilated((out > 0) & lines, _MARGIN_UM / mpp)


def _beside_px(mpp: float) -> int:
    """How far :func:`_glass_beside` looks."""
    return round(_BESIDE_UM / mpp) + round(_LINE_UM / mpp)


def _glass_beside(line: Mask, glass: Mask, mpp: float) -> NDArray[np.float32]:
    """Share of glass in what lies around each pixel, the line with a margin left out."""
    import cv2

    side = (2 * round(_BESIDE_UM / mpp) + 1,) * 2
    beside = ~dilated(line, _LINE_UM / mpp)
    glassy, all_of_it = (
        cv2.boxFilter(plane.view(np.uint8), cv2.CV_32F, side, normalize=False)
        for plane in (glass & beside, beside)
    )
    share = np.asarray(glassy, np.float32)
    share /= np.maximum(all_of_it, 1)
    return share
