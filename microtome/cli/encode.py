"""``microtome encode`` and ``microtome encoder``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from .common import Jobs, Out, Overwrite, SlideMpp, console, exit_unless_all_done, run_with_progress


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
    app.add_typer(group)


def encode(
    slides: Annotated[list[str], typer.Argument(help="Slides, patterns, or cohort tables.")],
    *,
    out: Out,
    encoder: Annotated[
        str, typer.Option(help="stain-texture, timm:NAME[:WEIGHTS], FILE.pt or package.module:name")
    ] = "stain-texture",
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
        float, typer.Option(min=0.0, max=1.0, help="Leave out tiles with less tissue.")
    ] = 0.5,
    max_corrupt: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Reject slides with more undecodable tiles.")
    ] = 0.02,
    masks: Annotated[
        Path | None,
        typer.Option(help="Folder of <id>.tissue.zarr to use, in place of finding the tissue."),
    ] = None,
    edge: Annotated[
        Edge,
        typer.Option(
            help="Tiles at the edge. drop: only whole ones of the lattice. keep: a last row and "
            "column moved inwards. pad: filled with white."
        ),
    ] = Edge.DROP,
    stain: Annotated[
        Stain | None, typer.Option(help="Give all slides one look before they are encoded.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, or auto; for deep encoders.")] = "cpu",
    precision: Annotated[Precision, typer.Option(help="For deep encoders.")] = Precision.FP32,
    is_compiled: Annotated[
        bool, typer.Option("--compile", help="torch.compile a deep encoder: slow start, then fast.")
    ] = False,
    readers: Annotated[
        int | None,
        typer.Option(min=1, help="Threads that read a slide; by default its share of the cores."),
    ] = None,
    jobs: Jobs = 1,
    overwrite: Overwrite = False,
) -> None:
    """Slides to bags: tissue, tiles, quality, features.

    Writes OUT/<id>.bag.zarr for each slide and OUT/ledger.jsonl. Slides that are done already,
    with the same options, are skipped.

    Example: [bold]microtome encode slides/*.svs --out bags --jobs 4[/]
    """
    import time
    from functools import partial

    from ..tasks.encode import Encoded, EncodeOptions, encode_slide, share_cores
    from ..tasks.slide_list import SlideItem, list_slides

    items = list_slides(slides, mpp=slide_mpp)
    options = EncodeOptions(
        encoder=encoder,
        mpp=mpp,
        tile_px=tile_px,
        stride_px=stride_px,
        min_tissue=min_tissue,
        max_corrupt=max_corrupt,
        precision=precision.value,
        device=device,
        masks=masks,
        stain=None if stain is None else stain.value,
        edge=edge.value,
        readers=readers,
        is_compiled=is_compiled,
    )
    options = share_cores(options, jobs)
    options.load()

    def say(made: Encoded) -> str:
        lost = f", {made.corrupt_tiles} undecodable" if made.corrupt_tiles else ""
        return f"{made.tiles:,} tiles x {made.dim}{lost}  {made.path}"

    def name(item: SlideItem) -> str:
        return item.id

    work = partial(encode_slide, out=out, options=options, overwrite=overwrite)
    start = time.perf_counter()
    outcomes = run_with_progress(
        "encode", items, work, name=name, jobs=jobs, ledger=out / "ledger.jsonl", say=say
    )
    made = [o.value.tiles for o in outcomes if o.state == "done" and o.value is not None]
    if made:
        seconds = time.perf_counter() - start
        console.print(
            f"{sum(made):,} tiles of {len(made):,} slides in {seconds:,.0f} s: "
            f"{sum(made) / seconds:,.0f} tiles/s"
        )
    exit_unless_all_done(outcomes)


def _encoder() -> None:
    """What encodes tiles."""


def list_encoders() -> None:
    """List the encoders, and every feature of stain-texture.

    Example: [bold]microtome encoder list[/]
    """
    from rich.console import Console
    from rich.table import Table

    from ..tasks.encoders import ENCODERS, load_encoder
    from ..tasks.encoders.stain_texture import FEATURES

    screen = Console()
    table = Table("--encoder", "what it is", title="encoders")
    for spec, what in ENCODERS.items():
        table.add_row(spec, what)
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
