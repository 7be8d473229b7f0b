"""Step 2 of CAMEL: a pixel segmenter, trained on masks that were painted from instance labels.

Xu et al. (2019), CAMEL: a weakly supervised learning framework for histopathology image
segmentation, ICCV: an enriched label is put on all pixels of its instance, and an ordinary
segmentation network smooths the blocks. Images are turned, mirrored and enlarged by up to 1.2, and
the scarcer kind of images is shown as often as the other, as there. Added here: a weight for every
pixel, such as the confidence of its label, and a share of soft Dice in the loss.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...engine.slides.base import Pixels
from ...engine.tissue.segmenter import to_tensor
from ...storage.commit import product_key
from ...storage.errors import BadGeometry, LabelError
from ...storage.installed import installed_version
from ..torch_threads import torch_threads
from .checkpoint import Progress, load_checkpoint, save_checkpoint
from .segmenter import Architecture, Segmenter, SegmenterCard, new_network, record

if TYPE_CHECKING:
    import torch
    from torch import Tensor

VERSION = 1
"""Goes up with every change that alters what is learnt."""

MACHINE = ("device", "threads", "checkpoint_every")
_LIMITS = (
    "It was taught by labels of images, not by a pathologist's outlines: look at what it outlines.",
    "It knows the stains, scanners and lesions of the slides that it was trained on, no others.",
)

Masks = NDArray[np.uint8]
OnProgress = Callable[[int, int], None]
"""Told of (epochs done, in all)."""


@dataclass(frozen=True)
class SegmentSettings:
    """Everything that decides what is learnt, besides the data.

    Attributes
    ----------
    architecture
        ``unet`` or ``deeplabv3+``.
    encoder
        Any that segmentation-models-pytorch knows by name; not pretrained.
    epochs, batch
        Passes over the images, and images a step.
    lr
        Learning rate of Adam at the start; it falls to 0 along a cosine.
    crop_px
        Side of the random cut-outs that are trained on; None takes whole images.
    zoom
        Cut-outs are enlarged by 1 … ``zoom``.
    dice
        Share of soft Dice in the loss, beside cross-entropy.
    mpp, classes
        For the card: micrometres per pixel of the images, and the names of 0 and 1.
    seed
        Equal seeds give equal weights on one kind of CPU.
    device, threads
        Where torch computes, and on how many cores of a CPU (None: as torch decides). A GPU that
        can takes bfloat16.
    checkpoint_every
        Epochs from one checkpoint to the next.
    """

    architecture: Architecture = "unet"
    encoder: str = "resnet18"
    epochs: int = 30
    lr: float = 1e-3
    batch: int = 6
    crop_px: int | None = None
    zoom: float = 1.2
    dice: float = 0.5
    mpp: float = 0.5
    classes: tuple[str, str] = ("normal", "lesion")
    seed: int = 0
    device: str = "cpu"
    threads: int | None = None
    checkpoint_every: int = 1


def train_segmenter(
    pixels: Pixels,
    masks: Masks,
    settings: SegmentSettings,
    *,
    weights: NDArray[np.float32] | None = None,
    on_progress: OnProgress | None = None,
    folder: Path | None = None,
) -> Segmenter:
    """Train a segmenter on images and their painted masks.

    Parameters
    ----------
    pixels
        uint8 [n, side, side, 3] RGB; may be a memory map.
    masks
        uint8 [n, side, side]: 0 or 1. Or [n, g, g], labels of instances, to be painted on theirs
        (:func:`~.images.painted`).
    weights
        float32 of either shape, 0 … : what each pixel counts in the loss. All the same by default.
    on_progress
        Told of (epochs done, in all).
    folder
        For checkpoints: training that was killed goes on from the last one, and ends with the
        very weights of an undisturbed run.

    Raises
    ------
    BadGeometry
        Shapes do not fit together.
    LabelError
        Nothing is 1, or masks hold other values.
    BadModel
        There is no such encoder.
    StaleProduct
        The folder has a checkpoint of other images or settings.
    """
    _check(pixels, masks, weights)
    data = _digest(pixels, masks, weights)
    key = product_key(
        kind="camel-segmenter", version=VERSION, data=data, settings=record(settings, MACHINE)
    )
    positive = np.array([bool(mask.any()) for mask in masks])
    images = _Images(pixels, masks, weights, positive, settings)
    with _computing(settings):
        network, losses = _fit(images, key, on_progress or (lambda done, total: None), folder)
    training: dict[str, int | float | str] = {
        "images": len(pixels),
        "positive images": int(positive.sum()),
        "last loss": round(losses[-1], 5),
    }
    card = SegmenterCard(
        microtome=installed_version(),
        architecture=settings.architecture,
        encoder=settings.encoder,
        mpp=settings.mpp,
        side_px=pixels.shape[1],
        classes=settings.classes,
        settings=record(settings, MACHINE),
        training=training,
        data=data,
        limits=_LIMITS,
    )
    return Segmenter(card, network.to("cpu").eval(), key)


def _check(pixels: Pixels, masks: Masks, weights: NDArray[np.float32] | None) -> None:
    shape = pixels.shape
    if len(shape) != 4 or shape[1] != shape[2] or shape[3] != 3 or not len(pixels):
        raise BadGeometry(f"pixels are uint8 [n, side, side, 3], not {list(shape)}")
    for name, part in (("masks", masks), ("weights", weights)):
        if part is not None and not _paints(part.shape, shape[0], shape[1]):
            raise BadGeometry(f"{name} {list(part.shape)} do not fit to pixels {list(shape)}")
    if max(int(mask.max()) for mask in masks) != 1:
        raise LabelError(
            "masks must hold 0 and 1, and 1 somewhere",
            remedy="Give images of which some are positive",
        )


def _paints(lattice: tuple[int, ...], n: int, side: int) -> bool:
    return len(lattice) == 3 and lattice == (n, lattice[1], lattice[1]) and side % lattice[1] == 0


def _digest(*arrays: NDArray[Any] | None) -> str:
    """SHA-256 of arrays, image by image: a memory map is never read as a whole."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(repr(None if array is None else (array.shape, array.dtype.str)).encode())
        for image in () if array is None else array:
            digest.update(np.ascontiguousarray(image).tobytes())
    return digest.hexdigest()


