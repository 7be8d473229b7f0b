"""The command line's table of contents."""

from __future__ import annotations

from typing import Annotated

import typer

from .. import __version__
from . import (
    bags,
    camel,
    cluster,
    connectome,
    demo,
    doctor,
    encode,
    fuse,
    heatmap,
    info,
    ingest,
    mil,
    pet,
    publish,
    run,
    simulate,
    tissue,
    view,
)

app = typer.Typer(
    name="microtome",
    help="Whole slides in, heatmaps out; brain scans in, diagnosed connectomes out.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"microtome {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show tracebacks; may stand anywhere in the line.")
    ] = False,
) -> None:
    """Whole slides in, heatmaps out; brain scans in, diagnosed connectomes out."""


_GROUPS = (
    bags,
    camel,
    cluster,
    connectome,
    demo,
    doctor,
    encode,
    fuse,
    heatmap,
    info,
    ingest,
    mil,
    pet,
    publish,
    run,
    simulate,
    tissue,
    view,
)
for group in _GROUPS:
    group.register(app)
