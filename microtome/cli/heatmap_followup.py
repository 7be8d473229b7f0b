"""``microtome heatmap followup``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .common import Jobs, MeasuredBy, Out, console, exit_unless_all_done, run_with_progress

if TYPE_CHECKING:
    from ..tasks.followup import FollowUp, Pair


def followup(
    predictions: Annotated[list[Path], typer.Argument(help="Predictions of one or several runs.")],
    *,
    table: Annotated[
        Path,
        typer.Option("--table", "-t", help="Cohort table with id, patient and the order."),
    ],
    out: Out,
    order: Annotated[
        str,
        typer.Option(help="Column that orders a patient's slides: dates as 2026-03-31, or numbers"),
    ] = "date",
    threshold: Annotated[
        float, typer.Option(min=0, max=1, help="Score from which a tile is positive.")
    ] = 0.5,
    masks: MeasuredBy = None,
    crop: Annotated[
        bool, typer.Option("--crop/--no-crop", help="The slides' bounds, or all of level 0.")
    ] = True,
    jobs: Jobs = 1,
) -> None:
    """Two time points of a patient side by side, with what changed between them.

    Each slide of a patient is compared with the next: tissue, positive area and its share,
    regions, probability. Writes OUT/followup.html, OUT/followup.csv and OUT/ledger.jsonl.

    Example: [bold]microtome heatmap followup tumour/predictions -t visits.csv --out followup[/]
    """
    from functools import partial

    from ..report import Rejection, write_report
    from ..report.followup import followup_report, write_changes
    from ..tasks.cohort import read_cohort
    from ..tasks.followup import compare_pair, follow_ups, read_visited

    def name(pair: Pair) -> str:
        return pair.name

    def say(found: FollowUp) -> str:
        before, after = found.extents
        grown = after.positive_mm2 - before.positive_mm2
        return "; ".join((f"positive {grown:+.2f} mm²", *found.notes))

    cohort = read_cohort(table, needs=(), extra=(order,))
    pairs, alone = follow_ups(read_visited(predictions), cohort, order)
    work = partial(compare_pair, masks=masks, threshold=threshold, crop=crop)
    outcomes = run_with_progress(
        "follow-up", pairs, work, name=name, jobs=jobs, ledger=out / "ledger.jsonl", say=say
    )
    found = [outcome.value for outcome in outcomes if outcome.value is not None]
    report = followup_report(
        found,
        alone=alone,
        rejected=[Rejection(o.item, o.reason, str(o.error)) for o in outcomes if o.error],
        parameters={
            "predictions": ", ".join(map(str, predictions)),
            "table": str(table),
            "order": order,
            "threshold": f"{threshold:g}",
            "masks": str(masks or "those in the slides' own OME-Zarr"),
        },
    )
    write_changes(found, out / "followup.csv")
    console.print(f"report: {write_report(report, out / 'followup.html')}")
    exit_unless_all_done(outcomes)
