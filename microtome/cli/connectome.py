"""``microtome connectome``: build networks of the brain, measure and draw them."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import (
    compare,
    connectome_build,
    connectome_exchange,
    connectome_report,
    diagnose,
    spin,
    states,
)
from .common import (
    Cluster,
    Connectomes,
    Jobs,
    Seed,
    console,
    exit_unless_all_done,
    run_with_progress,
)

if TYPE_CHECKING:
    from ..graphs.cohorts import Measured

connectome_app = typer.Typer(
    name="connectome",
    help="Brain networks from MRI, fMRI and PET: build, measure, compare, draw, diagnose.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)


class Keep(StrEnum):
    """Which edges are kept before a network is measured."""

    STRONGEST = "strongest"
    TREE = "tree"
    BACKBONE = "backbone"
    TREES = "trees"
    ALL = "all"


def register(app: typer.Typer) -> None:
    """Add the commands."""
    connectome_build.register(connectome_app)
    compare.register(connectome_app)
    connectome_report.register(connectome_app)
    connectome_exchange.register(connectome_app)
    diagnose.register(connectome_app)
    states.register(connectome_app)
    spin.register(connectome_app)
    app.add_typer(connectome_app)


@connectome_app.command()
def metrics(
    cohort: Connectomes,
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="CSV with a row a subject.")],
    nodal: Annotated[
        Path | None, typer.Option(help="CSV with a row for each region of each subject.")
    ] = None,
    density: Annotated[
        float, typer.Option(min=0.0001, max=1.0, help="Share of pairs that keep their edge.")
    ] = 0.15,
    keep: Annotated[
        Keep,
        typer.Option(
            help="strongest edges up to the density; tree: the spanning tree first. At a density "
            "of their own: backbone (disparity filter), trees (orthogonal spanning trees), all."
        ),
    ] = Keep.STRONGEST,
    nulls: Annotated[
        int,
        typer.Option(
            min=0, help="Random networks of the same degrees to compare with: small-worldness."
        ),
    ] = 0,
    densities: Annotated[
        str | None,
        typer.Option(help="LOW:HIGH:STEP; also the area under each measure over these densities."),
    ] = None,
    seed: Seed = 0,
    jobs: Jobs = 1,
    cluster: Cluster = None,
) -> None:
    """Measures of every network: clustering, paths, efficiency, modules …

    Weights are divided by the largest of each network. An empty cell is a measure that is not
    defined. The ledger is beside the table.

    Examples:

    [bold]microtome connectome metrics rest.connectomes.zarr --density 0.15 -o rest.csv[/]

    [bold]microtome connectome metrics rest.connectomes.zarr --nulls 100 --densities 0.05:0.3:0.05
    -o rest.csv[/]
    """
    from functools import partial

    from ..engine.schedule import open_pool
    from ..graphs.cohorts import (
        density_range,
        measure_network,
        write_global_table,
        write_nodal_table,
    )
    from ..storage.connectomes import read_connectomes

    networks = read_connectomes(cohort)

    def say(made: Measured) -> str:
        words = ("clustering_weighted", "global_efficiency_weighted", "modularity_weighted")
        return ", ".join(f"{word} {made.whole[word]:.3f}" for word in words)

    with open_pool(jobs, cluster=cluster) as pool:
        outcomes = run_with_progress(
            "metrics",
            [networks[i] for i in range(len(networks))],
            partial(
                measure_network,
                density=density,
                keep=keep.value,
                nodal=nodal is not None,
                n_nulls=nulls,
                densities=density_range(densities) if densities else (),
                seed=seed,
            ),
            name=lambda network: network.subject,
            pool=pool,
            ledger=out.with_suffix(".ledger.jsonl"),
            say=say,
        )
    measured = [outcome.value for outcome in outcomes if outcome.value is not None]
    if measured:
        write_global_table(out, measured)
        console.print(f"{len(measured)} rows in {out}")
    if measured and nodal is not None:
        write_nodal_table(nodal, measured)
    exit_unless_all_done(outcomes)


@connectome_app.command()
def draw(
    cohort: Connectomes,
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="PNG to write.")],
    subject: Annotated[
        str | None, typer.Option(help="Whose network; the mean of all by default.")
    ] = None,
    edges: Annotated[int, typer.Option(min=1, help="How many of the strongest to draw.")] = 150,
) -> None:
    """Picture of a network: from three sides, and as a matrix ordered by module.

    Example: [bold]microtome connectome draw rest.connectomes.zarr -o rest.png[/]
    """
    from ..graphs.cohorts import choose_network
    from ..graphs.plots import plot_connectome
    from ..storage.connectomes import read_connectomes

    plot_connectome(choose_network(read_connectomes(cohort), subject), out, max_edges=edges)
    console.print(f"drawn: {out}")
