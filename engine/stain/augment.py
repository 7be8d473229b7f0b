"""Other shades of the same tissue: augmentation in the space of the stains."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .density import Floats, Stains, tissue_weight


def augment(
    tiles: NDArray[np.uint8],
    stains: Stains,
    rng: np.random.Generator,
    *,
    sigma_alpha: float = 0.05,
    sigma_beta: float = 0.05,
) -> NDArray[np.uint8]:
    """Change how strongly each stain shows, for each tile by itself.

    The amount c of a stain becomes ``α c + β``, with α drawn evenly from 1 ± ``sigma_alpha`` and β
    from ± ``sigma_beta``. Amounts are never made negative; what is no stain in a pixel's colour is
    kept. Empty glass is left untouched: up to an optical density of 0.1 nothing changes, and from
    there to 0.2 ever more does, so that no edge appears.

    Parameters
    ----------
    tiles
        uint8 [b, t, t, 3] RGB.
    stains
        Of their slide; amounts count in units of its :attr:`~Stains.scale`.
    rng
        Decides everything: equal states give equal tiles.
    sigma_alpha, sigma_beta
        Tellez et al. call 0.05 light and 0.2 strong, in units of fixed stain vectors.

    Returns
    -------
    uint8 [b, t, t, 3]

    Raises
    ------
    ValueError
        Sigmas that are negative, or ``sigma_alpha`` over 1.

    References
    ----------
    Tellez et al. (2018), Whole-slide mitosis detection in H&E breast histology using PHH3 as a
    reference to train distilled stain-invariant convolutional networks, IEEE TMI 37:2126-2136.
    Tellez et al. (2019), Quantifying the effects of data augmentation and stain color
    normalization in convolutional neural networks, Medical Image Analysis 58:101544.
    """
    if not 0 <= sigma_alpha <= 1 or not 0 <= sigma_beta < math.inf:
        raise ValueError("sigma_alpha lies in 0 … 1, and sigma_beta is not negative")
    drawn = rng.uniform(-1, 1, (len(tiles), 2, 2))
    out = np.empty_like(tiles)
    for restained, tile, (a, b) in zip(out, tiles, drawn, strict=True):
        restained[:] = restain(tile, stains, 1 + sigma_alpha * a, sigma_beta * b)
    return out


def restain(
    tile: NDArray[np.uint8], stains: Stains, alpha: Floats, beta: Floats
) -> NDArray[np.uint8]:
    """One tile, uint8 [h, w, 3], with its amounts c changed to ``alpha c + beta``, [2] each."""
    import cv2

    amounts = stains.separate(tile)
    affine = np.array([[alpha[0], 0, beta[0]], [0, alpha[1], beta[1]]], np.float32)
    more: Any = cv2.subtract(np.maximum(cv2.transform(amounts, affine), 0), amounts)
    weight = tissue_weight(tile)
    more = cv2.multiply(more, cv2.merge([weight, weight]))
    # Relative to the pixel, so that what the stains do not explain, and black, stay as they are.
    density = (stains.vectors * np.array(stains.scale)[:, None]).T * -math.log(10)
    passed: Any = cv2.exp(cv2.transform(more, density.astype(np.float32)))
    return np.asarray(cv2.convertScaleAbs(passed * tile), np.uint8)
