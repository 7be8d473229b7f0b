"""``microtome encode`` and ``microtome encoder``."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from .common import (
    Jobs,
    Masks,
    Out,
    Overwrite,
    SlideMpp,
    console,
    exit_unless_all_done,
    run_with_progress,
)
from .encoder_train import train

_SCANS = "Scans"


class Precision(StrEnum):
    """Numbers that a deep encoder computes in."""

    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"


class Edge(StrEnum):
    """What becomes of tiles at the edge of a slide."""

    DROP = "drop"
    KEEP = "keep"
    PAD = "pad"


class ModalityName(StrEnum):
    """What a scan is, where its file does not say."""

    CT = "ct"
    MR = "mr"
    PT = "pt"


class Slices(StrEnum):
    """How many slices of a scan become one picture."""

    ONE = "1"
    THREE = "3"


class Stain(StrEnum):
    """How stains are normalised."""

    MACENKO = "macenko"
    VAHADANE = "vahadane"
    REINHARD = "reinhard"


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(encode)
    group = typer.Typer(name="encoder", help="What encodes tiles.", no_args_is_help=True)
    # A group with one command would otherwise lose the command's name.
    group.callback()(_encoder)
    group.command("list")(list_encoders)
    group.command("train")(train)
    app.add_typer(group)


def encode(
    slides: Annotated[
        list[str],
        typer.Argument(help="Slides, scans, DICOM folders, patterns, or cohort tables."),
    ],
    *,
    out: Out,
    encoder: Annotated[
        str | None,
        typer.Option(
            help="timm:NAME[:WEIGHTS], FILE.pt, FILE.onnx, FOLDER, package.module:name …; "
            "stain-texture for slides and block-texture for scans by default."
        ),
    ] = None,
    mpp: Annotated[
        float | None, typer.Option(min=0.01, help="µm per tile pixel, in place of the encoder's.")
    ] = None,
    tile_px: Annotated[
        int | None, typer.Option(min=16, help="Side of a tile, in place of the encoder's.")
    ] = None,
    stride_px: Annotated[
        int | None, typer.Option(min=1, help="Step between tiles; the side of a tile by default.")
    ] = None,
    slide_mpp: SlideMpp = None,
    min_tissue: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=1.0,
            help="Leave out tiles with less tissue, or body: 0.5, and 0.1 in slices, by default.",
        ),
    ] = None,
    max_corrupt: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Reject slides with more undecodable tiles.")
    ] = 0.02,
    masks: Masks = None,
    edge: Annotated[
        Edge | None,
        typer.Option(
            help="Tiles at the edge. drop: only whole ones of the lattice. keep: a last row and "
            "column moved inwards. pad: filled with white. By default drop; keep for 3-D blocks."
        ),
    ] = None,
    stain: Annotated[
        Stain | None, typer.Option(help="Give all slides one look before they are encoded.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, or auto; for deep encoders.")] = "cpu",
    precision: Annotated[Precision, typer.Option(help="For deep encoders.")] = Precision.FP32,
    is_compiled: Annotated[
        bool, typer.Option("--compile", help="torch.compile a deep encoder: slow start, then fast.")
    ] = False,
    half: Annotated[
        bool, typer.Option("--half", help="Keep features in 16 bits: half of the disk.")
    ] = False,
    views: Annotated[
        int,
        typer.Option(
            min=0,
            help="Encode so many views of each slide besides, tiles turned and restained by "
            "chance, to OUT/view-1 …: for mil train --views.",
        ),
    ] = 0,
    readers: Annotated[
        int | None,
        typer.Option(min=1, help="Threads that read a slide; by default its share of the cores."),
    ] = None,
    block_mm: Annotated[
        float, typer.Option(min=0.01, help="Side of a 3-D block.", rich_help_panel=_SCANS)
    ] = 16.0,
    spacing_mm: Annotated[
        float | None,
        typer.Option(
            min=0.01,
            help="Distance between samples: 2 in 3-D blocks and 1 in slices by default.",
            rich_help_panel=_SCANS,
        ),
    ] = None,
    slices: Annotated[
        Slices,
        typer.Option(
            help="Slices that an encoder of pictures sees at once; 3 makes a slice and its "
            "neighbours red, green and blue.",
            rich_help_panel=_SCANS,
        ),
    ] = Slices.ONE,
    window: Annotated[
        list[str] | None,
        typer.Option(
            help="CT window, one a channel: brain, subdural, bone, lung, abdomen or CENTRE/WIDTH.",
            rich_help_panel=_SCANS,
        ),
    ] = None,
    modality: Annotated[
        ModalityName | None,
        typer.Option(help="For files that do not state it, as NIfTI.", rich_help_panel=_SCANS),
    ] = None,
    bias: Annotated[
        bool,
        typer.Option("--bias/--no-bias", help="MR: find and undo bias.", rich_help_panel=_SCANS),
    ] = True,
    robust: Annotated[
        bool,
        typer.Option(
            "--robust", help="PET without uptake values: by percentiles.", rich_help_panel=_SCANS
        ),
    ] = False,
    series: Annotated[
        str | None,
        typer.Option(help="Series of a DICOM folder: number or UID.", rich_help_panel=_SCANS),
    ] = None,
    resample: Annotated[
        bool,
        typer.Option(
            "--resample", help="Bring uneven slices onto a regular grid.", rich_help_panel=_SCANS
        ),
    ] = False,
    jobs: Jobs = 1,
    overwrite: Overwrite = False,
) -> None:
    """Slides and scans to bags: tissue, tiles or blocks, quality, features.

    Writes OUT/<id>.bag.zarr for each slide or scan and OUT/ledger.jsonl. Those that are done
    already, with the same options, are skipped. What a file is, its content says.

    Example: [bold]microtome encode slides/*.svs --out bags --jobs 4[/]

    Example: [bold]microtome encode scans/*.nii.gz --modality ct --out bags[/]
    """
    import time
    from functools import partial

    from ..tasks.devices import in_words
    from ..tasks.encode import Encoded
    from ..tasks.encode_scan import encode_item, load_early
    from ..tasks.run.parts import EncodePart
    from ..tasks.run.slides import scan_options, slide_options
    from ..tasks.slide_list import SlideItem, list_slides

    items = list_slides(slides, mpp=slide_mpp)
    part = EncodePart(
        encoder=encoder,
        mpp=mpp,
        tile_px=tile_px,
        stride_px=stride_px,
        min_tissue=min_tissue,
        max_corrupt=max_corrupt,
        edge=None if edge is None else edge.value,
        stain=None if stain is None else stain.value,
        device=device,
        precision=precision.value,
        is_compiled=is_compiled,
        half=half,
        views=views,
        readers=readers,
        block_mm=block_mm,
        spacing_mm=spacing_mm,
        slices=3 if slices is Slices.THREE else 1,
        window=tuple(window or ()),
        modality=None if modality is None else modality.value,
        bias=bias,
        robust=robust,
        series=series,
        resample=resample,
    )
    of_slides = slide_options(part, masks=masks, jobs=jobs)
    of_scans = scan_options(part)
    load_early(items, of_slides, of_scans)
    if device == "auto":
        console.print(in_words(device))

    def say(made: Encoded) -> str:
        lost = f", {made.corrupt_tiles} undecodable" if made.corrupt_tiles else ""
        return f"{made.tiles:,} {made.what} x {made.dim}{lost}  {made.path}"

    def name(item: SlideItem) -> str:
        return item.id

    work = partial(encode_item, out=out, slides=of_slides, scans=of_scans, overwrite=overwrite)
    start = time.perf_counter()
    outcomes = run_with_progress(
        "encode", items, work, name=name, jobs=jobs, ledger=out / "ledger.jsonl", say=say
    )
    done = [o.value for o in outcomes if o.state == "done" and o.value is not None]
    if done:
        seconds, count = time.perf_counter() - start, sum(made.tiles for made in done)
        what = done[0].what if len({made.what for made in done}) == 1 else "instances"
        console.print(
            f"{count:,} {what} of {len(done):,} files in {seconds:,.0f} s: "
            f"{count / seconds:,.0f} {what}/s"
        )
    exit_unless_all_done(outcomes)


def _encoder() -> None:
    """What encodes tiles."""


def list_encoders() -> None:
    """List the encoders, and every feature of stain-texture and block-texture.

    Example: [bold]microtome encoder list[/]
    """
    from rich.console import Console
    from rich.table import Table

    from ..tasks.encoders import ENCODERS, load_encoder
    from ..tasks.encoders.block_texture import CHANNEL_FEATURES, BlockTexture
    from ..tasks.encoders.stain_texture import FEATURES

    screen = Console()
    table = Table("--encoder", "what it is", title="encoders")
    for spec, what in ENCODERS.items():
        table.add_row(spec, what)
    blocks = BlockTexture
    table.add_row(blocks.name, "intensity, gradients, contrast of 3-D blocks of scans; no weights")
    screen.print(table)
    default = load_encoder()
    title = (
        f"{default.name}@{default.version}: {default.dim} features of {default.tile_px} px tiles "
        f"at {default.mpp} µm/px, {default.licence}"
    )
    features = Table("feature", "meaning", title=title)
    for feature, meaning in FEATURES.items():
        features.add_row(feature, meaning)
    screen.print(features)
    per_channel = Table(
        "feature of each channel",
        "meaning",
        title=f"{blocks.name}@{blocks.version}: {len(CHANNEL_FEATURES)} features of each channel, "
        f"{blocks.licence}",
    )
    for feature, meaning in CHANNEL_FEATURES.items():
        per_channel.add_row(feature, meaning)
    screen.print(per_channel)
