"""``microtome mil explain``."""

from __future__ import annotations

from .common import (
    Bags,
    Device,
    MilModel,
    Out,
    Overwrite,
    console,
    exit_unless_all_done,
    run_with_progress,
)


def explain(
    model: MilModel,
    bags: Bags,
    *,
    out: Out,
    device: Device = "cpu",
    overwrite: Overwrite = False,
) -> None:
    """Say which tiles a model's predictions rest on, and which way of saying so to believe.

    Ranks tiles by attention, by score, by leaving each out, and by integrated gradients; then takes
    tiles away and puts them back in each order, and compares with a random one. Writes tables,
    curves, and for every slide tiles with measurements for QuPath.

    Example: [bold]microtome mil explain tumour/model bags/case-17.bag.zarr --out why[/]
    """
    from functools import partial

    from rich.console import Console
    from rich.table import Table

    from ..storage.bag_records import bag_id, bags_in
    from ..tasks.mil.explain_run import (
        Explanation,
        explain_file,
        gains,
        trusted,
        write_explanations,
    )
    from ..tasks.mil.store import load_model

    loaded = load_model(model)
    paths = bags_in(bags)

    def say(one: Explanation) -> str:
        return f"{one.prediction.target} {one.prediction.probability:.3f}, {len(one.bag):,} tiles"

    work = partial(explain_file, model=loaded, device=device)
    outcomes = run_with_progress("mil explain", paths, work, name=bag_id, say=say)
    found = [outcome.value for outcome in outcomes if outcome.value is not None]
    if found:
        done = [path for path, o in zip(paths, outcomes, strict=True) if o.value is not None]
        write_explanations(out, loaded, done, found, overwrite=overwrite)
        worth = gains(found)
        table = Table("ranking by", "worth beyond a random order")
        for method, figure in worth.items():
            table.add_row(method, str(figure))
        screen = Console(highlight=False)
        screen.print(table)
        best = trusted(worth)
        screen.print(
            f"For this model believe the ranking by {best}."
            if best
            else "No ranking is better than a random one: believe none of them for this model.",
            f"Area between insertion and deletion, mean over {len(found)} slides, 95 % intervals.",
            sep="\n",
            soft_wrap=True,
        )
        console.print(f"{out}")
    exit_unless_all_done(outcomes)
