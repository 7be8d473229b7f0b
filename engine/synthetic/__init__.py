"""Synthetic H&E slides: procedural, seeded, as large as wanted, written as real pyramidal TIFFs.

They are for demonstrations, tests and benchmarks of size. They are not tissue: nothing that is
learnt or measured on them says anything about patients.
"""

from .cohort import plan_cohort, write_cohort
from .paint import Painter
from .plan import plan_slide
from .recipe import SITES, Blob, Site, SlideRecipe, Stain
from .tissue_map import tissue_mask
from .truth import read_outlines, tumour_fraction
from .writer import write_slide

__all__ = [
    "SITES",
    "Blob",
    "Painter",
    "Site",
    "SlideRecipe",
    "Stain",
    "plan_cohort",
    "plan_slide",
    "read_outlines",
    "tissue_mask",
    "tumour_fraction",
    "write_cohort",
    "write_slide",
]
