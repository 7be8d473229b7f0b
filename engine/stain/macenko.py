"""A slide's own haematoxylin and eosin, found by Macenko's method."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .density import MIN_DENSITY, REFERENCE, RUIFROK_HED, Floats, Stains, optical_density, stained

Background = Literal["density", "luminosity"]

MIN_STAINED_PX = 500
_SCALE_FLOOR = 0.15
_MAX_FROM_REFERENCE_RAD = math.radians(35)
_MIN_BETWEEN_RAD = math.radians(10)
_LUMINOSITY = 0.8


def estimate_stains(
    rgb: NDArray[np.uint8],
    *,
    min_density: float = MIN_DENSITY,
    percentile: float = 1.0,
    background: Background = "density",
) -> Stains:
    """Find a slide's own haematoxylin and eosin.

    Pixels of tissue lie between two directions of optical density, those of the pure stains; the
    extreme directions within the plane of largest variance are taken for them.

    Parameters
    ----------
    rgb
        uint8 [..., 3]: pixels from all over the slide, at full resolution.
    min_density
        Pixels whose optical density (length of the RGB vector) is less are background.
    percentile
        The extremes are this percentile and its complement, so that noise does not decide.
    background
        ``density``: by ``min_density``. ``luminosity``: as tiatoolbox does it, for comparison
        with results of its ``MacenkoNormalizer`` (see Notes); ``min_density`` is not used.

    Returns
    -------
    Stains
        With ``source="reference"`` where there are too few stained pixels, or where what was found
        is not a pair of haematoxylin and eosin.

    Notes
    -----
    Macenko et al. drop a pixel when any channel is below the limit, which drops pale eosin (it
    hardly absorbs red); the length of the vector is the limit here.

    tiatoolbox stretches the contrast of the image at hand and keeps what has a luminosity (L of
    CIELAB) below 0.8 for the directions, but takes the 99th percentiles over all pixels, so that
    they fall with the share of glass. Here they are those of the stained pixels, and at least
    0.15, so that a trace of one stain is not blown up.

    References
    ----------
    Macenko et al. (2009), A method for normalizing histology slides for quantitative analysis,
    ISBI, 1107-1110.
    """
    if rgb.size < 3 * MIN_STAINED_PX:
        return REFERENCE
    density = optical_density(rgb).reshape(-1, 3).astype(np.float64)
    if background == "luminosity":
        kept, scaled, floor = density[_dark(rgb).ravel()], density, 0.0
    else:
        kept = scaled = density[stained(density, min_density)]
        floor = _SCALE_FLOOR
    if len(kept) < MIN_STAINED_PX:
        return REFERENCE
    return as_stains(_extremes(kept, percentile), scaled, floor)


def as_stains(vectors: Floats, density: Floats, floor: float = _SCALE_FLOOR) -> Stains:
    """Vectors [2, 3] with the scale of some pixels; the reference where they are no H&E."""
    reference = RUIFROK_HED[:2] / np.linalg.norm(RUIFROK_HED[:2], axis=1, keepdims=True)
    if _plausible(vectors, reference):
        return _stains(vectors, _scale(density, vectors, floor), "estimated")
    return _stains(reference, _scale(density, reference, _SCALE_FLOOR), "reference")


def _dark(rgb: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """tiatoolbox's tissue mask: dark after the contrast was stretched."""
    import cv2

    image = np.ascontiguousarray(rgb).reshape(-1, rgb.shape[-2], 3)
    low, high = np.percentile(image, (2, 98))
    if low >= high:
        low, high = image.min(), image.max()
    if high > low:
        image = ((np.clip(image, low, high) - low) / (high - low) * 255).astype(np.uint8)
    lab = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2LAB))
    dark: NDArray[np.bool_] = lab[..., 0] / 255.0 < _LUMINOSITY
    return dark


def _stains(vectors: Floats, scale: Floats, source: Literal["estimated", "reference"]) -> Stains:
    (h, e), (scale_h, scale_e) = vectors.tolist(), scale.tolist()
    return Stains(tuple(h), tuple(e), (scale_h, scale_e), source)


def _extremes(density: Floats, percentile: float) -> Floats:
    _, axes = np.linalg.eigh(np.cov(density, rowvar=False))
    plane = axes[:, [2, 1]]
    plane = plane * np.where(plane[0] < 0, -1.0, 1.0)
    projected = density @ plane
    angles = np.arctan2(projected[:, 1], projected[:, 0])
    low, high = np.percentile(angles, [percentile, 100 - percentile])
    pair: Floats = np.array([plane @ (math.cos(a), math.sin(a)) for a in (low, high)])
    # Haematoxylin absorbs red, eosin hardly does.
    return pair[np.argsort(-pair[:, 0])]


def _plausible(vectors: Floats, reference: Floats) -> bool:
    angles = np.arccos(np.clip((vectors * reference).sum(1), -1, 1))
    between = math.acos(float(np.clip(vectors[0] @ vectors[1], -1, 1)))
    return bool((angles <= _MAX_FROM_REFERENCE_RAD).all() and between >= _MIN_BETWEEN_RAD)


def _scale(density: Floats, vectors: Floats, floor: float) -> Floats:
    amounts = density @ np.linalg.pinv(vectors)
    scale: Floats = np.maximum(np.percentile(amounts, 99, axis=0), floor)
    return scale
