"""``microtome heatmap scan``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .common import ModelOrPredictions, Out, Overwrite, exit_unless_all_done, run_with_progress

if TYPE_CHECKING:
    from ..tasks.heatmap_run import HeatmapItem


def scan(
    model: ModelOrPredictions,
    bags: Annotated[list[Path], typer.Argument(help="Bags of scans, or folders of them.")],
    *,
    out: Out,
    overwrite: Overwrite = False,
) -> None:
    """What a model says of each block of a scan, as NIfTI in the scan's own grid.

    Writes OUT/<id>.scores.nii.gz with the scan's size and affine, to lay over it in any viewer:
    0 to 1, and NaN where no block is.

    Example: [bold]microtome heatmap scan bleeds/predictions bags --out maps[/]
    """
    from functools import partial

    from ..tasks.heatmap_run import heatmap_items
    from ..tasks.scan_heatmap import draw_scan_item

    def name(item: HeatmapItem) -> str:
        return item.id

    items = heatmap_items(model, bags)
    work = partial(draw_scan_item, out=out, overwrite=overwrite)
    outcomes = run_with_progress(
        "heatmap scan", items, work, name=name, ledger=out / "ledger.jsonl", say=str
    )
    exit_unless_all_done(outcomes)
