"""``microtome ingest`` and ``microtome export``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from .common import (
    Cluster,
    Jobs,
    Out,
    Overwrite,
    Series,
    SlideMpp,
    console,
    debugging,
    exit_unless_all_done,
    outcome_line,
    summary_line,
)

if TYPE_CHECKING:
    from ..engine.extras import Extras
    from ..engine.ingest import Ingested
    from ..engine.schedule import Skipped
    from ..storage.codecs import ChunkCodec
    from ..tasks.ingest_run import IngestItem


Resample = Annotated[
    bool,
    typer.Option(
        "--resample", help="Bring a scan's tilted, uneven or missing slices onto a regular grid."
    ),
]


class ProfileName(StrEnum):
    """How a slide's pixels are kept."""

    AUTO = "auto"
    ARCHIVE = "archive"
    COMPATIBLE = "compatible"
    NGFF04 = "ngff04"
    VIRTUAL = "virtual"


class CodecName(StrEnum):
    """How pixels are encoded anew."""

    ZSTD = "zstd"
    BLOSC = "blosc"
    NONE = "none"
    JPEG = "jpeg"


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(ingest)
    app.command()(export)


def ingest(
    files: Annotated[
        list[str], typer.Argument(help="Slides, scans, DICOM folders, patterns, cohort tables.")
    ],
    *,
    out: Out,
    slide_mpp: SlideMpp = None,
    series: Annotated[
        str | None,
        typer.Option(help="Series of a DICOM folder, by its number or UID; or all, one by one."),
    ] = None,
    resample: Resample = False,
    profile: Annotated[
        ProfileName,
        typer.Option(
            help="How a slide is kept. archive: its own JPEG tiles, byte for byte; read wherever "
            "Microtome is installed. compatible: its pixels, with Zstandard; ten times larger, "
            "read by any tool for Zarr v3. auto: archive where the file has such tiles. ngff04: "
            "its pixels as OME-Zarr 0.4, which QuPath reads. virtual: nothing is kept; a view of "
            "the file's own JPEG tiles, read through VirtualStore."
        ),
    ] = ProfileName.AUTO,
    codec: Annotated[
        CodecName | None,
        typer.Option(
            help="Of --profile compatible, in place of zstd. jpeg changes the pixels; the product "
            "says so."
        ),
    ] = None,
    level: Annotated[
        int | None, typer.Option(help="Of --codec zstd (1 to 22) or blosc (0 to 9).")
    ] = None,
    quality: Annotated[int | None, typer.Option(help="Of --codec jpeg, 1 to 100; else 85.")] = None,
    associated: Annotated[
        bool,
        typer.Option("--associated", help="Keep label, macro, thumbnail. Labels show patients."),
    ] = False,
    properties: Annotated[
        bool,
        typer.Option("--properties", help="Keep those of the file that cannot name a person."),
    ] = False,
    patient_data: Annotated[
        bool, typer.Option("--patient-data", help="With --properties: keep all of them.")
    ] = False,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify", help="Then check every shard, compare with the source, mend what differs."
        ),
    ] = False,
    jobs: Jobs = 1,
    cluster: Cluster = None,
    overwrite: Overwrite = False,
) -> None:
    """Write slides and scans as OME-Zarr.

    Writes OUT/<id>.ome.zarr and OUT/ledger.jsonl. What was interrupted is resumed by running the
    same command again; what is done already is skipped.

    Example: [bold]microtome ingest slides/*.svs --out zarr --jobs 4[/]
    """
    from ..engine.schedule import open_pool, run_items
    from ..storage.ledger import Ledger
    from ..tasks.ingest_run import IngestOptions, ingest_item, ingest_items
    from ..tasks.slide_list import list_slides

    items = ingest_items(list_slides(files, mpp=slide_mpp), series)
    options = IngestOptions(
        profile.value,
        resample,
        verify,
        overwrite,
        _codec(profile, codec, level, quality),
        _extras(profile, associated, properties, patient_data),
    )
    ledger = Ledger(out / "ledger.jsonl")
    with open_pool(jobs, cluster=cluster) as pool, _pixel_bar() as bar:
        task = bar.add_task("", total=None)

        def work(item: IngestItem) -> Ingested | Skipped[Ingested]:
            def on_progress(done: int, total: int) -> None:
                bar.update(task, completed=done, total=total)

            bar.reset(task, description=item.id, total=None)
            return ingest_item(item, out=out, options=options, pool=pool, on_progress=on_progress)

        # One item after the other; a slide's cells are spread over the pool.
        outcomes = run_items(
            items,
            work,
            name=lambda item: item.id,
            ledger=ledger,
            on_done=lambda outcome: bar.console.print(outcome_line(outcome, _say), soft_wrap=True),
            debug=debugging(),
        )
    console.print(summary_line("ingest", ledger))
    exit_unless_all_done(outcomes)


def export(
    scan: Annotated[
        Path, typer.Argument(help="A scan: OME-Zarr that ingest made, DICOM or NIfTI.")
    ],
    nifti: Annotated[Path, typer.Argument(help="File to write: .nii or .nii.gz.")],
    *,
    series: Series = None,
    resample: Resample = False,
    overwrite: Overwrite = False,
) -> None:
    """Write a scan as NIfTI; what came from NIfTI comes out with its own header.

    Example: [bold]microtome export zarr/case-1.ome.zarr case-1.nii.gz[/]
    """
    from ..engine.volumes import export_nifti, open_volume

    if not nifti.name.endswith((".nii", ".nii.gz")):
        raise typer.BadParameter("the file must be called .nii or .nii.gz", param_hint="NIFTI")
    volume = open_volume(scan, series=series, resample=resample)
    export_nifti(volume, nifti, overwrite=overwrite)
    console.print(f"[green]done[/] {nifti}")


def _codec(
    profile: ProfileName, codec: CodecName | None, level: int | None, quality: int | None
) -> ChunkCodec | None:
    from ..storage.codecs import codec_named

    if codec is None:
        if level is not None or quality is not None:
            raise typer.BadParameter("--level and --quality go with --codec")
        return None
    if profile is not ProfileName.COMPATIBLE:
        raise typer.BadParameter("--codec goes with --profile compatible")
    try:
        return codec_named(codec.value, level, quality)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def _extras(profile: ProfileName, *asked: bool) -> Extras:
    from ..engine.extras import Extras

    if profile is ProfileName.VIRTUAL and any(asked):
        raise typer.BadParameter("--profile virtual keeps nothing of the slide")
    try:
        return Extras(*asked)
    except ValueError as error:
        raise typer.BadParameter("--patient-data goes with --properties") from error


class _Rate(ProgressColumn):
    """Megapixels, or megavoxels, a second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed / 1e6:.1f} MPix/s")


def _pixel_bar() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        _Rate(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )


def _say(made: Ingested) -> str:
    words = f"{made.path}"
    if made.seconds:
        words = (
            f"{made.pixels / 1e6:.1f} MPix, {made.pixels / 1e6 / made.seconds:.1f} MPix/s  {words}"
        )
    facts = [f"{made.kept} shards kept"] if made.kept else []
    facts += [f"{made.compared / 1e6:.1f} MPix compared with the source"] if made.compared else []
    facts += [f"{made.mended} damaged shards made again"] if made.mended else []
    return f"{words}  ({', '.join(facts)})" if facts else words
