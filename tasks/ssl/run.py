"""The steps of training: from tiles to views, to a loss, to other weights."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ...engine.slides.base import Pixels
from ...storage.errors import BadModel
from ..encoders.torch_encoder import probe_dim
from ..encoders.trained import Colour, new_backbone
from ..tile_reader import default_readers
from .checkpoint import Entry, State, load_checkpoint, save_checkpoint
from .data import Batches, DecodableTiles, load_batches, sample_of
from .loss import barlow_twins, spread
from .network import Twins, new_twins
from .options import Machine, SslOptions
from .processes import Group
from .views import draw_view, make_view

_WARM_UP = 0.05
_LOG_STEPS = 10
_SAMPLE_TILES = 256
OnStep = Callable[[float, float, Entry | None], None]


@dataclass(frozen=True)
class Run:
    """A training that is under way.

    Attributes
    ----------
    checkpoint
        File that the first process writes, and from which all go on.
    sample
        uint8 [n, t, t, 3]: tiles that the colours are taken from, and collapse is looked for in.
    colours
        Mean and standard deviation of RGB in 0 … 1.
    arguments
        What the backbone is made with, besides its name.
    before
        How far earlier runs have come.
    """

    tiles: DecodableTiles
    options: SslOptions
    machine: Machine
    group: Group
    checkpoint: Path
    sample: Pixels
    colours: tuple[Colour, Colour]
    twins: Twins
    arguments: dict[str, int]
    optimiser: torch.optim.Optimizer
    before: State

    def train(self, on_step: OnStep) -> State:
        """Do the steps that are left."""
        network = self.group.wrap(self.twins)
        state, began = self.before, time.monotonic()
        batches = self._batches()
        cuda = [self.group.device] if self.group.device.type == "cuda" else []
        with torch.random.fork_rng(devices=cuda):
            while (progress := self.group.agree(self._progress(state))) < 1:
                tiles, replaced = next(batches)
                rate = _rate(self.options.learning_rate, progress)
                loss, embedded = self._step(network, tiles, state.step, rate)
                seconds = self.before.seconds + time.monotonic() - began
                state = replace(
                    state,
                    step=state.step + 1,
                    seconds=seconds,
                    replaced=state.replaced + replaced,
                )
                entry = None
                if state.step % _LOG_STEPS == 0 or self._progress(state) >= 1:
                    entry = _entry(state.step, loss, rate, embedded)
                    state = replace(state, history=(*state.history, entry))
                if state.step % self.machine.checkpoint_steps == 0 and self.group.is_first:
                    save_checkpoint(self.checkpoint, self.twins, self.optimiser, state)
                on_step(*self._done(state), entry)
        return state

    def _step(
        self, network: nn.Module, tiles: Tensor, step: int, rate: float
    ) -> tuple[Tensor, Tensor]:
        """Go one step; returns its loss and the embeddings of the first view."""
        seed = int(np.random.SeedSequence([self.options.seed, step]).generate_state(1)[0])
        torch.manual_seed(seed + self.group.rank)
        for settings in self.optimiser.param_groups:
            settings["lr"] = rate
        views = self._views(tiles, torch.Generator().manual_seed(seed))
        device = self.group.device.type
        is_mixed = device == "cuda" and self.machine.precision == "bf16"
        with torch.autocast(device, torch.bfloat16, enabled=is_mixed):
            embedded, *projected = network(*views)
        a, b = (self.group.gather(rows.float()) for rows in projected)
        loss = barlow_twins(a, b, redundancy=self.options.redundancy)
        self.optimiser.zero_grad()
        torch.autograd.backward(loss * self.group.size)
        self.optimiser.step()
        return loss.detach(), embedded.detach()

    def _views(self, tiles: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Two normalised views; drawn for the whole batch, of which this process has a part."""
        device, group = self.group.device, self.group
        pixels = tiles.to(device, non_blocking=True).float() / 255
        mean, std = (pixels.new_tensor(values).view(3, 1, 1) for values in self.colours)

        def one() -> Tensor:
            view = draw_view(self.options.batch, self.options.views, generator)
            seen = make_view(pixels, view.rows(slice(group.rank, None, group.size)).to(device))
            return ((seen - mean) / std).contiguous(memory_format=torch.channels_last)

        return one(), one()

    def _batches(self) -> Iterator[tuple[Tensor, int]]:
        group, workers = self.group, self.machine.workers
        is_cuda = group.device.type == "cuda"
        if workers is None:
            workers = default_readers(group.size) if is_cuda else 0
        batches = Batches(
            self.tiles.counts,
            self.options.batch,
            self.options.seed,
            start=self.before.step,
            rank=group.rank,
            size=group.size,
        )
        return load_batches(self.tiles, batches, workers=workers, pin=is_cuda)

    def _done(self, state: State) -> tuple[float, float]:
        """How far it has come, of how much."""
        if self.options.steps is not None:
            return state.step, self.options.steps
        assert self.options.minutes is not None
        return state.seconds, 60 * self.options.minutes

    def _progress(self, state: State) -> float:
        done, total = self._done(state)
        return done / total


def begin(
    tiles: DecodableTiles, options: SslOptions, machine: Machine, group: Group, checkpoint: Path
) -> Run:
    """Make the network and its optimiser, and take up the checkpoint where there is one."""
    sample = sample_of(tiles, _SAMPLE_TILES, options.seed)
    backbone = new_backbone(options.backbone, options.tile_px, seed=options.seed)
    dim = probe_dim(backbone.module.eval(), options.tile_px, "cpu", options.backbone)
    twins = new_twins(backbone.module, dim, options.width, options.seed).to(group.device).train()
    twins.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = torch.optim.AdamW(
        twins.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay
    )
    before = load_checkpoint(checkpoint, twins, optimiser) or State()
    return Run(
        tiles=tiles,
        options=options,
        machine=machine,
        group=group,
        checkpoint=checkpoint,
        sample=sample,
        colours=colour_moments(sample),
        twins=twins,
        arguments=backbone.arguments,
        optimiser=optimiser,
        before=before,
    )


def colour_moments(tiles: Pixels) -> tuple[Colour, Colour]:
    """Mean and standard deviation of R, G and B in 0 … 1, of uint8 [n, t, t, 3]."""
    flat = tiles.reshape(-1, 3).astype(np.float64) / 255
    mean, std = flat.mean(0).round(6), np.maximum(flat.std(0), 1e-3).round(6)
    return (mean[0], mean[1], mean[2]), (std[0], std[1], std[2])


def _rate(highest: float, progress: float) -> float:
    warm = min(1.0, (progress + 1e-3) / _WARM_UP)
    return highest * warm * 0.5 * (1 + math.cos(math.pi * progress))


def _entry(step: int, loss: Tensor, rate: float, embedded: Tensor) -> Entry:
    if not math.isfinite(float(loss)):
        raise BadModel(
            f"training came to a loss of {float(loss)} in step {step}",
            remedy="Train again with a lower --learning-rate",
        )
    return Entry(step, float(loss), rate, spread(embedded.float()))
