"""Training: patient-grouped members, each stopped on patients that it was not fitted on."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...storage.errors import LabelError
from ..evaluation import Fold, grouped_folds
from .abmil import GatedAttention, PlainAttention
from .acmil import AttentionChallenging
from .clam import ClamMB, ClamSB
from .dsmil import DualStream
from .dtfd import DoubleTier
from .model import BagModel, Shape, bag_losses
from .names import ModelName
from .pooling import MaxPooling, MeanPooling
from .prototype import Prototypes
from .transmil import TransMIL

Features = NDArray[np.float32]
MACHINE = ("device", "threads")
MODEL_TYPES: Mapping[ModelName, Callable[[Shape], BagModel]] = {
    "abmil": GatedAttention,
    "mean": MeanPooling,
    "max": MaxPooling,
    "abmil-plain": PlainAttention,
    "clam-sb": ClamSB,
    "clam-mb": ClamMB,
    "dsmil": DualStream,
    "dtfd": DoubleTier,
    "transmil": TransMIL,
    "acmil": AttentionChallenging,
    "prototype": Prototypes,
}


@dataclass(frozen=True)
class TrainOptions:
    """Everything that decides what is learnt, besides the data.

    Attributes
    ----------
    model
        One of :data:`~microtome.tasks.mil.names.MODELS`.
    epochs, patience
        At most so many passes over the bags; stop when the validation loss has not fallen for
        ``patience`` of them, and go back to where it was lowest.
    members
        A predictor is the mean of so many models. The training patients are parted in as many
        inner folds; each member validates on one and is fitted on the others.
    batch_bags
        Bags a step.
    width, n_gates, dropout
        Size of the embedding and of the attention, and the share of activations dropped.
    instance_dropout
        Share of the instances of a bag that a step of training does not see, drawn anew at every
        step; at least one is seen.
    device, threads
        Where torch computes, and on how many cores of a CPU. One makes results the same on every
        machine, and threads that wait for each other on a busy one are slower than none.
    """

    model: ModelName = "abmil"
    epochs: int = 40
    patience: int = 10
    members: int = 4
    batch_bags: int = 4
    learning_rate: float = 3e-3
    weight_decay: float = 1e-2
    width: int = 64
    n_gates: int = 32
    dropout: float = 0.25
    instance_dropout: float = 0.0
    seed: int = 0
    device: str = "cpu"
    threads: int = 1

    def record(self) -> dict[str, Any]:
        """What a key and a model card hold: all but the machine."""
        return {name: value for name, value in asdict(self).items() if name not in MACHINE}


def new_model(options: TrainOptions, n_features: int, n_classes: int) -> BagModel:
    """An untrained model; its weights follow torch's random state."""
    shape = Shape(n_features, n_classes, options.width, options.n_gates, options.dropout)
    return MODEL_TYPES[options.model](shape)


def fit(
    bags: Sequence[Features],
    labels: NDArray[np.int64],
    patients: NDArray[Any],
    options: TrainOptions,
) -> list[BagModel]:
    """Fit the members of a predictor.

    Parameters
    ----------
    bags
        float32 [n_i, d] each, n_i >= 1.
    labels
        int [b]: indices of the classes 0 … c-1, all of them present.
    patients
        [b].

    Raises
    ------
    LabelError
        A class has fewer than two patients: nothing would be left to validate on.
    """
    scarcest = scarcest_class(labels, patients, len(np.unique(labels)))
    if scarcest < 2:
        raise LabelError(
            "a class has a single patient to train on",
            remedy="At least two patients of every class are needed in every training part",
        )
    folds = grouped_folds(labels, patients, min(options.members, scarcest), seed=options.seed)
    tensors = [torch.from_numpy(bag).to(options.device) for bag in bags]
    with _threads(options.threads):
        return [
            _fit_member(tensors, labels, fold, options, seed=options.seed + number)
            for number, fold in enumerate(folds)
        ]


def scarcest_class(labels: NDArray[np.int64], patients: NDArray[Any], n_classes: int) -> int:
    """Number of patients of the class 0 … c-1 that has the fewest."""
    return min(len(np.unique(patients[labels == k])) for k in range(n_classes))


