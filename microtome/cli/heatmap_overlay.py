"""``microtome heatmap overlay``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from .common import Out, exit_unless_all_done, run_with_progress

if TYPE_CHECKING:
    from ..view import Shown


def overlay(
    places: Annotated[
        list[Path], typer.Argument(help="Slides and products, or folders, as for microtome view.")
    ],
    *,
    out: Out,
    kind: Annotated[
        Literal["ome-tiff", "ome-zarr", "ome-zarr04", "png"],
        typer.Option("--format", help="QuPath opens ome-tiff; of OME-Zarr only 0.4."),
    ] = "ome-tiff",
    um: Annotated[float, typer.Option(min=0.05, help="µm per pixel of the overlay.")] = 4.0,
    opacity: Annotated[float, typer.Option(min=0, max=1, help="Of the colours.")] = 0.6,
    layer: Annotated[
        str, typer.Option(help="Part of a layer's name; by default the first that lies over it.")
    ] = "",
    crop: Annotated[
        bool,
        typer.Option(
            "--crop/--no-crop", help="The slide's bounds, as QuPath shows it; or all of level 0."
        ),
    ] = True,
) -> None:
    """What was found, over the slide, as a dense image of the same extent with its pixel size.

    Writes OUT/<id>.overlay.ome.tif (or .ome.zarr, .png) and, where the image cannot hold it,
    OUT/<id>.legend.png. In QuPath open it beside the slide: View > Multi-view.

    Example: [bold]microtome heatmap overlay case-17.svs outlined --out overlays[/]
    """
    from functools import partial

    from ..view import open_library
    from ..view.export import export_overlay

    def name(shown: Shown) -> str:
        return shown.id

    items = list(open_library(places).shown)
    work = partial(
        export_overlay, out=out, kind=kind, um=um, opacity=opacity, wanted=layer, crop=crop
    )
    outcomes = run_with_progress(
        "overlay", items, work, name=name, ledger=out / "ledger.jsonl", say=str
    )
    exit_unless_all_done(outcomes)
