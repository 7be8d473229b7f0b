"""Training: patient-grouped members, each stopped on patients that it was not fitted on."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...storage.errors import LabelError
from ..evaluation import Fold
from .abmil import GatedAttention, PlainAttention
from .acmil import AttentionChallenging
from .clam import ClamMB, ClamSB
from .dsmil import DualStream
from .dtfd import DoubleTier
from .graph import TileGraph
from .kept_members import NOTHING_KEPT, KeptMembers
from .model import BagModel, Shape, joined, with_places
from .names import Kind, ModelName
from .pooling import MaxPooling, MeanPooling
from .prototype import Prototypes
from .targets import Target, as_target
from .transmil import TransMIL

Features = NDArray[np.float32]
Places = Sequence[NDArray[np.float64]]
MACHINE = ("device", "threads")
MODEL_TYPES: Mapping[ModelName, type[BagModel]] = {
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
    "graph": TileGraph,
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


def new_model(
    options: TrainOptions, n_features: int, n_classes: int, kind: Kind = "classes"
) -> BagModel:
    """An untrained model; its weights follow torch's random state."""
    shape = Shape(n_features, n_classes, options.width, options.n_gates, options.dropout, kind)
    return MODEL_TYPES[options.model](shape)


def readable(
    model: ModelName, features: Features, places_um: NDArray[np.float64] | None
) -> Features:
    """What a model reads of a bag: features [n, d], and places [n, k] behind them if it asks."""
    if places_um is None or not MODEL_TYPES[model].reads_places:
        return features
    return with_places(features, places_um)


@dataclass(frozen=True)
class Member:
    """One of the models of a predictor.

    Attributes
    ----------
    validated
        int [v]: the bags that it was not fitted on, which said when to stop.
    """

    model: BagModel
    validated: NDArray[np.int64]


def fit(
    bags: Sequence[Features],
    labels: NDArray[np.int64] | Target,
    patients: NDArray[Any],
    options: TrainOptions,
    *,
    places_um: Places | None = None,
) -> list[BagModel]:
    """Fit the members of a predictor: the models of :func:`fit_members`, which see."""
    members = fit_members(bags, labels, patients, options, places_um=places_um)
    return [member.model for member in members]


def fit_members(
    bags: Sequence[Features],
    labels: NDArray[np.int64] | Target,
    patients: NDArray[Any],
    options: TrainOptions,
    *,
    places_um: Places | None = None,
    views: Sequence[Sequence[Features]] = (),
    kept: KeptMembers = NOTHING_KEPT,
) -> list[Member]:
    """Fit the members of a predictor.

    Parameters
    ----------
    bags
        float32 [n_i, d] each, n_i >= 1.
    labels
        int [b]: indices of the classes 0 … c-1, all of them present; or what else is true of
        the bags.
    patients
        [b].
    places_um
        float [n_i, 2] or [n_i, 3]: where the instances of each bag lie. Most models do not look.
    views
        Of each view a bag for every bag, float32 [m_i, d]: a step of training sees each of its
        bags as it is or in one of its views, drawn anew. Validation sees none.
    kept
        Members that are there are not fitted again, others are kept.

    Raises
    ------
    LabelError
        A class (label, event) has fewer than two patients: nothing would be left to validate on.
    """
    target = as_target(labels)
    scarcest = target.scarcest(patients)
    if scarcest < 2:
        what = {"labels": "label", "survival": "event"}.get(target.kind, "class")
        raise LabelError(
            f"a{'n' * (what == 'event')} {what} has a single patient to train on, or none",
            remedy=f"At least two patients of every {what} are needed in every training part",
        )
    folds = target.folds(patients, min(options.members, scarcest), seed=options.seed)
    versions = [_tensors(version, places_um, options) for version in (bags, *views)]
    shape = (bags[0].shape[1], len(target.names))
    with _threads(options.threads):
        return [
            Member(
                _fit_member(versions, target, fold, options, number=number, kept=kept, shape=shape),
                fold.test,
            )
            for number, fold in enumerate(folds)
        ]


def _tensors(
    bags: Sequence[Features], places_um: Places | None, options: TrainOptions
) -> list[Tensor]:
    places = [None] * len(bags) if places_um is None else places_um
    read = (readable(options.model, *both) for both in zip(bags, places, strict=True))
    return [torch.from_numpy(bag).to(options.device) for bag in read]


