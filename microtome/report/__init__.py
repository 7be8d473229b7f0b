"""One self-contained HTML file that shows what was found, next to what would be found by chance."""

from .model import (
    BrainSection,
    FigureRow,
    FigureTable,
    FollowUpPanel,
    KeyFigure,
    Picture,
    Rejection,
    Report,
    SlidePanel,
    Table,
    View,
)
from .render import render, versions, write_report

__all__ = [
    "BrainSection",
    "FigureRow",
    "FigureTable",
    "FollowUpPanel",
    "KeyFigure",
    "Picture",
    "Rejection",
    "Report",
    "SlidePanel",
    "Table",
    "View",
    "render",
    "versions",
    "write_report",
]
