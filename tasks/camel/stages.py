"""Stages of enrichment on disk: a run that was cut off goes on where it was. Imports torch."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ...storage.commit import is_done, new_product, product_key
from .images import ImageSet
from .lattice import Lattice
from .networks import new_network
from .settings import EnrichSettings

KIND = "camel-stage"
WEIGHTS = "weights.safetensors"
Progress = Callable[[str, float], None]


@dataclass
class Stages:
    """Runs the stages of one enrichment, keeps each, and tells how far it is.

    Attributes
    ----------
    folder
        A product a stage: ``weights.safetensors`` and ``commit.json``; None keeps nothing.
    key
        Of images and settings: stages that were made from others are refused.
    total
        How many stages there will be.
    """

    folder: Path | None
    key: str
    total: int
    on_progress: Progress | None = None
    names: list[str] = field(default_factory=list)

    def network(
        self,
        name: str,
        lattice: Lattice,
        settings: EnrichSettings,
        fit: Callable[[], nn.Module],
    ) -> nn.Module:
        """Fit a classifier, or load it where the stage was finished before.

        Raises
        ------
        StaleProduct, BadProduct
            Another run's stage is there; or a damaged one.
        """
        self.names.append(name)
        network = self._kept(name, lattice, settings, fit) if self.folder else fit()
        if self.on_progress is not None:
            self.on_progress(name, min(len(self.names) / self.total, 1.0))
        return network

    def _kept(
        self,
        name: str,
        lattice: Lattice,
        settings: EnrichSettings,
        fit: Callable[[], nn.Module],
    ) -> nn.Module:
        from safetensors.torch import load_file, save_file

        assert self.folder is not None
        path, key = self.folder / name, product_key(stage=name, enrichment=self.key)
        if is_done(path, kind=KIND, key=key):
            with torch.random.fork_rng(devices=[]):
                network = new_network(settings.backbone, lattice.values)
            network.load_state_dict(load_file(path / WEIGHTS))
            return network.to(settings.device).eval()
        network = fit()
        weights = {k: v.detach().cpu().contiguous() for k, v in network.state_dict().items()}
        about = {"stage": name, "settings": settings.record()}
        with new_product(path, kind=KIND, key=key, about=about) as folder:
            save_file(weights, folder / WEIGHTS)
        return network


def enrichment_key(images: ImageSet, settings: EnrichSettings) -> str:
    """SHA-256 over the pixels, labels, slides and patients of images, and the settings."""
    digest = hashlib.sha256(np.ascontiguousarray(images.pixels).data)
    digest.update(np.packbits(images.labels).tobytes())
    digest.update("\0".join((*images.slides, "", *images.patients)).encode())
    return product_key(images=digest.hexdigest(), settings=settings.record())
