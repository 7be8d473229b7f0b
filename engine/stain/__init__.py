"""Stains: how much haematoxylin and eosin a pixel holds, whatever the laboratory's shades were."""

from .augment import augment
from .density import REFERENCE, RUIFROK_HED, Stains, optical_density, separate
from .macenko import estimate_stains
from .normalise import METHODS, Method, Normaliser, make_normaliser
from .statistics import (
    REFERENCE_TARGET,
    SAMPLE_STEP_PX,
    VERSION,
    LabMoments,
    StainStatistics,
    lab_moments,
    stain_statistics,
    statistics_of,
)
from .vahadane import estimate_stains_vahadane

__all__ = [
    "METHODS",
    "REFERENCE",
    "REFERENCE_TARGET",
    "RUIFROK_HED",
    "SAMPLE_STEP_PX",
    "VERSION",
    "LabMoments",
    "Method",
    "Normaliser",
    "StainStatistics",
    "Stains",
    "augment",
    "estimate_stains",
    "estimate_stains_vahadane",
    "lab_moments",
    "make_normaliser",
    "optical_density",
    "separate",
    "stain_statistics",
    "statistics_of",
]