def _fit(
    images: _Images, key: str, on_progress: OnProgress, folder: Path | None
) -> tuple[torch.nn.Module, list[float]]:
    import torch

    settings = images.settings
    torch.manual_seed(_seed_of(settings.seed, 0))
    network = new_network(settings.architecture, settings.encoder).to(settings.device)
    optimiser = torch.optim.Adam(network.parameters(), lr=settings.lr)
    found = None if folder is None else load_checkpoint(folder, key, network, optimiser)
    losses = [] if found is None else list(found.losses)
    network.train()
    for epoch in range(len(losses), settings.epochs):
        on_progress(epoch, settings.epochs)
        losses.append(_epoch(network, optimiser, images, epoch))
        due = (epoch + 1) % settings.checkpoint_every == 0 or epoch + 1 == settings.epochs
        if folder is not None and due:
            save_checkpoint(folder, Progress(key, epoch + 1, tuple(losses)), network, optimiser)
    on_progress(settings.epochs, settings.epochs)
    return network, losses


def _epoch(
    network: torch.nn.Module, optimiser: torch.optim.Optimizer, images: _Images, epoch: int
) -> float:
    """One pass; what is drawn in it follows seed and number alone, so that it can be resumed."""
    import torch

    settings = images.settings
    torch.manual_seed(_seed_of(settings.seed, epoch + 1))
    rng = np.random.default_rng(_seed_of(settings.seed, epoch + 1))
    batches = balanced_batches(images.positive, settings.batch, rng)
    total = 0.0
    for number, rows in enumerate(batches):
        done = (epoch + number / len(batches)) / settings.epochs
        for group in optimiser.param_groups:
            group["lr"] = settings.lr * 0.5 * (1 + math.cos(math.pi * done))
        picture, truth, weight = (t.to(settings.device) for t in images.draw(rows, rng))
        with _mixed(settings.device):
            logits = network(picture)[:, 0]
        loss = segmentation_loss(logits.float(), truth, weight, dice=settings.dice)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
        total += float(loss.detach())
    return total / len(batches)


