"""Tissue: found, kept, read back, and exchanged with QuPath."""

from __future__ import annotations

from .detect import DEFAULT_MPP, VERSION, find_tissue, label_tissue
from .edited import annotations_of, import_tissue
from .exchange import (
    blank_mask,
    mask_from_annotations,
    tissue_annotations,
    write_tissue_annotations,
)
from .mask import BACKGROUND, LABELS, TISSUE, TissueMask, tissue_picture
from .methods import METHODS
from .segmenter import Segmenter, load_segmenter
from .store import (
    KIND,
    SUFFIX,
    TissueMade,
    make_tissue,
    read_tissue,
    require_fit,
    slide_image,
    tissue_key,
    write_slide_label,
    write_tissue,
)
from .training import SegmenterOptions, SegmenterTrained, train_segmenter

__all__ = [
    "BACKGROUND",
    "DEFAULT_MPP",
    "KIND",
    "LABELS",
    "METHODS",
    "SUFFIX",
    "TISSUE",
    "VERSION",
    "Segmenter",
    "SegmenterOptions",
    "SegmenterTrained",
    "TissueMade",
    "TissueMask",
    "annotations_of",
    "blank_mask",
    "find_tissue",
    "import_tissue",
    "label_tissue",
    "load_segmenter",
    "make_tissue",
    "mask_from_annotations",
    "read_tissue",
    "require_fit",
    "slide_image",
    "tissue_annotations",
    "tissue_key",
    "tissue_picture",
    "train_segmenter",
    "write_slide_label",
    "write_tissue",
    "write_tissue_annotations",
]
