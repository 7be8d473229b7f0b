"""What a bag model is: bags of instances in; bag logits, instance evidence and attention out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..freed_memory import give_back
from .heads import Kind, held, losses_of, said_of

Values = NDArray[np.float32]

PIECE = 8192
"""Instances that are standardised and embedded at once."""
KEPT = 256 * 2**20
"""Bytes of features that are kept standardised for the way back; of more they are made again."""
CACHED = 512
"""The same on a CPU, within a piece: few enough to stay in a core's cache."""


@dataclass(frozen=True)
class Shape:
    """The sizes that all models are made from.

    Attributes
    ----------
    n_features, n_classes
        Of the bags; outputs where what is learnt is no class.
    width
        Activations that an instance is embedded in.
    n_gates
        Hidden units of an attention network.
    dropout
        Share of the embedding's activations that is dropped in training.
    kind
        What is learnt.
    """

    n_features: int
    n_classes: int
    width: int
    n_gates: int
    dropout: float
    kind: Kind = "classes"


@dataclass(frozen=True)
class BagOutput:
    """What a model says of b bags with n instances in all, for c classes or other outputs.

    Attributes
    ----------
    logits
        float [b, c]; :meth:`BagModel.say` makes probabilities, values or log hazards of them.
    evidence
        float [n, c]: what each instance says for each class, as logits; 0 throughout says nothing.
        Softmax of classes, the sigmoid of anything else, gives scores that can be compared over
        instances and bags; they are no probabilities, as nobody labelled instances.
    attention
        float [n]: weight of each instance in its bag's representation; sums to 1 over a bag.
    """

    logits: Tensor
    evidence: Tensor
    attention: Tensor


class BagModel(nn.Module, ABC):
    """A model that takes raw features, standardises and embeds them, and aggregates the rest.

    The mean and deviation of each feature travel with the weights, so that what a model was
    fitted on cannot be mixed up with what it is applied to. Bags come one after the other without
    padding: no instance is computed that is not there.

    Attributes
    ----------
    reads_places
        Whether it reads where instances lie: coordinates in micrometres, in columns behind the
        features (:func:`with_places`). Without these columns no instance has a neighbour.
    """

    reads_places: ClassVar[bool] = False

    mean: Tensor
    deviation: Tensor
    centre: Tensor
    spread: Tensor

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.kind: Kind = shape.kind
        # What the output 0 means, and 1: of a value its mean and deviation in training.
        if shape.kind in ("regression", "survival"):
            self.register_buffer("centre", torch.zeros(()))
            self.register_buffer("spread", torch.ones(()))
        self.n_outputs = shape.n_classes
        self.register_buffer("mean", torch.zeros(shape.n_features))
        self.register_buffer("deviation", torch.ones(shape.n_features))
        linear = nn.Linear(shape.n_features, shape.width)
        self.embed = nn.Sequential(linear, nn.ReLU(), nn.Dropout(shape.dropout))

    def forward(self, features: Tensor, sizes: Sequence[int]) -> BagOutput:
        """Apply the model.

        Parameters
        ----------
        features
            float [n, d]: the instances of all bags, bag after bag, as the encoder gave them.
        sizes
            Instances of each of the b bags, at least 1; they sum to n.
        """
        return self.aggregate(self.embedded(features), sizes)

    def embedded(self, features: Tensor) -> Tensor:
        """Standardise and embed features [n, d]: float [n, width].

        In pieces of :data:`PIECE` instances, so that beside the bag itself only what is ``width``
        wide, not what is d wide, grows with n. Where gradients are asked for, the standardised
        features of up to :data:`KEPT` bytes are kept; beyond that, each piece is standardised and
        embedded again on the way back (checkpointing).
        """
        pieces = torch.split(features, PIECE)
        small = features.numel() * features.element_size() <= KEPT
        if small or len(pieces) == 1:
            return joined([self._embedded(piece) for piece in pieces])
        found = []
        for piece in pieces:
            if torch.is_grad_enabled():
                found.append(checkpoint(self._embedded, piece, use_reentrant=False))
            else:
                found.append(self._embedded(piece))
            # What is kept of a piece parts what was freed of it into holes that nothing else fits.
            give_back()
        return joined(found)

    def _embedded(self, features: Tensor) -> Tensor:
        # Standardising is bound by memory: from there it would take longer than embedding.
        size = CACHED if features.device.type == "cpu" else PIECE
        parts = torch.split(features, size)
        embedded = [self.embed((part - self.mean).div_(self.deviation)) for part in parts]
        return joined(embedded)

    @abstractmethod
    def aggregate(self, embedded: Tensor, sizes: Sequence[int]) -> BagOutput:
        """Like :meth:`forward`, on embedded instances [n, width]."""

    def see_places(self, places: Sequence[Tensor]) -> None:
        """Learn from the places [n_i, k] of training bags; k is 0 where nobody says them."""

    def typical(self, features: Tensor) -> Tensor:
        """The mean instance of training in place of each, where it lies."""
        return self.mean.expand_as(features)

    def losses(self, features: Tensor, sizes: Sequence[int], target: Tensor) -> Tensor:
        """What training makes small: float [b], one a bag, for what is true of them.

        Of classes int [b] the cross-entropy; of others see
        :func:`~microtome.tasks.mil.heads.losses_of`; and in some models what their papers add.
        Parameters are those of :meth:`forward` otherwise.
        """
        return self.bag_losses(self(features, sizes).logits, target)

    def bag_losses(self, logits: Tensor, target: Tensor) -> Tensor:
        """Losses [b] of logits [b, c]: the part of :meth:`losses` that all models share."""
        if self.kind == "regression":
            target = (target - self.centre) / self.spread
        return losses_of(self.kind, logits, target)

    def held(self, target: Tensor) -> Tensor | None:
        """Which outputs [b, c] are true of bags; None where outputs are nothing to have."""
        return held(self.kind, target, self.n_outputs)

    def say(self, logits: Tensor) -> Tensor:
        """Probabilities, values or log hazards [..., c] from logits [..., c]."""
        if self.kind == "regression":
            return logits * self.spread + self.centre
        return logits - self.centre if self.kind == "survival" else said_of(self.kind, logits)

    def evidence_of(self, parts: Tensor, sizes: Sequence[int]) -> Tensor:
        """See :func:`evidence_of_parts`; outputs that exclude each other are seen relatively."""
        return evidence_of_parts(parts, sizes, relative=self.kind == "classes")


