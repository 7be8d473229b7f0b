"""Transformers that give one vector a tile. Imports torch: import it inside functions only."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .catalogue import Pooling


def pool_tokens(tokens: Tensor, n_prefix: int, pooling: Pooling) -> Tensor:
    """One vector of the tokens that a vision transformer ends with.

    Parameters
    ----------
    tokens
        [b, t, d]: the class token, registers where there are any, then the patches.
    n_prefix
        How many tokens come before the patches.
    pooling
        ``class`` gives ``tokens[:, 0]``; ``class+mean`` appends the mean over
        ``tokens[:, n_prefix:]``, as Virchow's authors do (arXiv:2309.07778).

    Returns
    -------
    [b, d] or [b, 2 d]
    """
    if pooling == "class":
        return tokens[:, 0]
    return torch.cat([tokens[:, 0], tokens[:, n_prefix:].mean(dim=1)], dim=-1)


class TimmPooled(nn.Module):
    """A vision transformer of timm, pooled as its authors pool it."""

    def __init__(self, backbone: Any, pooling: Pooling) -> None:
        super().__init__()
        self.backbone, self.pooling = backbone, pooling

    def forward(self, x: Tensor) -> Tensor:
        """[b, 3, h, w] to [b, dim]."""
        tokens = self.backbone.forward_features(x)
        return pool_tokens(tokens, self.backbone.num_prefix_tokens, self.pooling)


class TransformersPooled(nn.Module):
    """A vision model of transformers without registers, pooled as its authors pool it."""

    def __init__(self, backbone: Any, pooling: Pooling) -> None:
        super().__init__()
        self.backbone, self.pooling = backbone, pooling

    def forward(self, x: Tensor) -> Tensor:
        """[b, 3, h, w] to [b, dim]."""
        found = self.backbone(pixel_values=x)
        if self.pooling == "projection":
            embedding: Tensor = found.image_embeds
            return embedding
        return pool_tokens(found.last_hidden_state, 1, self.pooling)
