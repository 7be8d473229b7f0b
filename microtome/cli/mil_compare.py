"""``microtome mil compare`` and ``microtome mil evaluate``: what kept predictions are worth."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

_RESTS_ON = {
    "validation": "slides of each training part on which its members stopped",
    "inner folds": "the inner folds of each training part",
}
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


def evaluate(
    predictions: Predictions,
    *,
    sensitivity: Annotated[
        float, typer.Option(min=0.01, max=1.0, help="Wanted of the second class.")
    ] = 0.9,
    abstain: Annotated[
        float, typer.Option(min=0.0, max=0.99, help="Share of slides to leave unsaid.")
    ] = 0.2,
    plot: Annotated[
        Path | None, typer.Option(help="PNG to write, of reliability before and after.")
    ] = None,
) -> None:
    """Say what a model of two classes is good for, from its out-of-fold predictions.

    Calibration as it is, by temperature and by isotonic regression; the specificity at a chosen
    sensitivity; and how often it is right where it may abstain. What is fitted or chosen is so
    within each fold, on slides that it trains on. Intervals are over patients.

    Example: [bold]microtome mil evaluate tumour/predictions --sensitivity 0.95[/]
    """
    from rich.console import Console
    from rich.table import Table

    from ..storage.commit import writable, write_bytes
    from ..tasks.mil.usable import reliability_plot, usable
    from ..tasks.mil.versus import read_said

    said = read_said(predictions)
    found = usable(said.binary, sensitivity=sensitivity, abstain=abstain)
    screen = Console(highlight=False)
    table = Table("probabilities", "Brier score", "calibration error")
    for name, figures in found.calibration.items():
        table.add_row(name, str(figures["brier_score"]), str(figures["calibration_error"]))
    points = Table("probabilities", "slides", "probability said", "share found")
    for name in ("as said", "temperature"):
        for point in found.reliability[name]:
            points.add_row(name, str(point.n), f"{point.said:.3f}", f"{point.found:.3f}")
        points.add_section()
    screen.print(table, points)
    if plot is not None:
        with writable(plot):
            write_bytes(plot, reliability_plot(found.reliability))
    second = said.target.names[1]
    lines = (
        f"Threshold for a sensitivity of {sensitivity:g} to {second}, chosen within each fold:",
        f"sensitivity {found.sensitivity}, specificity {found.specificity}.",
        f"Leaving unsaid the {abstain:.0%} that it is least sure of:",
        f"speaks of {found.spoken}, right in {found.accuracy}.",
        f"{found.spoken.n} slides, out-of-fold; 95 % intervals over patients.",
        f"Folds {said.splits[:12]}. What was fitted rests on {_RESTS_ON[said.inner_kind]}.",
    )
    screen.print(*lines, sep="\n", soft_wrap=True, markup=False)
