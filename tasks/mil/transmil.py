"""TransMIL (Shao et al. 2021): instances look at each other, then a class token reads them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .model import BagModel, BagOutput, Shape, by_bag
from .nystrom import NystromAttention, side_by_side

MOST_HEADS = 8


@dataclass(frozen=True)
class _Reading:
    """Of one bag: logits [c], what each instance adds to them [n, c], attention [n]."""

    logits: Tensor
    parts: Tensor
    attention: Tensor


class TransMIL(BagModel):
    r"""A transformer over the instances of a bag, with a class token.

    Instances are laid out row by row on the smallest square that holds them; its last places are
    filled with the first instances again. With the class token before them,

    .. math::

        x' = x + \mathrm{MSA}(\mathrm{LN}(x)), \quad x'' = \mathrm{PPEG}(x'), \quad
        x''' = x'' + \mathrm{MSA}(\mathrm{LN}(x'')), \quad
        \mathrm{logits} = W\,\mathrm{LN}(x'''_0) + b,

    MSA being Nyström attention and PPEG :class:`PyramidPosition`. The order of instances says
    where they lie, and so does change what is said.

    The second attention adds to the class token a sum over the tokens, and the last norm only
    shifts and scales it: what each instance adds to the logits is exact, given that scale.
    Evidence is made of it as in :class:`GatedAttention`. It is what came *through* the
    instance's token, the first layer having mixed tokens already. Attention is the class token's
    in the second layer, mean over the heads, of places filled with one instance together, negative
    weights of the approximation being 0.

    References
    ----------
    Shao et al. (2021), TransMIL: transformer based correlated multiple instance learning for
    whole slide image classification, NeurIPS, algorithm 2. Landmarks are half of the width, heads
    8 or what divides the width.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        width = shape.width
        heads, landmarks = math.gcd(width, MOST_HEADS), max(width // 2, 1)
        self.token = nn.Parameter(torch.randn(width))
        self.first_norm, self.second_norm, self.norm = (nn.LayerNorm(width) for _ in range(3))
        self.first = NystromAttention(width, n_heads=heads, n_landmarks=landmarks)
        self.position = PyramidPosition(width)
        self.second = NystromAttention(width, n_heads=heads, n_landmarks=landmarks)
        self.classify = nn.Linear(width, shape.n_classes)

    def aggregate(self, embedded: Tensor, sizes: Sequence[int]) -> BagOutput:
        """See :class:`BagModel`."""
        read = [self._read(bag) for bag in by_bag(embedded, sizes)]
        parts = torch.cat([one.parts for one in read])
        logits = torch.stack([one.logits for one in read])
        attention = torch.cat([one.attention for one in read])
        return BagOutput(logits, self.evidence_of(parts, sizes), attention)

    def _read(self, bag: Tensor) -> _Reading:
        place = squared(len(bag), bag.device)
        tokens = torch.cat([self.token[None], bag[place]])
        tokens = tokens + self.first(self.first_norm(tokens))
        tokens = torch.cat([tokens[:1], self.position(tokens[1:])])
        attention = self.second.attention(self.second_norm(tokens))
        row = attention.row(0)
        taken = side_by_side(row[..., None] * attention.values)
        final = tokens[0] + self.second.project(taken.sum(0))
        added = self._added(taken[1:], final)
        weights = row.mean(0)[1:].clamp_min(0)
        return _Reading(
            self.classify(self.norm(final)),
            added.new_zeros(len(bag), added.shape[1]).index_add(0, place, added),
            _normalised(weights.new_zeros(len(bag)).index_add(0, place, weights)),
        )

    def _added(self, taken: Tensor, final: Tensor) -> Tensor:
        """What the class token took from each token [t, width], in logits [t, c]."""
        moved = taken @ self.second.project.weight.T
        scale = (final.var(correction=0) + self.norm.eps).sqrt()
        relative = (moved - moved.mean(-1, keepdim=True)) / scale
        added: Tensor = (relative * self.norm.weight) @ self.classify.weight.T
        return added


class PyramidPosition(nn.Module):
    """PPEG: tokens on their square, plus depth-wise convolutions 7, 5 and 3 tokens wide."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.convolve = nn.ModuleList(
            nn.Conv2d(width, width, side, padding=side // 2, groups=width) for side in (7, 5, 3)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """Encode positions: [s², width] to [s², width]."""
        side = math.isqrt(len(tokens))
        square = tokens.T.reshape(1, -1, side, side)
        encoded: Tensor = square + sum(convolve(square) for convolve in self.convolve)
        return encoded[0].flatten(1).T


def squared(n: int, device: torch.device) -> Tensor:
    """Which of n instances is at each place of the smallest square that holds them: int [s²]."""
    side = math.isqrt(n - 1) + 1
    return torch.arange(side * side, device=device) % n


def _normalised(weights: Tensor) -> Tensor:
    """Weights [n] that sum to 1; all the same where all are 0."""
    total = weights.sum()
    return torch.where(total > 0, weights / total.clamp_min(1e-30), 1 / len(weights))
