"""TransMIL (Shao et al. 2021): instances look at each other, then a class token reads them."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from .model import BagModel, BagOutput, Shape, by_bag
from .nystrom import NystromAttention, side_by_side

MOST_HEADS = 8
AT_ONCE = 8192
"""Instances of bags of one size that are read together."""


@dataclass(frozen=True)
class _Reading:
    """Of g bags: logits [g, c], what each instance adds to them [g, n, c], attention [g, n]."""

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
        bags = by_bag(embedded, sizes)
        read: dict[int, tuple[Tensor, Tensor, Tensor]] = {}
        for rows in alike(sizes):
            found = self._read(torch.stack([bags[i] for i in rows]))
            each = zip(found.logits, found.parts, found.attention, strict=True)
            read |= dict(zip(rows, each, strict=True))
        logits, added, attention = zip(*(read[i] for i in range(len(bags))), strict=True)
        evidence = self.evidence_of(torch.cat(added), sizes)
        return BagOutput(torch.stack(logits), evidence, torch.cat(attention))

    def _read(self, bags: Tensor) -> _Reading:
        g, n, _ = bags.shape
        place = squared(n, bags.device)
        tokens = torch.cat([self.token.expand(g, 1, -1), bags[:, place]], dim=1)
        tokens = tokens + self.first(self.first_norm(tokens))
        tokens = torch.cat([tokens[:, :1], self.position(tokens[:, 1:])], dim=1)
        attention = self.second.attention(self.second_norm(tokens))
        row = attention.row(0)
        taken = side_by_side(row[..., None] * attention.values)
        final = tokens[:, 0] + self.second.project(taken.sum(-2))
        added = self._added(taken[:, 1:], final)
        weights = row.mean(-2)[:, 1:].clamp_min(0)
        return _Reading(
            self.classify(self.norm(final)),
            added.new_zeros(g, n, added.shape[-1]).index_add(1, place, added),
            _normalised(weights.new_zeros(g, n).index_add(1, place, weights)),
        )

    def _added(self, taken: Tensor, final: Tensor) -> Tensor:
        """What class tokens [g, width] took from each token [g, t, width], in logits [g, t, c]."""
        moved = taken @ self.second.project.weight.T
        scale = (final.var(-1, correction=0, keepdim=True) + self.norm.eps).sqrt()
        relative = (moved - moved.mean(-1, keepdim=True)) / scale[..., None, :]
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
        """Encode positions: [g, s², width] to the same."""
        side = math.isqrt(tokens.shape[1])
        square = tokens.mT.reshape(len(tokens), -1, side, side)
        return (square + self._convolved(square)).flatten(2).mT

    def _convolved(self, square: Tensor) -> Tensor:
        """What the three convolutions add up to: convolving is linear, so it is one."""
        parameters = dict(self.convolve.named_parameters())
        kernels = [parameters[f"{number}.weight"] for number in range(len(self.convolve))]
        biases: list[Tensor] = [
            parameters[f"{number}.bias"] for number in range(len(self.convolve))
        ]
        margin = max(len(kernel[0, 0]) for kernel in kernels) // 2
        rims = [margin - len(kernel[0, 0]) // 2 for kernel in kernels]
        wide = [functional.pad(k, (rim,) * 4) for k, rim in zip(kernels, rims, strict=True)]
        kernel, bias = torch.stack(wide).sum(0), torch.stack(biases).sum(0)
        return functional.conv2d(square, kernel, bias, padding=margin, groups=square.shape[1])


def squared(n: int, device: torch.device) -> Tensor:
    """Which of n instances is at each place of the smallest square that holds them: int [s²]."""
    side = math.isqrt(n - 1) + 1
    return torch.arange(side * side, device=device) % n


def alike(sizes: Sequence[int]) -> Iterator[list[int]]:
    """Numbers of bags of one size, which are read at once: at most :data:`AT_ONCE` instances."""
    numbers: defaultdict[int, list[int]] = defaultdict(list)
    for number, size in enumerate(sizes):
        numbers[size].append(number)
    for size, same in numbers.items():
        count = max(1, AT_ONCE // size)
        yield from (same[start : start + count] for start in range(0, len(same), count))


def _normalised(weights: Tensor) -> Tensor:
    """Weights [g, n] whose rows sum to 1; all the same where all of a row are 0."""
    total = weights.sum(-1, keepdim=True)
    return torch.where(total > 0, weights / total.clamp_min(1e-30), 1 / weights.shape[-1])
