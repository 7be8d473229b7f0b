"""``microtome view``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .common import console


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(view)


def view(
    places: Annotated[
        list[Path], typer.Argument(help="Slides, products of microtome, or folders of them.")
    ],
    *,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes one that is free.")] = 8765,
    crop: Annotated[
        bool,
        typer.Option(
            "--crop/--no-crop", help="The slide's bounds, as QuPath shows it; or all of level 0."
        ),
    ] = True,
    browser: Annotated[
        bool, typer.Option("--browser/--no-browser", help="Open the page in a browser.")
    ] = True,
) -> None:
    """Look at slides and what was found on them, in a browser on this machine.

    Shows slides and OME-Zarr, with tissue, scores of tiles, maps of CAMEL and clusters over them,
    out of the stores: nothing is exported, nothing is written, nobody else can reach it. Ctrl+C
    ends it.

    Example: [bold]microtome view demo-out[/]

    Example: [bold]microtome view case-17.svs outlined tumour/predictions[/]
    """
    import webbrowser

    from ..view import open_library, serve

    library = open_library(places)
    server = serve(library, port, crop=crop)
    address = f"http://127.0.0.1:{server.server_port}/"
    for note in library.notes:
        console.print(note, soft_wrap=True, markup=False)
    console.print(f"{len(library.shown)} slides at {address}  (Ctrl+C ends it)", soft_wrap=True)
    if browser:
        webbrowser.open(address)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        console.print("ended")
    finally:
        server.server_close()
