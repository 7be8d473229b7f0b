"""``microtome connectome compare``."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .common import (
    Cluster,
    Connectomes,
    Jobs,
    NewFolder,
    Overwrite,
    Seed,
    SubjectColumn,
    SubjectTable,
    console,
    exit_unless_all_done,
    names_in,
    run_with_progress,
)

if TYPE_CHECKING:
    from ..graphs.comparison import Comparison


class Method(StrEnum):
    """What is corrected for."""

    NBS = "nbs"
    TFNBS = "tfnbs"
    FDR = "fdr"
    MAX = "max"


class Size(StrEnum):
    """How large a network of edges is."""

    EXTENT = "extent"
    INTENSITY = "intensity"


class Tail(StrEnum):
    """Which differences count."""

    BOTH = "both"
    GREATER = "greater"
    LESS = "less"


def register(connectome_app: typer.Typer) -> None:
    """Add the command."""
    connectome_app.command()(compare)


def compare(
    cohort: Connectomes,
    *,
    table: SubjectTable,
    group: Annotated[str, typer.Option(help="Column of the groups.")],
    out: NewFolder,
    groups: Annotated[
        str | None,
        typer.Option(help="A,B: compare these, B minus A; by default all of the column, sorted."),
    ] = None,
    covariates: Annotated[
        str | None, typer.Option(help="Columns to account for, as age,sex; words are coded.")
    ] = None,
    subject: SubjectColumn = "subject",
    person: Annotated[
        str | None,
        typer.Option(help="Column of the person; several networks of a person are averaged."),
    ] = None,
    blocks: Annotated[
        str | None,
        typer.Option(help="Column of blocks, as site or family: people are exchanged within them."),
    ] = None,
    method: Annotated[
        Method,
        typer.Option(
            help="nbs: networks of edges. tfnbs: edges by what hangs together with them, without a "
            "threshold. fdr: single edges, false discovery rate. max: single "
            "edges, family-wise error by permutation."
        ),
    ] = Method.NBS,
    threshold: Annotated[
        float, typer.Option(min=0.01, help="t (or F) above which an edge counts, for nbs.")
    ] = 3.0,
    size: Annotated[
        Size, typer.Option(help="Of a network of edges: their number, or their excess.")
    ] = Size.EXTENT,
    tail: Annotated[
        Tail, typer.Option(help="greater: the second group's weights are larger; less: smaller.")
    ] = Tail.BOTH,
    permutations: Annotated[int, typer.Option(min=1, help="For nbs and max.")] = 5000,
    alpha: Annotated[
        float, typer.Option(min=0.0001, max=0.5, help="Corrected p that is shown in the picture.")
    ] = 0.05,
    drop_missing: Annotated[
        bool, typer.Option("--drop-missing", help="Leave out subjects without a row or a value.")
    ] = False,
    seed: Seed = 0,
    jobs: Jobs = 1,
    cluster: Cluster = None,
    overwrite: Overwrite = False,
) -> None:
    """Which edges, or networks of edges, differ between groups of people.

    A linear model at every edge with covariates; permutations after Freedman and Lane. Writes OUT
    with all edges as a table, components, a picture and what was asked for, and beside it
    OUT.ledger.jsonl.

    Examples:

    [bold]microtome connectome compare rest.connectomes.zarr -t people.csv --group patient
    --covariates age,sex --threshold 3 -o patients[/]

    [bold]microtome connectome compare rest.connectomes.zarr -t people.csv --group diagnosis
    --groups CN,AD --method fdr -o edges[/]
    """
    from functools import partial

    from ..engine.schedule import open_pool
    from ..graphs.comparison import KIND, Request, keep_comparison, read_results
    from ..graphs.comparison import compare as compare_groups
    from ..graphs.people import Columns
    from ..storage.commit import is_done

    request = Request(
        cohort,
        table,
        Columns(
            group, subject, names_in(covariates), person, blocks, names_in(groups), drop_missing
        ),
        method=method.value,
        threshold=threshold,
        size=size.value,
        tail=tail.value,
        permutations=permutations,
        alpha=alpha,
        seed=seed,
    )
    if is_done(out, kind=KIND, key=request.key, overwrite=overwrite):
        console.print(f"skipped: {out} is done already")
        _print(read_results(out))
        return
    with open_pool(jobs, cluster=cluster) as pool:
        outcomes = run_with_progress(
            "compare",
            [request],
            partial(compare_groups, pool=pool),
            name=lambda asked: asked.cohort.name,
            ledger=out.with_name(f"{out.name}.ledger.jsonl"),
            say=_say,
        )
    exit_unless_all_done(outcomes)
    (found,) = (outcome.value for outcome in outcomes)
    if found is not None:
        _print(keep_comparison(out, found, overwrite=overwrite))
        console.print(f"table of edges, picture and record in {out}")


def _say(found: Comparison) -> str:
    return f"{found.n_significant} edges at corrected p of at most {found.request.alpha:g}"


def _print(content: Mapping[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    groups = ", ".join(f"{name} ({n})" for name, n in content["groups"].items())
    print_out = Console().print
    print_out(
        f"{groups}: {content['edges_significant']} of {content['edges_tested']} edges, smallest "
        f"corrected p {content['smallest_corrected_p']:.4g}"
    )
    if content["components"]:
        table = Table("component", "edges", "regions", "size", "p")
        for row in content["components"][:10]:
            words = (row["component"], row["edges"], row["regions"])
            table.add_row(*map(str, words), f"{row['size']:.4g}", f"{row['p']:.4f}")
        print_out(table)
    if content["excluded"]:
        console.print(f"left out: {len(content['excluded'])} subjects, see results.json")
