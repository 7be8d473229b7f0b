"""A small trained network that labels overviews: its shape, its card, how it is kept and used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from ...storage.commit import new_product, require_commit, write_text
from ...storage.errors import BadModel
from ..slides.base import Pixels
from .mask import BACKGROUND, LABELS, TISSUE
from .methods import MODEL_KIND
from .shapes import SMALLEST_UM2, without_holes, without_specks

if TYPE_CHECKING:
    import torch

FORMAT = 1
WEIGHTS = "weights.safetensors"
CARD = "card.json"
_CHANNELS = (16, 32, 64)
_PART_PX = 512
_MARGIN_PX = 32
"""More than the network sees beyond a pixel (23), and a multiple of its coarsest step (4)."""


class SegmenterCard(BaseModel):
    """What a segmenter is and what it was made from.

    Attributes
    ----------
    mpp
        Micrometres per pixel of the overviews that it takes.
    labels
        Values of the mask in the order of the outputs, and what they are called.
    options
        As in :class:`~.training.SegmenterOptions`.
    training
        Counts of slides and of pixels per label, and the last loss.
    limits
        Sentences for whoever uses it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = FORMAT
    microtome: str
    mpp: float
    labels: dict[int, str]
    options: dict[str, int | float]
    training: dict[str, int | float]
    limits: tuple[str, ...]


@dataclass(frozen=True)
class Segmenter:
    """A network and its card."""

    card: SegmenterCard
    network: torch.nn.Module

    @property
    def labels(self) -> tuple[int, ...]:
        """Labels that it was taught."""
        return tuple(self.card.labels)

    def label(self, image: Pixels, *, mpp: float) -> NDArray[np.uint8]:
        """Label an overview; pieces of tissue and holes below 0.02 mm² are removed.

        Parameters
        ----------
        image
            uint8 [h, w, 3] RGB.
        mpp
            Micrometres per pixel of ``image``. It is resampled where the network takes another.

        Returns
        -------
        uint8 [h, w]
            A label of the card for every pixel.
        """
        import cv2

        scale = mpp / self.card.mpp
        shape = [max(1, round(side * scale)) for side in image.shape[:2]]
        how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        own = np.asarray(cv2.resize(image, shape[::-1], interpolation=how), np.uint8)
        labels = np.array(self.labels, np.uint8)[self._outputs(own)]
        size = image.shape[1::-1]
        labels = np.asarray(cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST), np.uint8)
        return _tidy(labels, SMALLEST_UM2 / mpp**2)

    def _outputs(self, image: Pixels) -> NDArray[np.intp]:
        """The strongest output at every pixel, part by part: memory does not grow."""
        import torch

        height, width = image.shape[:2]
        out = np.empty((height, width), np.intp)
        with torch.inference_mode():
            for y in range(0, height, _PART_PX):
                for x in range(0, width, _PART_PX):
                    wide = _with_margin(image, y, x)
                    scores = self.network(to_tensor(wide[None]))[0]
                    best = scores.argmax(0).numpy()[_MARGIN_PX:, _MARGIN_PX:]
                    part = out[y : y + _PART_PX, x : x + _PART_PX]
                    part[...] = best[: part.shape[0], : part.shape[1]]
        return out


def _with_margin(image: Pixels, y: int, x: int) -> Pixels:
    """A part with a margin on all sides; beyond the picture its edge is mirrored."""
    rows = _mirrored(np.arange(y - _MARGIN_PX, y + _PART_PX + _MARGIN_PX), image.shape[0])
    columns = _mirrored(np.arange(x - _MARGIN_PX, x + _PART_PX + _MARGIN_PX), image.shape[1])
    return image[np.ix_(rows, columns)]


