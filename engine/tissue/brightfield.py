"""Tissue in bright field: a figure for every pixel, cut in two by Otsu, with guards."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..slides.base import Pixels
from .methods import AUTO
from .shapes import (
    SMALLEST_UM2,
    Mask,
    by_bands,
    closed,
    counts,
    disk,
    looked_up,
    without_holes,
    without_specks,
)

_GAP_UM = 20.0
_SMOOTH_UM = 10.0
_TEXTURE_UM = 40.0
_CELL_UM = 16.0
_GREY_LEVELS = 4
"""Grey values this far apart are one to the entropy: a camera's noise is less."""
_MOST_OF_IT = 0.6
_MOST_TINT = 40
"""Saturation of glass, at most, of 255."""


@dataclass(frozen=True)
class _Score:
    """A figure that is higher in tissue, 0 … 255.

    ``threshold`` is the range that Otsu's threshold is kept in. ``least_contrast`` is by how much
    the means of the two sides differ at least; less is one cloud, cut in two by Otsu.
    """

    of: Callable[[Pixels, float], Pixels]
    threshold: tuple[float, float]
    least_contrast: float


def stained(image: Pixels, usable: Mask, *, mpp: float, method: str = AUTO) -> Mask:
    """Find stained tissue in an overview of a bright-field slide.

    Of the pixels that are ``usable``, tissue is what has a figure above Otsu's threshold. Gaps up
    to 20 µm are closed, pieces and holes below 0.02 mm² removed.

    Parameters
    ----------
    image
        uint8 [h, w, 3] RGB.
    usable
        bool [h, w]: false where there is ink and the like.
    mpp
        Micrometres per pixel of ``image``.
    method
        ``saturation`` (of HSV), ``density`` (optical density against the slide's own glass) or
        ``entropy`` (of the grey values within 40 µm). ``auto`` is the first of these, in this
        order, that finds 60 % of what the three find together: saturation is the surest, but
        overlooks what is nearly grey, and density what is pale beside something dark.

    Returns
    -------
    bool [h, w]

    References
    ----------
    Otsu (1979), A threshold selection method from gray-level histograms, IEEE Trans SMC 9:62-66.
    """
    if method != AUTO:
        return _whole(_above_otsu(image, usable, mpp, _SCORES[method]), mpp)
    # One bit a method.
    found = np.zeros(usable.shape, np.uint8)
    for bit, name in enumerate(_SCORES):
        found |= stained(image, usable, mpp=mpp, method=name).view(np.uint8) << bit
    ways = np.arange(1 << len(_SCORES))
    often = counts(found, len(ways))
    enough = _MOST_OF_IT * often[1:].sum()
    first = next(b for b in range(len(_SCORES)) if often[ways >> b & 1 == 1].sum() >= enough)
    return looked_up(ways >> first & 1 == 1, found)


def _whole(found: Mask, mpp: float) -> Mask:
    found = closed(found, _GAP_UM / mpp)
    found = without_specks(found, SMALLEST_UM2 / mpp**2)
    return without_holes(found, SMALLEST_UM2 / mpp**2)


