"""Slides of the shared data, and how all of one level is read."""

from __future__ import annotations

import numpy as np

from microtome.engine.slides.base import Slide

SVS = "slides/aperio/CMU-1-Small-Region.svs"
OME = "slides/derived/CMU-1-Small-Region.ome.tif"
DICOM = "slides/derived/CMU-1-Small-Region_dicom_exact"
DICOM_PYRAMID = "slides/derived/CMU-1-Small-Region_dicom_pyramid"
BOXES = "slides/synthetic/boxes.tiff"
KIDNEY = "slides/plain/kidney-48-5.tif"


def whole(slide: Slide, level: int = 0) -> np.ndarray:
    size = slide.info.levels[level]
    return slide.read(level, 0, 0, size.height_px, size.width_px)