def _fit_member(
    versions: Sequence[Sequence[Tensor]],
    target: Target,
    fold: Fold,
    options: TrainOptions,
    *,
    number: int,
    kept: KeptMembers,
    shape: tuple[int, int],
) -> BagModel:
    bags, seed, (n_features, n_outputs) = versions[0], options.seed + number, shape
    truth = torch.from_numpy(target.truth).to(options.device)
    data = _Data(
        versions,
        truth if target.kind == "classes" else truth.float(),
        torch.from_numpy(_weights(target, fold.train)).to(options.device),
        options.batch_bags,
        options.instance_dropout,
    )
    with torch.random.fork_rng(devices=_cuda(options.device)):
        torch.manual_seed(seed)
        model = new_model(options, n_features, n_outputs, target.kind)
        if kept.load(number, model):
            return model.to(options.device).eval()
        model.mean, model.deviation = moments([bags[i][:, :n_features] for i in fold.train])
        model.see_places([bags[i][:, n_features:] for i in fold.train])
        if target.kind == "regression":
            seen = data.target[torch.from_numpy(fold.train)]
            model.centre, model.spread = seen.mean(), seen.std(correction=0).clamp_min(1e-12)
        model.to(options.device)
        _descend(model, data, fold, options, np.random.default_rng(seed))
        if target.kind == "survival":
            # Hazards are relative: to those that the model was fitted on, in the mean.
            model.centre = data.logits(model.eval(), fold.train).mean()
    kept.save(number, model)
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
    """Bags [n_i, d] in every version, what is true of them [b, ...], weights [b], bags a batch,
    share unseen. The first version is what bags are; the others are seen in training alone."""

    versions: Sequence[Sequence[Tensor]]
    target: Tensor
    weight: Tensor
    size: int
    unseen: float

    def batches(self, rows: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
        for start in range(0, len(rows), self.size):
            yield rows[start : start + self.size]

    def loss(self, model: BagModel, rows: NDArray[np.int64]) -> Tensor:
        """What a step of training makes smaller."""
        seen = [some_instances(self._drawn(i), self.unseen) for i in rows]
        chosen = torch.from_numpy(rows)
        sizes = [len(bag) for bag in seen]
        return self._mean(model.losses(joined(seen), sizes, self.target[chosen]), chosen)

    def _drawn(self, row: int) -> Tensor:
        """One of the versions of a bag, drawn anew at every call."""
        which = int(torch.randint(len(self.versions), ())) if len(self.versions) > 1 else 0
        return self.versions[which][row]

    def mean_loss(self, model: BagModel, rows: NDArray[np.int64]) -> float:
        """Loss of what is said of bags, whatever else training makes smaller.

        Of all bags at once, as those of survival are compared with each other.
        """
        chosen = torch.from_numpy(rows)
        losses = model.bag_losses(self.logits(model, rows), self.target[chosen])
        return float(self._mean(losses, chosen))

    def logits(self, model: BagModel, rows: NDArray[np.int64]) -> Tensor:
        """Logits [r, c] of bags, without gradients."""
        with torch.no_grad():
            parts = [[self.versions[0][i] for i in part] for part in self.batches(rows)]
            return torch.cat(
                [model(torch.cat(part), [len(bag) for bag in part]).logits for part in parts]
            )

    def _mean(self, losses: Tensor, rows: Tensor) -> Tensor:
        # Divided by bags, not by weights, which would undo the weights in small batches.
        return (losses * self.weight[rows]).mean()


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
    return moments_over_bags(*bag_moments(bags))


def bag_moments(bags: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and variance of every feature in each bag: float64 [b, d]."""
    means = torch.stack([bag.double().mean(0) for bag in bags])
    return means, torch.stack([bag.double().var(0, correction=0) for bag in bags])


def moments_over_bags(means: Tensor, variances: Tensor) -> tuple[Tensor, Tensor]:
    """What :func:`moments` gives, from means and variances of bags [b, d]."""
    deviation = (variances.mean(0) + means.var(0, correction=0)).sqrt()
    constant = deviation <= 1e-6 * means.abs().amax(0)
    return means.mean(0).float(), deviation.masked_fill(constant, 1.0).float()


def _weights(target: Target, train: NDArray[np.int64]) -> NDArray[np.float32]:
    """Weight of every bag [b]: classes count the same in training; nothing else is weighted."""
    if target.kind != "classes":
        return np.ones(len(target), np.float32)
    counts = np.bincount(target.truth[train], minlength=len(target.names))
    weights = len(train) / (len(counts) * counts)
    return np.asarray(weights[target.truth], np.float32)


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
