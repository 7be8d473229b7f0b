"""``microtome tissue``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .common import Jobs, MakeByDefault, Out, Overwrite, exit_unless_all_done, run_with_progress

if TYPE_CHECKING:
    from ..engine.schedule import Skipped
    from ..engine.tissue import TissueMade
    from ..tasks.encode import SlideItem


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(name="tissue", cls=MakeByDefault, no_args_is_help=True)
    group.callback()(tissue)
    group.command()(make)
    app.add_typer(group)


def tissue() -> None:
    """Find the tissue of slides, and what is none.

    [bold]microtome tissue SLIDE... --out DIR[/] is short for [bold]tissue make[/].

    Example: [bold]microtome tissue slides/*.svs --out masks[/]
    """


def make(
    slides: Annotated[list[str], typer.Argument(help="Slides, patterns, or cohort tables.")],
    *,
    out: Out,
    mpp: Annotated[float, typer.Option(min=0.1, help="µm per pixel of the mask.")] = 8.0,
    slide_mpp: Annotated[
        float | None,
        typer.Option(min=0.001, help="µm per slide pixel, where the file states none or lies."),
    ] = None,
    jobs: Jobs = 1,
    overwrite: Overwrite = False,
) -> None:
    """Find the tissue of slides.

    Writes OUT/<id>.tissue.zarr (an OME-Zarr label image), a picture of it beside, and
    OUT/ledger.jsonl. Slides that are done already, with the same options, are skipped.

    Example: [bold]microtome tissue slides/*.svs --out masks[/]
    """
    from functools import partial

    from ..tasks.slide_list import list_slides

    outcomes = run_with_progress(
        "tissue",
        list_slides(slides, mpp=slide_mpp),
        partial(_make, out=out, mpp=mpp, overwrite=overwrite),
        name=_name,
        jobs=jobs,
        ledger=out / "ledger.jsonl",
        say=_say,
    )
    exit_unless_all_done(outcomes)


def _make(
    item: SlideItem, *, out: Path, mpp: float, overwrite: bool
) -> TissueMade | Skipped[TissueMade]:
    from ..engine.tissue import SUFFIX, make_tissue

    path = out / f"{item.id}{SUFFIX}"
    return make_tissue(item.path, path, mpp=mpp, slide_mpp=item.mpp, overwrite=overwrite)


def _name(item: SlideItem) -> str:
    return item.id


def _say(made: TissueMade) -> str:
    return f"{made.fraction:.1%} tissue, {made.area_mm2:.2f} mm²  {made.path}"
