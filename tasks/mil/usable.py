"""From out-of-fold probabilities to something usable: calibration, a threshold, abstention."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...storage.errors import BadProduct, LabelError
from ..calibration import (
    Bin,
    Calibrator,
    by_fold,
    by_isotonic,
    by_temperature,
    certainty,
    least_certainty,
    operating_point,
    reliability,
)
from ..evaluation import Estimate, brier_score, calibration_error, cluster_bootstrap
from .inner import Inner
from .targets import Target

Values = NDArray[np.float64]
Fit = Callable[[Values, Values], Calibrator]
Calibration = dict[str, dict[str, Estimate]]


@dataclass(frozen=True)
class Binary:
    """Out-of-fold probabilities of two classes, and what to make something of them from.

    Attributes
    ----------
    target
        Truth of n slides.
    probabilities
        float [n]: of the second class.
    fold, patients
        [n] each.
    inner
        By fold: what is said of the slides that it trains on.
    """

    target: Target
    probabilities: Values
    fold: NDArray[np.int64]
    patients: NDArray[np.str_]
    inner: Mapping[int, Inner]

    def __post_init__(self) -> None:
        if self.target.kind != "classes" or len(self.target.names) != 2:
            raise LabelError("thresholds and calibration are made for two classes")
        if not set(np.unique(self.fold).tolist()) <= set(self.inner):
            raise BadProduct(
                "nothing is kept of what models said within the folds",
                remedy="These predictions are of an earlier version: train again",
            )

    def changed(self, fit: Fit) -> Values:
        """The probabilities, or what comes of them, after what ``fit`` makes within each fold."""
        truth = self.target.truth
        fitted = {
            number: fit(truth[part.rows], part.outputs[:, 1]) for number, part in self.inner.items()
        }
        return by_fold(self.probabilities, self.fold, fitted)

    def versions(self) -> dict[str, Values]:
        """The probabilities as said, and after each way to calibrate."""
        return {
            "as said": self.probabilities,
            "temperature": self.changed(by_temperature),
            "isotonic": self.changed(by_isotonic),
        }

    def figure(self, of_rows: Callable[[NDArray[np.int64]], float]) -> Estimate:
        """A figure with its interval over patients."""
        return cluster_bootstrap(of_rows, self.patients)


@dataclass(frozen=True)
class Usable:
    """What a binary model is good for; every figure on slides that its settings were not made of.

    Attributes
    ----------
    calibration
        By ``as said``, ``temperature``, ``isotonic``: Brier score and calibration error.
    reliability
        By the same: points of the plot.
    sensitivity, specificity
        At the threshold that was chosen within the fold for the sensitivity that was asked for.
    spoken, accuracy
        Share of slides that are spoken of, and of these the share that is right, where it was
        chosen within the fold how sure one must be.
    """

    calibration: Calibration
    reliability: dict[str, tuple[Bin, ...]]
    sensitivity: Estimate
    specificity: Estimate
    spoken: Estimate
    accuracy: Estimate


def usable(said: Binary, *, sensitivity: float = 0.9, abstain: float = 0.2) -> Usable:
    """Work out what a model of two classes is good for."""
    y, p = said.target.truth, said.probabilities

    def cut(truth: Values, scores: Values) -> Calibrator:
        threshold = operating_point(truth, scores, sensitivity)
        return lambda other: (other >= threshold).astype(np.float64)

    def speak(_: Values, scores: Values) -> Calibrator:
        least = least_certainty(scores, abstain)
        return lambda other: (certainty(other) >= least).astype(np.float64)

    called, spoken = said.changed(cut) == 1, said.changed(speak) == 1
    right = (p > 0.5) == (y == 1)

    def share(of: NDArray[np.bool_], among: NDArray[np.bool_]) -> Estimate:
        def figure(rows: NDArray[np.int64]) -> float:
            chosen = among[rows]
            return float(of[rows][chosen].mean()) if chosen.any() else np.nan

        return said.figure(figure)

    return Usable(
        calibration=calibration(said),
        reliability={name: reliability(y, values) for name, values in said.versions().items()},
        sensitivity=share(called, y == 1),
        specificity=share(~called, y == 0),
        spoken=share(spoken, np.ones(len(y), bool)),
        accuracy=share(right, spoken),
    )


def calibration(said: Binary) -> Calibration:
    """Brier score and calibration error of every version of the probabilities."""
    y = said.target.truth

    def figure(metric: Callable[[Values, Values], float], p: Values) -> Estimate:
        return said.figure(lambda rows: metric(y[rows], p[rows]))

    metrics = {"brier_score": brier_score, "calibration_error": calibration_error}
    return {
        version: {name: figure(metric, p) for name, metric in metrics.items()}
        for version, p in said.versions().items()
    }


def reliability_plot(points: Mapping[str, tuple[Bin, ...]]) -> bytes:
    """A PNG of reliability plots, one beside the other; dots are as large as their bins."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4 * len(points), 4), layout="constrained")
    for axes, (name, bins) in zip(
        figure.subplots(1, len(points), sharey=True, squeeze=False)[0], points.items(), strict=True
    ):
        total = sum(point.n for point in bins)
        axes.plot([0, 1], [0, 1], color="grey", linestyle="--")
        axes.plot([point.said for point in bins], [point.found for point in bins])
        sizes = [20 + 300 * point.n / total for point in bins]
        found = [point.found for point in bins]
        axes.scatter([point.said for point in bins], found, sizes, clip_on=False, zorder=3)
        axes.set(title=name, xlabel="probability said", xlim=(0, 1), ylim=(-0.02, 1.02))
    figure.axes[0].set_ylabel("share found")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120, metadata={"Software": None})
    return buffer.getvalue()
