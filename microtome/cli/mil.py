"""``microtome mil``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..tasks.mil.names import MODEL_TITLES, ModelName
from .common import (
    Out,
    Overwrite,
    Seed,
    console,
    exit_unless_all_done,
    progress_bar,
    run_with_progress,
)

if TYPE_CHECKING:
    from ..storage.predictions import SlidePrediction
    from ..tasks.mil.study import Study

Device = Annotated[str, typer.Option("--device", help="Where torch computes: cpu, cuda, cuda:1.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(name="mil", no_args_is_help=True)
    group.callback()(mil)
    group.command()(train)
    group.command()(predict)
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
    positive: Annotated[
        str | None,
        typer.Option(help="Class that scores speak of; the last in the alphabet by default."),
    ] = None,
    splits: Annotated[
        Path | None, typer.Option(help="Folds to use, as an earlier run's splits.json.")
    ] = None,
    seed: Seed = 0,
    device: Device = "cpu",
    overwrite: Overwrite = False,
) -> None:
    """Train on a cohort, with patient-grouped cross-validation and controls.

    Writes OUT/model, OUT/predictions (of every slide by a model that never saw its patient),
    OUT/metrics.json and OUT/splits.json. Figures have 95 % intervals over patients.

    Example: [bold]microtome mil train cohort.csv --bags bags --out tumour[/]
    """
    from ..tasks.cohort import read_cohort

    # A wrong table is refused before torch has taken its seconds to load.
    table = read_cohort(cohort, needs=("label",))
    from ..tasks.mil.study import run_study
    from ..tasks.mil.train import TrainOptions

    options = TrainOptions(model=model, epochs=epochs, seed=seed, device=device)
    with progress_bar() as bar:
        task = bar.add_task("mil train", total=None)
        study, made = run_study(
            table,
            bags,
            out,
            options=options,
            n_folds=folds,
            splits=splits,
            positive=positive,
            overwrite=overwrite,
            on_fold=lambda done, total: bar.update(task, completed=done, total=total),
        )
    if not made:
        console.print(f"skipped: {out} has this study already")
    _print_study(study, out)


def _print_study(study: Study, out: Path) -> None:
    from rich.console import Console
    from rich.table import Column, Table

    from ..tasks.mil.study import TITLES

    metrics = {"auc": "AUC", "balanced_accuracy": "balanced accuracy"}
    rows = Table("", *(Column(title, no_wrap=True) for title in metrics.values()))
    for name, figures in study.figures.items():
        cells = (str(figures[metric]) if metric in figures else "" for metric in metrics)
        rows.add_row(TITLES[name], *cells)
    screen = Console(highlight=False)
    screen.print(rows)
    macro = "" if len(study.classes) == 2 else "; AUC of each class against the rest, averaged"
    target = study.classes[1] if len(study.classes) == 2 else "the predicted class"
    own = study.figures[study.model]
    lines = (
        f"Out-of-fold, with 95 % intervals over patients{macro}.",
        f"{study.slides} slides of {study.patients} patients; {study.folds} folds by patient, "
        + study.splits[:12],
        f"p = {study.permutation_p:.4f} against labels exchanged between patients.",
        f"Brier score {own['brier_score']}, calibration error {own['calibration_error']}.",
        f"Classes {', '.join(study.classes)}; scores speak of {target}.",
        *study.notes,
        f"{out / 'model'}, {out / 'predictions'}",
    )
    screen.print(*lines, sep="\n", soft_wrap=True, markup=False)


def predict(
    model: Annotated[Path, typer.Argument(help="OUT/model of mil train.")],
    bags: Annotated[list[Path], typer.Argument(help="Bags, or folders of them.")],
    *,
    out: Out,
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
    paths = bags_in(bags)

    def say(found: SlidePrediction) -> str:
        return f"{found.predicted}, {found.target} {found.probability:.3f}, {len(found):,} tiles"

    work = partial(predict_file, model=loaded, device=device)
    outcomes = run_with_progress("mil predict", paths, work, name=bag_id, say=say)
    found = [outcome.value for outcome in outcomes if outcome.value is not None]
    done = [path for path, o in zip(paths, outcomes, strict=True) if o.value is not None]
    if found:
        write_new_predictions(out, loaded, done, found, overwrite=overwrite)
        console.print(f"{out}")
    exit_unless_all_done(outcomes)
