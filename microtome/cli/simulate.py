"""``microtome simulate``."""

from __future__ import annotations

from typing import Annotated

import typer

from .common import Out, Seed, console


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(name="simulate", no_args_is_help=True)
    group.callback()(simulate)
    group.command()(heads)
    app.add_typer(group)


def simulate() -> None:
    """Simulated data with a known truth, to try things on. No patients, no anatomy."""


def heads(
    *,
    out: Out,
    scans: Annotated[int, typer.Option(min=2, help="How many; every second one bleeds.")] = 24,
    spacing_mm: Annotated[float, typer.Option(min=1.0, help="Side of a voxel.")] = 3.0,
    seed: Seed = 0,
) -> None:
    """CT of heads, half of them with haemorrhage, and a table that labels the scans.

    Writes OUT/scans/<id>.nii.gz, OUT/truth/<id>.nii.gz (where blood is) and OUT/cohort.csv.

    Example: [bold]microtome simulate heads --out heads[/]
    """
    from ..engine.synthetic.scan import write_heads

    with console.status("simulating"):
        table = write_heads(out, scans, seed=seed, spacing_mm=(spacing_mm,) * 3)
    console.print(f"{scans} scans: {table}")
