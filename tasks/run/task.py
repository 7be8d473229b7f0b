"""What a stage is given, and what it gives back; small enough to travel between processes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ...engine.schedule import Skipped
from ..slide_list import SlideItem
from .plan import Plan

R = TypeVar("R")

COHORT = "cohort"
"""Item of a stage over all slides."""


@dataclass(frozen=True)
class Task:
    """One product to make.

    Attributes
    ----------
    slide
        Which one; None for the whole cohort.
    lacking
        Of a stage over the cohort: ids of slides that have no input to it and never will.
    jobs
        How many tasks run at once: they part the cores between them.
    is_sparing
        Whether it is to do with less memory: its process died of it before, perhaps.
    quarantined
        Why it is left alone; empty where it is not.
    """

    stage: str
    plan: Plan
    slide: SlideItem | None = None
    overwrite: bool = False
    lacking: frozenset[str] = frozenset()
    jobs: int = 1
    is_sparing: bool = False
    quarantined: str = ""

    @property
    def item(self) -> str:
        """Of the ledger: the slide's id, or ``cohort``."""
        return COHORT if self.slide is None else self.slide.id

    @property
    def name(self) -> str:
        """Identity among the steps of a run."""
        return step_name(self.stage, "" if self.slide is None else self.slide.id)


def step_name(stage: str, id_: str = "") -> str:
    """Identity of a stage of a slide, or of the cohort."""
    return f"{stage} {id_}".rstrip()


@dataclass(frozen=True)
class Made:
    """A product that was made, or was there.

    Attributes
    ----------
    words
        What it is, for a line of a log.
    warning
        What the ledger says of one that is not all that it could be.
    """

    path: Path
    words: str = ""
    warning: str = ""


def told(result: R | Skipped[R], tell: Callable[[R], Made]) -> Made | Skipped[Made]:
    """What a function of ours gave back, in a run's words."""
    return Skipped(tell(result.value)) if isinstance(result, Skipped) else tell(result)
