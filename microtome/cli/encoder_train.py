"""``microtome encoder train``."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from .common import (
    Jobs,
    Masks,
    Out,
    Overwrite,
    Seed,
    SlideMpp,
    Slides,
    console,
    exit_unless_all_done,
    progress_bar,
    run_with_progress,
)

if TYPE_CHECKING:
    from ..engine.datasets import TiledSlide
    from ..tasks.ssl.checkpoint import Entry
    from ..tasks.ssl.train import SslTrained

_MACHINE = "Machine"


class MixedPrecision(StrEnum):
    """Numbers that a GPU multiplies in."""

    BF16 = "bf16"
    FP32 = "fp32"


def train(
    slides: Slides,
    *,
    out: Out,
    backbone: Annotated[str, typer.Option(help="Any timm model; it begins untrained.")] = (
        "resnet10t"
    ),
    tile_px: Annotated[int, typer.Option(min=16, help="Side of a tile.")] = 128,
    mpp: Annotated[float, typer.Option(min=0.01, help="µm per tile pixel.")] = 1.0,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Batches to train on; 1000 by default.")
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(min=0.01, help="Train so long, in place of --steps.")
    ] = None,
    batch: Annotated[
        int, typer.Option(min=2, help="Tiles a step, of all processes together.")
    ] = 64,
    learning_rate: Annotated[float, typer.Option(min=1e-7, max=1.0, help="At its highest.")] = 1e-3,
    slide_mpp: SlideMpp = None,
    min_tissue: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Leave out tiles with less tissue.")
    ] = 0.5,
    masks: Masks = None,
    seed: Seed = 0,
    device: Annotated[
        str, typer.Option(help="cpu, cuda, or auto.", rich_help_panel=_MACHINE)
    ] = "cpu",
    precision: Annotated[
        MixedPrecision,
        typer.Option(help="On CUDA; a CPU computes in fp32.", rich_help_panel=_MACHINE),
    ] = MixedPrecision.BF16,
    workers: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Processes that read tiles; by default none on a CPU, one a core on CUDA.",
            rich_help_panel=_MACHINE,
        ),
    ] = None,
    checkpoint_steps: Annotated[
        int,
        typer.Option(min=1, help="Steps from checkpoint to checkpoint.", rich_help_panel=_MACHINE),
    ] = 100,
    threads: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Of a CPU. One number of threads gives one result, to the last bit.",
            rich_help_panel=_MACHINE,
        ),
    ] = None,
    jobs: Jobs = 1,
    overwrite: Overwrite = False,
) -> None:
    """Train an encoder on tiles of your own slides, without labels (Barlow Twins).

    Writes OUT/encoder, with the encoder, its card, history.csv and loss.png, and OUT/ledger.jsonl
    of the slides. When it was killed, the same command goes on from the last checkpoint.

    Example: [bold]microtome encoder train slides/*.svs --out ours --minutes 60[/]

    Example: [bold]microtome encode slides/*.svs --encoder ours/encoder --out bags[/]

    Example: [bold]torchrun --nproc-per-node 4 -m microtome encoder train slides/*.svs --out ours
    --device cuda --batch 1024[/]
    """
    if steps is not None and minutes is not None:
        raise typer.BadParameter("either --steps or --minutes")
    from functools import partial

    from ..engine.schedule import Skipped
    from ..tasks.encode_options import EncodeOptions
    from ..tasks.slide_list import SlideItem, list_slides
    from ..tasks.ssl.data import tile_slide
    from ..tasks.ssl.options import Machine, SslOptions
    from ..tasks.ssl.processes import rank_here
    from ..tasks.ssl.train import train_encoder

    options = SslOptions(
        backbone=backbone,
        tile_px=tile_px,
        mpp=mpp,
        steps=None if minutes is not None else steps or 1000,
        minutes=minutes,
        batch=batch,
        learning_rate=learning_rate,
        seed=seed,
    )
    machine = Machine(device, precision.value, workers, checkpoint_steps, threads)
    tiling = EncodeOptions(tile_px=tile_px, mpp=mpp, min_tissue=min_tissue, masks=masks)
    is_first = rank_here() == 0
    console.quiet = not is_first

    def say(tiled: TiledSlide) -> str:
        return f"{len(tiled.grid):,} tiles"

    def name(item: SlideItem) -> str:
        return item.id

    outcomes = run_with_progress(
        "tiles",
        list_slides(slides, mpp=slide_mpp),
        partial(tile_slide, options=tiling),
        name=name,
        jobs=jobs,
        ledger=out / "ledger.jsonl" if is_first else None,
        say=say,
    )
    tiled = [outcome.value for outcome in outcomes if outcome.value is not None]
    with progress_bar() as bar:
        task = bar.add_task("train", total=None)

        def show(done: float, total: float, entry: Entry | None) -> None:
            words = None if entry is None else f"train, loss {entry.loss:.4g}"
            bar.update(task, completed=int(done), total=int(total), description=words)

        trained = train_encoder(
            tiled,
            out / "encoder",
            options=options,
            machine=machine,
            overwrite=overwrite,
            on_step=show,
        )
    if isinstance(trained, Skipped):
        console.print(f"skipped: {out / 'encoder'} is there already")
        trained = trained.value
    _tell(trained)
    exit_unless_all_done(outcomes)


def _tell(trained: SslTrained) -> None:
    card, made = trained.card, trained.card.training
    what = f"{card.backbone}, {card.dim} features of {card.tile_px} px tiles at {card.mpp:g} µm/px"
    how = f"{made['steps']:,} steps on {made['tiles']:,} tiles of {made['slides']:,} slides"
    rank, before = made["effective_rank"], made["effective_rank_untrained"]
    ranks = f"effective rank of the embeddings {rank:.0f}, untrained {before:.0f}"
    spreads = f"spread {made['spread']:.2f}, untrained {made['spread_untrained']:.2f}"
    lines = [
        f"{trained.path}: {what}; {how}",
        f"loss {made['loss']:.4g}; {ranks}; {spreads}",
    ]
    if made["replaced_tiles"]:
        lines.append(f"{made['replaced_tiles']:,} times a tile could not be decoded")
    if trained.is_collapsed:
        lines.append("[red]collapsed[/]: all tiles get nearly one embedding; do not use it")
    for line in lines:
        console.print(line, soft_wrap=True)
