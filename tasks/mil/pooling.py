"""Pooling without attention: the plain baselines that a bag model has to beat."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .model import BagModel, BagOutput, Shape, bag_size_of_each, by_bag, sum_by_bag


class MeanPooling(BagModel):
    """The mean of the embedded instances, then a linear classifier.

    The evidence of an instance is what the classifier says of it alone; the bag's logits are
    their mean.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        self.classify = nn.Linear(shape.width, shape.n_classes)

    def aggregate(self, embedded: Tensor, sizes: Sequence[int]) -> BagOutput:
        """See :class:`BagModel`."""
        evidence = self.classify(embedded)
        attention = 1 / bag_size_of_each(sizes, evidence)
        return BagOutput(sum_by_bag(attention * evidence, sizes), evidence, attention[:, 0])


class MaxPooling(BagModel):
    """The maximum of each embedded feature over the bag, then a linear classifier.

    The evidence of an instance is what the classifier says of it alone; its attention is the
    share of embedded features of which it is the maximum.

    References
    ----------
    Wang et al. (2018), Revisiting multiple instance neural networks, Pattern Recognition 74:
    MI-Net with max pooling.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        self.classify = nn.Linear(shape.width, shape.n_classes)

    def aggregate(self, embedded: Tensor, sizes: Sequence[int]) -> BagOutput:
        """See :class:`BagModel`."""
        highest = [part.max(dim=0) for part in by_bag(embedded, sizes)]
        share = torch.full_like(highest[0].values, 1 / embedded.shape[1])
        attention = torch.cat(
            [
                share.new_zeros(size).scatter_add(0, found.indices, share)
                for found, size in zip(highest, sizes, strict=True)
            ]
        )
        pooled = torch.stack([found.values for found in highest])
        return BagOutput(self.classify(pooled), self.classify(embedded), attention)
