"""``microtome connectome report``: a cohort of networks as one HTML file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .common import Connectomes, Jobs, Seed, console, exit_unless_all_done, run_with_progress

if TYPE_CHECKING:
    from ..report.connectomes import Curves


def register(connectome_app: typer.Typer) -> None:
    """Add the command."""
    connectome_app.command()(report)


def report(
    cohort: Connectomes,
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="HTML file to write.")],
    densities: Annotated[
        str, typer.Option(help="LOW:HIGH:STEP, of the curves of measures.")
    ] = "0.1:0.3:0.05",
    networks: Annotated[
        Path | None,
        typer.Option(exists=True, help="Name of the network of each region, one a line."),
    ] = None,
    comparison: Annotated[
        Path | None, typer.Option(exists=True, help="Folder of connectome compare.")
    ] = None,
    edges: Annotated[int, typer.Option(min=1, help="How many of the strongest to draw.")] = 150,
    seed: Seed = 0,
    jobs: Jobs = 1,
) -> None:
    """A cohort as one HTML file: matrix, circle, glass brain, hubs, measures, who is missing.

    Nothing is fetched from anywhere to show it. Networks of regions are modules of the mean network
    where no file names them. The ledger is beside the report.

    Examples:

    [bold]microtome connectome report rest.connectomes.zarr -o rest.html[/]

    [bold]microtome connectome report rest.connectomes.zarr --comparison patients -o rest.html[/]
    """
    from functools import partial
    from tempfile import TemporaryDirectory

    from ..graphs.cohorts import density_range
    from ..graphs.tables import read_names
    from ..report import Rejection, write_report
    from ..report.connectomes import Request, connectome_report, curves_of
    from ..storage.connectomes import read_connectomes

    found = read_connectomes(cohort)
    request = Request(
        cohort,
        density_range(densities),
        () if networks is None else read_names(networks),
        comparison,
        edges,
        seed,
    )

    def say(made: Curves) -> str:
        return f"{len(made.values)} measures"

    outcomes = run_with_progress(
        "measure",
        [found[i] for i in range(len(found))],
        partial(curves_of, densities=request.densities, seed=seed),
        name=lambda network: network.subject,
        jobs=jobs,
        ledger=out.with_suffix(".ledger.jsonl"),
        say=say,
    )
    curves = [outcome.value for outcome in outcomes if outcome.value is not None]
    failed = [
        Rejection(outcome.item, outcome.reason, str(outcome.error))
        for outcome in outcomes
        if outcome.error is not None
    ]
    with TemporaryDirectory() as folder:
        made = connectome_report(request, found, curves, failed, Path(folder))
        console.print(f"report: {write_report(made, out)}")
    exit_unless_all_done(outcomes)
