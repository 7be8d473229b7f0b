"""Tissue in bright field: a figure for every pixel, cut in two by Otsu, with guards."""

from __future__ import annotations

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
    bands,
    closed,
    counts,
    disk,
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
    found = [stained(image, usable, mpp=mpp, method=name) for name in _SCORES]
    enough = _MOST_OF_IT * np.logical_or.reduce(found).sum()
    return next(mask for mask in found if mask.sum() >= enough)


def _whole(found: Mask, mpp: float) -> Mask:
    found = closed(found, _GAP_UM / mpp)
    found = without_specks(found, SMALLEST_UM2 / mpp**2)
    return without_holes(found, SMALLEST_UM2 / mpp**2)


def _above_otsu(image: Pixels, usable: Mask, mpp: float, score: _Score) -> Mask:
    import cv2

    figures = score.of(image, mpp)
    sample = figures[usable]
    nothing = np.zeros(figures.shape, bool)
    if sample.size == 0:
        return nothing
    otsu, _ = cv2.threshold(sample, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    above = sample > otsu
    if above.all() or not above.any():
        return nothing
    if sample[above].mean() - sample[~above].mean() < score.least_contrast:
        return nothing
    return np.asarray((figures > np.clip(otsu, *score.threshold)) & usable)


def saturation(image: Pixels, mpp: float) -> Pixels:
    """Saturation of HSV, glass taken for white, smoothed over 10 µm; uint8 [h, w], 0 … 255."""
    import cv2

    glass = glass_colour(image)
    table = np.rint(np.arange(256)[:, None] * glass.max() / glass)
    balanced = cv2.LUT(image, np.clip(table, 0, 255).astype(np.uint8).reshape(1, 256, 3))
    hsv = cv2.cvtColor(balanced, cv2.COLOR_RGB2HSV)
    return np.asarray(cv2.GaussianBlur(hsv[..., 1], (0, 0), _SMOOTH_UM / mpp), np.uint8)


def density(image: Pixels, mpp: float) -> Pixels:
    """Optical density (log10) against glass, mean of R, G, B, smoothed; uint8 [h, w] in 1/100."""
    import cv2

    glass = glass_colour(image)
    mean = np.empty(image.shape[:2], np.float32)
    for rows in bands(image.shape):
        mean[rows] = density_of(image[rows], glass).mean(2)
    return _in_bytes(cv2.GaussianBlur(mean, (0, 0), _SMOOTH_UM / mpp), 100)


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
    squares stand 16 µm apart, and what lies between is interpolated.
    """
    import cv2

    grey = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.int16)
    glass = int(
        cv2.cvtColor(glass_colour(image).round().reshape(1, 1, 3), cv2.COLOR_RGB2GRAY)[0, 0]
    )
    # Glass is in the middle of its step: its noise stays within.
    steps = ((grey - glass + 1024 + _GREY_LEVELS // 2) // _GREY_LEVELS).astype(np.uint16)
    size = tuple(max(1, round(side * mpp / max(mpp, _CELL_UM))) for side in image.shape[1::-1])
    side = 2 * round(_TEXTURE_UM / max(mpp, _CELL_UM)) + 1
    bits = np.zeros(size[::-1], np.float32)
    for step in np.flatnonzero(counts(steps, int(steps.max()) + 1)):
        here = cv2.resize((steps == step).astype(np.float32), size, interpolation=cv2.INTER_AREA)
        share = np.maximum(cv2.blur(here, (side, side)), 1e-9)
        bits -= share * np.log2(share)
    wide = cv2.resize(bits, image.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    return _in_bytes(wide, 32)


def _entropy_inside(image: Pixels, mpp: float) -> Pixels:
    """Entropy, less what its squares see from beside the tissue."""
    import cv2

    return np.asarray(cv2.erode(entropy(image, mpp), disk(_TEXTURE_UM / 2 / mpp)), np.uint8)


_SCORES: Mapping[str, _Score] = {
    "saturation": _Score(saturation, (12, 28), 14.0),
    "density": _Score(density, (3, 8), 4.0),
    "entropy": _Score(_entropy_inside, (32, 80), 40.0),
}