def with_places(features: Values, places_um: NDArray[np.float64]) -> Values:
    """Features [n, d] and, in columns behind them, places [n, k] from the bag's lowest on."""
    places = places_um - places_um.min(axis=0) if len(places_um) else places_um
    return np.concatenate([features, places.astype(np.float32)], axis=1)


def joined(parts: Sequence[Tensor]) -> Tensor:
    """Parts [n_i, ...] one after the other; a single one is not copied."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def by_bag(values: Tensor, sizes: Sequence[int]) -> tuple[Tensor, ...]:
    """Part [n, ...] in bags [n_i, ...]."""
    return torch.split_with_sizes(values, list(sizes))


def softmax_by_bag(scores: Tensor, sizes: Sequence[int]) -> Tensor:
    """Softmax of [n] or [n, k] over the instances of each bag."""
    if len(sizes) == 1:
        # Along the last dimension: the same digits whether there is one column or none.
        return scores.movedim(0, -1).softmax(-1).movedim(-1, 0)
    bag = bag_of_each(sizes, scores)
    place = bag if scores.ndim == 1 else bag[:, None].expand_as(scores)
    fixed = scores.detach()
    highest = fixed.new_full((len(sizes), *scores.shape[1:]), -torch.inf)
    highest = highest.scatter_reduce(0, place, fixed, "amax")
    raised = (scores - highest[bag]).exp()
    return raised / (membership(bag, len(sizes), raised) @ raised)[bag]


def sum_by_bag(values: Tensor, sizes: Sequence[int]) -> Tensor:
    """Sum of [n, c] over the instances of each bag: [b, c]."""
    if len(sizes) == 1:
        return values.sum(0, keepdim=True)
    return membership(bag_of_each(sizes, values), len(sizes), values) @ values


def bag_of_each(sizes: Sequence[int], like: Tensor) -> Tensor:
    """Which bag every instance is of: int [n], on the device of another tensor."""
    counts = torch.tensor(list(sizes), device=like.device)
    return torch.arange(len(sizes), device=like.device).repeat_interleave(counts)


def membership(bag: Tensor, count: int, like: Tensor) -> Tensor:
    """1 where an instance is of a bag: [b, n]. A product with it is one call for all bags, and
    adds in the same order on every device, as adding by index does not."""
    return (torch.arange(count, device=bag.device)[:, None] == bag).to(like.dtype)


def bag_size_of_each(sizes: Sequence[int], like: Tensor) -> Tensor:
    """For every instance [n, 1], how many there are in its bag."""
    counts = torch.tensor(list(sizes), device=like.device)
    return counts.repeat_interleave(counts)[:, None].to(like.dtype)


def evidence_of_parts(parts: Tensor, sizes: Sequence[int], *, relative: bool = True) -> Tensor:
    r"""Evidence from what each instance adds to the bag's logits: [n, c] to [n, c].

    :math:`\mathrm{asinh}(n\,(p_{ic} - \bar{p}_i))`: the part relative to the mean over the
    classes, times the size of the bag, as parts shrink with it; the inverse hyperbolic sine keeps
    the sign and lets no large bag saturate the scores. Where outputs do not exclude each other,
    the part itself, not relative to others.
    """
    if relative:
        parts = parts - parts.mean(-1, keepdim=True)
    return torch.asinh(bag_size_of_each(sizes, parts) * parts)


def attention_of_said(attention: Tensor, logits: Tensor, sizes: Sequence[int]) -> Tensor:
    """One attention [n] from one a class [n, c]: their mean, weighted by softmax of the logits.

    What the model looked at for what it said.
    """
    counts = torch.tensor(list(sizes), device=logits.device)
    said = torch.softmax(logits, -1).repeat_interleave(counts, dim=0)
    return (attention * said).sum(-1)