def _mirrored(places: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    turn = places % (2 * size)
    return np.minimum(turn, 2 * size - 1 - turn)


def _tidy(labels: NDArray[np.uint8], least_px: float) -> NDArray[np.uint8]:
    tissue = labels == TISSUE
    kept = without_specks(tissue, least_px)
    tidy = np.where(tissue & ~kept, BACKGROUND, labels)
    # Only glass is a hole in tissue; an artefact is not.
    filled = without_holes(kept | (tidy != BACKGROUND), least_px)
    return np.where(filled & (tidy == BACKGROUND), TISSUE, tidy).astype(np.uint8)


def to_tensor(images: Pixels) -> torch.Tensor:
    """uint8 [b, h, w, 3] to float32 [b, 3, h, w] in -1 … 1."""
    import torch

    tensor: torch.Tensor = torch.from_numpy(np.ascontiguousarray(images))
    return tensor.permute(0, 3, 1, 2).float() / 127.5 - 1


def new_network(n_labels: int) -> torch.nn.Module:
    """A U-Net of three steps with 119,000 weights, not trained; sides are multiples of 4.

    References
    ----------
    Ronneberger et al. (2015), U-Net: convolutional networks for biomedical image segmentation,
    MICCAI.
    """
    import torch
    from torch import nn

    def block(into: int, out: int) -> nn.Sequential:
        layers: list[nn.Module] = []
        for start in (into, out):
            convolution = nn.Conv2d(start, out, 3, padding=1, bias=False)
            layers += [convolution, nn.BatchNorm2d(out), nn.ReLU()]
        return nn.Sequential(*layers)

    class UNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            widths = (3, *_CHANNELS)
            self.down = nn.ModuleList(map(block, widths[:-1], widths[1:]))
            self.up = nn.ModuleList(
                block(coarse + fine, fine)
                for coarse, fine in zip(_CHANNELS[:0:-1], _CHANNELS[-2::-1], strict=True)
            )
            self.out = nn.Conv2d(_CHANNELS[0], n_labels, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            kept = []
            for number, step in enumerate(self.down):
                x = step(nn.functional.max_pool2d(x, 2) if number else x)
                kept.append(x)
            for step, fine in zip(self.up, kept[-2::-1], strict=True):
                coarse = nn.functional.interpolate(x, scale_factor=2.0, mode="nearest")
                x = step(torch.cat([coarse, fine], 1))
            scores: torch.Tensor = self.out(x)
            return scores

    return UNet()


def save_segmenter(path: Path, segmenter: Segmenter, *, key: str, overwrite: bool = False) -> None:
    """Keep a segmenter as ``weights.safetensors`` and ``card.json``.

    Raises
    ------
    StaleProduct
        A segmenter made with another key is there and ``overwrite`` is false.
    """
    from safetensors.torch import save_file

    weights = {k: v.contiguous() for k, v in segmenter.network.state_dict().items()}
    about = {"mpp": segmenter.card.mpp, "labels": list(segmenter.card.labels.values())}
    with new_product(path, kind=MODEL_KIND, key=key, about=about, overwrite=overwrite) as folder:
        save_file(weights, folder / WEIGHTS)
        write_text(folder / CARD, segmenter.card.model_dump_json(indent=1))


def load_segmenter(path: str | Path) -> Segmenter:
    """Load a segmenter that was kept. Nothing in it is executed.

    Raises
    ------
    MissingFile, BadProduct
        Nothing is there; or it is unfinished or no segmenter.
    BadModel
        Card or weights are damaged, do not fit each other, or are of a later format.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(path)
    require_commit(path, MODEL_KIND)
    try:
        card = SegmenterCard.model_validate_json((path / CARD).read_bytes())
        if card.format != FORMAT or not set(card.labels) <= {BACKGROUND, *LABELS}:
            raise ValueError("made by another version of Microtome")
        network = new_network(len(card.labels))
        weights: Mapping[str, Any] = load_file(path / WEIGHTS)
        network.load_state_dict(weights)
    except (OSError, SafetensorError, ValueError, RuntimeError) as error:
        raise BadModel.unusable(path, error) from error
    return Segmenter(card, network.eval())
