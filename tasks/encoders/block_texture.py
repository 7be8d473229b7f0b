"""``block-texture``: the default encoder of scans; no weights, and every feature has a name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from .base import Features

Blocks = NDArray[np.float32]

_PERCENTILES = (10, 50, 90, 98)
_FINE, _MIDDLE, _COARSE = 0.8, 1.6, 3.2

CHANNEL_FEATURES: dict[str, str] = {
    "mean": "mean, 0 to 1 in the window",
    "sd": "standard deviation",
    **{f"p{p}": f"percentile {p}" for p in _PERCENTILES},
    "gradient": "mean magnitude of the gradient, per sample",
    "gradient_p90": "percentile 90 of that",
    "detail": "standard deviation of the band between blurs of 0.8 and 1.6 samples",
    "contrast": "standard deviation of the band between blurs of 1.6 and 3.2 samples",
    "brightest": "maximum of that band: how far something compact stands out",
    "darkest": "minimum of that band: how far something compact is sunk",
}
"""Name and meaning of the features of each channel, in order; ``mean`` is called
``mean_<channel>``, the others ``<channel>_<name>``."""


@dataclass(frozen=True)
class BlockTexture:
    """Moments, percentiles, gradients and local contrast of each channel of a block.

    A channel is a window of the scan. All values are those of the block alone: filters go on with
    the outermost sample beyond its faces. Lengths are in samples, so that features of scans are
    comparable where they were sampled at one spacing.
    """

    channels: tuple[str, ...]
    name: ClassVar[str] = "block-texture"
    version: ClassVar[str] = "1"
    licence: ClassVar[str] = "Apache-2.0"

    @property
    def feature_names(self) -> tuple[str, ...]:
        """One name a feature."""
        return tuple(
            f"mean_{channel}" if name == "mean" else f"{channel}_{name}"
            for channel in self.channels
            for name in CHANNEL_FEATURES
        )

    @property
    def dim(self) -> int:
        """Length of a feature vector: 12 for each channel."""
        return len(self.channels) * len(CHANNEL_FEATURES)

    def encode(self, blocks: Blocks) -> Features:
        """Encode a batch.

        Parameters
        ----------
        blocks
            float32 [b, c, z, y, x], 0 to 1, z, y and x at least 2.

        Returns
        -------
        float32 [b, dim]
            A row depends on its own block alone.

        Raises
        ------
        ValueError
            Other channels, or blocks that are flat.
        """
        if blocks.ndim != 5 or blocks.shape[1] != len(self.channels) or min(blocks.shape[2:]) < 2:
            raise ValueError(
                f"{self.name} takes [b, {len(self.channels)}, z, y, x], not {list(blocks.shape)}"
            )
        columns = [self._describe(blocks[:, c]) for c in range(len(self.channels))]
        return np.concatenate(columns, axis=1)

    def _describe(self, blocks: Blocks) -> Features:
        """Features of one channel: float32 [b, z, y, x] to [b, 12]."""
        inside = (1, 2, 3)
        slopes = np.gradient(blocks, axis=inside)
        gradient = np.sqrt(sum(np.square(slope) for slope in slopes))
        fine, middle, coarse = (_blur(blocks, sigma) for sigma in (_FINE, _MIDDLE, _COARSE))
        band = middle - coarse
        values = (
            blocks.mean(inside),
            blocks.std(inside),
            *np.percentile(blocks, _PERCENTILES, axis=inside),
            gradient.mean(inside),
            np.percentile(gradient, 90, axis=inside),
            (fine - middle).std(inside),
            band.std(inside),
            band.max(inside),
            band.min(inside),
        )
        return np.stack(values, axis=1).astype(np.float32)


def _blur(blocks: Blocks, sigma: float) -> Blocks:
    from scipy.ndimage import gaussian_filter

    blurred: Blocks = gaussian_filter(blocks, (0, sigma, sigma, sigma), mode="nearest")
    return blurred


def describe_features(channels: Sequence[str]) -> dict[str, str]:
    """Name and meaning of every feature of some channels, in order."""
    names = BlockTexture(tuple(channels)).feature_names
    meanings = [f"{channel}: {m}" for channel in channels for m in CHANNEL_FEATURES.values()]
    return dict(zip(names, meanings, strict=True))
