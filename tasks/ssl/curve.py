"""The course of training, as a table and as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, fields
from pathlib import Path

from ...storage.commit import write_text
from .checkpoint import Entry

HISTORY = "history.csv"
CURVE = "loss.png"


def write_history(folder: Path, history: Sequence[Entry]) -> None:
    """Write ``history.csv``, a row for each entry."""
    rows = [",".join(field.name for field in fields(Entry))]
    rows += [",".join(f"{value:.9g}" for value in astuple(entry)) for entry in history]
    write_text(folder / HISTORY, "\n".join(rows) + "\n")


def draw_curve(folder: Path, history: Sequence[Entry]) -> None:
    """Draw ``loss.png``: the loss, and how far embeddings are spread, over the steps."""
    from matplotlib.figure import Figure

    steps = [entry.step for entry in history]
    figure = Figure(figsize=(7, 5), layout="constrained")
    upper, lower = figure.subplots(2, sharex=True)
    upper.plot(steps, [entry.loss for entry in history], color="#444", linewidth=0.8)
    upper.set(ylabel="loss", yscale="log")
    lower.plot(steps, [entry.spread for entry in history], color="#7a3e9d", linewidth=0.8)
    lower.set(xlabel="step", ylabel="spread of embeddings", ylim=(0, None))
    figure.savefig(folder / CURVE, dpi=100)
