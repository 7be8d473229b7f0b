"""What a bag model is: bags of instances in; bag logits, instance evidence and attention out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class BagOutput:
    """What a model says of b bags with n instances in all, for c classes.

    Attributes
    ----------
    logits
        float [b, c]; softmax gives the probabilities of the bag's classes.
    evidence
        float [n, c]: what each instance says for each class, as logits; 0 throughout says nothing.
        Softmax gives scores that can be compared over instances and bags; they are no
        probabilities, as nobody labelled instances.
    attention
        float [n]: weight of each instance in its bag's representation; sums to 1 over a bag.
    """

    logits: Tensor
    evidence: Tensor
    attention: Tensor


class BagModel(nn.Module, ABC):
    """A model that takes raw features and standardises them itself.

    The mean and deviation of each feature travel with the weights, so that what a model was
    fitted on cannot be mixed up with what it is applied to. Bags come one after the other without
    padding: no instance is computed that is not there.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(n_features))
        self.register_buffer("deviation", torch.ones(n_features))

    def forward(self, features: Tensor, sizes: Sequence[int]) -> BagOutput:
        """Apply the model.

        Parameters
        ----------
        features
            float [n, d]: the instances of all bags, bag after bag, as the encoder gave them.
        sizes
            Instances of each of the b bags, at least 1; they sum to n.
        """
        return self.aggregate((features - self.mean) / self.deviation, sizes)

    @abstractmethod
    def aggregate(self, features: Tensor, sizes: Sequence[int]) -> BagOutput:
        """Like :meth:`forward`, on standardised features."""


def embedding(n_features: int, width: int, dropout: float) -> nn.Sequential:
    """The instance network that all models share: d features to ``width`` activations."""
    return nn.Sequential(nn.Linear(n_features, width), nn.ReLU(), nn.Dropout(dropout))


def softmax_by_bag(scores: Tensor, sizes: Sequence[int]) -> Tensor:
    """Softmax of [n] over the instances of each bag."""
    return torch.cat(
        [torch.softmax(part, 0) for part in torch.split_with_sizes(scores, list(sizes))]
    )


def sum_by_bag(values: Tensor, sizes: Sequence[int]) -> Tensor:
    """Sum of [n, c] over the instances of each bag: [b, c]."""
    return torch.stack([part.sum(0) for part in torch.split_with_sizes(values, list(sizes))])


def bag_size_of_each(sizes: Sequence[int], like: Tensor) -> Tensor:
    """For every instance [n, 1], how many there are in its bag."""
    counts = torch.tensor(list(sizes), device=like.device)
    return counts.repeat_interleave(counts)[:, None].to(like.dtype)
