"""Small networks on parts of the same bags, trained at once as one stack of weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state

from microtome.tasks.evaluation import Fold
from microtome.tasks.mil.model import BagModel
from microtome.tasks.mil.names import ModelName
from microtome.tasks.mil.train import TrainOptions, bag_moments, moments_over_bags, new_model

MIXING: tuple[ModelName, ...] = ("prototype",)
"""Models whose loss of a bag looks at the other bags of its step: told which of them count."""
MOST_INSTANCES = 64
"""Of a bag in a step of training, drawn anew each time; what is said of a bag is of all of it."""
N_BLOCKS = 5
MEMBERS = 3
"""Networks a fold, whose probabilities are averaged: a predictor of ours is several, too."""

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Learner:
    """A network: the bags that it learns from, its learning rate, the seed of its weights."""

    train: Rows
    rate: float
    seed: int


@dataclass(frozen=True)
class Setting:
    """What is chosen for a network: its learning rate, and after how many passes it stops."""

    rate: float
    passes: int


class _Losses(nn.Module):
    """A model whose call is its losses, as calls with other weights are of ``forward``."""

    def __init__(self, model: BagModel, *, mixing: bool) -> None:
        super().__init__()
        self.model, self.mixing = model, mixing

    def forward(
        self, features: Tensor, sizes: Sequence[int], target: Tensor | None, counts: Tensor
    ) -> Tensor:
        if target is None:
            return self.model(features, sizes).logits
        more = {"counts": counts} if self.mixing else {}
        return self.model.losses(features, sizes, target, **more)


@dataclass(frozen=True)
class Bags:
    """Bags [n_i, d] and classes [b]."""

    bags: Sequence[Tensor]
    target: Tensor

    @classmethod
    def of(cls, bags: Sequence[NDArray[np.float32]], labels: Rows) -> Bags:
        """Bags without the features that are the same in every instance."""
        highest, lowest = (np.stack([f(bag, 0) for bag in bags]) for f in (np.max, np.min))
        varies = highest.max(0) > lowest.min(0)
        return cls([torch.from_numpy(bag[:, varies]) for bag in bags], torch.from_numpy(labels))

    @cached_property
    def moments(self) -> tuple[Tensor, Tensor]:
        return bag_moments(self.bags)

    def some(self, rows: Rows, rng: np.random.Generator | None) -> tuple[Tensor, list[int], Tensor]:
        """Bags one after the other, their sizes and classes; with ``rng`` at most so many of each.

        What is drawn depends on sizes alone.
        """
        chosen = [self.bags[i] for i in rows]
        if rng is not None:
            chosen = [_fewer(bag, rng) for bag in chosen]
        return torch.cat(chosen), [len(bag) for bag in chosen], self.target[torch.from_numpy(rows)]


def _fewer(bag: Tensor, rng: np.random.Generator) -> Tensor:
    n = len(bag)
    return bag if n <= MOST_INSTANCES else bag[rng.permutation(n)[:MOST_INSTANCES]]


def train_together(
    data: Bags, learners: Sequence[Learner], options: TrainOptions, passes: Sequence[int]
) -> Tensor:
    """Logits [len(passes), networks, b, c] of every bag, after so many passes of training.

    Parameters
    ----------
    learners
        In order of their rates. The steps of all take the same bags; the loss of a bag counts 0
        for a network that does not learn from it, and so do its features in the network's
        standardisation.
    """
    mixing = options.model in MIXING
    networks = [_Losses(_network(data, one, options), mixing=mixing) for one in learners]
    base = networks[0].train()
    _, buffers = stack_module_state(networks)
    rates = sorted({one.rate for one in learners})
    groups = [
        stack_module_state([n for n, one in zip(networks, learners, strict=True) if one.rate == r])
        for r in rates
    ]
    stacks = [weights for weights, _ in groups]
    counts = torch.zeros(len(learners), len(data.bags))
    for row, one in zip(counts, learners, strict=True):
        row[one.train] = 1

    def said(features: Tensor, sizes: list[int], target: Tensor | None, share: Tensor) -> Tensor:
        weights = {name: torch.cat([stack[name] for stack in stacks]) for name in stacks[0]}
        return torch.vmap(
            lambda w, b, k: functional_call(base, (w, b), (features, sizes, target, k)),
            randomness="same",
        )(weights, buffers, share)

    optimiser = torch.optim.AdamW(
        [{"params": list(s.values()), "lr": r} for s, r in zip(stacks, rates, strict=True)],
        weight_decay=options.weight_decay,
        fused=True,
    )
    torch.manual_seed(options.seed)
    rng, found = np.random.default_rng(options.seed), []
    for done in range(1, max(passes) + 1):
        base.train()
        order = rng.permutation(len(data.bags))
        for start in range(0, len(order), options.batch_bags):
            rows = order[start : start + options.batch_bags]
            share = counts[:, torch.from_numpy(rows)]
            losses = said(*data.some(rows, rng), share) * share
            optimiser.zero_grad()
            torch.autograd.backward((losses.sum(1) / share.sum(1).clamp_min(1)).sum())
            optimiser.step()
        if done in passes:
            base.eval()
            features, sizes, _ = data.some(np.arange(len(data.bags)), None)
            with torch.no_grad():
                found.append(said(features, sizes, None, counts))
    return torch.stack(found)


def _network(data: Bags, learner: Learner, options: TrainOptions) -> BagModel:
    torch.manual_seed(1000 * options.seed + learner.seed)
    model = new_model(options, data.bags[0].shape[1], int(data.target.max()) + 1)
    rows = torch.from_numpy(learner.train)
    model.mean, model.deviation = moments_over_bags(*(part[rows] for part in data.moments))
    return model


def out_of_fold(
    bags: Sequence[NDArray[np.float32]],
    labels: Rows,
    folds: Sequence[Fold],
    options: TrainOptions,
    *,
    rates: Sequence[float],
    passes: Sequence[int],
) -> tuple[NDArray[np.float32], list[Setting]]:
    """Probabilities [b, c] of every bag, and what was chosen in each fold.

    Nested: neither the label nor the features of a bag move what is said of it, nor what is
    chosen for the network that says so. Folds are put in :data:`N_BLOCKS` blocks. For each rate, a
    network is trained without two neighbouring blocks, five in all; those without the block of a
    fold say which setting is most often right on what else they did not see; cross-entropy
    decides where two are so as often.
    """
    data = Bags.of(bags, labels)
    fold = np.empty(len(labels), np.int64)
    for number, one in enumerate(folds):
        fold[one.test] = number
    block = fold * N_BLOCKS // len(folds)
    unseen = np.stack([(block == g) | (block == (g + 1) % N_BLOCKS) for g in range(N_BLOCKS)])
    inner = [
        Learner(np.flatnonzero(~out), rate, number)
        for rate in rates
        for number, out in enumerate(unseen)
    ]
    logits = train_together(data, inner, options, passes)
    shape = (len(passes), len(rates), N_BLOCKS, len(labels))
    wrong = (logits.argmax(-1) != data.target).float().numpy().reshape(shape)
    losses = -torch.log_softmax(logits, -1)[..., torch.arange(len(labels)), data.target]
    surprise = losses.numpy().reshape(shape)
    settings = [Setting(rate, stop) for stop in passes for rate in rates]
    chosen = []
    for number in range(len(folds)):
        fair = judges(unseen, fold == number)
        errors, ties = (of[..., fair].mean(-1).ravel() for of in (wrong, surprise))
        chosen.append(settings[int(np.lexsort((ties, errors))[0])])
    return _test(data, folds, chosen, options), chosen


def judges(unseen: NDArray[np.bool_], tested: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which networks say of which bags [g, b] what settings are worth for a fold.

    Those that saw nothing of what the fold tests [b], on what else they did not see [g, b].
    """
    fair: NDArray[np.bool_] = unseen[:, tested].all(1)[:, None] & unseen & ~tested
    return fair


def _test(
    data: Bags, folds: Sequence[Fold], chosen: Sequence[Setting], options: TrainOptions
) -> NDArray[np.float32]:
    order = [(k, m) for k in range(len(folds)) for m in range(MEMBERS)]
    order.sort(key=lambda who: chosen[who[0]].rate)
    stops = sorted({setting.passes for setting in chosen})
    learners = [Learner(folds[k].train, chosen[k].rate, MEMBERS * k + m) for k, m in order]
    said = torch.softmax(train_together(data, learners, options, stops), -1).numpy()
    found = np.zeros(said.shape[2:], np.float32)
    for place, (k, _) in enumerate(order):
        test = folds[k].test
        found[test] += said[stops.index(chosen[k].passes), place][test] / MEMBERS
    return found
