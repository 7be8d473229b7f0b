"""A pixel segmenter: its network, its card, how it is applied and kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from ...engine.slides.base import Pixels
from ...engine.tissue.segmenter import to_tensor
from ...storage.commit import new_product, require_commit, write_text
from ...storage.errors import BadModel

if TYPE_CHECKING:
    import torch

KIND = "camel-model"
WEIGHTS = "weights.safetensors"
CARD = "card.json"
FORMAT = 1
_SIDE_STEP_PX = 32
"""Encoders halve a picture five times."""

Architecture = Literal["unet", "deeplabv3+"]
ARCHITECTURES: Mapping[Architecture, str] = {"unet": "Unet", "deeplabv3+": "DeepLabV3Plus"}
"""Their names in segmentation-models-pytorch."""


class SegmenterCard(BaseModel):
    """What a segmenter is and what it was made from.

    Attributes
    ----------
    mpp
        Micrometres per pixel of the pictures that it takes.
    side_px
        Side of the pictures that it was trained on.
    classes
        Names of what is 0 and what is 1 in the masks.
    settings
        As in :class:`~.segmentation.SegmentSettings`, without the machine.
    training
        Counts of images, and the last loss.
    data
        SHA-256 of pixels, masks and weights.
    limits
        Sentences for whoever uses it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = FORMAT
    microtome: str
    architecture: Architecture
    encoder: str
    mpp: float
    side_px: int
    classes: tuple[str, str]
    settings: dict[str, Any]
    training: dict[str, int | float | str]
    data: str
    limits: tuple[str, ...]


@dataclass(frozen=True)
class Segmenter:
    """A network and its card.

    Attributes
    ----------
    key
        Follows the settings and the data that it was trained with.
    """

    card: SegmenterCard
    network: torch.nn.Module
    key: str

    def predict(
        self, pixels: Pixels, *, device: str = "cpu", batch: int = 8
    ) -> NDArray[np.float32]:
        """Probability that each pixel is of the second class.

        Parameters
        ----------
        pixels
            uint8 [n, h, w, 3] RGB at the card's mpp, of any size.
        batch
            Pictures at once.

        Returns
        -------
        float32 [n, h, w]
        """
        import torch

        out = np.empty(pixels.shape[:3], np.float32)
        network = self.network.to(device).eval()
        with torch.inference_mode():
            for start in range(0, len(pixels), batch):
                part = slice(start, start + batch)
                logits = network(to_tensor(_whole_steps(pixels[part])).to(device))[:, 0]
                height, width = pixels.shape[1:3]
                out[part] = torch.sigmoid(logits.float())[:, :height, :width].cpu().numpy()
        return out


def _whole_steps(pixels: Pixels) -> Pixels:
    """Sides filled up to what the network can halve, by what lies at the edge."""
    beyond = [(0, -side % _SIDE_STEP_PX) for side in pixels.shape[1:3]]
    return np.pad(pixels, ((0, 0), *beyond, (0, 0)), mode="edge")


def new_network(architecture: Architecture, encoder: str) -> torch.nn.Module:
    """An untrained network of one output; its weights follow torch's random state.

    Raises
    ------
    BadModel
        No such encoder, or one that this architecture cannot have.

    References
    ----------
    Ronneberger et al. (2015), U-Net, MICCAI; Chen et al. (2018), Encoder-decoder with atrous
    separable convolution (DeepLabv3+), ECCV; both as in segmentation-models-pytorch.
    """
    import segmentation_models_pytorch as smp

    try:
        network: torch.nn.Module = smp.create_model(
            ARCHITECTURES[architecture], encoder, encoder_weights=None, in_channels=3, classes=1
        )
    except (KeyError, ValueError, RuntimeError) as error:
        raise BadModel(
            f"{architecture} cannot be made with the encoder {encoder!r}",
            remedy="Take one that segmentation-models-pytorch lists (resnet18, efficientnet-b0 …)"
            " or a model of timm with the prefix tu- (tu-convnext_tiny)",
        ) from error
    return network


def save_segmenter(path: Path, segmenter: Segmenter, *, overwrite: bool = False) -> None:
    """Keep a segmenter as ``weights.safetensors`` and ``card.json``.

    Raises
    ------
    StaleProduct
        A segmenter made with another key is there and ``overwrite`` is false.
    """
    from safetensors.torch import save_file

    card = segmenter.card
    weights = {k: v.detach().cpu().contiguous() for k, v in segmenter.network.state_dict().items()}
    about = {"mpp": card.mpp, "classes": card.classes, "architecture": card.architecture}
    with new_product(
        path, kind=KIND, key=segmenter.key, about=about, overwrite=overwrite
    ) as folder:
        save_file(weights, folder / WEIGHTS)
        write_text(folder / CARD, card.model_dump_json(indent=1))


def load_segmenter(path: str | Path) -> Segmenter:
    """Load a segmenter that was kept. Nothing in it is executed.

    Raises
    ------
    MissingFile, BadProduct
        Nothing is there; or it is unfinished or no segmenter of CAMEL.
    BadModel
        Card or weights are damaged, do not fit each other, or are of a later format.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(path)
    key = require_commit(path, KIND).key
    try:
        card = SegmenterCard.model_validate_json((path / CARD).read_bytes())
        if card.format != FORMAT:
            raise ValueError("made by another version of Microtome")
        network = new_network(card.architecture, card.encoder)
        network.load_state_dict(load_file(path / WEIGHTS))
    except (OSError, SafetensorError, ValueError, RuntimeError) as error:
        raise BadModel.unusable(path, error) from error
    return Segmenter(card, network.eval(), key)


def record(settings: Any, without: tuple[str, ...]) -> dict[str, Any]:
    """Fields of a dataclass but for some, as a key and a card hold them."""
    found = {field.name: getattr(settings, field.name) for field in fields(settings)}
    # As JSON gives them back.
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in found.items()
        if name not in without
    }
