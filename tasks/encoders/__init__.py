"""Encoders: tile pixels to feature vectors, all behind one interface."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from ...storage.errors import BadModel
from .base import Encoder, Features, Tiles
from .catalogue import CATALOGUE, FoundationModel
from .foundation import load_foundation
from .onnx_encoder import SUFFIX as ONNX_SUFFIX
from .onnx_encoder import load_onnx_encoder
from .stain_texture import StainTexture
from .torch_encoder import compiled, load_torch_encoder
from .torch_forward import Precision
from .trained import load_trained

__all__ = [
    "CATALOGUE", "DEFAULT", "ENCODERS", "Encoder", "Features", "FoundationModel", "Precision",
    "Tiles", "load_encoder",
]  # fmt: skip

DEFAULT = StainTexture.name

ENCODERS = {
    DEFAULT: "stain-separated colour, texture and nuclear statistics; no weights",
    "NAME": f"a foundation model, from the hub by your own token: {', '.join(CATALOGUE)}",
    "NAME:FILE": "the same with weights from a file, such as uni2:pytorch_model.bin",
    "timm:NAME": "any timm model, untrained with a fixed seed: a control",
    "timm:NAME:pretrained": "the same with timm's own weights, which timm downloads",
    "timm:NAME:FILE.safetensors": "the same with weights from a file",
    "FOLDER": "an encoder that `microtome encoder train` made",
    "FILE.pt": "a TorchScript module; --tile-px and --mpp say what it was made for",
    "FILE.onnx": "a graph of ONNX; with the extra microtome[onnx]",
    "package.module:factory": "a torch.nn.Module of your own code",
}
"""What :func:`load_encoder` takes, and what it is."""


def load_encoder(
    spec: str = DEFAULT,
    device: str = "cpu",
    *,
    weights: Path | None = None,
    mpp: float | None = None,
    tile_px: int | None = None,
    precision: Precision = "fp32",
    is_compiled: bool = False,
) -> Encoder:
    """Load an encoder by name, file or import path.

    Parameters
    ----------
    spec
        ``stain-texture``; a foundation model by its name in :data:`CATALOGUE`, as ``NAME`` or
        ``NAME:FILE``; the folder of an encoder that was trained here; an ONNX file; or another
        deep encoder as
        :func:`~microtome.tasks.encoders.torch_encoder.load_torch_encoder` takes it.
    weights
        File of weights of a foundation model, in place of ``NAME:FILE``.
    device, precision
        Of deep encoders; ``stain-texture`` runs on the CPU, and an ONNX file in its own precision.
    is_compiled
        Let ``torch.compile`` work on a deep encoder first, which takes a minute or more.
    mpp, tile_px
        In place of what the encoder itself asks for.

    Raises
    ------
    BadModel, BadProduct, BadResolution, MissingFile, MissingDependency
        See there, :func:`~microtome.tasks.encoders.foundation.load_foundation`,
        :func:`~microtome.tasks.encoders.onnx_encoder.load_onnx_encoder` and
        :func:`~microtome.tasks.encoders.trained.load_trained`.

    Examples
    --------
    >>> load_encoder("stain-texture").feature_names[:3]
    ('mean_red', 'mean_green', 'mean_blue')
    """
    if spec == StainTexture.name:
        default = StainTexture()
        return replace(default, mpp=mpp or default.mpp, tile_px=tile_px or default.tile_px)
    name, _, file = spec.partition(":")
    if name in CATALOGUE:
        model = load_foundation(
            name,
            weights=Path(file) if file else weights,
            device=device,
            mpp=mpp,
            tile_px=tile_px,
            precision=precision,
        )
        return compiled(model) if is_compiled else model
    if weights is not None:
        raise BadModel(
            "weights go with a foundation model of the catalogue",
            where=spec,
            remedy="Write timm:NAME:FILE for other models of timm",
        )
    if Path(spec).suffix == ONNX_SUFFIX:
        if precision != "fp32" or is_compiled:
            raise BadModel(
                "an ONNX file is run as it was exported: it has a precision of its own",
                where=spec,
                remedy="Leave --precision and --compile out",
            )
        return load_onnx_encoder(Path(spec), device=device, mpp=mpp, tile_px=tile_px)
    how: dict[str, Any] = {"device": device, "mpp": mpp, "tile_px": tile_px, "precision": precision}
    is_folder = Path(spec).is_dir()
    deep = load_trained(Path(spec), **how) if is_folder else load_torch_encoder(spec, **how)
    return compiled(deep) if is_compiled else deep
