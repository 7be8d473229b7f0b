"""``microtome tissue train``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .common import Overwrite, Seed, Slides, console, progress_bar


def train(
    slides: Slides,
    *,
    masks: Annotated[
        Path, typer.Option(help="Folder of <id>.tissue.zarr that somebody has looked at.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Model to write, a folder.")],
    mpp: Annotated[float, typer.Option(min=0.1, help="µm per pixel that it works at.")] = 8.0,
    steps: Annotated[int, typer.Option(min=1, help="Batches to train on.")] = 300,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Train a small network on slides and corrected masks, to find tissue like theirs.

    It learns the labels that the masks have, artefacts among them. Look at its masks of slides
    that it was not trained on before relying on it.

    Example: [bold]microtome tissue train slides/*.svs --masks corrected --out ours.model[/]

    Example: [bold]microtome tissue more/*.svs --method model:ours.model --out masks[/]
    """
    from ..engine.schedule import Skipped
    from ..engine.tissue import SUFFIX, SegmenterOptions, read_tissue, train_segmenter
    from ..tasks.slide_list import list_slides

    items = list_slides(slides)
    examples = [(item.path, read_tissue(masks / f"{item.id}{SUFFIX}")) for item in items]
    with progress_bar() as bar:
        task = bar.add_task("tissue train", total=steps)
        trained = train_segmenter(
            examples,
            out,
            options=SegmenterOptions(mpp=mpp, steps=steps, seed=seed),
            overwrite=overwrite,
            on_step=lambda done, total: bar.update(task, completed=done, total=total),
        )
    if isinstance(trained, Skipped):
        console.print(f"skipped: {out} has this model already")
        trained = trained.value
    console.print(f"{out}: {', '.join(trained.labels)}; from {trained.n_slides} slides")
