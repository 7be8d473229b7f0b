"""``microtome camel evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .common import class_pairs, console, exit_unless_all_done, run_with_progress

if TYPE_CHECKING:
    from ..tasks.camel.evaluate import Agreement

Classes = Annotated[
    list[str] | None,
    typer.Option(
        "--class",
        metavar="NAME=MEANING",
        help="What a class in QuPath is: positive, negative or ignore. Tumor=positive by default.",
    ),
]
Crop = Annotated[
    bool,
    typer.Option("--crop/--no-crop", help="Whether QuPath shows the slide cropped to its bounds."),
]


def evaluate(
    maps: Annotated[list[Path], typer.Argument(help="Maps of camel predict, or folders of them.")],
    *,
    truth: Annotated[
        Path,
        typer.Option(help="GeoJSON or mask (PNG, TIFF) of a slide; or a folder with one by id."),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="JSON file to write the figures to.")
    ] = None,
    classes: Classes = None,
    crop: Crop = True,
    threshold: Annotated[float, typer.Option(min=0.001, max=1, help="Of probability.")] = 0.5,
    instance_um: Annotated[float, typer.Option(min=1, help="Side of an instance.")] = 160.0,
    least: Annotated[
        float, typer.Option(min=0.001, max=1, help="Share of an instance that makes it positive.")
    ] = 0.5,
    seed: Annotated[int, typer.Option(min=0, help="Of the intervals.")] = 0,
) -> None:
    """Compare maps with what is known, in pixels and in instances.

    Figures have 95 % intervals: those of a slide over its fields of 4 x 4 instances, those of all
    slides over slides. Lesion where nobody looked counts as missed.

    Example: [bold]microtome camel evaluate outlined --truth truth --out figures.json[/]
    """
    from functools import partial

    from ..tasks.camel.evaluate import EvaluateOptions, overall
    from ..tasks.camel.slides import compare_map, map_id, maps_in, write_figures

    paths = maps_in(maps)
    options = EvaluateOptions(threshold, instance_um, least, seed=seed)
    work = partial(compare_map, truth=truth, options=options, classes=pairs(classes), crop=crop)
    outcomes = run_with_progress("camel evaluate", paths, work, name=map_id, say=_say)
    found = [outcome.value for outcome in outcomes if outcome.value is not None]
    if found:
        together = overall(found, options)
        _print(together if len(found) > 1 else found[0], len(found))
        if out is not None:
            write_figures(out, found, together, options)
            console.print(f"{out}")
    exit_unless_all_done(outcomes)


def _say(found: Agreement) -> str:
    figures = found.figures
    return (
        f"IoU {figures['IoU']}, instances: sensitivity {figures['instance sensitivity']}, "
        f"specificity {figures['instance specificity']}"
    )


def _print(together: Agreement, slides: int) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("", f"{slides} slides" if slides > 1 else "1 slide")
    for name, figure in together.figures.items():
        table.add_row(name, str(figure))
    Console(highlight=False).print(table)


def pairs(classes: list[str] | None) -> dict[str, str] | None:
    """What ``--class`` says, by the name of the class."""
    return class_pairs(classes, "NAME=MEANING") if classes else None
