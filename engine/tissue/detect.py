"""Where the tissue of a slide is, and what lies on it that is none."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...storage.errors import NoTissue
from ..grid import without_mpp
from ..slides.base import ChannelSlide, Pixels, Slide, not_brightfield
from ..tiles import read_channel_overview, read_overview
from .blur import blurred
from .brightfield import stained
from .fluorescence import glowing
from .fold import folds
from .mask import BACKGROUND, BLUR, BUBBLE, EDGE, FOLD, LABELS, PEN, TISSUE, TissueMask
from .methods import AUTO, FLUORESCENCE, model_path, require_method
from .pen import pen_strokes
from .rims import bubbles_and_edges
from .segmenter import load_segmenter

VERSION = 3
"""Goes up with every change that alters a mask."""

DEFAULT_MPP = 8.0


def find_tissue(
    slide: Slide, *, mpp: float = DEFAULT_MPP, method: str = AUTO, artefacts: bool = True
) -> TissueMask:
    """Find the tissue of a slide.

    Parameters
    ----------
    mpp
        Micrometres per pixel of the mask. A slide that is coarser is taken as it is.
    method
        ``saturation``, ``density``, ``entropy`` (:func:`~.brightfield.stained`),
        ``fluorescence`` (:func:`~.fluorescence.glowing`), or ``model:PATH``, a segmenter that
        :func:`~.segmenter.train_segmenter` made. ``auto`` is fluorescence for a slide of
        channels, else one of the first three, by the rule that is told there.
    artefacts
        Look for pen, folds, blur, bubbles and coverslip edges, and label them. They are made
        for H&E and immunohistochemistry: other stains may have the colours of ink. None are
        looked for in fluorescence.

    Raises
    ------
    BadModel
        There is no such method, or the model cannot be used.
    NoResolution
        The slide has no mpp. What is dust and what is a biopsy is a matter of micrometres, so no
        resolution is made up; ``open_slide(path, mpp=...)`` takes the scanner's value.
    NotBrightfield
        The slide has channels, and the method needs colours.
    NoTissue
        Not one piece of tissue of 0.02 mm², or all of it is an artefact.
    """
    require_method(method)
    info = slide.info
    if info.mpp is None:
        raise without_mpp(info)
    at = max(mpp, *info.mpp)
    if method == FLUORESCENCE or (method == AUTO and info.channels):
        labels, downsample = _label_channels(slide, at)
    else:
        image, downsample = read_overview(slide, mpp=at)
        labels = label_tissue(image, mpp=at, method=method, artefacts=artefacts)
        del image
        if artefacts:
            labels[blurred(slide, labels == TISSUE)] = BLUR
    mpp_mask = (info.mpp[0] * downsample[0], info.mpp[1] * downsample[1])
    mask = TissueMask(labels, downsample, mpp_mask)
    if not mask.tissue.any():
        raise _no_tissue(mask, slide)
    return mask


def _label_channels(slide: Slide, mpp: float) -> tuple[NDArray[np.uint8], tuple[float, float]]:
    if not isinstance(slide, ChannelSlide):
        raise not_brightfield(slide.info)
    values, downsample = read_channel_overview(slide, mpp=mpp)
    return np.where(glowing(values, mpp=mpp), TISSUE, BACKGROUND).astype(np.uint8), downsample


def label_tissue(
    image: Pixels, *, mpp: float, method: str = AUTO, artefacts: bool = True
) -> NDArray[np.uint8]:
    """Tell tissue, glass and artefacts apart in an overview of a bright-field slide.

    Pen, bubbles and edges are set aside first; tissue is found in the rest; folds are found in
    the tissue. A model labels the kinds that it was taught; the others are found as always.

    Parameters
    ----------
    image
        uint8 [h, w, 3] RGB.
    mpp
        Micrometres per pixel of ``image``.
    method, artefacts
        See :func:`find_tissue`. Blur is not seen at this resolution.

    Returns
    -------
    uint8 [h, w]
        0 background, or a key of :data:`~.mask.LABELS`.
    """
    found = np.zeros(image.shape[:2], np.uint8)
    if artefacts:
        bubble, edge = bubbles_and_edges(image, mpp=mpp)
        found[edge], found[bubble] = EDGE, BUBBLE
        del bubble, edge
        found[pen_strokes(image, mpp=mpp)] = PEN
    path = model_path(method)
    if path is None:
        labels = found
        labels[stained(image, found == BACKGROUND, mpp=mpp, method=method)] = TISSUE
    else:
        segmenter = load_segmenter(path)
        labels = segmenter.label(image, mpp=mpp)
        for kind in {EDGE, BUBBLE, PEN} - set(segmenter.labels):
            labels[found == kind] = kind
    if artefacts:
        labels[folds(image, labels == TISSUE, mpp=mpp)] = FOLD
    return labels


def _no_tissue(mask: TissueMask, slide: Slide) -> NoTissue:
    there = [style.name for label, style in LABELS.items() if (mask.labels == label).any()]
    return NoTissue(
        f"no tissue was found, only {', '.join(there)}" if there else "no tissue was found",
        where=slide.info.path,
        remedy="Look at the slide; is it empty, unstained or out of focus?",
    )
