"""Tiles through a torch module: onto its device, in its precision, in batches of one size."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from .base import BATCH_TILES, Tiles

if TYPE_CHECKING:
    import torch

Precision = Literal["fp32", "bf16", "fp16"]
"""What a deep encoder multiplies in; features are float32 in either case.

Half precisions round every product. Against fp32 a feature vector moves by up to
:data:`TOLERANCE` of its length: that of bf16 by less than 2 %, that of fp16 by less than 0.5 %.
"""

TOLERANCE: dict[Precision, float] = {"fp32": 0.0, "bf16": 0.02, "fp16": 0.005}
"""‖x - x₃₂‖ / ‖x₃₂‖ that is held by the tests, for models of every kind that timm has."""


def forward(
    module: torch.nn.Module,
    tiles: Tiles,
    *,
    mean: tuple[float, ...] = (0.0, 0.0, 0.0),
    std: tuple[float, ...] = (1.0, 1.0, 1.0),
    device: str = "cpu",
    precision: Precision = "fp32",
    is_one_shape: bool = False,
) -> Any:
    """Features of tiles, float32 [b, …], or None where the module gives no tensor.

    Parameters
    ----------
    module
        float32 [b, 3, t, t] to features.
    tiles
        uint8 [b, t, t, 3].
    mean, std
        Of each colour, for RGB in 0 … 1.
    is_one_shape
        Blank tiles fill every batch up to :data:`~microtome.tasks.encoders.base.BATCH_TILES`, and
        their features are dropped: kernels are chosen, or compiled, for the shape of a batch, so
        that a tile's features do not depend on how many others its slide has.

    Notes
    -----
    What comes from NHWC pixels stays channels-last all the way through.
    """
    import torch

    half = None if precision == "fp32" else getattr(torch, _DTYPES[precision])
    n = len(tiles)
    if is_one_shape and n < BATCH_TILES:
        tiles = np.concatenate([tiles, np.zeros((BATCH_TILES - n, *tiles.shape[1:]), np.uint8)])
    with (
        torch.inference_mode(),
        torch.autocast(torch.device(device).type, half, enabled=half is not None),
    ):
        batch = _on_device(tiles, device).permute(0, 3, 1, 2).float() / 255
        shape = (1, 3, 1, 1)
        batch = (batch - batch.new_tensor(mean).view(shape)) / batch.new_tensor(std).view(shape)
        features = module(batch)
        if not isinstance(features, torch.Tensor):
            return None
        return features[:n].float().cpu().numpy()


_DTYPES = {"bf16": "bfloat16", "fp16": "float16"}


def _on_device(tiles: Tiles, device: str) -> torch.Tensor:
    import torch

    batch = torch.from_numpy(np.ascontiguousarray(tiles))
    if not device.startswith("cuda"):
        return batch.to(device)
    # From pinned memory the copy is the device's own work, and this thread goes on.
    return batch.pin_memory().to(device, non_blocking=True)
