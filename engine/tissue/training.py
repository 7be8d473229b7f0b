"""Train a segmenter from slides and masks that somebody has looked at."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...storage.commit import file_identity, is_done, product_key
from ...storage.errors import LabelError
from ...storage.installed import installed_version
from ..schedule import Skipped
from ..slides import open_slide
from ..slides.base import Pixels
from ..tiles import read_overview
from .mask import BACKGROUND, LABELS, TISSUE, TissueMask
from .methods import MODEL_KIND
from .segmenter import Segmenter, SegmenterCard, new_network, save_segmenter, to_tensor
from .store import require_fit

if TYPE_CHECKING:
    import torch

TRAINING_VERSION = 1
"""Goes up with every change that alters what is learnt."""

Labels = NDArray[np.uint8]
Example = tuple[Path, TissueMask]
_LIMITS = (
    "It knows the stains, scanners and artefacts of the slides that it was trained on, no others.",
    "Look at its masks of slides that it has not seen before relying on it.",
)


@dataclass(frozen=True)
class SegmenterOptions:
    """How a segmenter is trained.

    Attributes
    ----------
    mpp
        Micrometres per pixel of the overviews.
    steps, batch, crop_px
        So many batches of so many square cut-outs; their side is a multiple of 4.
    learning_rate
        At the start; it falls to 0 along a cosine.
    seed
        Of weights and cut-outs: with equal options and examples it gives equal weights on one
        machine.
    """

    mpp: float = 8.0
    steps: int = 300
    batch: int = 4
    crop_px: int = 96
    learning_rate: float = 3e-3
    seed: int = 0


@dataclass(frozen=True)
class SegmenterTrained:
    """A segmenter that was trained, or was there."""

    path: Path
    n_slides: int
    labels: tuple[str, ...]


def train_segmenter(
    examples: Sequence[Example],
    out: Path,
    *,
    options: SegmenterOptions | None = None,
    overwrite: bool = False,
    on_step: Callable[[int, int], None] | None = None,
) -> SegmenterTrained | Skipped[SegmenterTrained]:
    """Train a segmenter on overviews and keep it at ``out``.

    Every cut-out is turned, mirrored and changed a little in brightness and colour at random.
    Labels that are rare weigh more, by the root of their frequency.

    Parameters
    ----------
    examples
        Slide files, each with the mask that is right for it: of any resolution, with any of the
        labels of :data:`~.mask.LABELS`. The model knows the labels that occur.
    on_step
        Called with the number of steps done and of all.

    Returns
    -------
    SegmenterTrained
        Skipped where the model is there already, made from the same.

    Raises
    ------
    LabelError
        No examples, or without tissue, or without anything else.
    BadGeometry
        A mask has not the shape of its slide.
    StaleProduct
        A model made otherwise is there and ``overwrite`` is false.
    NotBrightfield, UnreadableFile, MissingFile
        A slide cannot be used.
    """
    options = options or SegmenterOptions()
    labels = _labels(examples)
    key = _key(examples, options)
    made = SegmenterTrained(out, len(examples), tuple(_name(label) for label in labels))
    if is_done(out, kind=MODEL_KIND, key=key, overwrite=overwrite):
        return Skipped(made)
    pictures = [_read(path, mask, options.mpp) for path, mask in examples]
    network, loss = _fit(pictures, labels, options, on_step or (lambda done, total: None))
    counts = Counter[int]()
    for _, truth in pictures:
        counts.update(dict(enumerate(np.bincount(truth.ravel(), minlength=256).tolist())))
    training: dict[str, int | float] = {"slides": len(examples), "last_loss": round(loss, 4)}
    training |= {f"pixels of {_name(label)}": counts[label] for label in labels}
    card = SegmenterCard(
        microtome=installed_version(),
        mpp=options.mpp,
        labels={label: _name(label) for label in labels},
        options=asdict(options),
        training=training,
        limits=_LIMITS,
    )
    save_segmenter(out, Segmenter(card, network), key=key, overwrite=overwrite)
    return made


def _name(label: int) -> str:
    return "background" if label == BACKGROUND else LABELS[label].name


def _labels(examples: Sequence[Example]) -> tuple[int, ...]:
    found = {int(value) for _, mask in examples for value in np.unique(mask.labels)}
    unknown = found - {BACKGROUND, *LABELS}
    if unknown or TISSUE not in found or len(found) < 2:
        raise LabelError(
            f"the masks have the labels {sorted(found)}, which cannot be learnt",
            remedy="Give slides with masks that hold tissue (1) and what is none",
        )
    return tuple(sorted(found))


def _key(examples: Sequence[Example], options: SegmenterOptions) -> str:
    return product_key(
        kind=MODEL_KIND,
        version=TRAINING_VERSION,
        options=asdict(options),
        examples=[
            (file_identity(path), hashlib.sha256(mask.labels.tobytes()).hexdigest())
            for path, mask in examples
        ],
    )


def _read(path: Path, mask: TissueMask, mpp: float) -> tuple[Pixels, Labels]:
    """Overview and truth at the model's resolution, or the slide's own where that is coarser."""
    import cv2

    # A mask states the resolution of its slide, which the file itself may not.
    own = mask.mpp[0] / mask.downsample[0]
    with open_slide(path, mpp=own) as slide:
        require_fit(mask, (slide.info.height_px, slide.info.width_px), where=path)
        image, _ = read_overview(slide, mpp=max(mpp, own))
    size = image.shape[1::-1]
    return image, np.asarray(cv2.resize(mask.labels, size, interpolation=cv2.INTER_NEAREST))


def _fit(
    pictures: Sequence[tuple[Pixels, Labels]],
    labels: tuple[int, ...],
    options: SegmenterOptions,
    on_step: Callable[[int, int], None],
) -> tuple[torch.nn.Module, float]:
    import torch

    rng = np.random.default_rng(options.seed)
    index = np.zeros(256, np.int64)
    index[list(labels)] = np.arange(len(labels))
    padded = [_at_least(image, index[truth], options.crop_px) for image, truth in pictures]
    counts = sum(np.bincount(truth.ravel(), minlength=len(labels)) for _, truth in padded)
    weight = torch.from_numpy(np.sqrt(np.mean(counts) / np.maximum(counts, 1))).float()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        network = new_network(len(labels)).train()
        optimiser = torch.optim.Adam(network.parameters(), lr=options.learning_rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, options.steps)
        loss = torch.zeros(())
        for step in range(options.steps):
            cuts = [_cut(rng, padded, options.crop_px) for _ in range(options.batch)]
            scores = network(to_tensor(np.stack([image for image, _ in cuts])))
            truth = torch.from_numpy(np.stack([truth for _, truth in cuts]))
            loss = torch.nn.functional.cross_entropy(scores, truth, weight=weight)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
            on_step(step + 1, options.steps)
    return network.eval(), float(loss.detach())


def _at_least(
    image: Pixels, truth: NDArray[np.int64], side: int
) -> tuple[Pixels, NDArray[np.int64]]:
    """Both, mirrored at the lower and right edge until a cut-out fits in."""
    more = [(0, max(0, side - n)) for n in truth.shape]
    return np.pad(image, [*more, (0, 0)], mode="symmetric"), np.pad(truth, more, mode="symmetric")


def _cut(
    rng: np.random.Generator, pictures: Sequence[tuple[Pixels, NDArray[np.int64]]], side: int
) -> tuple[Pixels, NDArray[np.int64]]:
    image, truth = pictures[int(rng.integers(len(pictures)))]
    y, x = (int(rng.integers(n - side + 1)) for n in truth.shape)
    turns, is_mirrored = int(rng.integers(4)), bool(rng.integers(2))

    def turned(plane: NDArray[Any]) -> NDArray[Any]:
        plane = np.rot90(plane[y : y + side, x : x + side], turns)
        return plane[::-1] if is_mirrored else plane

    tint = rng.normal(1, 0.05) * rng.normal(1, 0.02, 3)
    bright = np.clip(np.rint(turned(image) * tint), 0, 255).astype(np.uint8)
    return bright, np.ascontiguousarray(turned(truth), np.int64)
