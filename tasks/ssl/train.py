"""Training an encoder without labels, on tiles of one's own slides."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ...engine.datasets import TiledSlide
from ...engine.schedule import Skipped
from ...storage.commit import file_identity, is_done, new_product, product_key
from ...storage.installed import installed_version
from ..encoders.torch_forward import forward
from ..encoders.trained import KIND, EncoderCard, new_backbone, read_card, write_trained
from ..torch_threads import torch_threads
from .checkpoint import State
from .curve import draw_curve, write_history
from .data import DecodableTiles, require_enough, require_fit
from .loss import effective_rank, spread
from .options import Machine, SslOptions
from .processes import Group, joined
from .run import OnStep, Run, begin

TRAINING_VERSION = 1
"""Goes up with every change that alters what is learnt."""

CHECKPOINT = "checkpoint.safetensors"
COLLAPSED = 0.02
"""Embeddings that are spread less than this have collapsed."""

_LIMITS = (
    "It was trained without labels, on the stains and scanners of its own slides alone.",
    "Compare it with stain-texture and an untrained model on your task before relying on it.",
)


@dataclass(frozen=True)
class SslTrained:
    """An encoder that was trained, or was there; its card says what became of it."""

    path: Path
    card: EncoderCard

    @property
    def is_collapsed(self) -> bool:
        """Whether it gives nearly the same embedding for all tiles."""
        return self.card.training["spread"] < COLLAPSED


def train_encoder(
    slides: Sequence[TiledSlide],
    out: Path,
    *,
    options: SslOptions | None = None,
    machine: Machine | None = None,
    overwrite: bool = False,
    on_step: OnStep | None = None,
) -> SslTrained | Skipped[SslTrained]:
    """Train an encoder on tiles of slides, and keep it at ``out``.

    A run that was killed goes on from its last checkpoint when it is called again. With ``steps``
    on a CPU with one number of threads, the result is bit for bit that of a run that was not.

    Parameters
    ----------
    slides
        All of one ``tile_px`` and ``mpp``, those of the options.
    on_step
        Called after each step with how far it has come, of how much (steps, or seconds), and the
        entry of the history where the step has one.

    Returns
    -------
    SslTrained
        Skipped where the encoder is there already, made from the same.

    Raises
    ------
    BadGeometry
        Fewer tiles than a batch takes, or others than the options say.
    BadModel
        timm has no such model, or training came to numbers that are none.
    CorruptTiles
        Too much of a slide cannot be decoded.
    StaleProduct
        An encoder made otherwise is there and ``overwrite`` is false.
    OutputBusy
        Another run is training it.

    References
    ----------
    Zbontar et al. (2021), Barlow Twins: self-supervised learning via redundancy reduction, ICML.
    Kang et al. (2023), Benchmarking self-supervised learning on diverse pathology datasets, CVPR:
    its authors find that pathology wants turned and restained views.
    """
    options, machine = options or SslOptions(), machine or Machine()
    require_fit(slides, options.tile_px, options.mpp)
    require_enough(slides, options.batch)
    key = _key(slides, options)
    with torch_threads(machine.threads), joined(machine.device) as group:
        is_there = is_done(out, kind=KIND, key=key, overwrite=overwrite)
        group.wait()
        if is_there:
            return Skipped(SslTrained(out, read_card(out)))
        with (
            closing(DecodableTiles(slides)) as tiles,
            _folder(group, out, key, options, overwrite) as folder,
        ):
            run = begin(tiles, options, machine, group, folder / CHECKPOINT)
            state = run.train(on_step or (lambda done, total, entry: None))
            if group.is_first:
                _finish(folder, run, state)
        group.wait()
    return SslTrained(out, read_card(out))


def _key(slides: Sequence[TiledSlide], options: SslOptions) -> str:
    return product_key(
        kind=KIND,
        version=TRAINING_VERSION,
        options=asdict(options),
        slides=[
            (
                file_identity(Path(slide.path)),
                slide.mpp,
                hashlib.sha256(slide.grid.coords_px.tobytes()).hexdigest(),
            )
            for slide in slides
        ],
    )


@contextmanager
def _folder(
    group: Group, out: Path, key: str, options: SslOptions, overwrite: bool
) -> Iterator[Path]:
    """The folder that the first process writes, and from which all take up the checkpoint."""
    if not group.is_first:
        yield group.agree_on_path(None)
        return
    about = {"backbone": options.backbone, "tile_px": options.tile_px, "mpp": options.mpp}
    with new_product(
        out, kind=KIND, key=key, about=about, overwrite=overwrite, resume=True
    ) as folder:
        yield group.agree_on_path(folder)


def _finish(folder: Path, run: Run, state: State) -> None:
    """Write the product, and leave the checkpoint out of it."""
    options, backbone = run.options, run.twins.backbone.eval()
    untrained = new_backbone(options.backbone, options.tile_px, seed=options.seed).module.eval()
    after = _embedded(backbone, run)
    at_first = _embedded(untrained.to(run.group.device), run)
    training: dict[str, int | float] = {
        "slides": len(run.tiles.counts),
        "tiles": len(run.tiles),
        "steps": state.step,
        "processes": run.group.size,
        "replaced_tiles": state.replaced,
        "loss": round(state.history[-1].loss, 4),
        "spread": round(spread(after), 4),
        "spread_untrained": round(spread(at_first), 4),
        "effective_rank": round(effective_rank(after), 1),
        "effective_rank_untrained": round(effective_rank(at_first), 1),
    }
    mean, std = run.colours
    card = EncoderCard(
        microtome=installed_version(),
        backbone=options.backbone,
        arguments=run.arguments,
        tile_px=options.tile_px,
        mpp=options.mpp,
        dim=after.shape[1],
        mean=mean,
        std=std,
        options=asdict(options),
        training=training,
        limits=_LIMITS,
    )
    write_trained(folder, backbone, card)
    write_history(folder, state.history)
    draw_curve(folder, state.history)
    (folder / CHECKPOINT).unlink(missing_ok=True)


def _embedded(backbone: nn.Module, run: Run) -> Tensor:
    """Embeddings of the sample, as the encoder will give them."""
    mean, std = run.colours
    device = str(run.group.device)
    parts = [
        forward(backbone, run.sample[at : at + 64], mean=mean, std=std, device=device)
        for at in range(0, len(run.sample), 64)
    ]
    return torch.from_numpy(np.concatenate(parts))
