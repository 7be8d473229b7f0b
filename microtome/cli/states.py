"""``microtome connectome states``."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from .common import Jobs, Overwrite, Seed, console, exit_unless_all_done, run_with_progress

if TYPE_CHECKING:
    from ..graphs.state_cohort import Windows


def register(connectome_app: typer.Typer) -> None:
    """Add the command."""
    connectome_app.command()(states)


def states(
    inputs: Annotated[
        list[Path], typer.Argument(help="One file of time series a subject.", exists=True)
    ],
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="NAME.connectomes.zarr to write.")],
    window: Annotated[int, typer.Option(min=10, help="Time points of a window.")],
    n_states: Annotated[int, typer.Option("--states", min=2, help="How many states.")] = 4,
    step: Annotated[int, typer.Option(min=1, help="Time points between windows.")] = 1,
    taper: Annotated[float, typer.Option(min=0, help="Softness of a window's edges.")] = 3.0,
    rows: Annotated[
        Literal["time", "regions"] | None, typer.Option(help="What a row of a file is.")
    ] = None,
    key: Annotated[str | None, typer.Option(help="Variable of .mat files.")] = None,
    regions: Annotated[Path | None, typer.Option(exists=True, help="Names of the regions.")] = None,
    centroids: Annotated[
        Path | None, typer.Option(exists=True, help="Centroids: x y z in mm a line.")
    ] = None,
    jobs: Jobs = 1,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Networks that recur over time: states of sliding windows, found over all subjects.

    OUT holds a network a state; NAME.states.csv beside it has, for each subject, the share of
    windows, the mean stay and the number of changes.

    Example: [bold]microtome connectome states series/*.csv --window 30 --states 4 -o states[/]
    """
    from ..graphs.build import SeriesRecipe, subject_of
    from ..graphs.state_cohort import StateRecipe, keep_states, windows_of

    recipe = StateRecipe(
        SeriesRecipe(rows=rows, key=key, regions=regions, centroids=centroids),
        window=window,
        step=step,
        taper=taper,
        n_states=n_states,
        seed=seed,
    )

    def say(found: Windows) -> str:
        return f"{len(found.networks)} windows"

    outcomes = run_with_progress(
        "windows", inputs, partial(windows_of, recipe=recipe), name=subject_of, jobs=jobs, say=say
    )
    made = [outcome.value for outcome in outcomes if outcome.value is not None]
    if made:
        path, table = keep_states(out, inputs, made, recipe, overwrite=overwrite)
        console.print(f"{n_states} states in {path}, {len(made)} rows in {table}")
    exit_unless_all_done(outcomes)
