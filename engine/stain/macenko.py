"""A slide's own haematoxylin and eosin, found by Macenko's method."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .density import REFERENCE, RUIFROK_HED, Floats, Stains, optical_density

_MIN_STAINED_PX = 500
_SCALE_FLOOR = 0.15
_MAX_FROM_REFERENCE_RAD = math.radians(35)
_MIN_BETWEEN_RAD = math.radians(10)


def estimate_stains(
    rgb: NDArray[np.uint8], *, min_density: float = 0.15, percentile: float = 1.0
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

    Returns
    -------
    Stains
        With ``source="reference"`` where there are too few stained pixels, or where what was found
        is not a pair of haematoxylin and eosin.

    Notes
    -----
    Macenko et al. drop a pixel when any channel is below the limit, which drops pale eosin (it
    hardly absorbs red); the length of the vector is the limit here.

    References
    ----------
    Macenko et al. (2009), A method for normalizing histology slides for quantitative analysis,
    ISBI, 1107-1110.
    """
    if rgb.size < 3 * _MIN_STAINED_PX:
        return REFERENCE
    density = optical_density(rgb).reshape(-1, 3).astype(np.float64)
    density = density[np.linalg.norm(density, axis=1) >= min_density]
    reference = RUIFROK_HED[:2] / np.linalg.norm(RUIFROK_HED[:2], axis=1, keepdims=True)
    if len(density) < _MIN_STAINED_PX:
        return REFERENCE
    vectors = _extremes(density, percentile)
    if _plausible(vectors, reference):
        return _stains(vectors, _scale(density, vectors), "estimated")
    return _stains(reference, _scale(density, reference), "reference")


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


def _scale(density: Floats, vectors: Floats) -> Floats:
    amounts = density @ np.linalg.pinv(vectors)
    scale: Floats = np.maximum(np.percentile(amounts, 99, axis=0), _SCALE_FLOOR)
    return scale
