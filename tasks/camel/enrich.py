"""Label enrichment: from one label an image to one label an instance (the paper's first step)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ...storage.errors import BadGeometry, LabelError
from .images import ImageSet, instances

Mode = Literal["faithful", "robust"]
Progress = Callable[[str, float], None]
"""Called with the name of a stage and the share of the whole that is done, 0 … 1."""


@dataclass(frozen=True)
class EnrichSettings:
    """Everything that decides what is learnt, besides the images.

    Attributes
    ----------
    grid
        N: instances along a side of an image.
    cascade
        Lattices N1, N2, … whose product is ``grid``; none for no cascade.
    mode
        ``faithful`` to the paper, or ``robust``: see docs/concepts/camel.md.
    constraint
        Whether the image-level constraint joins the retraining of faithful mode.
    backbone
        ``features``: the built-in weight-free features and a small network; ``resnet``: a small
        one from scratch; or a timm model as ``timm:NAME``, ``timm:NAME:pretrained``,
        ``timm:NAME:FILE.safetensors``.
    mpp
        Micrometres per pixel of the images.
    epochs
        Passes over the images in each stage.
    batch_images
        Images a step, half of them positive.
    learning_rate, weight_decay
        Of Adam.
    members, rounds
        Robust mode: folds that are scored by networks not fitted on them, and rounds of
        relabelling.
    seed
        Equal seeds, images and settings give equal labels on one machine.
    device, precision, threads
        Where torch computes: ``bf16`` is for CUDA, ``threads`` for a CPU.
    """

    grid: int = 4
    cascade: tuple[int, ...] = ()
    mode: Mode = "robust"
    constraint: bool = True
    backbone: str = "features"
    mpp: float = 0.5
    epochs: int = 40
    batch_images: int = 16
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    members: int = 4
    rounds: int = 2
    seed: int = 0
    device: str = "cpu"
    precision: Literal["fp32", "bf16"] = "fp32"
    threads: int = 1

    def __post_init__(self) -> None:
        if self.cascade and int(np.prod(self.cascade)) != self.grid:
            product = " x ".join(map(str, self.cascade))
            raise BadGeometry(
                f"a cascade of {product} does not end at a lattice of {self.grid}",
                remedy="Choose lattices whose product is the last one",
            )


@dataclass(frozen=True)
class Enriched:
    """Labels of instances.

    Attributes
    ----------
    labels
        uint8 [n, grid, grid]: 1 where positive.
    confidence
        float32 [n, grid, grid]: probability that the label given is right, 0.5 … 1.
    history
        What was found on the way, stage by stage.
    """

    labels: NDArray[np.uint8]
    confidence: NDArray[np.float32]
    history: tuple[Mapping[str, object], ...] = ()

    @property
    def probability(self) -> NDArray[np.float32]:
        """float32 [n, grid, grid]: probability of being positive, 0 … 1."""
        return np.where(self.labels == 1, self.confidence, 1 - self.confidence)


def enrich(
    images: ImageSet,
    settings: EnrichSettings,
    *,
    on_progress: Progress | None = None,
    folder: Path | None = None,
) -> Enriched:
    """Label every instance of every image.

    Parameters
    ----------
    images
        Both labels must occur.
    folder
        Where each finished stage is kept; a run that was cut off goes on from there.

    Raises
    ------
    LabelError
        All images have one label.
    BadGeometry
        Images that do not part into the lattice.
    """
    if images.labels.all() or not images.labels.any():
        raise LabelError(
            "all images have one label", remedy="Images with and without lesions are needed"
        )
    from sklearn.linear_model import LogisticRegression

    cut = instances(images.pixels, settings.grid)
    values = np.concatenate([cut.mean(axis=(3, 4)), cut.std(axis=(3, 4))], axis=-1) / 255
    flat = values.reshape(-1, values.shape[-1])
    weak = np.repeat(images.labels, settings.grid**2)
    model = LogisticRegression(class_weight="balanced").fit(flat, weak)
    probability = model.predict_proba(flat)[:, 1].reshape(values.shape[:3]).astype(np.float32)
    labels = ((probability > 0.5) & images.labels[:, None, None]).astype(np.uint8)
    if on_progress is not None:
        on_progress("relabel", 1.0)
    return Enriched(labels, np.maximum(probability, 1 - probability))
