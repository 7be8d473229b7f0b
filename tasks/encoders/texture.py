"""Texture of one channel: pure functions on uint8 images."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]

GLCM_LEVELS = 32
GLCM_NAMES = ("contrast", "homogeneity", "energy", "correlation")
PYRAMID_BANDS = 4
LBP_BINS = 10

_NEIGHBOURS = ((0, 0), (0, 1), (0, 2), (1, 2), (2, 2), (2, 1), (2, 0), (1, 0))


def lbp_histogram(image: Image) -> NDArray[np.float32]:
    """Histogram of rotation-invariant uniform local binary patterns of the 8 neighbours.

    A pixel's pattern is the ring of its neighbours, 1 where the neighbour is at least as bright.
    A ring with at most two changes is *uniform* and counted by its number of ones (0 … 8); all
    others share the last bin. Neighbours are the eight of the square, not interpolated on a
    circle; the outermost pixels have no pattern.

    Returns
    -------
    float32 [10]
        Fractions that sum to 1.

    References
    ----------
    Ojala, Pietikäinen & Mäenpää (2002), IEEE TPAMI 24:971-987, eq. 9.
    """
    centre = image[1:-1, 1:-1]
    height, width = centre.shape
    codes = np.zeros_like(centre)
    for bit, (dy, dx) in enumerate(_NEIGHBOURS):
        ones = image[dy : dy + height, dx : dx + width] >= centre
        codes |= ones.view(np.uint8) << np.uint8(bit)
    by_code = grey_counts(codes)
    histogram = np.bincount(_uniform_bins(), weights=by_code, minlength=LBP_BINS)
    return (histogram / codes.size).astype(np.float32)


def grey_counts(image: Image) -> NDArray[np.float64]:
    """How many pixels have each of the 256 values."""
    import cv2

    counts = cv2.calcHist([image], [0], None, [256], [0, 256])
    return np.asarray(counts, np.float64).ravel()


@cache
def _uniform_bins() -> NDArray[np.int64]:
    bits = (np.arange(256)[:, None] >> np.arange(8)) & 1
    changes = (bits != np.roll(bits, 1, axis=1)).sum(1)
    bins: NDArray[np.int64] = np.where(changes <= 2, bits.sum(1), LBP_BINS - 1)
    return bins


def glcm_properties(image: Image, distance_px: int) -> NDArray[np.float32]:
    """Properties of the grey-level co-occurrence matrix, 32 levels, symmetric.

    The matrices of the four directions (0°, 45°, 90°, 135°) at one distance are normalised and
    averaged; diagonal neighbours lie ``distance_px`` away along both axes.

    Returns
    -------
    float32 [4]
        Contrast, homogeneity, energy and correlation; the correlation of a flat image is 1.

    References
    ----------
    Haralick, Shanmugam & Dinstein (1973), IEEE TSMC 3:610-621.
    """
    d = distance_px
    pairs = (
        (image[:, :-d], image[:, d:]),
        (image[:-d, :], image[d:, :]),
        (image[:-d, :-d], image[d:, d:]),
        (image[:-d, d:], image[d:, :-d]),
    )
    matrix = np.mean([_cooccurrence(a, b) / a.size for a, b in pairs], axis=0)
    p = (matrix + matrix.T) / 2
    i, j = _LEVELS[:, None], _LEVELS[None, :]
    marginal = p.sum(1)
    mean = marginal @ _LEVELS
    variance = marginal @ (_LEVELS - mean) ** 2
    covariance = ((i - mean) * (j - mean) * p).sum()
    return np.array(
        [
            ((i - j) ** 2 * p).sum(),
            (p / (1 + (i - j) ** 2)).sum(),
            np.sqrt((p**2).sum()),
            covariance / variance if variance > 1e-12 else 1.0,
        ],
        np.float32,
    )


_LEVELS = np.arange(GLCM_LEVELS, dtype=np.float64)


def _cooccurrence(a: Image, b: Image) -> NDArray[np.float64]:
    import cv2

    counts = cv2.calcHist(
        [np.ascontiguousarray(a), np.ascontiguousarray(b)],
        [0, 1], None, [GLCM_LEVELS, GLCM_LEVELS], [0, 256, 0, 256],
    )  # fmt: skip
    return np.asarray(counts, np.float64)


def pyramid_energies(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Standard deviation of each band of the Laplacian pyramid, finest first.

    Band k answers to wavelengths of about 2^(k+2) to 2^(k+3) px; band 0 to all that are shorter.

    Parameters
    ----------
    image
        float32 [h, w], each at least 16 px.

    Returns
    -------
    float32 [4]

    References
    ----------
    Burt & Adelson (1983), The Laplacian pyramid as a compact image code, IEEE Trans Commun 31.
    """
    import cv2

    level: Any = image
    energies = []
    for _ in range(PYRAMID_BANDS):
        coarser: Any = cv2.pyrDown(level)
        band = level - cv2.pyrUp(coarser, dstsize=level.shape[::-1])
        energies.append(cv2.meanStdDev(band)[1][0, 0])
        level = coarser
    return np.array(energies, np.float32)


def coherence(image: NDArray[np.float32]) -> float:
    """How far the gradients of an image share one direction: 0 none, 1 all.

    ``(λ1 - λ2) / (λ1 + λ2)`` of the structure tensor summed over the image; 0 for a flat one.

    References
    ----------
    Bigün & Granlund (1987), Optimal orientation detection of linear symmetry, ICCV.
    """
    import cv2

    gx, gy = cv2.Sobel(image, cv2.CV_32F, 1, 0).ravel(), cv2.Sobel(image, cv2.CV_32F, 0, 1).ravel()
    xx, yy, xy = float((gx * gx).sum()), float((gy * gy).sum()), float((gx * gy).sum())
    total = xx + yy
    return float(np.hypot(xx - yy, 2 * xy) / total) if total > 1e-6 else 0.0
