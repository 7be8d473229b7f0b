"""``microtome connectome diagnose``."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .common import (
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
    from ..tasks.diagnosis.evaluate import OutOfFold


_SHUFFLES_FOR_P = 19
"""With fewer, no p-value could reach 0.05."""


_LAYER_WORDS = (("whole", "with all layers"), ("without", "without it"), ("alone", "it alone"))


class Backend(StrEnum):
    """How graph networks pass messages."""

    AUTO = "auto"
    DGL = "dgl"
    DENSE = "dense"


class Unseen(StrEnum):
    """What harmonising does with sites that training does not know."""

    REFUSE = "refuse"
    LEAVE = "leave"


def register(connectome_app: typer.Typer) -> None:
    """Add the command."""
    connectome_app.command()(diagnose)


def diagnose(
    cohort: Connectomes,
    *,
    table: SubjectTable,
    label: Annotated[str, typer.Option(help="Column of the diagnosis.")],
    out: NewFolder,
    subject: SubjectColumn = "subject",
    group: Annotated[
        str | None, typer.Option(help="Column of the person, where a person has several rows.")
    ] = None,
    site: Annotated[
        str | None,
        typer.Option(help="Column of the scanner or centre; labels are shuffled within it."),
    ] = None,
    covariates: Annotated[
        str, typer.Option(help="Columns such as age,sex for the model 'covariates'.")
    ] = "",
    split_by: Annotated[
        str | None, typer.Option(help="Hold out each value of this column once, in place of folds.")
    ] = None,
    classes: Annotated[
        str | None, typer.Option(help="Two labels to tell apart, A,B; others are left out.")
    ] = None,
    positive: Annotated[
        str | None, typer.Option(help="The label that scores speak of; the last by default.")
    ] = None,
    drop_missing: Annotated[
        bool, typer.Option("--drop-missing", help="Leave out subjects without a row or a label.")
    ] = False,
    models: Annotated[
        str,
        typer.Option(
            help="gcn, gin, sage, gat, cheb: graph networks. no-graph: gcn without messages. "
            "brainnetcnn, transformer: on the whole matrix. linear, svm, elastic-net: on all "
            "edges. tangent: linear, in tangent space. multiplex: a graph network over --layer. "
            "population: a graph of people; population-alone: without its edges. covariates, "
            "site: these alone."
        ),
    ] = "gcn,linear",
    folds: Annotated[int, typer.Option(min=2, help="Outer folds, which score.")] = 5,
    inner_folds: Annotated[int, typer.Option(min=2, help="Inner folds, which choose.")] = 3,
    shuffles: Annotated[
        int, typer.Option(min=0, help="Evaluations of quick models on shuffled labels.")
    ] = 20,
    graph_shuffles: Annotated[
        int, typer.Option(min=0, help="The same of the others, which take longer.")
    ] = 2,
    layers: Annotated[
        list[Path] | None,
        typer.Option(
            "--layer",
            help="A further cohort of the same people, for 'multiplex' and linear models.",
            exists=True,
        ),
    ] = None,
    harmonise: Annotated[
        Unseen | None,
        typer.Option(
            help="Take --site out of connectomes (ComBat), learnt in each training fold; "
            "rows of a site unknown there: refuse, or leave as they are."
        ),
    ] = None,
    backend: Annotated[
        Backend,
        typer.Option(help="Pass messages through DGL or dense matrices; the results agree."),
    ] = Backend.AUTO,
    seed: Seed = 0,
    jobs: Jobs = 1,
    overwrite: Overwrite = False,
) -> None:
    """Tell two groups apart from their connectomes, and say how far that can be trusted.

    Nested cross-validation by person; thresholds, standardisation and every choice are made in the
    training rows of a fold. The same is done on shuffled labels: what a model scores there is
    chance. Writes OUT with figures, held-out predictions, models, the connections that they
    rest on and how far these can be relied upon, OUT/report.html, and beside it OUT.ledger.jsonl.

    Examples:

    [bold]microtome connectome diagnose rest.connectomes.zarr -t people.csv --label dx -o dx[/]

    [bold]microtome connectome diagnose msn.connectomes.zarr -t abide.csv --subject FILE_ID
    --label DX_GROUP --positive 1 --site SITE_ID --models gcn,linear,site -o autism[/]
    """
    from functools import partial

    from ..report import write_report
    from ..report.diagnosis import diagnosis_report
    from ..storage.commit import is_done
    from ..tasks.diagnosis.evaluate import trials
    from ..tasks.diagnosis.study import (
        KIND,
        keep_study,
        open_study,
        read_results,
        run_study_trial,
    )
    from ..tasks.run.brain import diagnosis_request
    from ..tasks.run.parts import DiagnosePart

    part = DiagnosePart(
        table=table,
        label=label,
        subject=subject,
        group=group,
        site=site,
        covariates=names_in(covariates),
        split_by=split_by,
        classes=None if classes is None else names_in(classes),
        positive=positive,
        drop_missing=drop_missing,
        models=names_in(models),
        folds=folds,
        inner_folds=inner_folds,
        shuffles=shuffles,
        graph_shuffles=graph_shuffles,
        backend=backend.value,
        seed=seed,
        layers=tuple(layers or ()),
        harmonise=None if harmonise is None else harmonise.value,
    )
    request = diagnosis_request(part, cohort)
    if is_done(out, kind=KIND, key=request.key, overwrite=overwrite):
        console.print(f"skipped: {out} is done already")
        _print(read_results(out))
        return
    study = open_study(request)
    outcomes = run_with_progress(
        "diagnose",
        trials(study.plan),
        partial(run_study_trial, request=request),
        jobs=jobs,
        ledger=out.with_name(f"{out.name}.ledger.jsonl"),
        say=_say,
    )
    exit_unless_all_done(outcomes)
    ends = [outcome.value for outcome in outcomes if outcome.value is not None]
    content = keep_study(out, study, ends, overwrite=overwrite)
    _print(content)
    report = write_report(diagnosis_report(content, out), out / "report.html")
    console.print(f"figures, predictions, models and pictures in {out}\nreport: {report}")


def _say(end: OutOfFold) -> str:
    return f"AUC {end.auc:.3f}"


def _print(content: Mapping[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    from ..tasks.diagnosis.study import figure_rows

    positive, negative = content["positive"], content["negative"]
    title = (
        f"{positive['class']} ({positive['rows']}) against {negative['class']} "
        f"({negative['rows']}), {content['people']} people, {content['split']}"
    )
    table = Table("model", "AUC", "balanced accuracy", "AUC, shuffled labels", "p", title=title)
    for row in figure_rows(content):
        shuffled = "-"
        if row["shuffles"]:
            shuffled = (
                f"{row['shuffled_auc_mean']:.3f}, at most {row['shuffled_auc_max']:.3f} "
                f"of {row['shuffles']}"
            )
        p = f"{row['p_value']:.3f}" if row["shuffles"] >= _SHUFFLES_FOR_P else "-"
        table.add_row(
            row["model"], _figure(row, "auc"), _figure(row, "balanced_accuracy"), shuffled, p
        )
    Console().print(table)
    for model in content["models"]:
        for one in model["layers"] or ():
            figures = (f"{words} {one[part]['value']:.3f}" for part, words in _LAYER_WORDS)
            console.print(f"{model['model']}, {one['layer']}: AUC {', '.join(figures)}")
    if content["excluded"]:
        console.print(f"left out: {len(content['excluded'])} subjects, see results.json")


def _figure(row: Mapping[str, Any], name: str) -> str:
    return f"{row[name]:.3f} \\[{row[f'{name}_low']:.3f}, {row[f'{name}_high']:.3f}]"
