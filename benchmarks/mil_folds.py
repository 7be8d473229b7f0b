"""Small networks of all folds of a cross-validation, trained at once as one stack of weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state

from microtome.tasks.evaluation import Fold
from microtome.tasks.mil.model import BagModel
from microtome.tasks.mil.names import ModelName
from microtome.tasks.mil.train import TrainOptions, moments, new_model

MIXING: tuple[ModelName, ...] = ("prototype",)
"""Models whose loss of a bag looks at the other bags of its step: trained fold by fold."""


class _Losses(nn.Module):
    """A model whose call is its losses, as calls with other weights are of ``forward``."""

    def __init__(self, model: BagModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, features: Tensor, sizes: Sequence[int], target: Tensor | None) -> Tensor:
        if target is None:
            return self.model(features, sizes).logits
        return self.model.losses(features, sizes, target)


@dataclass(frozen=True)
class _Bags:
    """Bags [n_i, d] and classes [b]."""

    bags: Sequence[Tensor]
    target: Tensor

    def of(self, rows: NDArray[np.int64]) -> tuple[Tensor, list[int], Tensor]:
        chosen = [self.bags[i] for i in rows]
        return torch.cat(chosen), [len(bag) for bag in chosen], self.target[torch.from_numpy(rows)]


def out_of_fold(
    bags: Sequence[NDArray[np.float32]],
    labels: NDArray[np.int64],
    folds: Sequence[Fold],
    options: TrainOptions,
) -> NDArray[np.float32]:
    """Probabilities [b, c] of every bag, by networks that it taught nothing.

    ``options.epochs`` passes over the bags, neither stopped early nor chosen among: a network a
    fold. The steps of all folds take the same bags; the loss of a bag counts 0 in the fold that
    tests it, and so do its features in the fold's standardisation.
    """
    data = _Bags([torch.from_numpy(bag) for bag in bags], torch.from_numpy(labels))
    apart = options.model in MIXING
    groups = [[k] for k in range(len(folds))] if apart else [list(range(len(folds)))]
    found = np.empty((len(labels), int(labels.max()) + 1), np.float32)
    for numbers in groups:
        some = [folds[k] for k in numbers]
        torch.manual_seed(options.seed * 1000 + numbers[0])
        for fold, logits in zip(some, _train(data, some, options), strict=True):
            found[fold.test] = torch.softmax(logits, -1).numpy()[fold.test]
    return found


def _train(data: _Bags, folds: Sequence[Fold], options: TrainOptions) -> Tensor:
    """Logits [folds, b, c] of networks trained together."""
    networks = [_network(data, fold, options) for fold in folds]
    weights, buffers = stack_module_state(networks)
    base = networks[0].train()
    counts = torch.zeros(len(folds), len(data.bags))
    for row, fold in zip(counts, folds, strict=True):
        row[fold.train] = 1
    # A single fold is trained without the bags that it tests: they count 0 in any case.
    rows = folds[0].train if len(folds) == 1 else np.arange(len(data.bags))

    def said(chosen: NDArray[np.int64], *, losses: bool) -> Tensor:
        features, sizes, target = data.of(chosen)
        wanted = target if losses else None
        return torch.vmap(
            lambda w, b: functional_call(base, (w, b), (features, sizes, wanted)),
            randomness="different",
        )(weights, buffers)

    optimiser = torch.optim.AdamW(
        list(weights.values()),
        lr=options.learning_rate,
        weight_decay=options.weight_decay,
        fused=True,
    )
    rng = np.random.default_rng(options.seed)
    for _ in range(options.epochs):
        order = rng.permutation(rows)
        for start in range(0, len(order), options.batch_bags):
            chosen = order[start : start + options.batch_bags]
            share = counts[:, torch.from_numpy(chosen)]
            means = (said(chosen, losses=True) * share).sum(1) / share.sum(1).clamp_min(1)
            optimiser.zero_grad()
            torch.autograd.backward(means.sum())
            optimiser.step()
    base.eval()
    with torch.no_grad():
        return said(np.arange(len(data.bags)), losses=False)


def _network(data: _Bags, fold: Fold, options: TrainOptions) -> _Losses:
    model = new_model(options, data.bags[0].shape[1], int(data.target.max()) + 1)
    model.mean, model.deviation = moments([data.bags[i] for i in fold.train])
    return _Losses(model)
