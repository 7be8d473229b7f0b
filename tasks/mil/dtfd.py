"""DTFD-MIL (Zhang et al. 2022): attention over pseudo-bags, then over what they distil."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .abmil import GatedAttention, attention_scores
from .model import BagOutput, Shape, by_bag

N_PSEUDO_BAGS = 8
_SEED = 0


@dataclass(frozen=True)
class _Tiers:
    """Of one bag: logits of p pseudo-bags [p, c] and of the bag [c], attention [n]."""

    pseudo: Tensor
    bag: Tensor
    attention: Tensor


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
        attention = torch.cat([tier.attention for tier in tiers])
        parts = attention[:, None] * self.second_classify(embedded)
        logits = torch.stack([tier.bag for tier in tiers])
        return BagOutput(logits, self.evidence_of(parts, sizes), attention)

    def losses(self, features: Tensor, sizes: Sequence[int], target: Tensor) -> Tensor:
        """See :class:`BagModel`."""
        tiers = self._tiers(self.embedded(features), sizes, apart=True)
        counts = [len(tier.pseudo) for tier in tiers]
        of_each = target.repeat_interleave(torch.tensor(counts, device=target.device), dim=0)
        first = self.bag_losses(torch.cat([tier.pseudo for tier in tiers]), of_each)
        second = self.bag_losses(torch.stack([tier.bag for tier in tiers]), target)
        return torch.stack([losses.mean() for losses in by_bag(first, counts)]) + second

    def _tiers(self, embedded: Tensor, sizes: Sequence[int], *, apart: bool) -> list[_Tiers]:
        scores = self.score(embedded)[:, 0]
        parts = zip(by_bag(embedded, sizes), by_bag(scores, sizes), strict=True)
        return [self._tier(bag, score, apart=apart) for bag, score in parts]

    def _tier(self, embedded: Tensor, scores: Tensor, *, apart: bool) -> _Tiers:
        rows = self.pseudo_bags(len(embedded))
        within = [torch.softmax(scores[chosen], 0) for chosen in rows]
        distilled = torch.stack(
            [a @ embedded[chosen] for a, chosen in zip(within, rows, strict=True)]
        )
        pseudo = self.classify(distilled)
        if apart:
            distilled = distilled.detach()
        between = torch.softmax(
            attention_scores(distilled, self.second_tanh, self.second_gate, self.second_attend), 0
        )[:, 0]
        bag = self.second_classify(between @ distilled)
        weights = torch.cat([weight * a for weight, a in zip(between, within, strict=True)])
        attention = torch.empty_like(weights).index_copy(0, torch.cat(rows), weights)
        return _Tiers(pseudo, bag, attention)

    def pseudo_bags(self, n: int) -> tuple[Tensor, ...]:
        """Part n instances at random in pseudo-bags whose sizes differ by at most 1."""
        if self.training:
            order = torch.randperm(n)
        else:
            order = torch.randperm(n, generator=torch.Generator().manual_seed(_SEED))
        return order.to(self.mean.device).tensor_split(min(N_PSEUDO_BAGS, n))
