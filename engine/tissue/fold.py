"""Folds: where tissue lies on itself, a ridge of twice the density in the same stain."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..slides.base import Pixels
from .brightfield import density_of, glass_colour
from .shapes import Mask, bands, disk, opened, window

_SMOOTH_UM = 15.0
_WIDEST_UM = 250.0
_NARROWEST_UM = 40.0
_SHORTEST_UM = 400.0
_LEAST_RATIO = 1.5
"""Density of a fold over that of the tissue beside it; of two layers it is 2."""
_LEAST_DENSITY = 0.15
"""log10, mean of R, G, B: paler tissue may well have darker strands."""
_SAME_STAIN = 0.98
"""Cosine between the densities of fold and surroundings in R, G, B."""
_TISSUE_BESIDE = 0.7
_NEAR_UM, _FAR_UM = 30.0, 110.0
"""Between these distances lies what is beside a fold."""
_LEAST_LENGTH = 2.5
"""Length over width."""


def folds(image: Pixels, tissue: Mask, *, mpp: float) -> Mask:
    """Find folds in an overview.

    A fold is 40 to 250 µm wide, 0.4 mm long at least, and 2.5 times as long as wide. Its optical
    density, smoothed over 15 µm, is at least 1.5 times what lies beside it, 70 % of that is
    tissue, and the proportions of red, green and blue are the same (cosine over 0.98), which
    those of epithelium along stroma are not. Folds along the edge of a section, wider ones, and
    those between two different tissues are so not found.

    Parameters
    ----------
    image
        uint8 [h, w, 3] RGB.
    tissue
        bool [h, w].
    mpp
        Micrometres per pixel of ``image``; coarser than 20 there is no width to be seen, and
        nothing is found.

    Returns
    -------
    bool [h, w]

    References
    ----------
    Bautista & Yagi (2009), Detection of tissue folds in whole slide images, EMBC:3669-3672: folds
    by their saturation and intensity against the rest of the section.
    """
    import cv2

    found = np.zeros(tissue.shape, bool)
    if not tissue.any() or mpp > _NARROWEST_UM / 2:
        return found
    glass = glass_colour(image)
    mean = np.empty(tissue.shape, np.float32)
    for rows in bands(tissue.shape):
        mean[rows] = _smooth_density(image, glass, (rows, slice(None)), mpp).mean(2)
    # Glass beside a strand is no surroundings: it takes the slide's usual density.
    usual = np.median(mean[tissue], overwrite_input=True)
    filled = np.where(tissue, mean, np.float32(usual))
    beside = np.asarray(cv2.erode(filled, disk(_WIDEST_UM / 2 / mpp)))
    cv2.dilate(beside, disk(_WIDEST_UM / 2 / mpp), dst=filled)
    del beside
    filled *= np.float32(_LEAST_RATIO)
    ridges = tissue & (mean > _LEAST_DENSITY) & (mean > filled)
    del mean, filled
    ridges = opened(ridges, _NARROWEST_UM / 2 / mpp)
    count, numbers, boxes, _ = cv2.connectedComponentsWithStats(ridges.astype(np.uint8))
    for number in range(1, count):
        *box, area = boxes[number].tolist()
        if area * mpp**2 < _NARROWEST_UM * _SHORTEST_UM:
            continue
        part = window(box, ridges.shape, _FAR_UM / mpp)
        piece = np.asarray(numbers[part] == number)
        if _is_long(piece, mpp) and _is_doubled(
            piece, ridges[part], tissue[part], _smooth_density(image, glass, part, mpp), mpp
        ):
            found[part] |= piece
    return found


def _smooth_density(
    image: Pixels, glass: NDArray[np.float32], part: tuple[slice, slice], mpp: float
) -> NDArray[np.float32]:
    """Density of a part of an overview, smoothed with what is around it: float32 [h, w, 3]."""
    import cv2

    sigma = _SMOOTH_UM / mpp
    inner = [s.indices(side)[:2] for s, side in zip(part, image.shape, strict=False)]
    (top, bottom), (left, right) = inner
    x, y, width, height = left, top, right - left, bottom - top
    around = window((x, y, width, height), image.shape[:2], 4 * sigma)
    density = cv2.GaussianBlur(density_of(image[around], glass), (0, 0), sigma)
    rows = slice(top - around[0].start, bottom - around[0].start)
    columns = slice(left - around[1].start, right - around[1].start)
    return np.asarray(density[rows, columns], np.float32)


def _is_long(piece: Mask, mpp: float) -> bool:
    """By length and width of the rectangle with the same second moments and area."""
    places = np.argwhere(piece) * mpp
    length = float(np.sqrt(12 * np.linalg.eigvalsh(np.cov(places.T))[-1]))
    width = len(places) * mpp**2 / length
    return length >= max(_SHORTEST_UM, _LEAST_LENGTH * width)


def _is_doubled(
    piece: Mask, ridges: Mask, tissue: Mask, density: NDArray[np.float32], mpp: float
) -> bool:
    """Whether a piece is denser than plain tissue on both sides of it, and of the same stain."""
    import cv2

    apart = cv2.distanceTransform((~piece).astype(np.uint8), cv2.DIST_L2, 5) * mpp
    beside = (apart > _NEAR_UM) & (apart < _FAR_UM) & (~ridges | piece)
    plain = beside & tissue
    if plain.sum() < _TISSUE_BESIDE * beside.sum():
        return False
    mine, its = density[piece].mean(0), density[plain].mean(0)
    cosine = mine @ its / (np.linalg.norm(mine) * np.linalg.norm(its))
    return bool(mine.mean() > _LEAST_RATIO * its.mean() and cosine > _SAME_STAIN)
