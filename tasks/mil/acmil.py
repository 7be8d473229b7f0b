"""ACMIL (Zhang et al. 2024): several attentions that must differ, and may not rest on a few."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from .abmil import GatedAttention
from .model import BagOutput, Shape, by_bag, softmax_by_bag, sum_by_bag

N_BRANCHES = 5
N_TOP, MASKED_SHARE = 10, 0.6


class AttentionChallenging(GatedAttention):
    r"""Attention-challenging MIL: multiple branches and stochastic masking of the top instances.

    M = 5 branches of gated attention share their hidden units; each has its own weights,
    :math:`a_{im}`, and its own classifier. The bag is read under their mean:

    .. math::

        \mathrm{logits} = C \sum_i \bar{a}_i h_i + b, \qquad \bar{a}_i = \tfrac{1}{M}\sum_m a_{im}.

    In training, of the :math:`K = \min(10, n)` instances that a branch attends to most,
    :math:`\lfloor 0.6 K \rfloor` drawn at random are masked before its softmax, so that their
    attention goes to the others. The loss adds to the bag's cross-entropy the mean over the
    branches of theirs, and the mean over the pairs of branches of the cosine of their attentions.

    References
    ----------
    Zhang et al. (2024), Attention-challenging multiple instance learning for whole slide image
    classification, ECCV. The paper masks each of the top K with a probability; a fixed share of
    them, as in its authors' programme, can never mask a whole bag.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape, n_branches=N_BRANCHES)
        self.branches = nn.ModuleList(
            nn.Linear(shape.width, shape.n_classes) for _ in range(N_BRANCHES)
        )

    def weigh(self, embedded: Tensor, sizes: Sequence[int]) -> Tensor:
        """See :class:`AttentionPooling`; in training some of the highest are masked."""
        scores = self.score(embedded)
        if self.training:
            scores = torch.cat([mask_some_top(part) for part in by_bag(scores, sizes)])
        return softmax_by_bag(scores, sizes)

    def read(self, embedded: Tensor, attention: Tensor, sizes: Sequence[int]) -> BagOutput:
        """See :class:`AttentionPooling`."""
        return super().read(embedded, attention.mean(1, keepdim=True), sizes)

    def losses(self, features: Tensor, sizes: Sequence[int], target: Tensor) -> Tensor:
        """See :class:`BagModel`."""
        embedded = self.embedded(features)
        attention = self.weigh(embedded, sizes)
        bag = self.bag_losses(self.read(embedded, attention, sizes).logits, target)
        of_branches = [
            self.bag_losses(sum_by_bag(attention[:, [m]] * classify(embedded), sizes), target)
            for m, classify in enumerate(self.branches)
        ]
        alike = torch.stack([likeness(part) for part in by_bag(attention, sizes)])
        return bag + torch.stack(of_branches).mean(0) + alike


def mask_some_top(scores: Tensor) -> Tensor:
    """Mask, in each branch of scores [n, m], a share of the highest: never all of a bag."""
    k = min(N_TOP, len(scores))
    top = scores.topk(k, dim=0).indices
    drawn = torch.rand(top.shape, device=scores.device).argsort(0)[: int(MASKED_SHARE * k)]
    return scores.scatter(0, top.gather(0, drawn), -torch.inf)


def likeness(attention: Tensor) -> Tensor:
    """Mean cosine of the pairs of branches [n, m] of a bag."""
    unit = functional.normalize(attention, dim=0)
    cosines = unit.T @ unit
    m = len(cosines)
    return (cosines.sum() - cosines.trace()) / (m * (m - 1))
