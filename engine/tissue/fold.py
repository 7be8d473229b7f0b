"""Folds: where tissue lies on itself, a ridge of twice the density in the same stain."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from ..slides.base import Pixels
from .brightfield import blur_reach_px, density_of, glass_colour
from .shapes import (
    Mask,
    by_bands,
    counts,
    disk,
    opened,
    overlapping,
    pieces,
    window,
    without_specks,
)

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

    found = np.zeros(tissue.shape, bool)
    if not tissue.any() or mpp > _NARROWEST_UM / 2:
        return found
    glass = glass_colour(image)
    ridges = opened(_ridges(image, tissue, glass, mpp), _NARROWEST_UM / 2 / mpp)
    ridges = without_specks(ridges, _NARROWEST_UM * _SHORTEST_UM / mpp**2)
    for part, piece in _pieces(ridges, _FAR_UM / mpp):
        if _is_long(piece, mpp) and _is_doubled(
            piece, ridges[part], tissue[part], _smooth_density(image, glass, part, mpp), mpp
        ):
            found[part] |= piece
    return found


def _pieces(mask: Mask, margin_px: float) -> Iterator[tuple[tuple[slice, slice], Mask]]:
    """Each connected piece in a part of the mask, with a margin, and where that part is."""
    import cv2

    outlines, tree = cv2.findContours(mask.view(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    for outline, (*_, parent) in zip(outlines, [] if tree is None else tree[0], strict=True):
        if parent >= 0:
            # The outline of a hole.
            continue
        part = window(cv2.boundingRect(outline), mask.shape, margin_px)
        numbers, _ = pieces(mask[part])
        x, y = outline[0, 0]
        yield part, np.asarray(numbers == numbers[y - part[0].start, x - part[1].start])


def _ridges(image: Pixels, tissue: Mask, glass: NDArray[np.float32], mpp: float) -> Mask:
    """Where the mean density of R, G, B stands out of what is around, wider than a fold may be."""
    import cv2

    sigma, widest = _SMOOTH_UM / mpp, disk(_WIDEST_UM / 2 / mpp)
    reach_px = blur_reach_px(sigma)

    def mean_of(part: Pixels) -> NDArray[np.float32]:
        mean: NDArray[np.float32] = _smooth(part, glass, sigma).mean(2)
        return mean

    # Glass beside a strand is no surroundings: it takes the slide's usual density.
    usual = _median(mean_of, image, tissue, reach_px)

    def stands_out(part: Pixels, tissue: Mask) -> Mask:
        mean = mean_of(part)
        filled = np.where(tissue, mean, usual)
        beside = _LEAST_RATIO * np.asarray(cv2.dilate(cv2.erode(filled, widest), widest))
        return tissue & (mean > _LEAST_DENSITY) & (mean > beside)

    return by_bands(stands_out, image, tissue, reach_px=reach_px + len(widest))


def _median(
    of: Callable[[Pixels], NDArray[np.float32]], image: Pixels, where: Mask, reach_px: int
) -> np.float32:
    """Median of what ``of`` gives, none below 0, over a mask; never are all values held.

    Such numbers are in the order of their bits: the upper half of these is counted first, and
    only values that share it with the middle ones are sorted.
    """

    def upper_half(part: Pixels) -> NDArray[np.uint16]:
        # None is left as -0.
        return ((of(part) + np.float32(0)).view(np.uint32) >> 16).astype(np.uint16)

    upper = by_bands(upper_half, image, reach_px=reach_px)
    often = counts(upper, 2**16, where).cumsum()
    middle = np.array([(often[-1] - 1) // 2, often[-1] // 2])
    first, last = np.searchsorted(often, middle, side="right")
    near = where & (upper >= first) & (upper <= last)
    del upper
    kept = [of(image[seen])[own][near[rows]] for rows, seen, own in overlapping(image, reach_px)]
    before = often[first - 1] if first else 0
    return np.float32(np.sort(np.concatenate(kept))[middle - before].mean())


def _smooth(image: Pixels, glass: NDArray[np.float32], sigma_px: float) -> NDArray[np.float32]:
    import cv2

    return np.asarray(cv2.GaussianBlur(density_of(image, glass), (0, 0), sigma_px), np.float32)


def _smooth_density(
    image: Pixels, glass: NDArray[np.float32], part: tuple[slice, slice], mpp: float
) -> NDArray[np.float32]:
    """Density of a part of an overview, smoothed with what is around it: float32 [h, w, 3]."""
    sigma = _SMOOTH_UM / mpp
    inner = [s.indices(side)[:2] for s, side in zip(part, image.shape, strict=False)]
    (top, bottom), (left, right) = inner
    x, y, width, height = left, top, right - left, bottom - top
    around = window((x, y, width, height), image.shape[:2], 4 * sigma)
    density = _smooth(image[around], glass, sigma)
    rows = slice(top - around[0].start, bottom - around[0].start)
    columns = slice(left - around[1].start, right - around[1].start)
    return density[rows, columns]


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
