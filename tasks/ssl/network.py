"""The network that is trained: a backbone, which is kept, and a projector, which is not."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Twins(nn.Module):
    """Two views through one network.

    Parameters
    ----------
    backbone
        float32 [b, 3, t, t] to [b, dim].
    width
        Of the three layers of the projector.

    References
    ----------
    Zbontar et al. (2021), Barlow Twins, section 2.2: the projector, there of 8192.
    """

    def __init__(self, backbone: nn.Module, dim: int, width: int) -> None:
        super().__init__()
        self.backbone = backbone
        layers: list[nn.Module] = []
        for into in (dim, width):
            layers += [nn.Linear(into, width, bias=False), nn.BatchNorm1d(width), nn.ReLU()]
        self.projector = nn.Sequential(*layers, nn.Linear(width, width, bias=False))

    def forward(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Embeddings [b, dim] of the first view, and projections [b, width] of both."""
        embedded = self.backbone(first)
        return embedded, self.projector(embedded), self.projector(self.backbone(second))


def new_twins(backbone: nn.Module, dim: int, width: int, seed: int) -> Twins:
    """Twins whose projector's weights follow the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Twins(backbone, dim, width)
