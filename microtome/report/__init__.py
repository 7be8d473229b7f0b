"""One self-contained HTML file that shows what was found, next to what would be found by chance."""

from .model import (
    BrainSection,
    FigureRow,
    FigureTable,
    KeyFigure,
    Picture,
    Rejection,
    Report,
    SlidePanel,
)
from .render import render, versions, write_report

__all__ = [
    "BrainSection",
    "FigureRow",
    "FigureTable",
    "KeyFigure",
    "Picture",
    "Rejection",
    "Report",
    "SlidePanel",
    "render",
    "versions",
    "write_report",
]
