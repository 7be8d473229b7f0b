"""``microtome info``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .common import SLIDE_MPP_HELP, Series, console, debugging, slide_mpp_of

_QUIET = ("path", "kind", "levels", "odd", "properties", "affine", "time_s")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(info)


def info(
    files: Annotated[
        list[str],
        typer.Argument(metavar="FILE...", help="Slides, scans, products, or URLs of OME-Zarr."),
    ],
    *,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object a file and line, with all properties.")
    ] = False,
    thumbnail: Annotated[
        Path | None,
        typer.Option(metavar="OUT.png", help="Also write a picture of the slide or scan."),
    ] = None,
    slide_mpp: Annotated[
        Any,
        typer.Option(
            "--slide-mpp", "--mpp", parser=slide_mpp_of, metavar="UM", help=SLIDE_MPP_HELP
        ),
    ] = None,
    series: Series = None,
    resample: Annotated[
        bool,
        typer.Option(
            "--resample", help="Bring tilted, uneven or incomplete slices onto a regular grid."
        ),
    ] = False,
) -> None:
    """Say what was understood of a file: levels, resolution and its source, orientation, oddities.

    A DICOM folder with several series gives an entry for each.

    Example: [bold]microtome info case-17.svs --thumbnail case-17.png[/]
    """
    from ..engine.describe import describe_each, draw
    from ..storage.errors import MicrotomeError

    if thumbnail is not None and len(files) != 1:
        raise typer.BadParameter("--thumbnail goes with a single FILE")
    failed = False
    for file in files:
        try:
            for found in describe_each(file, mpp=slide_mpp, series=series, resample=resample):
                failed |= "error" in found
                _show(found, as_json=as_json)
            if thumbnail is not None:
                draw(file, thumbnail, mpp=slide_mpp, series=series, resample=resample)
                console.print(f"wrote {escape(str(thumbnail))}", soft_wrap=True)
        except MicrotomeError as error:
            if len(files) == 1 or debugging():
                raise
            console.print(f"microtome: {error.reason}: {escape(str(error))}", soft_wrap=True)
            failed = True
    if failed:
        raise typer.Exit(3)


def _show(found: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(found, ensure_ascii=False))
        return
    out = Console(highlight=False)
    out.print(f"[bold]{escape(found['path'])}[/]", soft_wrap=True)
    if "error" in found:
        out.print(f"[bold]{escape(found['listed'])}[/]", soft_wrap=True)
        out.print(f"[red]{found['error']}:[/] {escape(found['message'])}", soft_wrap=True)
        return
    out.print(_fields(found))
    if "levels" in found:
        out.print(_levels(found["levels"]))
    for line in found["odd"]:
        out.print(f"[yellow]odd:[/] {escape(line)}", soft_wrap=True)


def _fields(found: dict[str, Any]) -> Table:
    table = Table(show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    table.add_row("kind", found["kind"])
    for name, value in found.items():
        if name not in _QUIET and value not in (None, "", [], {}):
            table.add_row(name.replace("_", " "), escape(_words(value)))
    return table


def _levels(levels: list[dict[str, Any]]) -> Table:
    table = Table("level", "height × width (px)", "downsample (y, x)", "tiles (px)")
    for i, level in enumerate(levels):
        tile = level["tile_px"]
        table.add_row(
            str(i),
            f"{level['height_px']} × {level['width_px']}",
            f"{level['downsample_y']:.6g}, {level['downsample_x']:.6g}",
            f"{tile[0]} × {tile[1]}" if tile else "none",
        )
    return table


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_words(part)}" for name, part in value.items())
    if isinstance(value, list):
        return ", ".join(_words(part) for part in value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)
