"""Gated attention (Ilse et al. 2018), read as an additive model (Javed et al. 2022)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .model import (
    BagModel,
    BagOutput,
    bag_size_of_each,
    embedding,
    softmax_by_bag,
    sum_by_bag,
)


class GatedAttention(BagModel):
    r"""Attention-based MIL with the gating mechanism.

    With the embeddings :math:`h_i` of a bag of n instances,

    .. math::

        a_i = \mathrm{softmax}_i\; w^\top(\tanh(V h_i) \odot \mathrm{sigm}(U h_i)), \qquad
        z = \sum_i a_i h_i, \qquad \mathrm{logits} = C z + b .

    As the classifier is linear and the weights sum to 1, the logits are the mean over the
    instances of :math:`n a_i (C h_i + b)`, what each *contributes*. Attention alone says where
    the model looks and the classifier alone is arbitrary where it does not look; their product
    is neither. The *evidence* of an instance is its contribution relative to the mean over the
    classes, :math:`\mathrm{asinh}` of it, so that large bags do not saturate the scores.

    References
    ----------
    Ilse, Tomczak & Welling (2018), Attention-based deep multiple instance learning, ICML,
    equations 7 and 9. Javed et al. (2022), Additive MIL, NeurIPS.
    """

    def __init__(
        self, n_features: int, n_classes: int, *, width: int, n_gates: int, dropout: float
    ) -> None:
        super().__init__(n_features)
        self.embed = embedding(n_features, width, dropout)
        self.attend_tanh = nn.Linear(width, n_gates, bias=False)
        self.attend_gate = nn.Linear(width, n_gates, bias=False)
        self.attend = nn.Linear(n_gates, 1, bias=False)
        self.classify = nn.Linear(width, n_classes)

    def aggregate(self, features: Tensor, sizes: Sequence[int]) -> BagOutput:
        """See :class:`BagModel`."""
        embedded = self.embed(features)
        gated = torch.tanh(self.attend_tanh(embedded)) * torch.sigmoid(self.attend_gate(embedded))
        attention = softmax_by_bag(self.attend(gated).squeeze(-1), sizes)
        weighted = attention[:, None] * self.classify(embedded)
        relative = weighted - weighted.mean(-1, keepdim=True)
        evidence = torch.asinh(bag_size_of_each(sizes, relative) * relative)
        return BagOutput(sum_by_bag(weighted, sizes), evidence, attention)
