"""``microtome demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .common import Out, Overwrite, Seed, SlideMpp, console


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(demo)


def demo(
    *,
    out: Out = Path("demo-out"),
    slide: Annotated[
        Path | None, typer.Option(help="Your own slide: features and an unsupervised map of it.")
    ] = None,
    slide_mpp: SlideMpp = None,
    small: Annotated[
        bool, typer.Option("--small", help="Fewer, smaller data: a minute; figures mean less.")
    ] = False,
    jobs: Annotated[
        int | None, typer.Option("--jobs", "-j", min=1, help="Processes; two by default.")
    ] = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """The main job, end to end and offline: slides to heatmaps, scans to a diagnosis, one report.

    Works on slides that are painted and brains that are simulated on the spot. Run again, it
    keeps what is done.

    Example: [bold]microtome demo[/]

    Example: [bold]microtome demo --slide case-17.svs --out case-17[/]
    """
    if slide is not None:
        from ..demo.own_slide import run_own_slide

        report = run_own_slide(slide, out, mpp=slide_mpp, overwrite=overwrite)
    else:
        from ..demo.run import DemoPlan, default_jobs, run_demo

        plan = DemoPlan.of(small=small, seed=seed)
        report = run_demo(out, plan, jobs=jobs or default_jobs(), overwrite=overwrite)
    console.print(f"[bold]report:[/] {report.resolve()}")
    console.print(f"everything else is in {out.resolve()}")
