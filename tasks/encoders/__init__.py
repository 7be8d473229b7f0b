"""Encoders: tile pixels to feature vectors, all behind one interface."""

from __future__ import annotations

from dataclasses import replace

from .base import Encoder, Features, Tiles
from .stain_texture import StainTexture
from .torch_encoder import Precision, load_torch_encoder

__all__ = ["DEFAULT", "ENCODERS", "Encoder", "Features", "Precision", "Tiles", "load_encoder"]

DEFAULT = StainTexture.name

ENCODERS = {
    DEFAULT: "stain-separated colour, texture and nuclear statistics; no weights",
    "timm:NAME": "any timm model, untrained with a fixed seed: a control",
    "timm:NAME:pretrained": "the same with timm's own weights, which timm downloads",
    "timm:NAME:FILE.safetensors": "the same with weights from a file",
    "FILE.pt": "a TorchScript module; --tile-px and --mpp say what it was made for",
    "package.module:factory": "a torch.nn.Module of your own code",
}
"""What :func:`load_encoder` takes, and what it is."""


def load_encoder(
    spec: str = DEFAULT,
    device: str = "cpu",
    *,
    mpp: float | None = None,
    tile_px: int | None = None,
    precision: Precision = "fp32",
) -> Encoder:
    """Load an encoder by name, file or import path.

    Parameters
    ----------
    spec
        ``stain-texture``, or a deep encoder as
        :func:`~microtome.tasks.encoders.torch_encoder.load_torch_encoder` takes it.
    device, precision
        Of deep encoders; ``stain-texture`` runs on the CPU.
    mpp, tile_px
        In place of what the encoder itself asks for.

    Raises
    ------
    BadModel, MissingFile, MissingDependency
        See there.

    Examples
    --------
    >>> load_encoder("stain-texture").feature_names[:3]
    ('mean_red', 'mean_green', 'mean_blue')
    """
    if spec == StainTexture.name:
        default = StainTexture()
        return replace(default, mpp=mpp or default.mpp, tile_px=tile_px or default.tile_px)
    return load_torch_encoder(spec, device=device, mpp=mpp, tile_px=tile_px, precision=precision)
