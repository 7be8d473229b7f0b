"""What decides what is learnt, and where it is computed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from .views import ViewOptions


@dataclass(frozen=True)
class SslOptions:
    """Everything that decides what is learnt, besides the tiles and the machine.

    Attributes
    ----------
    backbone
        Any timm model.
    tile_px, mpp
        Side of the tiles in pixels, and micrometres per pixel.
    steps, minutes
        How long, one of the two; with ``minutes`` the result depends on the machine's speed.
    batch
        Tiles a step.
    learning_rate
        At its highest; it rises over the first 5 % and falls to 0 along a cosine.
    weight_decay
        Of AdamW.
    redundancy
        λ of :func:`~microtome.tasks.ssl.loss.barlow_twins`.
    width
        Of the projector.
    seed
        Of weights, order and views.
    """

    backbone: str = "resnet10t"
    tile_px: int = 128
    mpp: float = 1.0
    steps: int | None = 1000
    minutes: float | None = None
    batch: int = 64
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    redundancy: float = 5e-3
    width: int = 512
    seed: int = 0
    views: ViewOptions = field(default_factory=ViewOptions)

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.minutes is None):
            raise ValueError("either steps or minutes")


@dataclass(frozen=True)
class Machine:
    """Where and how it is computed.

    Attributes
    ----------
    device
        ``cpu``, ``cuda``, ``cuda:1`` or ``auto``.
    precision
        On CUDA alone: ``bf16`` multiplies in mixed precision. A CPU computes in fp32.
    workers
        Processes that read tiles; by default none on a CPU, and one a core, up to 8, on CUDA.
    checkpoint_steps
        Steps from one checkpoint to the next.
    threads
        Of a CPU; as many as torch takes by default.
    """

    device: str = "cpu"
    precision: Literal["bf16", "fp32"] = "bf16"
    workers: int | None = None
    checkpoint_steps: int = 100
    threads: int | None = None
