"""``microtome mil``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..tasks.mil.names import MODEL_TITLES, Kind, ModelName, SplitBy
from .bags import import_
from .common import (
    Bags,
    Device,
    MilModel,
    Out,
    Overwrite,
    Seed,
    console,
    exit_unless_all_done,
    progress_bar,
    run_with_progress,
)
from .mil_compare import compare, evaluate
from .mil_explain import explain

if TYPE_CHECKING:
    from ..storage.predictions import SlidePrediction
    from ..tasks.mil.study import Study

_COLUMNS: Mapping[Kind, tuple[str, ...]] = {
    "classes": ("auc", "balanced_accuracy"),
    "labels": ("auc", "auprc"),
    "regression": ("r2", "mae"),
    "survival": ("c_index",),
}
_MACRO = "; AUC of each class against the rest, averaged"


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(name="mil", no_args_is_help=True)
    group.callback()(mil)
    group.command()(train)
    group.command()(predict)
    group.command()(compare)
    group.command()(evaluate)
    group.command()(explain)
    group.command("import")(import_)
    app.add_typer(group)


def mil() -> None:
    """Multiple-instance learning: labels of slides in, predictions and scores of tiles out."""


def train(
    cohort: Annotated[
        Path, typer.Argument(help="Table with the columns id, patient and label; CSV or Parquet.")
    ],
    *,
    bags: Annotated[Path, typer.Option("--bags", "-b", help="Folder of <id>.bag.zarr.")],
    out: Out,
    model: Annotated[
        ModelName,
        typer.Option(help="; ".join(f"{name}: {title}" for name, title in MODEL_TITLES.items())),
    ] = "abmil",
    folds: Annotated[int, typer.Option(min=2, help="Folds, drawn by patient.")] = 5,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the bags, at most.")] = 40,
    task: Annotated[
        Kind,
        typer.Option(
            help="classes: one of several. labels: any of several. regression: a value. survival: "
            "a hazard, by Cox's model."
        ),
    ] = "classes",
    label: Annotated[
        list[str] | None,
        typer.Option(
            help="Column to learn; for --task labels one of sets such as a;b, or several of 0 and "
            "1. label by default."
        ),
    ] = None,
    time: Annotated[str | None, typer.Option(help="For survival: column of the time.")] = None,
    event: Annotated[
        str | None, typer.Option(help="For survival: column that says 1 for an event, 0 for none.")
    ] = None,
    positive: Annotated[
        str | None,
        typer.Option(help="Class that scores speak of; the last in the alphabet by default."),
    ] = None,
    split_by: Annotated[
        SplitBy,
        typer.Option(
            help="patient: folds of patients. site: folds of whole sites (preserved-site). "
            "each-site: one fold a site."
        ),
    ] = "patient",
    splits: Annotated[
        Path | None, typer.Option(help="Folds to use, as an earlier run's splits.json.")
    ] = None,
    candidate: Annotated[
        list[str] | None,
        typer.Option(
            help="Further way to learn, as abmil,learning_rate=0.001: each fold takes the best of "
            "--model and these in its inner folds."
        ),
    ] = None,
    inner_folds: Annotated[
        int | None,
        typer.Option(
            min=2,
            help="Inner folds of each fold, to choose and to calibrate in; by default 3 with "
            "--candidate, else none.",
        ),
    ] = None,
    views: Annotated[
        list[Path] | None,
        typer.Option(help="Folder of views of the bags (encode --views), seen in training alone."),
    ] = None,
    allow_telling_names: Annotated[
        bool,
        typer.Option(
            "--allow-telling-names",
            help="Go on where names of slides say their labels, as tumor_001. The model reads no "
            "names; the model card will say that they did.",
        ),
    ] = False,
    seed: Seed = 0,
    device: Device = "cpu",
    overwrite: Overwrite = False,
) -> None:
    """Train on a cohort, with patient-grouped cross-validation and controls.

    Writes OUT/model, OUT/predictions (of every slide by a model that never saw its patient),
    OUT/metrics.json and OUT/splits.json. Figures have 95 % intervals over patients.

    Examples:

    [bold]microtome mil train cohort.csv --bags bags --out tumour[/]

    [bold]microtome mil train cohort.csv --bags bags --out her2 --task regression --label her2[/]

    [bold]microtome mil train cohort.csv --bags bags --out os --task survival --time months
    --event died[/]

    [bold]microtome mil train cohort.csv --bags bags --out best --candidate max --candidate
    abmil,learning_rate=0.001[/]
    """
    from ..tasks.cohort import read_cohort
    from ..tasks.mil.targets import read_target

    columns = _columns(task, label, time, event)
    # A wrong table is refused before torch has taken its seconds to load.
    if task == "classes":
        table = read_cohort(cohort, needs=("label",), label=columns[0])
    else:
        table = read_cohort(cohort, needs=(), extra=columns)
    target = read_target(table, task, columns, positive=positive)
    from ..tasks.mil.candidates import read_candidate
    from ..tasks.mil.study import run_study
    from ..tasks.mil.train import TrainOptions

    # A partial likelihood compares the bags of a batch: four would say little.
    batch_bags = 16 if task == "survival" else TrainOptions.batch_bags
    options = TrainOptions(
        model=model, epochs=epochs, batch_bags=batch_bags, seed=seed, device=device
    )
    ways = [read_candidate(text, options) for text in candidate or ()]
    with progress_bar() as bar:
        row = bar.add_task("mil train", total=None)
        study, made = run_study(
            table,
            bags,
            out,
            options=options,
            candidates=ways,
            n_folds=folds,
            inner_folds=inner_folds,
            split_by=split_by,
            splits=splits,
            views=views or (),
            target=target,
            allow_telling_names=allow_telling_names,
            overwrite=overwrite,
            on_fold=lambda done, total: bar.update(row, completed=done, total=total),
        )
    if not made:
        console.print(f"skipped: {out} has this study already")
    _print_study(study, out)


def _columns(
    task: Kind, label: list[str] | None, time: str | None, event: str | None
) -> tuple[str, ...]:
    """Columns that a task is learnt from, in their order."""
    survival = task == "survival"
    if survival != (time is not None and event is not None):
        raise typer.BadParameter("--time and --event belong to --task survival, which needs both")
    if survival and label:
        raise typer.BadParameter("--label has no meaning in --task survival")
    if time is not None and event is not None:
        return (time, event)
    if task != "labels" and len(label or ()) > 1:
        raise typer.BadParameter("several columns are learnt with --task labels only")
    return tuple(label or ("label",))


def _print_study(study: Study, out: Path) -> None:
    from rich.console import Console
    from rich.table import Column, Table

    from ..tasks.mil.figures import TITLES as METRIC_TITLES
    from ..tasks.mil.study import TITLES

    metrics = _COLUMNS[study.kind]
    rows = Table("", *(Column(METRIC_TITLES[name], no_wrap=True) for name in metrics))
    for name, figures in study.figures.items():
        cells = (str(figures[metric]) if metric in figures else "" for metric in metrics)
        rows.add_row(TITLES[name], *cells)
    screen = Console(highlight=False)
    screen.print(rows)
    macro = _MACRO if study.kind == "classes" and len(study.classes) > 2 else ""
    lines = (
        f"Out-of-fold, with 95 % intervals over patients{macro}.",
        f"{study.slides} slides of {study.patients} patients; {study.folds} folds by patient, "
        + study.splits[:12],
        f"p = {study.permutation_p:.4f} against labels exchanged between patients.",
        *_within(study),
        *_more(study, metrics),
        *study.notes,
        f"{out / 'model'}, {out / 'predictions'}",
    )
    screen.print(*lines, sep="\n", soft_wrap=True, markup=False)


def _within(study: Study) -> Iterator[str]:
    """What was chosen and fitted within the folds."""
    if study.chosen:
        *each, kept = study.chosen
        took = ", ".join(f"{way} in {n}" for way, n in Counter(each).items())
        yield f"Chosen in {study.inner} inner folds: {took} of {study.folds} folds; kept: {kept}."
    if study.calibration:
        said, after = (
            study.calibration[name]["calibration_error"] for name in ("as said", "temperature")
        )
        yield f"Calibration error {said}; after a temperature fitted within each fold {after}."


def _more(study: Study, shown: Sequence[str]) -> Iterator[str]:
    """The model's other figures, and what is predicted."""
    from ..tasks.mil.figures import TITLES as METRIC_TITLES

    for name, found in study.figures[study.model].items():
        if name not in shown:
            metric, _, label = name.partition(" ")
            of_label = f", {label}" if label else ""
            yield f"{METRIC_TITLES[metric]}{of_label} {found}, n = {found.n}."
    outputs = ", ".join(study.classes)
    if study.kind == "classes":
        binary = len(study.classes) == 2
        target = study.classes[1] if binary else "the predicted class"
        yield f"Classes {outputs}; scores speak of {target}."
    elif study.kind == "labels":
        yield f"Labels {outputs}, each on the slides where it is known; the table has their mean."
    elif study.kind == "survival":
        yield f"Log hazards; a higher one means a shorter {outputs}. Compared within folds."
    else:
        yield f"Values of {outputs}."


