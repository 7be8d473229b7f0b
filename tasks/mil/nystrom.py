"""Self-attention over many tokens through a few landmarks (Xiong et al. 2021)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

PSEUDO_INVERSE_STEPS = 6


@dataclass(frozen=True)
class Attention:
    """Attention of t tokens in h heads as a product, which is never multiplied out.

    Attributes
    ----------
    left, right, values
        float [..., h, t, m], [..., h, m, t] and [..., h, t, w]: what is attended to is
        left (right values).
    """

    left: Tensor
    right: Tensor
    values: Tensor

    def attended(self) -> Tensor:
        """What every token takes from all, heads side by side: [..., t, h w]."""
        return side_by_side(self.left @ (self.right @ self.values))

    def row(self, token: int) -> Tensor:
        """How one token weighs all others: [..., h, t]. An approximation's may be negative."""
        return (self.left[..., token, None, :] @ self.right)[..., 0, :]


class NystromAttention(nn.Module):
    r"""Multi-head self-attention, approximated where there are more tokens than landmarks.

    Landmarks are the means of m consecutive, nearly equal segments of the queries and the keys:

    .. math::

        \mathrm{softmax}(Q \tilde{K}^\top)\; A^+\; \mathrm{softmax}(\tilde{Q} K^\top)\, V, \qquad
        A = \mathrm{softmax}(\tilde{Q} \tilde{K}^\top),

    queries divided by :math:`\sqrt{w}`. With no more tokens than landmarks the attention is exact.

    References
    ----------
    Xiong et al. (2021), Nyströmformer: a Nyström-based algorithm for approximating self-attention,
    AAAI, equations 13 to 15. Its programme pads to a multiple of m; segments need no padding. Its
    convolution of the values beside the attention is not here, as in TransMIL's equations.
    """

    def __init__(self, width: int, *, n_heads: int, n_landmarks: int) -> None:
        super().__init__()
        self.n_heads, self.n_landmarks = n_heads, n_landmarks
        self.query_key_value = nn.Linear(width, 3 * width, bias=False)
        self.project = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Attend: [..., t, width] to the same."""
        projected: Tensor = self.project(self.attention(tokens).attended())
        return projected

    def attention(self, tokens: Tensor) -> Attention:
        """Attention of tokens [..., t, width], before heads are mixed."""
        query, key, value = (self._heads(x) for x in self.query_key_value(tokens).chunk(3, -1))
        query = query / math.sqrt(query.shape[-1])
        t = tokens.shape[-2]
        if t <= self.n_landmarks:
            identity = torch.eye(t, device=tokens.device, dtype=tokens.dtype)
            return Attention(_similar(query, key), identity, value)
        queries, keys = (landmarks(x, self.n_landmarks) for x in (query, key))
        inverse = pseudo_inverse(_similar(queries, keys))
        return Attention(_similar(query, keys) @ inverse, _similar(queries, key), value)

    def _heads(self, tokens: Tensor) -> Tensor:
        return tokens.reshape(*tokens.shape[:-1], self.n_heads, -1).transpose(-3, -2)


def _similar(query: Tensor, key: Tensor) -> Tensor:
    return torch.softmax(query @ key.mT, -1)


def side_by_side(heads: Tensor) -> Tensor:
    """Heads [..., h, t, w] to [..., t, h w]."""
    return heads.transpose(-3, -2).flatten(-2)


def landmarks(tokens: Tensor, count: int) -> Tensor:
    """Means of ``count`` consecutive segments of [..., t, w], long ones first: [..., count, w]."""
    *lead, t, width = tokens.shape
    length, longer = divmod(t, count)
    long, short = tokens.split_with_sizes([longer * (length + 1), (count - longer) * length], -2)
    means = (
        long.reshape(*lead, longer, length + 1, width).mean(-2),
        short.reshape(*lead, count - longer, length, width).mean(-2),
    )
    return torch.cat(means, dim=-2)


def pseudo_inverse(matrix: Tensor) -> Tensor:
    """Moore-Penrose inverse of [..., m, m], by six steps of a cubic iteration.

    References
    ----------
    Razavi et al. (2014), A new iterative method for finding approximate inverses of complex
    matrices; Xiong et al. (2021), equation 11.
    """
    one_norm = matrix.abs().sum(-2).amax(-1)
    infinity_norm = matrix.abs().sum(-1).amax(-1)
    inverse = matrix.mT / (one_norm * infinity_norm)[..., None, None]
    identity = torch.eye(matrix.shape[-1], device=matrix.device, dtype=matrix.dtype)
    for _ in range(PSEUDO_INVERSE_STEPS):
        product = matrix @ inverse
        inner = 15 * identity - product @ (7 * identity - product)
        inverse = inverse @ (13 * identity - product @ inner) / 4
    return inverse
