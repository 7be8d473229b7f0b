"""Instance classifiers: one logit an instance. Imports torch."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import interpolate, relu

from ...storage.errors import BadModel
from .lattice import FEATURES, Cuts

_WIDTH = 64
_DROPOUT = 0.2
_WIDTHS = (16, 32, 64, 128)
_LARGEST_SCALE = 1.2


class FeatureNetwork(nn.Module):
    """Standardised features through one hidden layer."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(n_features))
        self.register_buffer("deviation", torch.ones(n_features))
        self.body = nn.Sequential(
            nn.Linear(n_features, _WIDTH), nn.ReLU(), nn.Dropout(_DROPOUT), nn.Linear(_WIDTH, 1)
        )

    def standardise(self, features: NDArray[np.float32]) -> None:
        """Take mean and deviation [d] from the instances [..., d] that it will be fitted on."""
        flat = features.reshape(-1, features.shape[-1]).astype(np.float64)
        deviation = flat.std(axis=0)
        deviation[deviation < 1e-6 * np.abs(flat).max(axis=0) + 1e-12] = 1.0
        self.mean.copy_(torch.from_numpy(flat.mean(axis=0)))
        self.deviation.copy_(torch.from_numpy(deviation))

    def forward(self, x: Tensor) -> Tensor:
        """float32 [b, d] to logits [b]."""
        # Bounded: one odd tile is not to decide a criterion that takes extremes.
        z = ((x - self.mean) / self.deviation).clamp(-6, 6)
        logits: Tensor = self.body(z)[:, 0]
        return logits


class PixelNetwork(nn.Module):
    """Pixels through a convolutional body; in training, turned, mirrored and scaled at random."""

    def __init__(
        self,
        body: nn.Module,
        dim: int,
        mean: tuple[float, float, float] = (0.5, 0.5, 0.5),
        deviation: tuple[float, float, float] = (0.25, 0.25, 0.25),
    ) -> None:
        super().__init__()
        self.body, self.head = body, nn.Linear(dim, 1)
        self.mean, self.deviation = mean, deviation

    def forward(self, x: Tensor) -> Tensor:
        """uint8 [b, px, px, 3] to logits [b]."""
        z = x.permute(0, 3, 1, 2).float() / 255
        if self.training:
            z = augmented(z)
        shift, scale = z.new_tensor(self.mean), z.new_tensor(self.deviation)
        z = (z - shift[:, None, None]) / scale[:, None, None]
        logits: Tensor = self.head(self.body(z))[:, 0]
        return logits.float()


def augmented(pixels: Tensor) -> Tensor:
    """Turn and mirror a batch [b, c, h, h] and scale it by 1.0 … 1.2, as in the paper.

    One draw a batch, from torch's random state.
    """
    turns, mirror, scale = torch.rand(3).tolist()
    pixels = torch.rot90(pixels, int(4 * turns), (2, 3))
    if mirror < 0.5:
        pixels = pixels.flip(3)
    side = pixels.shape[-1]
    wide = round(side * (1 + (_LARGEST_SCALE - 1) * scale))
    first = (wide - side) // 2
    larger = interpolate(pixels, (wide, wide), mode="bilinear", align_corners=False)
    return larger[..., first : first + side, first : first + side]


class _Residual(nn.Module):
    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(n_in, n_out, 3, stride=2, padding=1, bias=False)
        self.second = nn.Conv2d(n_out, n_out, 3, padding=1, bias=False)
        self.short = nn.Conv2d(n_in, n_out, 1, stride=2, bias=False)
        # Not of the batch: the instances of an image are alike, and one is picked among them.
        self.norms = nn.ModuleList([nn.GroupNorm(8, n_out) for _ in range(2)])

    def forward(self, x: Tensor) -> Tensor:
        z = relu(self.norms[0](self.first(x)))
        return relu(self.norms[1](self.second(z)) + self.short(x))


class SmallResNet(nn.Module):
    """Five residual blocks, 0.3 M weights: float32 [b, 3, h, w] to [b, 128]."""

    def __init__(self) -> None:
        super().__init__()
        widths = (_WIDTHS[0], *_WIDTHS)
        self.stem = nn.Conv2d(3, _WIDTHS[0], 3, stride=2, padding=1, bias=False)
        self.blocks = nn.Sequential(*(_Residual(a, b) for a, b in pairwise(widths)))

    def forward(self, x: Tensor) -> Tensor:
        """Features of a batch."""
        return torch.as_tensor(self.blocks(relu(self.stem(x))).mean((2, 3)))


def new_network(backbone: str, values: NDArray[Any] | Cuts) -> nn.Module:
    """An untrained classifier for instances [..., d] or [..., px, px, 3].

    Weights follow torch's random state; those of timm models are what their names say.

    Raises
    ------
    BadModel
        No such backbone.
    """
    if backbone == FEATURES:
        assert isinstance(values, np.ndarray)
        network = FeatureNetwork(values.shape[-1])
        network.standardise(values)
        return network
    if backbone == "resnet":
        return PixelNetwork(SmallResNet(), _WIDTHS[-1])
    if backbone.startswith("timm:"):
        from ..encoders.torch_encoder import load_torch_encoder

        encoder = load_torch_encoder(backbone, tile_px=values.shape[-2])
        return PixelNetwork(encoder.module, encoder.dim, encoder.mean, encoder.std)
    raise BadModel(
        "no such backbone", where=backbone, remedy="Choose features, resnet, or timm:NAME"
    )