def predict(
    model: MilModel,
    bags: Bags,
    *,
    out: Out,
    calibrated: Annotated[
        bool,
        typer.Option(
            "--calibrated", help="Change probabilities of two classes by the model's temperature."
        ),
    ] = False,
    device: Device = "cpu",
    overwrite: Overwrite = False,
) -> None:
    """Predict new slides from their bags.

    Writes OUT with predictions.csv and the scores of every tile, for microtome heatmap. A bag
    that was encoded in another way than the model's is rejected.

    Example: [bold]microtome mil predict tumour/model bags --out predicted[/]
    """
    from functools import partial

    from ..storage.bag_records import bag_id, bags_in
    from ..tasks.mil.new_slides import predict_file, write_new_predictions
    from ..tasks.mil.store import load_model

    loaded = load_model(model)
    if calibrated:
        loaded.require_temperature()
    paths = bags_in(bags)

    def say(found: SlidePrediction) -> str:
        said = f"{found.target} {found.probability:.3f}"
        words = found.kind in ("classes", "labels")
        named = f"{found.predicted or 'no label'}, {said}" if words else said
        return f"{named}, {len(found):,} tiles"

    work = partial(predict_file, model=loaded, device=device, calibrated=calibrated)
    outcomes = run_with_progress("mil predict", paths, work, name=bag_id, say=say)
    found = [outcome.value for outcome in outcomes if outcome.value is not None]
    done = [path for path, o in zip(paths, outcomes, strict=True) if o.value is not None]
    if found:
        write_new_predictions(out, loaded, done, found, calibrated=calibrated, overwrite=overwrite)
        console.print(f"{out}")
    exit_unless_all_done(outcomes)
