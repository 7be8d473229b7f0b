"""Encoders that were trained here: weights as safetensors, everything else as a card."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from ...storage.commit import require_commit, write_bytes, write_text
from ...storage.errors import BadModel, BadResolution
from ..devices import pick_device
from .foundation import MPP_TOLERANCE
from .torch_encoder import (
    TorchEncoder,
    channels_last,
    create_timm,
    digest_weights,
    first_sentence,
    probe_dim,
)
from .torch_forward import Precision

if TYPE_CHECKING:
    import torch

KIND = "encoder"
FORMAT = 1
WEIGHTS = "encoder.safetensors"
CARD = "card.json"

Colour = tuple[float, float, float]


class EncoderCard(BaseModel):
    """What an encoder takes, and what it was made from.

    Attributes
    ----------
    backbone, arguments
        Name of the timm model, and what it is made with.
    tile_px, mpp
        The tiles that it was trained on: side in pixels, micrometres per pixel.
    mean, std
        Per channel of RGB in 0 … 1: how tiles are normalised.
    options
        As in :class:`~microtome.tasks.ssl.train.SslOptions`.
    training
        Counts, and the measures of collapse.
    limits
        Sentences for whoever uses it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = FORMAT
    microtome: str
    backbone: str
    arguments: dict[str, int]
    tile_px: int
    mpp: float
    dim: int
    mean: Colour
    std: Colour
    options: dict[str, Any]
    training: dict[str, int | float]
    limits: tuple[str, ...]


@dataclass(frozen=True)
class Backbone:
    """An untrained timm model, and what it is made with for tiles of one size."""

    module: torch.nn.Module
    arguments: dict[str, int]


def new_backbone(name: str, tile_px: int, *, seed: int = 0) -> Backbone:
    """Make a timm model without weights; one that is built for a size is built for this one.

    Raises
    ------
    BadModel
        timm knows no such model, or cannot make it for such tiles.
    """
    import timm

    config = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    arguments = {"img_size": tile_px} if config is not None and config.fixed_input_size else {}
    try:
        module = create_timm(name, arguments, seed=seed)
    except (AssertionError, TypeError) as error:
        raise BadModel(
            f"timm cannot make it for tiles of {tile_px} px ({first_sentence(error)})",
            where=name,
            remedy="Choose another --tile-px, a multiple of the model's patch",
        ) from error
    return Backbone(module, arguments)


def write_trained(folder: Path, module: torch.nn.Module, card: EncoderCard) -> None:
    """Write weights and card into a product's folder."""
    from safetensors.torch import save

    weights = {k: v.detach().cpu().contiguous() for k, v in module.state_dict().items()}
    write_bytes(folder / WEIGHTS, save(weights))
    write_text(folder / CARD, card.model_dump_json(indent=1))


def read_card(path: Path) -> EncoderCard:
    """What an encoder takes and was made from.

    Raises
    ------
    MissingFile, BadProduct
        Nothing is there; or it is unfinished or no encoder.
    BadModel
        The card is damaged, or of a later format.
    """
    require_commit(path, KIND)
    try:
        card = EncoderCard.model_validate_json((path / CARD).read_bytes())
        if card.format != FORMAT:
            raise ValueError("made by another version of Microtome")
    except (OSError, ValueError) as error:
        raise _damaged(path, error) from error
    return card


def load_trained(
    path: Path,
    *,
    device: str = "cpu",
    mpp: float | None = None,
    tile_px: int | None = None,
    precision: Precision = "fp32",
) -> TorchEncoder:
    """Load an encoder that was trained here. Nothing in it is executed.

    Parameters
    ----------
    mpp
        May differ by 15 % from what it was trained at.
    tile_px
        Only what it was trained with.

    Raises
    ------
    MissingFile, BadProduct
        Nothing is there; or it is unfinished or no encoder.
    BadModel
        Card or weights are damaged or do not fit each other; or other tiles are asked for.
    BadResolution
        Another resolution is asked for.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    card = read_card(path)
    if tile_px not in (None, card.tile_px):
        raise BadModel(
            f"it was trained on tiles of {card.tile_px} px, not {tile_px}; tiles are never resized",
            where=path,
            remedy="Leave --tile-px out",
        )
    if mpp is not None and not np.isclose(mpp, card.mpp, rtol=MPP_TOLERANCE, atol=0):
        raise BadResolution(
            f"it was trained at {card.mpp:g} µm/px, not at {mpp:g}",
            where=path,
            remedy="Leave --mpp out, or train another",
        )
    try:
        weights: Mapping[str, Any] = load_file(path / WEIGHTS)
        module = create_timm(card.backbone, card.arguments)
        module.load_state_dict(weights)
    except (OSError, SafetensorError, RuntimeError, TypeError, AssertionError) as error:
        raise _damaged(path, error) from error
    device = pick_device(device)
    module = channels_last(module.to(device)).eval()
    parts = (card.backbone, str(card.tile_px), str(card.mpp), str(card.mean), str(card.std))
    return TorchEncoder(
        module=module,
        name=f"trained:{card.backbone}",
        version=digest_weights(module, *parts),
        tile_px=card.tile_px,
        mpp=mpp or card.mpp,
        dim=probe_dim(module, card.tile_px, device, str(path)),
        licence="yours, as far as the slides are",
        mean=card.mean,
        std=card.std,
        device=device,
        precision=precision,
    )


def _damaged(path: Path, error: Exception) -> BadModel:
    return BadModel(
        f"the encoder cannot be used ({first_sentence(error)})",
        where=path,
        remedy="Train it again, or copy it anew",
    )
