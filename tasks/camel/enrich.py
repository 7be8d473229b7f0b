"""Label enrichment: from one label an image to one label an instance (the paper's first step)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import accumulate
from operator import mul
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from ...storage.errors import LabelError
from .images import ImageSet, instances
from .lattice import Lattice, describe
from .settings import EnrichSettings, Mode

if TYPE_CHECKING:
    from .stages import Stages

__all__ = ["EnrichSettings", "Enriched", "InstanceClassifier", "Mode", "enrich", "enrich_lattices"]

Progress = Callable[[str, float], None]
"""Called with the name of a stage and the share of the whole that is done, 0 … 1."""

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class InstanceClassifier:
    """What enrichment learnt, for images that it has not seen.

    Attributes
    ----------
    networks
        Torch modules; the mean of their logits counts.
    slope, offset
        expit(slope · logit + offset) is the probability.
    """

    networks: tuple[Any, ...]
    settings: EnrichSettings
    slope: float = 1.0
    offset: float = 0.0

    def probability(self, images: ImageSet) -> Floats:
        """float32 [n, grid, grid]: probability that each instance is positive.

        Labels of the images are not looked at; their slides say which share stains.
        """
        s = self.settings
        lattice = describe(images, s.grid, backbone=s.backbone, mpp=s.mpp)
        return self.of_lattice(lattice).reshape(-1, s.grid, s.grid)

    def of_lattice(self, lattice: Lattice) -> Floats:
        """The same, float32 [n, m], of instances that were described before."""
        from .fitting import logits_of

        said = np.mean([logits_of(n, lattice, self.settings) for n in self.networks], axis=0)
        return np.asarray(expit(self.slope * said + self.offset), np.float32)


@dataclass(frozen=True)
class Squares:
    """What is painted for a segmenter to learn from.

    Attributes
    ----------
    labels
        uint8 [n, p, p]: 1 where positive; p is the lattice, or a multiple of it.
    confidence
        float32 [n, p, p]: probability that the label is right.
    """

    labels: NDArray[np.uint8]
    confidence: Floats


@dataclass(frozen=True)
class Enriched:
    """Labels of instances.

    Attributes
    ----------
    labels
        uint8 [n, grid, grid]: 1 where positive.
    confidence
        float32 [n, grid, grid]: probability that the label given is right, 0 … 1; one half or
        more but where an image's label overrules a score.
    history
        What was found on the way: candidates and their scores in robust mode.
    classifier
        For other images.
    refined
        Labels of parts of instances; None where whole instances are painted.
    """

    labels: NDArray[np.uint8]
    confidence: Floats
    history: tuple[Mapping[str, object], ...] = ()
    classifier: InstanceClassifier | None = field(default=None, compare=False)
    refined: Squares | None = None

    @property
    def squares(self) -> Squares:
        """What is painted: parts of instances where those were labelled, or else instances."""
        return self.refined or Squares(self.labels, self.confidence)

    @property
    def probability(self) -> Floats:
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
        All images have one label; or too few, or nothing could be learnt from them.
    BadGeometry
        Images that do not part into the lattice.
    BadModel, MissingDependency
        No such backbone, or no such device.
    StaleProduct
        ``folder`` holds the stages of other images or settings.
    """
    from ..devices import pick_device
    from .stages import Stages, enrichment_key

    _check(images.labels)
    settings = replace(settings, device=pick_device(settings.device))
    grids = tuple(accumulate(settings.cascade, mul)) or (settings.grid,)
    finest = settings.grid * settings.refine if settings.refines else settings.grid
    instances(images.pixels[:1], finest)
    describe_at = partial(describe, images, backbone=settings.backbone, mpp=settings.mpp)
    levels = [describe_at(grid) for grid in grids]
    key = enrichment_key(images, settings) if folder is not None else ""
    stages = Stages(folder, key, _stage_count(settings), on_progress)
    parts = describe_at(finest) if settings.refines else None
    return enrich_lattices(levels, settings, stages, parts=parts)


