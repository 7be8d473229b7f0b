"""Prediction: the mean of a predictor's members, for bags and for whole slides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ...storage.bags import Bag
from ...storage.predictions import SlidePrediction
from .heads import said_of
from .model import BagModel
from .names import Kind


@dataclass(frozen=True)
class BagPrediction:
    """What a predictor says of one bag of n instances, for c classes or other outputs.

    Attributes
    ----------
    outputs
        float32 [c]: probabilities of classes, which sum to 1, or of labels; a value; or a log
        hazard relative to that of the bags that the model was fitted on.
    scores
        float32 [n, c]: softmax of each instance's evidence for classes, its sigmoid for others.
    attention
        float32 [n]; sums to 1.
    span
        float32 [2, c]: lowest and highest output among the members; None of a single one.
    """

    outputs: NDArray[np.float32]
    scores: NDArray[np.float32]
    attention: NDArray[np.float32]
    span: NDArray[np.float32] | None = None

    @property
    def probabilities(self) -> NDArray[np.float32]:
        """The outputs, of classes or labels."""
        return self.outputs


def predict_bag(
    members: Sequence[BagModel], features: NDArray[np.float32], *, device: str = "cpu"
) -> BagPrediction:
    """Apply every member to a bag [n, d] and take the mean of what they say."""
    instances = torch.from_numpy(features).to(device)
    with torch.no_grad():
        found = [member.to(device).eval()(instances, [len(instances)]) for member in members]
        said = [member.say(output.logits[0]) for member, output in zip(members, found, strict=True)]
        kind = members[0].kind
        means = (
            torch.stack(said).mean(0),
            torch.stack([said_of(kind, output.evidence) for output in found]).mean(0),
            torch.stack([output.attention for output in found]).mean(0),
        )
        span = torch.stack([torch.stack(said).amin(0), torch.stack(said).amax(0)])
    outputs, scores, attention = (mean.cpu().numpy() for mean in means)
    return BagPrediction(
        outputs, scores, attention, span.cpu().numpy() if len(members) > 1 else None
    )


def slide_prediction(
    bag: Bag,
    said: BagPrediction,
    classes: Sequence[str],
    *,
    model: str,
    kind: Kind = "classes",
    label: str | None = None,
    patient: str | None = None,
    fold: int | None = None,
) -> SlidePrediction:
    """Put a prediction back on its slide.

    The scores are those of the second of two classes, or of the predicted one of more; of labels
    those of the most probable.
    """
    binary = kind == "classes" and len(classes) == 2
    target = 1 if binary else int(said.outputs.argmax())
    low, high = (0.0, 0.0) if said.span is None else said.span[:, target].tolist()
    return SlidePrediction(
        id=bag.id,
        probability=float(said.outputs[target]),
        classes=tuple(classes),
        probabilities=said.outputs,
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
        kind=kind,
        interval=None if said.span is None else (low, high),
    )
