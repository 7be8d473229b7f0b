"""``microtome heatmap labels``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .common import Out, exit_unless_all_done, run_with_progress


def labels(
    annotations: Annotated[
        Path,
        typer.Argument(help="GeoJSON from QuPath, a store (.db), or a folder of <id>.geojson."),
    ],
    bags: Annotated[list[Path], typer.Argument(help="Bags, or folders of them.")],
    *,
    out: Out,
    least: Annotated[
        float, typer.Option(min=0.001, max=1, help="Share of a tile in regions of its class.")
    ] = 0.5,
    mask_um: Annotated[
        float | None, typer.Option(min=0.05, help="Also a label image, of µm per pixel.")
    ] = None,
    crop: Annotated[
        bool,
        typer.Option("--crop/--no-crop", help="As the slide was imported into QuPath."),
    ] = True,
) -> None:
    """Back from QuPath: what was drawn or corrected, as classes of tiles and as a mask.

    Writes OUT/<id>.labels.csv (y_px, x_px, class, share of every tile of the bag) and, with
    --mask-um, OUT/<id>.mask.png with OUT/<id>.mask.csv. A class that was given to a tile itself
    counts more than a region around it.

    Example: [bold]microtome heatmap labels reviewed bags --out labels[/]
    """
    from functools import partial

    from ..storage.bag_records import bag_id, bags_in
    from ..tasks.labels_run import label_bag

    work = partial(
        label_bag, annotations=annotations, out=out, least=least, mask_um=mask_um, crop=crop
    )
    outcomes = run_with_progress(
        "labels", bags_in(bags), work, name=bag_id, ledger=out / "ledger.jsonl", say=str
    )
    exit_unless_all_done(outcomes)
