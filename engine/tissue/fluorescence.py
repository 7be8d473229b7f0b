"""Tissue in fluorescence: all channels, each on its own scale, logarithm, Otsu."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .shapes import SMALLEST_UM2, Mask, closed, without_holes, without_specks

_GAP_UM = 20.0
_SMOOTH_UM = 10.0
_LEAST_RATIO = 1.25
"""Tissue over glass, in the values of one channel at least; uneven light is less."""
_LEAST_NOISES = 3.0
"""Range of a channel over its noise, at least; of noise alone it is below 2 once smoothed."""
_LOG_GAIN = 9.0


def glowing(values: NDArray[np.float32], *, mpp: float) -> Mask:
    """Find tissue in an overview of a slide of channels.

    Each channel is smoothed over 10 µm and scaled from its 5th percentile (0) to its 99.5th (1);
    those whose range is below 3 standard deviations of their noise, or below a quarter of their
    background, hold no signal and are left out. Of ``log(1 + 9 x)``, averaged over the channels,
    tissue is what lies above Otsu's threshold, if in one channel at least its median is 1.25
    times that of the rest. Gaps up to 20 µm are closed, pieces and holes below 0.02 mm² removed.

    Parameters
    ----------
    values
        float32 [c, h, w], in the file's values: the background is near their zero.
    mpp
        Micrometres per pixel of ``values``.

    Returns
    -------
    bool [h, w]

    References
    ----------
    Otsu (1979), A threshold selection method from gray-level histograms, IEEE Trans SMC 9:62-66.
    """
    import cv2

    smooth = np.stack([cv2.GaussianBlur(plane, (0, 0), _SMOOTH_UM / mpp) for plane in values])
    low, high = np.percentile(smooth, (5, 99.5), axis=(1, 2))
    noise = np.array([_noise(plane) for plane in values])
    signal = (high - low > _LEAST_NOISES * noise) & (high > _LEAST_RATIO * low) & (high > 0)
    nothing = np.zeros(values.shape[1:], bool)
    if not signal.any():
        return nothing
    low, high = low[signal, None, None], high[signal, None, None]
    scaled = np.clip((smooth[signal] - low) / (high - low), 0, 1)
    figure = np.log1p(_LOG_GAIN * scaled).mean(0) / np.log1p(_LOG_GAIN)
    grey = np.rint(255 * figure).astype(np.uint8)
    otsu, _ = cv2.threshold(grey, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    above = grey > otsu
    if above.all() or not above.any():
        return nothing
    tissue, glass = (np.median(smooth[signal][:, side], axis=1) for side in (above, ~above))
    if not (tissue > _LEAST_RATIO * glass).any():
        return nothing
    found = without_specks(closed(above, _GAP_UM / mpp), SMALLEST_UM2 / mpp**2)
    return without_holes(found, SMALLEST_UM2 / mpp**2)


def _noise(plane: NDArray[np.float32]) -> float:
    """Standard deviation of the noise, from the flatter half of the picture.

    A quarter of the values of a normal distribution lie within 0.3186 deviations of its mean.

    References
    ----------
    Immerkær (1996), Fast noise variance estimation, Comput Vis Image Underst 64:300-302: the mask.
    """
    import cv2

    mask = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32) / 6
    edges = np.abs(cv2.filter2D(plane, cv2.CV_32F, mask))
    return float(np.quantile(edges, 0.25)) / 0.3186


def channel_picture(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Show channels in false colours, each from its 5th to its 99.5th percentile.

    One channel is grey; of several, the hues are spread evenly, and where they meet they add up.

    Returns
    -------
    uint8 [h, w, 3]
        RGB.
    """
    import cv2

    low, high = np.percentile(values, (5, 99.5), axis=(1, 2))
    span = np.maximum(high - low, np.finfo(np.float32).tiny)
    scaled = np.clip((values - low[:, None, None]) / span[:, None, None], 0, 1)
    hues = np.zeros((1, len(values), 3), np.uint8)
    hues[0, :, 0] = np.linspace(120, -60, len(values), endpoint=False) % 180
    hues[0, :, 1:] = (255 if len(values) > 1 else 0, 255)
    colours = cv2.cvtColor(hues, cv2.COLOR_HSV2RGB)[0].astype(np.float32)
    mixed = np.tensordot(scaled, colours, axes=(0, 0))
    return np.clip(np.rint(mixed), 0, 255).astype(np.uint8)
