"""``microtome heatmap``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from .common import (
    Jobs,
    MakeByDefault,
    MeasuredBy,
    ModelOrPredictions,
    Out,
    Overwrite,
    console,
    exit_unless_all_done,
    run_with_progress,
)
from .heatmap_followup import followup
from .heatmap_labels import labels
from .heatmap_overlay import overlay as make_overlay
from .heatmap_scan import scan

if TYPE_CHECKING:
    from ..storage.predictions import SlidePrediction
    from ..tasks.heatmap import HeatmapProducts
    from ..tasks.heatmap_run import HeatmapItem


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(name="heatmap", cls=MakeByDefault, no_args_is_help=True)
    group.callback()(heatmap)
    group.command()(make)
    group.command()(check)
    group.command()(scan)
    group.command("overlay")(make_overlay)
    group.command()(labels)
    group.command()(followup)
    app.add_typer(group)


def heatmap() -> None:
    """Scores to QuPath, overlays and a report; or check a GeoJSON file for QuPath.

    [bold]microtome heatmap MODEL BAG... --out DIR[/] is short for [bold]heatmap make[/].

    Example: [bold]microtome heatmap models/tumour bags/*.bag.zarr --out heatmaps[/]

    Example: [bold]microtome heatmap check heatmaps/case-17.geojson.gz[/]
    """


def make(
    model: ModelOrPredictions,
    bags: Annotated[
        list[Path] | None, typer.Argument(help="Bags, or folders of them; none for predictions.")
    ] = None,
    *,
    out: Out,
    crop: Annotated[
        bool,
        typer.Option(
            "--crop/--no-crop",
            help="Origin at the slide's bounds, as QuPath shows it; or at level 0's corner.",
        ),
    ] = True,
    overlay: Annotated[
        bool, typer.Option("--overlay/--no-overlay", help="Pictures over the slide.")
    ] = True,
    pages: Annotated[
        bool, typer.Option("--pages/--no-pages", help="A page of its own for each slide.")
    ] = True,
    store: Annotated[
        bool, typer.Option("--store/--no-store", help="OUT/<id>.db for tiatoolbox's viewer.")
    ] = False,
    project: Annotated[
        bool, typer.Option("--project/--no-project", help="OUT/project of the slides, for QuPath.")
    ] = False,
    masks: MeasuredBy = None,
    jobs: Jobs = 1,
    overwrite: Overwrite = False,
) -> None:
    """What a model says of each tile: for QuPath, over the slide, in a report.

    Writes OUT/<id>.geojson.gz, OUT/<id>.heatmap.png, OUT/<id>.html, OUT/report.html with the
    worklist, and OUT/ledger.jsonl.
    In QuPath drag the .geojson.gz onto the image, then Measure > Show measurement maps; for a
    whole project run OUT/load_results.groovy; --project writes such a project.

    Example: [bold]microtome heatmap models/tumour bags/*.bag.zarr --out heatmaps[/]
    """
    from functools import partial

    from ..report import Rejection, write_report
    from ..report.heatmaps import draw_with_page, heatmap_report, model_card
    from ..storage.qupath_script import write_load_script
    from ..tasks.heatmap_run import heatmap_items
    from ..tasks.qupath_project import make_project

    def name(item: HeatmapItem) -> str:
        return item.id

    def say(result: tuple[SlidePrediction, HeatmapProducts]) -> str:
        _, made = result
        return "; ".join((f"{made.objects:,} tiles  {made.geojson}", *made.notes))

    items = heatmap_items(model, bags or [])
    card = model_card(model)
    work = partial(
        draw_with_page,
        out=out,
        card=card,
        pages=pages and overlay,
        overlay=overlay,
        store=store,
        masks=masks,
        overwrite=overwrite,
        crop=crop,
    )
    outcomes = run_with_progress(
        "heatmap", items, work, name=name, jobs=jobs, ledger=out / "ledger.jsonl", say=say
    )
    report = heatmap_report(
        [outcome.value for outcome in outcomes if outcome.value is not None],
        out,
        rejected=[Rejection(o.item, o.reason, str(o.error)) for o in outcomes if o.error],
        parameters={"model": str(model), "origin": "bounds" if crop else "level 0"},
        card=card,
    )
    write_load_script(out)
    if project:
        shown = [outcome.value[0] for outcome in outcomes if outcome.value is not None]
        console.print(escape(make_project(shown, out, crop=crop)), soft_wrap=True)
    console.print(f"report: {write_report(report, out / 'report.html')}")
    exit_unless_all_done(outcomes)


def check(
    files: Annotated[list[Path], typer.Argument(help="GeoJSON files, also gzipped.")],
) -> None:
    """Say which feature of a GeoJSON file breaks which rule of QuPath's importer.

    [bold]refused[/]: some version of QuPath imports nothing of the whole file; [bold]lost[/]: this
    part is dropped without a word; [bold]altered[/]: it is read as something else.

    Example: [bold]microtome heatmap check heatmaps/*.geojson.gz[/]
    """
    from ..storage.qupath_check import check_geojson

    broken = False
    for file in files:
        problems = check_geojson(file)
        broken = broken or bool(problems)
        for problem in problems:
            typer.echo(f"{file}: {problem}")
        if not problems:
            typer.echo(f"{file}: QuPath 0.4 to 0.7 import all of it")
    if broken:
        raise typer.Exit(3)
