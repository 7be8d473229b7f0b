"""``microtome bags``."""

from __future__ import annotations

import json
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .bags_pool import pool
from .common import Bags, Jobs, Out, Overwrite, exit_unless_all_done, run_with_progress

if TYPE_CHECKING:
    from ..storage.bag_records import BagRecord
    from ..tasks.bag_exchange import Exchanged


class Format(StrEnum):
    """Whose layout."""

    CLAM = "clam"
    TRIDENT = "trident"
    STAMP = "stamp"
    ANNDATA = "anndata"
    SPATIALDATA = "spatialdata"


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(name="bags", no_args_is_help=True)
    group.callback()(bags)
    group.command("list")(list_bags)
    group.command("export")(export)
    group.command("import")(import_)
    group.command("pool")(pool)
    app.add_typer(group)


def bags() -> None:
    """Bags: what there is, one vector a slide, and to and from CLAM, TRIDENT and STAMP."""


def list_bags(
    folder: Annotated[Path, typer.Argument(help="Folder of <id>.bag.zarr.")],
    *,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object a bag and line.")
    ] = False,
) -> None:
    """Say what bags there are: tiles, length of a feature vector, encoder, resolution.

    Only their records are read, however large they are.

    Example: [bold]microtome bags list bags[/]
    """
    from ..storage.bag_records import list_records

    records = list(list_records(folder))
    if as_json:
        for record in records:
            typer.echo(json.dumps(asdict(record), default=str, ensure_ascii=False))
    else:
        _print(records)
    if any(record.problem for record in records):
        raise typer.Exit(3)


def _print(records: list[BagRecord]) -> None:
    # By hand: a rich table of ten thousand rows takes its time.
    rows = [("id", "tiles", "features", "px", "µm/px", "encoder")]
    rows += [_cells(record) for record in records]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for identity, *numbers, last in rows:
        middle = "  ".join(text.rjust(w) for text, w in zip(numbers, widths[1:-1], strict=True))
        typer.echo(f"{identity.ljust(widths[0])}  {middle}  {last}")
    tiles = sum(record.tiles for record in records)
    typer.echo(f"{len(records):,} bags, {tiles:,} tiles")


def _cells(record: BagRecord) -> tuple[str, str, str, str, str, str]:
    if record.problem:
        return record.id, "", "", "", "", record.problem
    numbers = f"{record.tiles:,}", str(record.dim), str(record.tile_px), f"{record.mpp:.4g}"
    return record.id, *numbers, record.encoder


def export(
    bags: Bags,
    *,
    out: Out,
    form: Annotated[Format, typer.Option("--format", help="Whose layout.")] = Format.CLAM,
    jobs: Jobs = 1,
    overwrite: Overwrite = False,
) -> None:
    """Write bags for another tool.

    clam writes OUT/h5_files/<id>.h5 and OUT/pt_files/<id>.pt, trident and stamp OUT/<id>.h5,
    anndata and spatialdata OUT/<id>.zarr; and OUT/ledger.jsonl.

    Example: [bold]microtome bags export bags --format clam --out for-clam[/]
    """
    from functools import partial

    from ..storage.bag_records import bag_id, bags_in
    from ..tasks.bag_exchange import export_file

    work = partial(export_file, form=form.value, out=out, overwrite=overwrite)
    outcomes = run_with_progress(
        "bags export",
        bags_in(bags),
        work,
        name=bag_id,
        jobs=jobs,
        ledger=out / "ledger.jsonl",
        say=_said,
    )
    exit_unless_all_done(outcomes)


def import_(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE...", help="h5, pt or AnnData files, or folders of them."),
    ],
    *,
    out: Out,
    slides: Annotated[
        Path | None, typer.Option(help="Folder of the slides, named as the files are.")
    ] = None,
    coords: Annotated[
        Path | None,
        typer.Option(help="h5 file of coordinates, or a folder of them, where FILE has none."),
    ] = None,
    encoder: Annotated[
        str | None, typer.Option(help="What made the features, where the file does not say.")
    ] = None,
    tile_px: Annotated[
        int | None, typer.Option(min=1, help="Side of a tile as the encoder saw it.")
    ] = None,
    mpp: Annotated[float | None, typer.Option(min=0.001, help="µm per tile pixel.")] = None,
    slide_mpp: Annotated[
        float | None,
        typer.Option(min=0.001, help="µm per slide pixel, where the slide does not say."),
    ] = None,
    jobs: Jobs = 1,
    overwrite: Overwrite = False,
) -> None:
    """Take in bags of CLAM, TRIDENT or STAMP, or AnnData that were exported here.

    Writes OUT/<id>.bag.zarr for each file and OUT/ledger.jsonl. What neither the file nor its
    slide says is not guessed: the file is rejected, with the option that would say it.

    Example: [bold]microtome bags import features_uni_v1 --slides slides --encoder uni --out bags[/]
    """
    from functools import partial

    from ..tasks.bag_exchange import ImportOptions, import_file, list_foreign

    options = ImportOptions(slides, coords, encoder, tile_px, mpp, slide_mpp)
    work = partial(import_file, out=out, options=options, overwrite=overwrite)
    outcomes = run_with_progress(
        "bags import",
        list_foreign(files),
        work,
        name=_stem,
        jobs=jobs,
        ledger=out / "ledger.jsonl",
        say=_said,
    )
    exit_unless_all_done(outcomes)


def _stem(path: Path) -> str:
    return path.stem


def _said(made: Exchanged) -> str:
    return f"{made.tiles:,} tiles x {made.dim}  {made.path}"
