"""``microtome fuse``: one probability a patient from models of slides and of scans."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from .common import Out, Overwrite, console

if TYPE_CHECKING:
    from ..tasks.fusion_run import Fusion


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(fuse)


def fuse(
    predictions: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME=PATH...",
            help="OUT/predictions of mil train, or OUT of connectome diagnose (OUT:MODEL).",
        ),
    ],
    *,
    out: Out,
    overwrite: Overwrite = False,
) -> None:
    """Fuse what models say of a patient's slides and scans, also where one of them is missing.

    Takes out-of-fold predictions that were made with one split, weighs them by a logistic
    regression fitted on the other folds, one for each set of modalities that patients have, and
    compares with each modality alone.

    Example: [bold]microtome fuse slides=tumour/predictions brain=dx:gcn --out fused[/]
    """
    from ..tasks.fusion_run import Source, run_fusion

    found, made = run_fusion([Source.of(text) for text in predictions], out, overwrite=overwrite)
    if not made:
        console.print(f"skipped: {out} has this fusion already")
    _print(found)
    console.print(f"{out}")


def _print(found: Fusion) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("", "AUC", "patients", "gain by fusion", "p")
    for name, area in found.auc.items():
        gain = (str(found.gains[name]), f"{found.p[name]:.4f}") if name in found.gains else ("", "")
        table.add_row(name, str(area), str(area.n), *gain)
    screen = Console(highlight=False)
    screen.print(table)
    having = "; ".join(f"{name}: {count}" for name, count in found.having.items())
    lines = [
        f"{found.patients} patients ({having}); probabilities of {found.classes[1]}.",
        "Out-of-fold, stacks fitted on the other folds; 95 % intervals over patients.",
        f"p = {found.permutation_p:.4f} against labels exchanged between patients.",
    ]
    if found.averaged:
        lines.append(
            f"{found.averaged} patients have modalities that too few others have: their log odds "
            "were averaged."
        )
    screen.print(*lines, sep="\n", soft_wrap=True, markup=False)
