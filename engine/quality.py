"""How good a tile is: focus, white, ink; pure functions on pixels, one figure a tile."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Tiles = NDArray[np.uint8]
Column = NDArray[np.float32]

_WHITE_SATURATION = 20
_WHITE_VALUE = 200
_NOISE = 1.0
_INK_PX = 16


def tile_quality(tiles: Tiles) -> dict[str, Column]:
    """All measures of this module.

    Parameters
    ----------
    tiles
        uint8 [b, t, t, 3] RGB.

    Returns
    -------
    dict of float32 [b]
        ``focus``, ``white`` and ``ink``; see the functions of these names.
    """
    return {"focus": focus(tiles), "white": white(tiles), "ink": ink(tiles)}


def focus(tiles: Tiles) -> Column:
    """Sharpness: variance of the Laplacian over the variance of the grey values.

    The ratio does not change with the strength of the stain, and blur lowers it. It says nothing
    of empty glass, where both are the camera's noise: look at ``white`` first.

    Returns
    -------
    float32 [b]
        0 (uniform) … 20 (white noise). Comparable between tiles of one resolution only.

    References
    ----------
    Pech-Pacheco et al. (2000), Diatom autofocusing in brightfield microscopy, ICPR 3:314-317.
    """
    import cv2

    ratios = []
    for tile in tiles:
        grey = cv2.cvtColor(tile, cv2.COLOR_RGB2GRAY)
        edges = cv2.Laplacian(grey, cv2.CV_32F, ksize=1)
        (_, edge_std), (_, grey_std) = cv2.meanStdDev(edges), cv2.meanStdDev(grey)
        ratios.append(float(edge_std[0, 0]) ** 2 / (float(grey_std[0, 0]) ** 2 + _NOISE**2))
    return np.array(ratios, np.float32)


def white(tiles: Tiles) -> Column:
    """Share of bright, unsaturated pixels: glass, holes, fat; float32 [b], 0 … 1."""
    import cv2

    low, high = (0, 0, _WHITE_VALUE), (255, _WHITE_SATURATION, 255)
    found = [cv2.inRange(cv2.cvtColor(tile, cv2.COLOR_RGB2HSV), low, high) for tile in tiles]
    return np.array([cv2.countNonZero(mask) / mask.size for mask in found], np.float32)


def ink(tiles: Tiles) -> Column:
    """Share of a tile with the colour of green, blue or black pens; float32 [b], 0 … 1.

    :func:`ink_pixels` of the means over squares of 16 pixels: strokes are wide, nuclei, which may
    be as dark, are not. Red ink is not counted, for a tile of blood has its colour: only on the
    whole slide is it told, by where it runs (:mod:`microtome.engine.tissue.pen`).
    """
    import cv2

    side = max(1, tiles.shape[1] // _INK_PX)
    small = [cv2.resize(tile, (side, side), interpolation=cv2.INTER_AREA) for tile in tiles]
    return np.array([ink_pixels(np.asarray(s, np.uint8)).mean() for s in small], np.float32)


def ink_pixels(image: Tiles) -> NDArray[np.bool_]:
    """Pixels of an RGB image, uint8 [h, w, 3], with the colour of green, blue or black ink.

    Green: hue 70-190°, saturation over 0.24. Blue: hue 190-236°, saturation over 0.55, which
    haematoxylin does not reach. Black: no channel over 69 and saturation below 0.4, which thick
    or dense tissue is not.

    Returns
    -------
    bool [h, w]
    """
    import cv2

    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    green = cv2.inRange(hsv, (36, 61, 0), (95, 255, 255))
    blue = cv2.inRange(hsv, (96, 141, 0), (117, 255, 255))
    black = cv2.inRange(hsv, (0, 0, 0), (180, 100, 69))
    return np.asarray(cv2.max(cv2.max(green, blue), black)) > 0