def balanced_batches(
    positive: NDArray[np.bool_], batch: int, rng: np.random.Generator
) -> list[NDArray[np.intp]]:
    """Rows of each batch of an epoch: every image, the scarcer kind repeated to be as many.

    The last batch is filled up from the first: batch statistics need more than one image.

    Parameters
    ----------
    positive
        bool [n].
    batch
        Images a step; at least two are taken.
    """
    kinds = [np.flatnonzero(positive), np.flatnonzero(~positive)]
    most = max(map(len, kinds))
    shown = [np.resize(rng.permutation(kind), most) for kind in kinds if len(kind)]
    rows = rng.permutation(np.concatenate(shown))
    size = max(2, batch)
    starts = range(0, len(rows), size)
    return [np.take(rows, range(start, start + size), mode="wrap") for start in starts]


def segmentation_loss(logits: Tensor, truth: Tensor, weight: Tensor, *, dice: float) -> Tensor:
    """Weighted cross-entropy, and a share of weighted soft Dice.

    With p the sigmoid of the logits, t the truth and w the weights, over the pixels of a batch:
    (1 - d) Σ w ce(p, t) / Σ w + d (1 - (2 Σ w p t + 1) / (Σ w p + Σ w t + 1)).

    Parameters
    ----------
    logits, truth, weight
        float [b, h, w].
    dice
        The share d.

    References
    ----------
    Milletari et al. (2016), V-Net, 3DV: soft Dice; smoothed by 1 here.
    """
    import torch
    from torch.nn import functional

    entropy = functional.binary_cross_entropy_with_logits(logits, truth, weight, reduction="sum")
    probability = torch.sigmoid(logits)
    both = (weight * probability * truth).sum()
    either = (weight * probability).sum() + (weight * truth).sum()
    overlap = (2 * both + 1) / (either + 1)
    mean: Tensor = (1 - dice) * entropy / weight.sum().clamp(min=1e-6) + dice * (1 - overlap)
    return mean


@dataclass(frozen=True)
class _Images:
    """What is drawn from."""

    pixels: Pixels
    masks: Masks
    weights: NDArray[np.float32] | None
    positive: NDArray[np.bool_]
    settings: SegmentSettings

    def draw(self, rows: NDArray[np.intp], rng: np.random.Generator) -> tuple[Tensor, ...]:
        """Pictures [b, 3, c, c], masks [b, c, c] and weights [b, c, c], turned and enlarged."""
        import torch

        drawn = [self._one(int(row), rng) for row in rows]
        picture = to_tensor(np.stack([image for image, _, _ in drawn]))
        truth = torch.from_numpy(np.stack([mask for _, mask, _ in drawn])).float()
        if self.weights is None:
            return picture, truth, torch.ones_like(truth)
        return picture, truth, torch.from_numpy(np.stack([weight for _, _, weight in drawn]))

    def _one(self, row: int, rng: np.random.Generator) -> tuple[Pixels, Masks, Any]:
        import cv2

        side = self.pixels.shape[1]
        wanted = min(self.settings.crop_px or side, side)
        cut = max(1, round(wanted / rng.uniform(1, self.settings.zoom)))
        y, x = rng.integers(0, side - cut + 1, 2).tolist()
        turns, mirrored = int(rng.integers(4)), bool(rng.integers(2))
        parts = (self.pixels, self.masks, self.weights)
        made: list[Any] = []
        for part, how in zip(parts, (cv2.INTER_LINEAR, *(cv2.INTER_NEAREST,) * 2), strict=True):
            if part is None:
                made.append(None)
                continue
            step = side // part.shape[1]
            whole = part[row].repeat(step, 0).repeat(step, 1) if step > 1 else part[row]
            image: Any = np.ascontiguousarray(whole[y : y + cut, x : x + cut])
            image = cv2.resize(image, (wanted, wanted), interpolation=how)
            image = np.rot90(image, turns)
            made.append(np.ascontiguousarray(image[:, ::-1] if mirrored else image))
        return made[0], made[1], made[2]


def _seed_of(seed: int, number: int) -> int:
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])


def _mixed(device: str) -> Any:
    """Half precision where the device has one that needs no scaling of the loss."""
    import torch

    if device.startswith("cuda") and torch.cuda.is_bf16_supported():
        return torch.autocast("cuda", dtype=torch.bfloat16)
    return nullcontext()


@contextmanager
def _computing(settings: SegmentSettings) -> Iterator[None]:
    """Torch's random state and threads for as long as something is trained; as before after it."""
    import torch

    devices = [settings.device] if settings.device.startswith("cuda") else []
    with torch_threads(settings.threads), torch.random.fork_rng(devices=devices):
        yield
