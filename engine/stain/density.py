"""Optical density, and the amounts of stains that make it up."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Source = Literal["estimated", "reference", "published"]

RUIFROK_HED: Floats = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
"""Optical density in (R, G, B) of haematoxylin, eosin and DAB (Ruifrok & Johnston 2001)."""

MIN_DENSITY = 0.15
"""Pixels with less optical density (length of the RGB vector) are background."""
GLASS_DENSITY, TISSUE_DENSITY = 0.1, 0.2
"""Optical density up to which a pixel is glass, and from which it is tissue."""

_OD: NDArray[np.float32] = -np.log10(np.maximum(np.arange(256), 1) / 255.0).astype(np.float32)


def optical_density(rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Decadic optical density ``-log10(I / 255)``, with I = 0 taken as 1.

    Parameters
    ----------
    rgb
        uint8 [..., 3].

    Returns
    -------
    float32 [..., 3]
        0 … 2.41.
    """
    import cv2

    if not rgb.size:
        return np.zeros(rgb.shape, np.float32)
    density: Any = cv2.LUT(_as_image(rgb), _OD)
    return np.asarray(density).reshape(rgb.shape)


def stained(
    density: NDArray[np.floating[Any]], min_density: float = MIN_DENSITY
) -> NDArray[np.bool_]:
    """Which pixels of an optical density [..., 3] are no background: bool [...]."""
    kept: NDArray[np.bool_] = np.linalg.norm(density, axis=-1) >= min_density
    return kept


def tissue_weight(rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    """How far a pixel is tissue: 0 up to an optical density of 0.1 (glass), 1 from 0.2.

    Float32 [...] for uint8 [..., 3]. What would tint glass is held back by it without an edge.
    """
    import cv2

    squared: Any = cv2.transform(cv2.LUT(_as_image(rgb), _OD**2), np.ones((1, 3), np.float32))
    weight: NDArray[np.float32] = (np.sqrt(squared) - GLASS_DENSITY) / (
        TISSUE_DENSITY - GLASS_DENSITY
    )
    return np.clip(weight, 0, 1, out=weight).reshape(rgb.shape[:-1])


def separate(rgb: NDArray[np.uint8], stains: Floats) -> NDArray[np.float32]:
    """Colour deconvolution: the amount of each of three stains in every pixel.

    Beer and Lambert's law in matrix form, ``OD = amounts · stains``, solved for the amounts.
    Negative amounts, which noise and foreign colours give, are set to 0.

    Parameters
    ----------
    rgb
        uint8 [..., 3].
    stains
        [3, 3]: a row per stain, its optical density in R, G, B.

    Returns
    -------
    float32 [..., 3]
        Amounts in the order of ``stains``, in units of its rows.

    References
    ----------
    Ruifrok & Johnston (2001), Quantification of histochemical staining by color deconvolution,
    Anal Quant Cytol Histol 23:291-299.
    """
    return _unmix(rgb, np.asarray(np.linalg.inv(stains).T))


def _unmix(rgb: NDArray[np.uint8], unmixing: Floats) -> NDArray[np.float32]:
    import cv2

    density = cv2.LUT(_as_image(rgb), _OD)
    amounts: Any = cv2.transform(density, unmixing.astype(np.float32))
    np.maximum(amounts, 0, out=amounts)
    return np.asarray(amounts).reshape(*rgb.shape[:-1], len(unmixing))


def _as_image(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(rgb).reshape(-1, rgb.shape[-2], 3)


@dataclass(frozen=True)
class Stains:
    """Haematoxylin and eosin as one slide shows them.

    Attributes
    ----------
    haematoxylin, eosin
        Unit vectors of optical density in (R, G, B).
    scale
        (haematoxylin, eosin) amount that counts as 1: the slide's 99th percentile.
    source
        ``estimated`` from the slide, or ``reference`` (Ruifrok & Johnston) where the slide holds
        too little stain, or only one, to tell the two apart; ``published`` for a fixed target.
    """

    haematoxylin: tuple[float, float, float]
    eosin: tuple[float, float, float]
    scale: tuple[float, float] = (1.0, 1.0)
    source: Source = "estimated"

    @property
    def vectors(self) -> Floats:
        """[2, 3]: haematoxylin and eosin."""
        return np.array([self.haematoxylin, self.eosin])

    @property
    def matrix(self) -> Floats:
        """[3, 3]: haematoxylin, eosin, and the residual at right angles to both."""
        residual = np.cross(self.haematoxylin, self.eosin)
        return np.array([self.haematoxylin, self.eosin, residual / np.linalg.norm(residual)])

    @cached_property
    def _unmixing(self) -> Floats:
        unmixing: Floats = np.linalg.inv(self.matrix).T[:2] / np.array(self.scale)[:, None]
        return unmixing

    def separate(self, rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Normalised amounts of haematoxylin and eosin.

        Parameters
        ----------
        rgb
            uint8 [..., 3].

        Returns
        -------
        float32 [..., 2]
            0 is none, 1 is :attr:`scale`.
        """
        return _unmix(rgb, self._unmixing)


REFERENCE = Stains((0.6511, 0.7012, 0.2905), (0.0701, 0.9916, 0.1102), source="reference")
"""Ruifrok & Johnston's haematoxylin and eosin as unit vectors, for where there is no slide."""