def _fit_member(
    bags: Sequence[Tensor],
    labels: NDArray[np.int64],
    fold: Fold,
    options: TrainOptions,
    *,
    seed: int,
) -> BagModel:
    n_classes = int(labels.max()) + 1
    weight = _class_weights(labels[fold.train], n_classes)
    data = _Data(
        bags,
        torch.from_numpy(labels).to(options.device),
        torch.from_numpy(weight).to(options.device),
        options.batch_bags,
        options.instance_dropout,
    )
    with torch.random.fork_rng(devices=_cuda(options.device)):
        torch.manual_seed(seed)
        model = new_model(options, bags[0].shape[1], n_classes)
        model.mean, model.deviation = moments([bags[i] for i in fold.train])
        model.to(options.device)
        _descend(model, data, fold, options, np.random.default_rng(seed))
    return model.eval()


def _descend(
    model: BagModel, data: _Data, fold: Fold, options: TrainOptions, rng: np.random.Generator
) -> None:
    optimiser = torch.optim.AdamW(
        model.parameters(),
        lr=options.learning_rate,
        weight_decay=options.weight_decay,
        fused=True,
    )
    best, best_loss, waited = copy.deepcopy(model.state_dict()), np.inf, 0
    for _ in range(options.epochs):
        model.train()
        for rows in data.batches(rng.permutation(fold.train)):
            loss = data.loss(model, rows)
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()
        held_out = data.mean_loss(model.eval(), fold.test)
        waited += 1
        if held_out < best_loss:
            best, best_loss, waited = copy.deepcopy(model.state_dict()), held_out, 0
        if waited >= options.patience:
            break
    model.load_state_dict(best)


@dataclass(frozen=True)
class _Data:
    """Bags [n_i, d], their classes [b], weight of each class [c], bags a batch, share unseen."""

    bags: Sequence[Tensor]
    target: Tensor
    weight: Tensor
    size: int
    unseen: float

    def batches(self, rows: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
        for start in range(0, len(rows), self.size):
            yield rows[start : start + self.size]

    def loss(self, model: BagModel, rows: NDArray[np.int64]) -> Tensor:
        """What a step of training makes smaller."""
        seen = [some_instances(self.bags[i], self.unseen) for i in rows]
        truth = self.target[torch.from_numpy(rows)]
        return self._mean(model.losses(torch.cat(seen), [len(bag) for bag in seen], truth), truth)

    def mean_loss(self, model: BagModel, rows: NDArray[np.int64]) -> float:
        """Cross-entropy of what is said of bags, whatever else training makes smaller."""
        total = 0.0
        with torch.no_grad():
            for part in self.batches(rows):
                chosen = [self.bags[i] for i in part]
                truth = self.target[torch.from_numpy(part)]
                logits = model(torch.cat(chosen), [len(bag) for bag in chosen]).logits
                total += float(self._mean(bag_losses(logits, truth), truth)) * len(part)
        return total / len(rows)

    def _mean(self, losses: Tensor, truth: Tensor) -> Tensor:
        # Divided by bags, not by weights, which would undo the weights in small batches.
        return (losses * self.weight[truth]).mean()


def some_instances(bag: Tensor, unseen: float) -> Tensor:
    """Leave each instance of a bag [n, d] out with a probability; one stays in any case."""
    if unseen == 0:
        return bag
    draw = torch.rand(len(bag), device=bag.device)
    return bag[draw >= min(unseen, float(draw.max()))]


def moments(bags: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation [d] of every feature, each bag counting the same.

    Constant features have deviation 1, so that they become 0 and not infinite.
    """
    means = torch.stack([bag.double().mean(0) for bag in bags])
    within = torch.stack([bag.double().var(0, correction=0) for bag in bags]).mean(0)
    deviation = (within + means.var(0, correction=0)).sqrt()
    constant = deviation <= 1e-6 * means.abs().amax(0)
    return means.mean(0).float(), deviation.masked_fill(constant, 1.0).float()


def _class_weights(labels: NDArray[np.int64], n_classes: int) -> NDArray[np.float32]:
    counts = np.bincount(labels, minlength=n_classes)
    return (len(labels) / (n_classes * counts)).astype(np.float32)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _cuda(device: str) -> list[str]:
    return [device] if device.startswith("cuda") else []
