"""DSMIL (Li et al. 2021): the critical instance, and attention to what is like it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .model import BagModel, BagOutput, Shape, attention_of_said, by_bag


@dataclass(frozen=True)
class _Streams:
    """Scores of the instances [n, c], logits of both streams [b, c], attention [n, c]."""

    scores: Tensor
    of_critical: Tensor
    of_bag: Tensor
    attention: Tensor

    @property
    def logits(self) -> Tensor:
        return (self.of_critical + self.of_bag) / 2


class DualStream(BagModel):
    r"""Dual-stream MIL.

    An instance classifier scores :math:`s_i = W_0 h_i + b_0` and finds for every class its
    critical instance :math:`m_c = \arg\max_i s_{ic}`; the rest is weighed by its likeness to it:

    .. math::

        a_{ic} = \mathrm{softmax}_i\; q_i^\top q_{m_c} / \sqrt{g}, \qquad
        z_c = \sum_i a_{ic} v_i, \qquad q = W_q h, \quad v = W_v h,

    with g the width of the queries. Logits are :math:`\tfrac{1}{2}(\max_i s_i + W_b
    [z_1 … z_C] + b_b)`; the loss is the mean of the cross-entropies of the two streams. Evidence
    is :math:`s_i`. The attention that is given is the mean over the classes, weighted by what is
    said of the bag.

    References
    ----------
    Li, Li & Eliceiri (2021), Dual-stream multiple instance learning network for whole slide image
    classification, CVPR, equations 3 to 7. The root that queries are divided by is the authors'
    programme's; the paper's equation has none. Sigmoids per class are a softmax here.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        width, classes = shape.width, shape.n_classes
        self.score = nn.Linear(width, classes)
        self.query = nn.Linear(width, shape.n_gates)
        self.value = nn.Linear(width, width)
        self.classify = nn.Linear(classes * width, classes)

    def aggregate(self, embedded: Tensor, sizes: Sequence[int]) -> BagOutput:
        """See :class:`BagModel`."""
        found = self._streams(embedded, sizes)
        attention = attention_of_said(found.attention, found.logits, sizes)
        return BagOutput(found.logits, found.scores, attention)

    def losses(self, features: Tensor, sizes: Sequence[int], target: Tensor) -> Tensor:
        """See :class:`BagModel`."""
        found = self._streams(self.embedded(features), sizes)
        streams = (found.of_critical, found.of_bag)
        return torch.stack([self.bag_losses(said, target) for said in streams]).mean(0)

    def _streams(self, embedded: Tensor, sizes: Sequence[int]) -> _Streams:
        scores = self.score(embedded)
        highest, attentions, pooled = [], [], []
        parts = (by_bag(x, sizes) for x in (scores, self.query(embedded), self.value(embedded)))
        for score, query, value in zip(*parts, strict=True):
            top = score.max(dim=0)
            likeness = query @ query[top.indices].T / math.sqrt(query.shape[1])
            attention = torch.softmax(likeness, 0)
            highest.append(top.values)
            attentions.append(attention)
            pooled.append((attention.T @ value).flatten())
        of_bag = self.classify(torch.stack(pooled))
        return _Streams(scores, torch.stack(highest), of_bag, torch.cat(attentions))
