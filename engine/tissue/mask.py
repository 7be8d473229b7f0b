"""What a tissue mask is, and a picture of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..slides.base import ChannelSlide, Pixels, Slide
from ..tiles import read_channel_overview, read_overview
from .fluorescence import channel_picture

BACKGROUND, TISSUE, PEN, FOLD, BLUR, BUBBLE, EDGE = range(7)


@dataclass(frozen=True)
class LabelStyle:
    """How a label of the mask is called and shown: name, and red, green, blue of 0 … 255."""

    name: str
    colour: tuple[int, int, int]


LABELS: Mapping[int, LabelStyle] = {
    TISSUE: LabelStyle("tissue", (0, 150, 60)),
    PEN: LabelStyle("pen", (220, 40, 40)),
    FOLD: LabelStyle("fold", (230, 130, 20)),
    BLUR: LabelStyle("blur", (120, 90, 200)),
    BUBBLE: LabelStyle("bubble", (40, 140, 220)),
    EDGE: LabelStyle("coverslip edge", (150, 150, 40)),
}
"""Every label but the background; all but tissue are artefacts, and no tile is cut from them."""


@dataclass(frozen=True)
class TissueMask:
    """Tissue of a slide at low resolution.

    Attributes
    ----------
    labels
        uint8 [h, w] over the whole of level 0: 0 background, or a key of :data:`LABELS`.
    downsample
        (y, x) level-0 pixels per pixel of the mask.
    mpp
        (y, x) micrometres per pixel of the mask.
    """

    labels: NDArray[np.uint8]
    downsample: tuple[float, float]
    mpp: tuple[float, float]

    @property
    def tissue(self) -> NDArray[np.bool_]:
        """bool [h, w]: true where there is tissue without artefact."""
        return np.asarray(self.labels == TISSUE)

    @property
    def fraction(self) -> float:
        """Share of the slide that is tissue."""
        return float(self.tissue.mean())

    @property
    def area_mm2(self) -> float:
        """Area of the tissue in square millimetres."""
        return float(self.tissue.sum()) * self.mpp[0] * self.mpp[1] / 1e6


def tissue_picture(slide: Slide, mask: TissueMask, *, max_px: int = 1024) -> bytes:
    """PNG of the slide with the outline of every label in its colour."""
    import cv2

    image = _overview(slide, max_px)
    size = (image.shape[1], image.shape[0])
    labels = cv2.resize(mask.labels, size, interpolation=cv2.INTER_NEAREST)
    for label, style in LABELS.items():
        found = (labels == label).astype(np.uint8)
        outlines, _ = cv2.findContours(found, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(image, outlines, -1, style.colour, 2)
    return bytes(cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1])


def _overview(slide: Slide, max_px: int) -> Pixels:
    if slide.info.channels and isinstance(slide, ChannelSlide):
        return channel_picture(read_channel_overview(slide, max_px=max_px)[0])
    return read_overview(slide, max_px=max_px)[0]
