"""Attention-based MIL (Ilse et al. 2018), read as an additive model (Javed et al. 2022)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from .model import BagModel, BagOutput, Shape, softmax_by_bag, sum_by_bag


def attention_scores(
    embedded: Tensor, tanh: nn.Linear, gate: nn.Linear | None, attend: nn.Linear
) -> Tensor:
    """Ilse et al. (2018), equation 8, or with a gate equation 9, before the softmax: [n, k]."""
    hidden = torch.tanh(tanh(embedded))
    if gate is not None:
        hidden = hidden * torch.sigmoid(gate(embedded))
    scores: Tensor = attend(hidden)
    return scores


class AttentionPooling(BagModel):
    """An attention network and a linear classifier: what the attention-based models share.

    Attributes
    ----------
    gated
        Whether the attention network has the gate of equation 9.
    """

    gated: ClassVar[bool]

    def __init__(self, shape: Shape, *, n_branches: int = 1) -> None:
        super().__init__(shape)
        width, gates = shape.width, shape.n_gates
        self.attend_tanh = nn.Linear(width, gates, bias=False)
        self.attend_gate = nn.Linear(width, gates, bias=False) if self.gated else None
        self.attend = nn.Linear(gates, n_branches, bias=False)
        self.classify = nn.Linear(width, shape.n_classes)

    def aggregate(self, embedded: Tensor, sizes: Sequence[int]) -> BagOutput:
        """See :class:`BagModel`."""
        return self.read(embedded, self.weigh(embedded, sizes), sizes)

    def weigh(self, embedded: Tensor, sizes: Sequence[int]) -> Tensor:
        """Attention [n, n_branches]; each branch sums to 1 over a bag."""
        return softmax_by_bag(self.score(embedded), sizes)

    def score(self, embedded: Tensor) -> Tensor:
        """Attention before the softmax: [n, n_branches]."""
        return attention_scores(embedded, self.attend_tanh, self.attend_gate, self.attend)

    def read(self, embedded: Tensor, attention: Tensor, sizes: Sequence[int]) -> BagOutput:
        """What is said of bags [n, width] under an attention [n, n_branches]."""
        parts = attention * self.classify(embedded)
        return BagOutput(sum_by_bag(parts, sizes), self.evidence_of(parts, sizes), attention[:, 0])


class GatedAttention(AttentionPooling):
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

    gated = True


class PlainAttention(AttentionPooling):
    r"""Attention-based MIL without the gate: :math:`a_i = \mathrm{softmax}_i\; w^\top\tanh(V h_i)`.

    Otherwise as :class:`GatedAttention`.

    References
    ----------
    Ilse, Tomczak & Welling (2018), equations 7 and 8.
    """

    gated = False
