"""DTFD-MIL (Zhang et al. 2022): attention over pseudo-bags, then over what they distil."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from .abmil import GatedAttention, attention_scores
from .model import (
    BagOutput,
    Shape,
    softmax_by_bag,
    sum_by_bag,
)

N_PSEUDO_BAGS = 8
_SEED = 0


@dataclass(frozen=True)
class _Tiers:
    """Logits of all q pseudo-bags [q, c] and of the bags [b, c], attention [n]; sizes in q."""

    pseudo: Tensor
    bags: Tensor
    attention: Tensor
    pieces: list[int]


class DoubleTier(GatedAttention):
    r"""Double-tier feature distillation, by aggregated features (AFS).

    A bag is parted at random in :math:`\min(8, n)` pseudo-bags. The first tier is gated attention
    over the instances of a pseudo-bag, :math:`z_p = \sum_{i \in p} a_i h_i`, and learns the bag's
    label of each: :math:`L_1 = \mathrm{mean}_p\,\mathrm{CE}(C_1 z_p + b_1, y)`. The second is
    gated attention over the features that the first distils,
    :math:`\mathrm{logits} = C_2 \sum_p A_p z_p + b_2` and :math:`L_2 = \mathrm{CE}`. Each tier is
    taught by its own loss: what the second learns does not reach the first. Attention is
    :math:`A_p a_i`, evidence what an instance adds to the second tier's logits, as in
    :class:`GatedAttention`.

    In training the parting is drawn anew at every step. Elsewhere it depends on the size of the
    bag alone, so that a bag is always read in the same way; its order then does matter a little.

    References
    ----------
    Zhang et al. (2022), DTFD-MIL: double-tier feature distillation multiple instance learning for
    histopathology whole slide image classification, CVPR; AFS of its section 3.3. The
    distillations by selected instances (MaxS, MaxMinS, MAS) are not here.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        width, gates = shape.width, shape.n_gates
        self.second_tanh = nn.Linear(width, gates, bias=False)
        self.second_gate = nn.Linear(width, gates, bias=False)
        self.second_attend = nn.Linear(gates, 1, bias=False)
        self.second_classify = nn.Linear(width, shape.n_classes)

    def aggregate(self, embedded: Tensor, sizes: Sequence[int]) -> BagOutput:
        """See :class:`BagModel`."""
        tiers = self._tiers(embedded, sizes, apart=False)
        parts = tiers.attention[:, None] * self.second_classify(embedded)
        return BagOutput(tiers.bags, self.evidence_of(parts, sizes), tiers.attention)

    def losses(self, features: Tensor, sizes: Sequence[int], target: Tensor) -> Tensor:
        """See :class:`BagModel`."""
        tiers = self._tiers(self.embedded(features), sizes, apart=True)
        pieces = torch.tensor(tiers.pieces, device=target.device)
        of_pseudo = self.bag_losses(tiers.pseudo, target.repeat_interleave(pieces, dim=0))
        first = sum_by_bag(of_pseudo[:, None], tiers.pieces)[:, 0] / pieces
        return first + self.bag_losses(tiers.bags, target)

    def _tiers(self, embedded: Tensor, sizes: Sequence[int], *, apart: bool) -> _Tiers:
        """Both tiers of all bags: pseudo-bags are bags, and those of a bag are one's instances."""
        parted = [self.pseudo_bags(n) for n in sizes]
        starts = np.cumsum([0, *sizes[:-1]]).tolist()
        order = torch.cat(
            [rows + at for at, bag in zip(starts, parted, strict=True) for rows in bag]
        )
        in_pseudo = [len(rows) for bag in parted for rows in bag]
        pieces = [len(bag) for bag in parted]
        within = softmax_by_bag(self.score(embedded)[order], in_pseudo)
        distilled = sum_by_bag(within * embedded[order], in_pseudo)
        pseudo = self.classify(distilled)
        if apart:
            distilled = distilled.detach()
        scores = attention_scores(distilled, self.second_tanh, self.second_gate, self.second_attend)
        between = softmax_by_bag(scores, pieces)
        bags = self.second_classify(sum_by_bag(between * distilled, pieces))
        of_each = torch.tensor(in_pseudo, device=order.device)
        weights = (between.repeat_interleave(of_each, dim=0) * within)[:, 0]
        attention = torch.empty_like(weights).index_copy(0, order, weights)
        return _Tiers(pseudo, bags, attention, pieces)

    def pseudo_bags(self, n: int) -> tuple[Tensor, ...]:
        """Part n instances at random in pseudo-bags whose sizes differ by at most 1."""
        if self.training:
            order = torch.randperm(n)
        else:
            order = torch.randperm(n, generator=torch.Generator().manual_seed(_SEED))
        return order.to(self.mean.device).tensor_split(min(N_PSEUDO_BAGS, n))
