"""Prediction: the mean of a predictor's members, for bags and for whole slides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ...storage.bags import Bag
from ...storage.predictions import SlidePrediction
from .model import BagModel


@dataclass(frozen=True)
class BagPrediction:
    """What a predictor says of one bag of n instances, for c classes.

    Attributes
    ----------
    probabilities
        float32 [c]; sum to 1.
    scores
        float32 [n, c]: softmax of each instance's evidence.
    attention
        float32 [n]; sums to 1.
    """

    probabilities: NDArray[np.float32]
    scores: NDArray[np.float32]
    attention: NDArray[np.float32]


def predict_bag(
    members: Sequence[BagModel], features: NDArray[np.float32], *, device: str = "cpu"
) -> BagPrediction:
    """Apply every member to a bag [n, d] and take the mean of what they say."""
    instances = torch.from_numpy(features).to(device)
    with torch.no_grad():
        outputs = [member.to(device).eval()(instances, [len(instances)]) for member in members]
        means = (
            torch.stack([torch.softmax(output.logits[0], -1) for output in outputs]).mean(0),
            torch.stack([torch.softmax(output.evidence, -1) for output in outputs]).mean(0),
            torch.stack([output.attention for output in outputs]).mean(0),
        )
    return BagPrediction(*(mean.cpu().numpy() for mean in means))


def slide_prediction(
    bag: Bag,
    said: BagPrediction,
    classes: Sequence[str],
    *,
    model: str,
    label: str | None = None,
    patient: str | None = None,
    fold: int | None = None,
) -> SlidePrediction:
    """Put a prediction back on its slide.

    The scores are those of the second of two classes, or of the predicted one of more.
    """
    target = 1 if len(classes) == 2 else int(said.probabilities.argmax())
    return SlidePrediction(
        id=bag.id,
        probability=float(said.probabilities[target]),
        classes=tuple(classes),
        probabilities=said.probabilities,
        target=classes[target],
        label=label,
        fold=fold,
        coords_px=bag.coords_px,
        footprint_px=bag.footprint_px,
        slide_px=bag.slide_px,
        bounds_px=bag.bounds_px,
        slide_mpp=bag.slide_mpp,
        score=np.ascontiguousarray(said.scores[:, target]),
        attention=said.attention,
        source=bag.source,
        encoder=bag.encoder,
        model=model,
        patient=patient,
    )