def _above_otsu(image: Pixels, usable: Mask, mpp: float, score: _Score) -> Mask:
    import cv2

    figures = score.of(image, mpp)
    often, values = counts(figures, 256, usable), np.arange(256)
    nothing = np.zeros(figures.shape, bool)
    if not often.any():
        return nothing
    otsu, _ = cv2.threshold(figures[usable], 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    above = values > otsu
    if not often[above].any() or not often[~above].any():
        return nothing
    high, low = (np.average(values[side], weights=often[side]) for side in (above, ~above))
    if high - low < score.least_contrast:
        return nothing
    return np.asarray((figures > np.clip(otsu, *score.threshold)) & usable)


def saturation(image: Pixels, mpp: float) -> Pixels:
    """Saturation of HSV, glass taken for white, smoothed over 10 µm; uint8 [h, w], 0 … 255."""
    import cv2

    glass = glass_colour(image)
    table = np.rint(np.arange(256)[:, None] * glass.max() / glass)
    table = np.clip(table, 0, 255).astype(np.uint8).reshape(1, 256, 3)

    def of(part: Pixels) -> Pixels:
        return np.asarray(cv2.cvtColor(cv2.LUT(part, table), cv2.COLOR_RGB2HSV)[..., 1])

    return np.asarray(cv2.GaussianBlur(by_bands(of, image), (0, 0), _SMOOTH_UM / mpp), np.uint8)


def density(image: Pixels, mpp: float) -> Pixels:
    """Optical density (log10) against glass, mean of R, G, B, smoothed; uint8 [h, w] in 1/100."""
    import cv2

    glass, sigma = glass_colour(image), _SMOOTH_UM / mpp

    def of(part: Pixels) -> Pixels:
        return _in_bytes(cv2.GaussianBlur(density_of(part, glass).mean(2), (0, 0), sigma), 100)

    return by_bands(of, image, reach_px=blur_reach_px(sigma))


def blur_reach_px(sigma_px: float) -> int:
    """How far OpenCV's Gaussian of this deviation looks, in float32: four deviations."""
    return math.ceil(4 * sigma_px) + 1


def _in_bytes(values: Any, scale: int) -> Pixels:
    """Values float32 [h, w] times ``scale``, rounded and kept in 0 … 255; uses them up."""
    values *= scale
    np.clip(np.rint(values, out=values), 0, 255, out=values)
    return np.asarray(values, np.uint8)


def density_of(image: Pixels, glass: NDArray[np.float32]) -> NDArray[np.float32]:
    """Optical density (log10) of R, G, B against glass [3]; float32 [h, w, 3]."""
    import cv2

    light = np.maximum(np.arange(256), 1)[:, None] / glass
    table = np.clip(-np.log10(light), 0, None).astype(np.float32)
    return np.asarray(cv2.LUT(image, table.reshape(1, 256, 3)), np.float32)


def glass_colour(image: Pixels) -> NDArray[np.float32]:
    """R, G, B of glass: the median of the brightest tenth; float32 [3], at least 1.

    Where that tenth has colour there is no glass to be seen, and its brightest channel is taken
    for all three.
    """
    brightness = image.max(2)
    tenth = int(np.searchsorted(counts(brightness, 256).cumsum(), 0.9 * brightness.size))
    brightest = brightness >= tenth
    colour = np.array([_median(counts(image[..., c], 256, brightest)) for c in range(3)])
    if 255 * (colour.max() - colour.min()) > _MOST_TINT * colour.max():
        colour[:] = colour.max()
    return np.asarray(np.maximum(colour, 1), np.float32)


def _median(histogram: NDArray[np.int64]) -> float:
    """Median of whole numbers by how often each occurs."""
    middle = np.array([(histogram.sum() - 1) // 2, histogram.sum() // 2])
    return float(np.searchsorted(histogram.cumsum(), middle, side="right").mean())


def entropy(image: Pixels, mpp: float) -> Pixels:
    """Shannon entropy of the grey values within squares of 80 µm; uint8 [h, w] in 1/32 bit.

    Grey values are taken in steps of 4 relative to the glass, so that its noise has none. The
    squares stand about 16 µm apart, and what lies between is interpolated.
    """
    import cv2

    glass = int(
        cv2.cvtColor(glass_colour(image).round().reshape(1, 1, 3), cv2.COLOR_RGB2GRAY)[0, 0]
    )
    # Glass is in the middle of its step: its noise stays within.
    table = (np.arange(256) - glass + 1024 + _GREY_LEVELS // 2) // _GREY_LEVELS
    table = (table - table[0]).astype(np.uint8)
    cell = max(1, round(_CELL_UM / mpp))
    reach = round(_TEXTURE_UM / (cell * mpp))

    def of(part: Pixels) -> Pixels:
        steps = np.asarray(cv2.LUT(cv2.cvtColor(part, cv2.COLOR_RGB2GRAY), table), np.uint8)
        return _in_bytes(_entropy_of(steps, cell, reach), 32)

    return by_bands(of, image, reach_px=(reach + 1) * cell, unit_px=cell)


def _entropy_of(steps: Pixels, cell: int, reach: int) -> NDArray[np.float32]:
    """Entropy (bits) of whole numbers [h, w] within ``reach`` cells of ``cell`` px; float32."""
    import cv2

    height, width = steps.shape
    below, right = -height % cell, -width % cell
    whole = cv2.copyMakeBorder(steps, 0, below, 0, right, cv2.BORDER_REPLICATE)
    size = (whole.shape[1] // cell, whole.shape[0] // cell)
    bits = np.zeros(size[::-1], np.float32)
    for step in np.unique(steps).tolist():
        here = cv2.resize((whole == step).astype(np.float32), size, interpolation=cv2.INTER_AREA)
        share = np.maximum(cv2.blur(here, (2 * reach + 1, 2 * reach + 1)), 1e-9)
        bits -= share * np.log2(share)
    wide = cv2.resize(bits, whole.shape[::-1], interpolation=cv2.INTER_LINEAR)
    return np.asarray(wide[:height, :width], np.float32)


def _entropy_inside(image: Pixels, mpp: float) -> Pixels:
    """Entropy, less what its squares see from beside the tissue."""
    import cv2

    return np.asarray(cv2.erode(entropy(image, mpp), disk(_TEXTURE_UM / 2 / mpp)), np.uint8)


_SCORES: Mapping[str, _Score] = {
    "saturation": _Score(saturation, (12, 28), 14.0),
    "density": _Score(density, (3, 8), 4.0),
    "entropy": _Score(_entropy_inside, (32, 80), 40.0),
}
