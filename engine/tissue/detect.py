"""Where the tissue is: Otsu's threshold on saturation, with guards against glass and ink."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...storage.errors import NoTissue
from ..grid import without_mpp
from ..quality import ink_pixels
from ..slides.base import Pixels, Slide
from ..tiles import read_overview
from .mask import BACKGROUND, PEN, TISSUE, TissueMask
from .methods import require_method

VERSION = 1
"""Goes up with every change that alters a mask."""

DEFAULT_MPP = 8.0
_SMALLEST_UM2 = 20_000.0
"""Smaller pieces of tissue are dropped, smaller holes filled: a square of 140 µm."""
_SMALLEST_INK_UM2 = 40_000.0
_INK_MARGIN_UM = 40.0
_GAP_UM = 20.0
_SMOOTH_UM = 10.0

_SATURATION = (12, 28)
"""Otsu's threshold is kept in here (of 255): glass is paler, stained tissue is not."""
_LEAST_CONTRAST = 14.0
"""Mean saturation of tissue above that of glass; less is one cloud, cut in two by Otsu."""


def find_tissue(
    slide: Slide, *, mpp: float = DEFAULT_MPP, method: str = "auto", artefacts: bool = True
) -> TissueMask:
    """Find the tissue of a slide.

    Parameters
    ----------
    mpp
        Micrometres per pixel of the mask. A slide that is coarser is taken as it is.
    method
        One of :data:`~microtome.engine.tissue.methods.METHODS`.
    artefacts
        Look for what lies on tissue and is none, and label it.

    Raises
    ------
    BadModel
        There is no such method.
    NoResolution
        The slide has no mpp. What is dust and what is a biopsy is a matter of micrometres, so no
        resolution is made up; ``open_slide(path, mpp=...)`` takes the scanner's value.
    NoTissue
        Not one piece of tissue of 0.02 mm².
    """
    require_method(method)
    info = slide.info
    if info.mpp is None:
        raise without_mpp(info)
    image, downsample = read_overview(slide, mpp=max(mpp, *info.mpp))
    mpp_mask = (info.mpp[0] * downsample[0], info.mpp[1] * downsample[1])
    labels = label_tissue(image, mpp=(mpp_mask[0] * mpp_mask[1]) ** 0.5, artefacts=artefacts)
    mask = TissueMask(labels, downsample, mpp_mask)
    if not mask.tissue.any():
        raise NoTissue(
            "no tissue was found",
            where=info.path,
            remedy="Look at the slide; is it empty, unstained or out of focus?",
        )
    return mask


def label_tissue(image: Pixels, *, mpp: float, artefacts: bool = True) -> NDArray[np.uint8]:
    """Tell tissue, glass and ink apart in an overview of a bright-field slide.

    Ink is set aside first. Of the rest, tissue is what has a saturation (of HSV) above Otsu's
    threshold; where the two sides differ by less than ``14 / 255`` there is but one of them, and
    nothing is tissue. Gaps up to 20 µm are closed, pieces and holes below 0.02 mm² removed.
    Red ink has the colour of eosin and is not told from it.

    Parameters
    ----------
    image
        uint8 [h, w, 3] RGB.
    mpp
        Micrometres per pixel of ``image``.

    Returns
    -------
    uint8 [h, w]
        0 background, 1 tissue, 2 pen.

    References
    ----------
    Otsu (1979), A threshold selection method from gray-level histograms, IEEE Trans SMC 9:62-66.
    """
    import cv2

    hsv = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2HSV), np.uint8)
    ink = _find_ink(image, mpp) if artefacts else np.zeros(image.shape[:2], bool)
    smooth = np.asarray(cv2.GaussianBlur(hsv[..., 1], (0, 0), _SMOOTH_UM / mpp), np.uint8)
    stained = _above_otsu(smooth, ~ink)
    stained = _closed(stained, _GAP_UM / mpp)
    stained = _without_specks(stained, _SMALLEST_UM2 / mpp**2)
    stained = _without_holes(stained, _SMALLEST_UM2 / mpp**2)
    labels = np.where(stained, TISSUE, BACKGROUND).astype(np.uint8)
    labels[ink] = PEN
    return labels


def _find_ink(image: Pixels, mpp: float) -> NDArray[np.bool_]:
    """Pen strokes with a margin; flecks of their colour are no strokes."""
    ink = _without_specks(ink_pixels(image), _SMALLEST_INK_UM2 / mpp**2)
    return _dilated(ink, _INK_MARGIN_UM / mpp) if ink.any() else ink


def _above_otsu(saturation: Pixels, usable: NDArray[np.bool_]) -> NDArray[np.bool_]:
    import cv2

    sample = saturation[usable]
    if sample.size == 0:
        return np.zeros(saturation.shape, bool)
    otsu, _ = cv2.threshold(sample, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    above = sample > otsu
    if above.all() or not above.any():
        return np.zeros(saturation.shape, bool)
    if sample[above].mean() - sample[~above].mean() < _LEAST_CONTRAST:
        return np.zeros(saturation.shape, bool)
    stained: NDArray[np.bool_] = (saturation > np.clip(otsu, *_SATURATION)) & usable
    return stained


def _closed(mask: NDArray[np.bool_], radius_px: float) -> NDArray[np.bool_]:
    import cv2

    closed = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_CLOSE, _disk(radius_px))
    return np.asarray(closed, bool)


def _dilated(mask: NDArray[np.bool_], radius_px: float) -> NDArray[np.bool_]:
    import cv2

    return np.asarray(cv2.dilate(mask.astype(np.uint8), _disk(radius_px)), bool)


def _disk(radius_px: float) -> Pixels:
    import cv2

    side = 2 * round(radius_px) + 1
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)), np.uint8)


def _without_specks(mask: NDArray[np.bool_], least_px: float) -> NDArray[np.bool_]:
    """Drop connected pieces that are smaller than ``least_px`` pixels."""
    pieces, areas = _pieces(mask)
    return (mask & (areas >= least_px)[pieces]).astype(np.bool_)


def _without_holes(mask: NDArray[np.bool_], least_px: float) -> NDArray[np.bool_]:
    """Fill enclosed holes that are smaller than ``least_px`` pixels."""
    pieces, areas = _pieces(~mask)
    enclosed = areas < least_px
    for edge in (pieces[0], pieces[-1], pieces[:, 0], pieces[:, -1]):
        enclosed[edge] = False
    return (mask | enclosed[pieces]).astype(np.bool_)


def _pieces(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Connected pieces (8 neighbours), 0 where the mask is false, and their areas in pixels."""
    import cv2

    found = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    areas = np.asarray(found[2], np.int64)[:, cv2.CC_STAT_AREA]
    return np.asarray(found[1], np.int32), areas
