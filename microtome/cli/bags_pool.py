"""``microtome bags pool``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from .common import Bags, Out, Overwrite, Seed


class How(StrEnum):
    """How tiles become one vector."""

    MEAN = "mean"
    ATTENTION = "attention"
    PROTOTYPE = "prototype"


class By(StrEnum):
    """What a vector is of."""

    SLIDE = "slide"
    PATIENT = "patient"


def pool(
    bags: Bags,
    *,
    out: Out,
    how: Annotated[
        How,
        typer.Option(
            help="Mean of the tiles; mean by a trained model's attention; share of each prototype."
        ),
    ] = How.MEAN,
    by: Annotated[By, typer.Option(help="One vector a slide, or a patient.")] = By.SLIDE,
    cohort: Annotated[
        Path | None, typer.Option(help="Table with the columns id and patient, for --by patient.")
    ] = None,
    model: Annotated[
        Path | None, typer.Option(help="Model of microtome mil train, for attention.")
    ] = None,
    k: Annotated[int, typer.Option("--k", min=2, help="Prototypes to find.")] = 16,
    prototypes: Annotated[
        Path | None,
        typer.Option(help="Earlier OUT whose prototypes to use: those of the training slides."),
    ] = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """One vector a slide, or a patient, from the vectors of its tiles.

    Writes OUT/vectors.csv to read and OUT/vectors.npz to compute with. A patient's vector is the
    mean of the slides' vectors, each weighted by its tiles.

    Example: [bold]microtome bags pool bags --how mean --out slide-vectors[/]
    """
    from ..storage.bag_records import bags_in
    from ..tasks.cohort import read_cohort
    from ..tasks.pool import PoolOptions, pool_to

    if (by is By.PATIENT) != (cohort is not None):
        raise typer.BadParameter("--by patient and --cohort go together")
    options = PoolOptions(how.value, model, k, seed, prototypes)
    table = None if cohort is None else read_cohort(cohort, needs=())
    made = pool_to(out, bags_in(bags), options, cohort=table, overwrite=overwrite)
    typer.echo(
        f"{len(made):,} {made.by}s, {made.tiles.sum():,} tiles, {len(made.names)} columns  {out}"
    )
