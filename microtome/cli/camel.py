"""``microtome camel``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from .camel_evaluate import Classes, Crop, evaluate, pairs
from .common import (
    Device,
    Jobs,
    Out,
    Overwrite,
    Seed,
    SlideMpp,
    Slides,
    console,
    debugging,
    exit_unless_all_done,
    outcome_line,
    progress_bar,
    run_with_progress,
    summary_line,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..engine.schedule import Outcome, Skipped
    from ..tasks.camel.gather import SlideImages, Source
    from ..tasks.camel.slides import Segmented
    from ..tasks.slide_list import SlideItem

Tissue = Annotated[
    Path | None, typer.Option(help="Folder of <id>.tissue.zarr; by default tissue is found.")
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(name="camel", no_args_is_help=True)
    group.callback()(camel)
    group.command()(train)
    group.command()(predict)
    group.command()(evaluate)
    app.add_typer(group)


def camel() -> None:
    """CAMEL: outlines of lesions, learnt from labels of whole images or slides alone."""


def train(
    slides: Slides,
    *,
    out: Out,
    regions: Annotated[
        Path | None,
        typer.Option(help="Coarse regions from QuPath: GeoJSON, or a folder with <id>.geojson."),
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(help="In place of regions: OUT/predictions of mil train."),
    ] = None,
    classes: Classes = None,
    crop: Crop = True,
    least: Annotated[
        float, typer.Option(min=0.001, max=1, help="Share of an image in regions: positive.")
    ] = 0.25,
    alpha: Annotated[
        float, typer.Option(min=0.0001, max=0.5, help="Of negative images, taken for positive.")
    ] = 0.01,
    side_px: Annotated[int, typer.Option(min=32, help="Side of an image.")] = 1280,
    mpp: Annotated[float, typer.Option(min=0.05, help="µm per pixel to work at.")] = 0.5,
    grid: Annotated[int, typer.Option(min=1, help="Instances along a side of an image.")] = 4,
    cascade: Annotated[
        str, typer.Option(metavar="N1,N2", help="Lattices whose product is the grid.")
    ] = "",
    mode: Annotated[
        Literal["robust", "faithful"], typer.Option(help="Ours, or the paper's.")
    ] = "robust",
    refine: Annotated[
        int, typer.Option(min=1, help="Robust mode: squares along an instance that are painted.")
    ] = 2,
    backbone: Annotated[
        str, typer.Option(help="Of enrichment: features, resnet or timm:NAME.")
    ] = "features",
    members: Annotated[
        int, typer.Option(min=2, help="Robust mode: folds, each scored by the others' network.")
    ] = 4,
    rounds: Annotated[int, typer.Option(min=0, help="Robust mode: rounds of relabelling.")] = 4,
    enrich_epochs: Annotated[
        int, typer.Option(min=1, help="Passes of each stage of enrichment.")
    ] = 40,
    architecture: Annotated[
        Literal["unet", "deeplabv3+"], typer.Option(help="Of the segmenter.")
    ] = "unet",
    encoder: Annotated[
        str, typer.Option(help="Of the segmenter: a name of segmentation-models-pytorch.")
    ] = "resnet18",
    epochs: Annotated[int, typer.Option(min=1, help="Passes of the segmenter.")] = 30,
    batch: Annotated[int, typer.Option(min=2, help="Images a step of the segmenter.")] = 6,
    crop_px: Annotated[
        int | None, typer.Option(min=32, help="Side of random cut-outs; whole images by default.")
    ] = None,
    at_most: Annotated[
        int | None, typer.Option(min=1, help="Images of either label taken of a slide.")
    ] = None,
    min_tissue: Annotated[float, typer.Option(min=0, max=1, help="Tissue in an image.")] = 0.25,
    tissue: Tissue = None,
    slide_mpp: SlideMpp = None,
    seed: Seed = 0,
    device: Device = "cpu",
    precision: Annotated[
        Literal["fp32", "bf16"], typer.Option(help="Of enrichment on a GPU.")
    ] = "fp32",
    jobs: Annotated[
        int, typer.Option("--jobs", "-j", min=1, help="Processes that look for images on slides.")
    ] = 1,
    overwrite: Overwrite = False,
) -> None:
    """Learn to outline lesions from labels of images.

    The labels come from coarse regions, of which class Tumor is positive unless --class says
    otherwise (a file without objects is a slide without lesion), or from the predictions of
    microtome mil train. Images for which they are not clear are left out. Writes OUT/model,
    OUT/labels/<id>.geojson.gz (what each instance was taken for) and OUT/ledger.jsonl. Run again
    after a kill it goes on where it was.

    Example: [bold]microtome camel train slides/*.svs --regions drawn --out camel[/]

    Example: [bold]microtome camel train cohort.csv --predictions tumour/predictions --out camel
    --grid 8 --cascade 4,2 --device cuda[/]
    """
    from functools import partial

    from ..tasks.camel.enrich import EnrichSettings
    from ..tasks.camel.gather import ImageOptions, label_slide
    from ..tasks.camel.segmentation import SegmentSettings
    from ..tasks.slide_list import list_slides

    enrichment = EnrichSettings(
        grid=grid, cascade=_lattices(cascade), mode=mode, backbone=backbone, mpp=mpp,
        epochs=enrich_epochs, members=members, rounds=rounds, refine=refine, seed=seed,
        device=device, precision=precision,
    )  # fmt: skip
    segmentation = SegmentSettings(
        architecture=architecture, encoder=encoder, epochs=epochs, batch=batch, crop_px=crop_px,
        mpp=mpp, seed=seed, device=device,
    )  # fmt: skip
    options = ImageOptions(side_px, mpp, min_tissue, tissue, at_most, seed)
    items = list_slides(slides, mpp=slide_mpp)
    source = _source(
        items, options, regions=regions, predictions=predictions,
        regions_as={"classes": pairs(classes), "crop": crop, "least": least}, alpha=alpha,
    )  # fmt: skip
    outcomes = run_with_progress(
        "camel images",
        items,
        partial(label_slide, source=source, options=options),
        name=_name,
        jobs=jobs,
        ledger=out / "ledger.jsonl",
        say=lambda found: f"{found.images}",
    )
    found = [outcome.value for outcome in outcomes if outcome.value is not None]
    _train(found, out, enrichment=enrichment, segmentation=segmentation, overwrite=overwrite)
    exit_unless_all_done(outcomes)


def _train(found: list[SlideImages], out: Path, **settings: Any) -> None:
    from ..engine.schedule import Skipped
    from ..tasks.camel.study import train_camel

    with progress_bar() as bar:
        stages: dict[str, Any] = {}

        def show(stage: str, share: float) -> None:
            if stage not in stages:
                stages[stage] = bar.add_task(f"camel {stage}", total=100)
            bar.update(stages[stage], completed=round(100 * share))

        trained = train_camel(found, out, on_progress=show, **settings)
    if isinstance(trained, Skipped):
        console.print(f"skipped: {out} has this model already")
        trained = trained.value
    console.print(f"{trained.path}: {trained.images} images, {trained.positive} positive")


def _source(
    items: list[SlideItem],
    options: Any,
    *,
    regions: Path | None,
    predictions: Path | None,
    regions_as: dict[str, Any],
    alpha: float,
) -> Source:
    from ..storage.predictions import read_predictions
    from ..tasks.camel.gather import RegionSource, score_source

    if (regions is None) == (predictions is None):
        raise typer.BadParameter("give either --regions or --predictions")
    if regions is not None:
        if not regions.is_dir() and len(items) > 1:
            raise typer.BadParameter("give a folder where there are several slides: --regions DIR")
        return RegionSource(regions, **regions_as)
    assert predictions is not None
    source = score_source(read_predictions(predictions), items, options, alpha=alpha)
    console.print(
        f"positive over a score of {source.bands.high:.3f}, negative up to {source.bands.low:.3f} "
        f"({source.bands.negatives} images of negative slides)"
    )
    return source


def _lattices(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise typer.BadParameter(f"--cascade takes N1,N2, not {text!r}") from None


def predict(
    model: Annotated[Path, typer.Argument(help="OUT/model of camel train.")],
    slides: Slides,
    *,
    out: Out,
    threshold: Annotated[
        float, typer.Option(min=0.001, max=1, help="Least probability inside an outline.")
    ] = 0.5,
    min_area_um2: Annotated[
        float, typer.Option(min=0, help="Smaller pieces go, smaller holes are filled.")
    ] = 1000.0,
    simplify_um: Annotated[
        float | None, typer.Option(min=0, help="How far outlines may leave the pixels' edges.")
    ] = None,
    window_px: Annotated[int | None, typer.Option(min=32, help="Side of a window.")] = None,
    stride_px: Annotated[int | None, typer.Option(min=1, help="Step; half a window.")] = None,
    tile_um: Annotated[float, typer.Option(min=1, help="Side of a probability tile.")] = 64.0,
    tiles: Annotated[
        bool, typer.Option("--tiles/--no-tiles", help="Probability tiles for QuPath.")
    ] = True,
    tissue: Tissue = None,
    crop: Crop = True,
    slide_mpp: SlideMpp = None,
    device: Device = "cpu",
    jobs: Jobs = 1,
    batch: Annotated[int, typer.Option(min=1, help="Windows at once.")] = 8,
    overwrite: Overwrite = False,
) -> None:
    """Outline lesions on whole slides.

    Writes OUT/<id>.probability.ome.zarr, OUT/<id>.geojson.gz (annotations with holes),
    OUT/<id>.tiles.geojson.gz (for Measure > Show measurement maps) and OUT/ledger.jsonl. Run again
    after a kill it goes on where it was; run again with another threshold, only the outlines are
    made anew.

    Example: [bold]microtome camel predict camel/model slides/*.svs --out outlined --jobs 4[/]
    """
    from functools import partial

    from ..storage.qupath_script import write_load_script
    from ..tasks.camel.polygons import PolygonOptions
    from ..tasks.camel.predict import WindowOptions
    from ..tasks.camel.segmenter import load_segmenter
    from ..tasks.camel.slides import segment_with
    from ..tasks.slide_list import list_slides
    from ..tasks.tile_reader import default_readers

    # A model that cannot be used is refused once, and not for every slide.
    load_segmenter(model)
    items = list_slides(slides, mpp=slide_mpp)
    work = partial(
        segment_with,
        model=model,
        out=out,
        windows=WindowOptions(window_px, stride_px, batch, device, default_readers(jobs)),
        polygons=PolygonOptions(threshold, min_area_um2, simplify_um),
        tile_um=tile_um if tiles else None,
        tissue=tissue,
        crop=crop,
        overwrite=overwrite,
    )
    if jobs > 1:
        outcomes = run_with_progress(
            "camel predict", items, work, name=_name, jobs=jobs, ledger=out / "ledger.jsonl",
            say=_say,
        )  # fmt: skip
    else:
        outcomes = _one_by_one(items, work, out / "ledger.jsonl")
    write_load_script(out)
    exit_unless_all_done(outcomes)


def _one_by_one(
    items: list[SlideItem], segment: Callable[..., Any], path: Path
) -> list[Outcome[Segmented]]:
    """In this process: the bar shows the windows of each slide."""
    from ..engine.schedule import run_items
    from ..storage.ledger import Ledger

    ledger = Ledger(path)
    with progress_bar() as bar:
        task = bar.add_task("", total=None)

        def work(item: SlideItem) -> Segmented | Skipped[Segmented]:
            bar.reset(task, description=item.id, total=None)
            made: Segmented | Skipped[Segmented] = segment(
                item,
                on_progress=lambda done, total: bar.update(task, completed=done, total=total),
            )
            return made

        outcomes = run_items(
            items,
            work,
            name=_name,
            ledger=ledger,
            on_done=lambda outcome: bar.console.print(outcome_line(outcome, _say), soft_wrap=True),
            debug=debugging(),
        )
    console.print(summary_line("camel predict", ledger))
    return outcomes


def _name(item: SlideItem) -> str:
    return item.id


def _say(made: Segmented) -> str:
    note = f" ({made.warning})" if made.warning else ""
    return f"{made.polygons:,} outlines{note}  {made.geojson}"
