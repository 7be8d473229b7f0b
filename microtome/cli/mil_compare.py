"""``microtome mil compare``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Predictions = Annotated[Path, typer.Argument(help="OUT/predictions of mil train.")]


def compare(first: Predictions, second: Predictions) -> None:
    """Compare two models that were trained on one cohort with the same folds.

    Prints the figure of each, their difference with an interval over patients, and p of no
    difference: by paired bootstrap, and by DeLong's test where every patient has one slide.

    Example: [bold]microtome mil compare abmil/predictions mean/predictions[/]
    """
    from rich.console import Console

    from ..tasks.mil.figures import TITLES
    from ..tasks.mil.versus import compare_said, read_said

    found = compare_said(read_said(first), read_said(second))
    title = TITLES[found.metric]
    lines = [
        f"{title} of {first}: {found.first}",
        f"{title} of {second}: {found.second}",
        f"difference {found.difference}, p = {found.p:.4f} by paired bootstrap over patients",
    ]
    if found.delong_p is not None:
        lines.append(f"p = {found.delong_p:.4f} by DeLong's test")
    lines.append(f"{found.first.n} slides, out-of-fold; 95 % intervals; folds {found.splits[:12]}")
    Console(highlight=False).print(*lines, sep="\n", soft_wrap=True, markup=False)
