"""Tissue: found, kept, read back."""

from __future__ import annotations

from .detect import DEFAULT_MPP, VERSION, find_tissue, label_tissue
from .mask import BACKGROUND, LABELS, TISSUE, TissueMask, tissue_picture
from .store import KIND, SUFFIX, TissueMade, make_tissue, read_tissue, tissue_key, write_tissue

__all__ = [
    "BACKGROUND",
    "DEFAULT_MPP",
    "KIND",
    "LABELS",
    "SUFFIX",
    "TISSUE",
    "VERSION",
    "TissueMade",
    "TissueMask",
    "find_tissue",
    "label_tissue",
    "make_tissue",
    "read_tissue",
    "tissue_key",
    "tissue_picture",
    "write_tissue",
]
