"""``microtome connectome spin``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from .common import Seed, console


def register(connectome_app: typer.Typer) -> None:
    """Add the command."""
    connectome_app.command()(spin)


def spin(
    maps: Annotated[
        Path, typer.Argument(help="Table: a row a place, its name first, a column a map.")
    ],
    *,
    sphere: Annotated[
        Path,
        typer.Option(help="Table: the same names first; x, y, z on the sphere; hemisphere, L or R"),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="CSV with a row for each pair of maps.")],
    turns: Annotated[int, typer.Option(min=1, help="How often a map is turned.")] = 1000,
    match: Annotated[
        Literal["once", "nearest"],
        typer.Option(help="once: each value once in a turn, for parcels; nearest: for vertices."),
    ] = "once",
    correlation: Annotated[
        Literal["pearson", "spearman"], typer.Option(help="Of values, or of ranks.")
    ] = "pearson",
    seed: Seed = 0,
) -> None:
    """Do maps of the cortex go together more than smooth maps do by chance.

    Turns one map on its sphere, the other hemisphere as in a mirror, and asks how often it
    correlates as well (Alexander-Bloch et al. 2018).

    Example: [bold]microtome connectome spin maps.csv --sphere places.csv -o pairs.csv[/]
    """
    from ..graphs.spin_tables import compare_maps
    from ..graphs.tables import write_rows

    rows = compare_maps(maps, sphere, n=turns, match=match, correlation=correlation, seed=seed)
    for row in rows:
        typer.echo(f"{row['one']}, {row['other']}: r {row['correlation']:.3f}, p {row['p']:.4g}")
    write_rows(out, rows)
    console.print(f"{len(rows)} pairs in {out}")
