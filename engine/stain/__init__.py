"""Stains: how much haematoxylin and eosin a pixel holds, whatever the laboratory's shades were."""

from .density import REFERENCE, RUIFROK_HED, Stains, optical_density, separate
from .macenko import estimate_stains

__all__ = [
    "REFERENCE",
    "RUIFROK_HED",
    "Stains",
    "estimate_stains",
    "optical_density",
    "separate",
]
