"""From out-of-fold probabilities to something usable: calibration, a threshold, abstention."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...storage.errors import LabelError
from ..calibration import (
    Bin,
    by_isotonic,
    by_temperature,
    certainty,
    least_certainty,
    on_other_folds,
    operating_point,
    reliability,
)
from ..evaluation import Estimate, brier_score, calibration_error, cluster_bootstrap
from .versus import Said

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Usable:
    """What a binary model is good for; every figure on slides that its settings were not made of.

    Attributes
    ----------
    calibration
        By ``as said``, ``temperature``, ``isotonic``: Brier score and calibration error.
    reliability
        Points of the plot of the probabilities as said.
    sensitivity, specificity
        At the threshold that the other folds chose for the sensitivity that was asked for.
    spoken, accuracy
        Share of slides that are spoken of, and of these the share that is right, where the
        other folds chose how sure one must be.
    """

    calibration: Mapping[str, Mapping[str, Estimate]]
    reliability: tuple[Bin, ...]
    sensitivity: Estimate
    specificity: Estimate
    spoken: Estimate
    accuracy: Estimate


def usable(said: Said, *, sensitivity: float = 0.9, abstain: float = 0.2) -> Usable:
    """Work out what a model of two classes is good for.

    Raises
    ------
    LabelError
        There are not two classes, or a fold's others lack one.
    """
    if said.target.kind != "classes" or len(said.target.names) != 2:
        raise LabelError("thresholds and calibration are made for two classes")
    y, p, fold = said.target.truth, said.outputs[:, 1], said.fold
    for number in np.unique(fold):
        if len(np.unique(y[fold != number])) < 2:
            raise LabelError(f"all slides with a second class are in fold {number}")
    versions = {
        "as said": p,
        "temperature": on_other_folds(y, p, fold, by_temperature),
        "isotonic": on_other_folds(y, p, fold, by_isotonic),
    }

    def cut(truth: Values, scores: Values) -> Callable[[Values], Values]:
        threshold = operating_point(truth, scores, sensitivity)
        return lambda other: (other >= threshold).astype(np.float64)

    def speak(_: Values, scores: Values) -> Callable[[Values], Values]:
        least = least_certainty(scores, abstain)
        return lambda other: (certainty(other) >= least).astype(np.float64)

    called = on_other_folds(y, p, fold, cut) == 1
    spoken = on_other_folds(y, p, fold, speak) == 1
    right = (p > 0.5) == (y == 1)

    def share(of: NDArray[np.bool_], among: NDArray[np.bool_]) -> Estimate:
        def figure(rows: NDArray[np.int64]) -> float:
            chosen = among[rows]
            return float(of[rows][chosen].mean()) if chosen.any() else np.nan

        return cluster_bootstrap(figure, said.patients)

    return Usable(
        calibration={
            name: {
                "brier_score": _figure(brier_score, y, values, said),
                "calibration_error": _figure(calibration_error, y, values, said),
            }
            for name, values in versions.items()
        },
        reliability=reliability(y, p),
        sensitivity=share(called, y == 1),
        specificity=share(~called, y == 0),
        spoken=share(spoken, np.ones(len(y), bool)),
        accuracy=share(right, spoken),
    )


def _figure(
    metric: Callable[[Values, Values], float], y: Values, p: Values, said: Said
) -> Estimate:
    return cluster_bootstrap(lambda rows: metric(y[rows], p[rows]), said.patients)
