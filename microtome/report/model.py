"""What a report says, apart from how it looks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..tasks.picture import Layers
from ..tasks.top_tiles import TilePicture


@dataclass(frozen=True)
class KeyFigure:
    """One of the few figures at the head of a report, already in words: ``0.97``, ``21 slides``."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class FigureRow:
    """A figure with its interval.

    Attributes
    ----------
    name
        Of the model or the control.
    low, high
        Ends of the interval; None where there is none.
    n
        How many slides or subjects it is over; None leaves it out.
    control
        Whether it is something that a model must beat: shuffled labels, a trivial predictor.
    note
        A few words on what it is.
    """

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    n: int | None = None
    control: bool = False
    note: str = ""


@dataclass(frozen=True)
class FigureTable:
    """Figures of one kind, drawn on one axis.

    Attributes
    ----------
    measure
        What the figures are: ``AUC``, ``balanced accuracy``.
    chance
        Value that guessing has, drawn as a line; None draws none.
    axis
        (lowest, highest) of the drawing.
    level
        Of the intervals.
    """

    title: str
    rows: tuple[FigureRow, ...]
    measure: str = "AUC"
    chance: float | None = 0.5
    axis: tuple[float, float] = (0.0, 1.0)
    level: float = 0.95
    caption: str = ""

    def position(self, value: float) -> float:
        """Where a value lies on the axis, 0 … 100, held to its ends."""
        low, high = self.axis
        return min(100.0, max(0.0, 100 * (value - low) / (high - low)))


@dataclass(frozen=True)
class SlidePanel:
    """One slide: a line of the worklist, and its pictures.

    Attributes
    ----------
    probability
        Of the report's ``target``; None where nothing was predicted.
    fold
        Number of the fold that held the slide out; None for a slide that was in no fold.
    layers
        Slide, colours and truth; None leaves the pictures out.
    facts
        Further figures by name, in words.
    files
        Links by name; paths relative to the report.
    notes
        What is missing or particular.
    interval
        (low, high) of the probability among the model's members.
    pictures
        Tiles with the highest and the lowest scores.
    """

    id: str
    probability: float | None
    tiles: int
    patient: str = ""
    site: str = ""
    label: str = ""
    fold: int | None = None
    layers: Layers | None = None
    facts: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    interval: tuple[float, float] | None = None
    pictures: tuple[TilePicture, ...] = ()


@dataclass(frozen=True)
class Picture:
    """A PNG or JPEG file to embed.

    Attributes
    ----------
    alt
        What it shows, for those who cannot see it.
    wide
        Over the whole width of the page.
    """

    path: Path
    alt: str
    caption: str = ""
    wide: bool = False


@dataclass(frozen=True)
class Table:
    """Words and numbers in rows; the first cell of a row names it."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""


@dataclass(frozen=True)
class FollowUpPanel:
    """Two slides of a patient, side by side, and what changed between them.

    Attributes
    ----------
    before, after
        With pictures of one size and one scale.
    times
        Of both, in words.
    table
        The figures before and after, and their change.
    growth_mm2
        Change of the positive area, which reports are sorted by.
    notes
        What is missing or particular.
    """

    patient: str
    before: SlidePanel
    after: SlidePanel
    times: tuple[str, str]
    table: Table
    growth_mm2: float
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class View:
    """A page of its own, to turn and to zoom, inside the report.

    Attributes
    ----------
    html
        The whole page; it may hold scripts that write code, and reaches nothing outside.
    """

    title: str
    html: str
    caption: str = ""


@dataclass(frozen=True)
class BrainSection:
    """Brain networks of a cohort: what was compared, the figures, the pictures."""

    summary: str
    figures: tuple[FigureTable, ...] = ()
    pictures: tuple[Picture, ...] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    title: str = "Brain networks"
    views: tuple[View, ...] = ()
    tables: tuple[Table, ...] = ()


@dataclass(frozen=True)
class Rejection:
    """An item of which nothing was made, and why."""

    item: str
    reason: str
    detail: str = ""


@dataclass(frozen=True)
class Report:
    """All that one HTML file says.

    Attributes
    ----------
    summary
        What was done and found, in a sentence or two.
    made
        When, as it is to be read.
    target
        The class that the slides' probabilities and scores speak of.
    slides
        In any order: the worklist puts the highest probability first.
    groups
        Names of what the colours stand for, where they are groups of tiles and not scores.
    followups
        Pairs of slides, in any order: the largest growth comes first.
    parameters, versions, card
        By name, in words; the card is that of the model.
    limits
        What the figures do not show, one sentence each.
    """

    title: str
    summary: str
    made: str
    key_figures: tuple[KeyFigure, ...] = ()
    figures: tuple[FigureTable, ...] = ()
    target: str = ""
    slides: tuple[SlidePanel, ...] = ()
    groups: tuple[str, ...] = ()
    followups: tuple[FollowUpPanel, ...] = ()
    brain: BrainSection | None = None
    rejected: tuple[Rejection, ...] = ()
    parameters: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    card: Mapping[str, str] = field(default_factory=dict)
    limits: tuple[str, ...] = ()