def enrich_lattices(
    levels: Sequence[Lattice],
    settings: EnrichSettings,
    stages: Stages,
    *,
    parts: Lattice | None = None,
) -> Enriched:
    """Label instances that were described before.

    Parameters
    ----------
    levels
        The last is the one that is labelled.
    parts
        Parts of its instances, for robust mode to refine labels on.
    """
    _check(levels[-1].labels)
    if settings.mode == "faithful":
        return _faithful(levels, settings, stages)
    found = _robust(levels, settings, stages)
    if parts is None:
        return found
    return replace(found, refined=_refined(found, parts, settings, stages))


def _faithful(levels: Sequence[Lattice], settings: EnrichSettings, stages: Stages) -> Enriched:
    from .faithful import retrained

    network = retrained(levels, settings, stages)
    if network is None:
        raise LabelError(
            "both classifiers contradict the label of every image: nothing is left to learn from",
            remedy="Train longer (--epochs), on more images, or in robust mode",
        )
    classifier = InstanceClassifier((network,), settings)
    probability = classifier.of_lattice(levels[-1])
    return _enriched(probability > 0.5, probability, settings, (), classifier)


def _robust(levels: Sequence[Lattice], settings: EnrichSettings, stages: Stages) -> Enriched:
    from .robust import robust

    final = levels[-1]
    found = robust(levels, settings, stages)
    chosen = found.chosen
    truth = final.labels[:, None]
    # A negative image has no positive instance, and a positive one has one at least.
    highest = chosen.probability >= chosen.probability.max(axis=1, keepdims=True)
    labels = ((chosen.probability >= 0.5) | highest) & truth
    probability = np.where(truth, chosen.probability, 0.0)
    history: list[Mapping[str, object]] = [
        {"candidate": c.name, "expected_jaccard": c.score, "chosen": c is chosen}
        for c in found.candidates
    ]
    history.append({"positive_share": found.positive_share})
    classifier = InstanceClassifier(chosen.networks, settings, chosen.slope, chosen.offset)
    return _enriched(labels, probability, settings, tuple(history), classifier)


def _refined(found: Enriched, parts: Lattice, settings: EnrichSettings, stages: Stages) -> Squares:
    """Label the parts of instances: each instance is an image, and its label is the image's."""
    from .criteria import children
    from .robust import refined

    n, grid, side = len(found.labels), settings.grid, settings.grid * settings.refine
    inside = children(grid, side)
    images = np.repeat(np.arange(n), grid**2)
    whole = parts.parts(images, np.tile(inside, (n, 1)), found.labels.ravel() == 1)
    # As many instances a step as there are in a step of images.
    finer = replace(settings, batch_images=settings.batch_images * grid**2)
    given = refined(whole, finer, stages)
    highest = given >= given.max(axis=1, keepdims=True)
    positive = ((given >= 0.5) | highest) & whole.labels[:, None]
    probability = given * found.probability.reshape(-1, 1)
    confidence = np.where(positive, probability, 1 - probability)

    def in_place(values: NDArray[Any], kind: type) -> NDArray[Any]:
        out: NDArray[Any] = np.empty((n, side**2), kind)
        out[:, inside.ravel()] = values.reshape(n, -1)
        return out.reshape(n, side, side)

    return Squares(in_place(positive, np.uint8), in_place(confidence, np.float32))


def _enriched(
    labels: NDArray[np.bool_],
    probability: NDArray[np.floating],
    settings: EnrichSettings,
    history: tuple[Mapping[str, object], ...],
    classifier: InstanceClassifier,
) -> Enriched:
    shape = (len(labels), settings.grid, settings.grid)
    confidence = np.where(labels, probability, 1 - probability).astype(np.float32)
    given = labels.astype(np.uint8).reshape(shape)
    return Enriched(given, confidence.reshape(shape), history, classifier)


def _check(labels: NDArray[np.bool_]) -> None:
    if min(labels.sum(), (~labels).sum()) < 2:
        raise LabelError(
            "fewer than two images of one label",
            remedy="Images with and without lesions are needed",
        )


def _stage_count(settings: EnrichSettings) -> int:
    faithful = 3 + 2 * len(settings.cascade)
    if settings.mode == "faithful":
        return faithful
    refinement = 1 + max(settings.rounds, 1) if settings.refines else 0
    return settings.members * (1 + settings.rounds + faithful + refinement)
