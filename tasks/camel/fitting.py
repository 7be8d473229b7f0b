"""How instance classifiers are fitted and asked. Imports torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from ..torch_threads import torch_threads
from .criteria import Criterion, Selection, criterion_loss, retrain_loss
from .lattice import Lattice
from .networks import new_network
from .settings import EnrichSettings

Rng = np.random.Generator
Integers = NDArray[np.int64]
Floats = NDArray[np.float32]
Losses = Callable[[nn.Module, Rng], Iterator[Tensor]]

_INSTANCES_ASKED = 512


def fit_criterion(lattice: Lattice, criterion: Criterion, settings: EnrichSettings) -> nn.Module:
    """Train an instance classifier by one criterion of combinatorial MIL."""

    def losses(network: nn.Module, rng: Rng) -> Iterator[Tensor]:
        for rows in balanced_batches(lattice.labels, settings.batch_images, rng):
            yield _image_loss(network, lattice, rows, criterion, settings)

    return descend(lattice, losses, settings, seed=settings.seed + (criterion == "max-min"))


def fit_selection(lattice: Lattice, selection: Selection, settings: EnrichSettings) -> nn.Module:
    """Retrain on selected instances, with the image-level constraint where settings ask for it.

    The constraint's criterion is Max-Max: what must hold of an image is that its most suspicious
    instance agrees with its label.
    """

    def losses(network: nn.Module, rng: Rng) -> Iterator[Tensor]:
        for rows in balanced_batches(lattice.labels, settings.batch_images, rng):
            batch = _balanced(selection.labels, settings.batch_instances, rng)
            values = lattice.values[selection.images[batch], selection.places[batch]]
            labels = torch.from_numpy(selection.labels[batch]).to(settings.device)
            constraint = (
                _image_loss(network, lattice, rows, "max-max", settings)
                if settings.constraint
                else None
            )
            yield retrain_loss(network(_tensor(values, settings)), labels, constraint)

    return descend(lattice, losses, settings, seed=settings.seed + 2)


def fit_targets(
    lattice: Lattice, targets: Floats, weights: Floats, settings: EnrichSettings, *, seed: int
) -> nn.Module:
    """Train on every instance, each with a soft label and a weight [n, m], and on image labels.

    The image-level constraint joins in as in :func:`fit_selection`.
    """

    def losses(network: nn.Module, rng: Rng) -> Iterator[Tensor]:
        for rows in balanced_batches(lattice.labels, settings.batch_images, rng):
            logits = network(_tensor(_flat(lattice.values[rows]), settings))
            truth, weight = (_tensor(a[rows].ravel(), settings) for a in (targets, weights))
            loss = binary_cross_entropy_with_logits(logits, truth, reduction="none")
            mean = (loss * weight).sum() / weight.sum().clamp(min=1e-6)
            if not settings.constraint:
                yield mean
                continue
            labels = torch.from_numpy(lattice.labels[rows]).to(settings.device)
            yield mean + criterion_loss(logits.view(len(rows), -1), labels, "max-max")

    return descend(lattice, losses, settings, seed=seed)


def logits_of(network: nn.Module, lattice: Lattice, settings: EnrichSettings) -> Floats:
    """float32 [n, m]: what a classifier says of every instance."""
    total, said = len(lattice) * lattice.count, []
    network.eval().to(settings.device)
    with torch.no_grad(), _arithmetic(settings):
        for start in range(0, total, _INSTANCES_ASKED):
            numbers = np.arange(start, min(total, start + _INSTANCES_ASKED))
            batch = _tensor(lattice.some(numbers), settings)
            said.append(network(batch).float().cpu().numpy())
    return np.concatenate(said).reshape(len(lattice), lattice.count)


def descend(lattice: Lattice, losses: Losses, settings: EnrichSettings, *, seed: int) -> nn.Module:
    """Adam on the losses that come up, for the number of epochs that settings name."""
    rng = np.random.default_rng(seed)
    devices = [settings.device] if settings.device.startswith("cuda") else []
    with torch.random.fork_rng(devices=devices), _arithmetic(settings):
        torch.manual_seed(seed)
        network = new_network(settings.backbone, lattice.values).to(settings.device).train()
        optimiser = torch.optim.AdamW(
            network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        for _ in range(settings.epochs):
            for loss in losses(network, rng):
                optimiser.zero_grad()
                torch.autograd.backward(loss)
                optimiser.step()
    return network.eval()


def balanced_batches(labels: NDArray[np.bool_], size: int, rng: Rng) -> Iterator[Integers]:
    """Batches of rows, half of them positive; the scarcer class comes again until both are even."""
    classes = [rng.permutation(np.flatnonzero(labels == value)) for value in (True, False)]
    longest = max(len(rows) for rows in classes)
    even = np.stack([np.resize(rows, longest) for rows in classes], axis=1).ravel()
    for start in range(0, len(even), size):
        yield even[start : start + size]


def _balanced(labels: NDArray[np.bool_], size: int, rng: Rng) -> Integers:
    """One such batch; of one class alone where there is no other."""
    classes = [np.flatnonzero(labels == value) for value in (True, False)]
    present = [rows for rows in classes if len(rows)]
    return np.concatenate([rng.choice(rows, size // len(present)) for rows in present])


def _image_loss(
    network: nn.Module,
    lattice: Lattice,
    rows: Integers,
    criterion: Criterion,
    settings: EnrichSettings,
) -> Tensor:
    values = _tensor(_flat(lattice.values[rows]), settings)
    labels = torch.from_numpy(lattice.labels[rows]).to(settings.device)
    return criterion_loss(network(values).view(len(rows), -1), labels, criterion)


def _flat(values: NDArray[Any]) -> NDArray[Any]:
    return values.reshape(-1, *values.shape[2:])


def _tensor(values: NDArray[Any], settings: EnrichSettings) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values)).to(settings.device)


@contextmanager
def _arithmetic(settings: EnrichSettings) -> Iterator[None]:
    """Threads, precision and repeatable kernels, as before when it ends."""
    with ExitStack() as stack:
        stack.enter_context(torch_threads(settings.threads))
        if settings.device.startswith("cuda"):
            cudnn: Any = torch.backends.cudnn
            stack.enter_context(cudnn.flags(benchmark=False, deterministic=True))
        if settings.precision == "bf16":
            kind = settings.device.split(":")[0]
            stack.enter_context(torch.autocast(kind, torch.bfloat16))
        yield
