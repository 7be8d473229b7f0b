"""What label enrichment can be told. Knows nothing of torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from ...storage.errors import BadGeometry

Mode = Literal["faithful", "robust"]
_MACHINE = ("device", "threads")


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
    batch_images, batch_instances
        Images a step, and labelled instances a step of retraining; half of them positive.
    learning_rate, weight_decay
        Of Adam.
    members, rounds
        Robust mode: folds that are scored by networks not fitted on them, and rounds of
        relabelling.
    refine
        Robust mode: squares along a side of an instance on which it is decided what to paint; 1
        paints whole instances.
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
    batch_instances: int = 40
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    members: int = 4
    rounds: int = 4
    refine: int = 2
    seed: int = 0
    device: str = "cpu"
    precision: Literal["fp32", "bf16"] = "fp32"
    threads: int = 1

    def __post_init__(self) -> None:
        if self.refine < 1:
            raise BadGeometry(f"an instance does not part into {self.refine} squares a side")
        if self.cascade and int(np.prod(self.cascade)) != self.grid:
            product = " x ".join(map(str, self.cascade))
            raise BadGeometry(
                f"a cascade of {product} does not end at a lattice of {self.grid}",
                remedy="Choose lattices whose product is the last one",
            )

    @property
    def refines(self) -> bool:
        """Whether what is painted is decided on parts of instances."""
        return self.mode == "robust" and self.refine > 1

    def record(self) -> dict[str, Any]:
        """What a key holds: all but the machine."""
        return {name: value for name, value in asdict(self).items() if name not in _MACHINE}
