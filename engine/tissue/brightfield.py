"""Tissue in bright field: a figure for every pixel, cut in two by Otsu, with guards."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..slides.base import Pixels
from .methods import AUTO
from .shapes import SMALLEST_UM2, Mask, closed, disk, without_holes, without_specks

_GAP_UM = 20.0
_SMOOTH_UM = 10.0
_TEXTURE_UM = 40.0
_GREY_LEVELS = 4
"""Grey values this far apart are one to the entropy: a camera's noise is less."""
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
        order, that finds half of what the three find together: saturation is the surest, but
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
    half = np.logical_or.reduce(found).sum() / 2
    return next(mask for mask in found if mask.sum() >= half)


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
    """Saturation of HSV, smoothed over 10 µm; uint8 [h, w], 0 … 255."""
    import cv2

    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    return np.asarray(cv2.GaussianBlur(hsv[..., 1], (0, 0), _SMOOTH_UM / mpp), np.uint8)


def density(image: Pixels, mpp: float) -> Pixels:
    """Optical density (log10) against glass, mean of R, G, B, smoothed; uint8 [h, w] in 1/100."""
    import cv2

    smooth = cv2.GaussianBlur(density_of(image).mean(2), (0, 0), _SMOOTH_UM / mpp)
    return np.asarray(np.clip(np.rint(100 * smooth), 0, 255), np.uint8)


def density_of(image: Pixels) -> NDArray[np.float32]:
    """Optical density (log10) of R, G, B against the slide's own glass; float32 [h, w, 3]."""
    light = np.maximum(image, 1).astype(np.float32) / glass_colour(image)
    return np.asarray(np.clip(-np.log10(light), 0, None), np.float32)


def glass_colour(image: Pixels) -> NDArray[np.float32]:
    """R, G, B of glass: the median of the brightest tenth; float32 [3], at least 1.

    Where that tenth has colour there is no glass to be seen, and its brightest channel is taken
    for all three.
    """
    brightness = image.max(2)
    colour = np.median(image[brightness >= np.quantile(brightness, 0.9)], axis=0)
    if 255 * (colour.max() - colour.min()) > _MOST_TINT * colour.max():
        colour[:] = colour.max()
    return np.asarray(np.maximum(colour, 1), np.float32)


def entropy(image: Pixels, mpp: float) -> Pixels:
    """Shannon entropy of the grey values within 40 µm; uint8 [h, w] in 1/32 bit.

    Grey values are taken in steps of 4 relative to the glass, so that its noise has none.
    """
    import cv2
    from skimage import filters

    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    glass = float(np.median(grey[grey >= np.quantile(grey, 0.9)]))
    # Steps begin half a step above glass: its noise stays within one.
    steps = np.rint((grey - glass) / _GREY_LEVELS) + round(glass / _GREY_LEVELS)
    near = disk(_TEXTURE_UM / mpp)
    rank: Any = filters.rank
    bits = rank.entropy(np.clip(steps, 0, 255).astype(np.uint8), near)
    return np.asarray(np.clip(np.rint(32 * bits), 0, 255), np.uint8)


_SCORES: Mapping[str, _Score] = {
    "saturation": _Score(saturation, (12, 28), 14.0),
    "density": _Score(density, (3, 8), 4.0),
    "entropy": _Score(entropy, (32, 80), 40.0),
}
