"""``microtome tissue``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .common import (
    Jobs,
    MakeByDefault,
    Out,
    Overwrite,
    SlideMpp,
    Slides,
    class_pairs,
    exit_unless_all_done,
    run_with_progress,
)
from .tissue_train import train

if TYPE_CHECKING:
    from ..engine.schedule import Skipped
    from ..engine.tissue import TissueMade
    from ..tasks.slide_list import SlideItem

Mpp = Annotated[float, typer.Option(min=0.1, help="µm per pixel of the mask.")]
Into = Annotated[
    Path | None,
    typer.Option(help="Folder of <id>.ome.zarr: the mask becomes their label `tissue` as well."),
]
Label = Annotated[
    bool,
    typer.Option(
        "--label/--no-label", help="Keep the mask also in a slide that is an OME-Zarr of ours."
    ),
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(name="tissue", cls=MakeByDefault, no_args_is_help=True)
    group.callback()(tissue)
    group.command()(make)
    group.command("import")(import_)
    group.command()(train)
    app.add_typer(group)


def tissue() -> None:
    """Find the tissue of slides, or take it from QuPath.

    [bold]microtome tissue SLIDE... --out DIR[/] is short for [bold]tissue make[/].

    Example: [bold]microtome tissue slides/*.svs --out masks[/]

    Example: [bold]microtome tissue import slides/*.svs --annotations edited --out corrected[/]
    """


def make(
    slides: Slides,
    *,
    out: Out,
    mpp: Mpp = 8.0,
    method: Annotated[
        str,
        typer.Option(help="auto, saturation, entropy, density, fluorescence or model:PATH."),
    ] = "auto",
    artefacts: Annotated[
        bool, typer.Option("--artefacts/--no-artefacts", help="Label pen, folds, blur and more.")
    ] = True,
    slide_mpp: SlideMpp = None,
    into: Into = None,
    label: Label = True,
    jobs: Jobs = 1,
    overwrite: Overwrite = False,
) -> None:
    """Find the tissue of slides.

    Writes OUT/<id>.tissue.zarr (an OME-Zarr label image), a picture of it beside,
    OUT/<id>.tissue.geojson, which QuPath opens by drag and drop and people may edit, and
    OUT/ledger.jsonl. Slides that are done already, with the same options, are skipped.

    Example: [bold]microtome tissue slides/*.svs --out masks[/]
    """
    from functools import partial

    options = {"mpp": mpp, "method": method, "artefacts": artefacts, "overwrite": overwrite}
    work = partial(_make, out=out, into=into, label=label, options=options)
    _run(slides, slide_mpp, work, out, jobs)


def import_(
    slides: Slides,
    *,
    annotations: Annotated[
        Path, typer.Option(help="GeoJSON from QuPath; or a folder with <id>.geojson of each slide.")
    ],
    out: Out,
    classes: Annotated[
        list[str] | None,
        typer.Option(
            "--class",
            metavar="NAME=LABEL",
            help="What a class is: tissue, pen, fold … or ignore; Unclassified=tissue for none.",
        ),
    ] = None,
    mpp: Mpp = 8.0,
    crop: Annotated[
        bool,
        typer.Option(
            "--crop/--no-crop", help="Whether QuPath showed the slide cropped to its bounds."
        ),
    ] = True,
    slide_mpp: SlideMpp = None,
    into: Into = None,
    label: Label = True,
    jobs: Jobs = 1,
    overwrite: Overwrite = False,
) -> None:
    """Make masks of annotations that were drawn or edited in QuPath.

    Classes Tissue, "Artefact: pen" and so on are known; of any other, and of objects without a
    class, say what they are. Writes OUT/<id>.tissue.zarr, a picture of it and OUT/ledger.jsonl.

    Example: [bold]microtome tissue import a.svs --annotations a.geojson --out corrected[/]

    Example: [bold]microtome tissue import cohort.csv --annotations edited --out corrected
    --class Tumor=tissue --class "Ignore*=ignore"[/]
    """
    from functools import partial

    options = {
        "mpp": mpp,
        "classes": class_pairs(classes or [], "NAME=LABEL"),
        "crop": crop,
        "overwrite": overwrite,
    }
    work = partial(
        _import, annotations=annotations, out=out, into=into, label=label, options=options
    )
    _run(slides, slide_mpp, work, out, jobs, one=not annotations.is_dir())


def _run(
    slides: list[str],
    slide_mpp: SlideMpp,
    work: Callable[[SlideItem], TissueMade | Skipped[TissueMade]],
    out: Path,
    jobs: int,
    *,
    one: bool = False,
) -> None:
    from ..tasks.slide_list import list_slides

    items = list_slides(slides, mpp=slide_mpp)
    if one and len(items) > 1:
        raise typer.BadParameter("give a folder where there are several slides: --annotations DIR")
    outcomes = run_with_progress(
        "tissue", items, work, name=_name, jobs=jobs, ledger=out / "ledger.jsonl", say=_say
    )
    exit_unless_all_done(outcomes)


def _make(
    item: SlideItem, *, out: Path, into: Path | None, label: bool, options: dict[str, Any]
) -> TissueMade | Skipped[TissueMade]:
    from ..engine.tissue import SUFFIX, make_tissue, slide_image

    path = out / f"{item.id}{SUFFIX}"
    image = slide_image(item.path, item.id, into) if label else None
    return make_tissue(item.path, path, slide_mpp=item.mpp, into=image, **options)


def _import(
    item: SlideItem,
    *,
    annotations: Path,
    out: Path,
    into: Path | None,
    label: bool,
    options: dict[str, Any],
) -> TissueMade | Skipped[TissueMade]:
    from ..engine.tissue import SUFFIX, annotations_of, import_tissue, slide_image

    path = out / f"{item.id}{SUFFIX}"
    image = slide_image(item.path, item.id, into) if label else None
    file = annotations_of(annotations, item.id)
    return import_tissue(item.path, file, path, slide_mpp=item.mpp, into=image, **options)


def _name(item: SlideItem) -> str:
    return item.id


def _say(made: TissueMade) -> str:
    note = f" ({made.warning})" if made.warning else ""
    return f"{made.fraction:.1%} tissue, {made.area_mm2:.2f} mm²{note}  {made.path}"
