"""Probabilities of two classes that mean what they say, where to cut them, when to be silent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..storage.errors import LabelError

Values = NDArray[np.float64]
Calibrator = Callable[[Values], Values]
_EDGE = 1e-6
_LOG_T = 6.0


def temperature(labels: ArrayLike, probabilities: ArrayLike) -> float:
    r"""The T for which :math:`\mathrm{sigm}(\mathrm{logit}(p) / T)` is most likely.

    Above 1 where probabilities were too sure. Between e⁻⁶ and e⁶, which are returned where the
    labels are parted without error, or at random.

    References
    ----------
    Guo et al. (2017), On calibration of modern neural networks, ICML, section 4.2.
    """
    from scipy.optimize import brentq
    from scipy.special import expit

    y, z = np.asarray(labels, np.float64), _logit(np.asarray(probabilities, np.float64))

    def slope(log_t: float) -> float:
        """Of the likelihood; its sign changes once, as the likelihood is concave in 1 / T."""
        return float(np.sum((expit(z * np.exp(-log_t)) - y) * z))

    if slope(-_LOG_T) <= 0:
        return float(np.exp(-_LOG_T))
    if slope(_LOG_T) >= 0:
        return float(np.exp(_LOG_T))
    return float(np.exp(brentq(slope, -_LOG_T, _LOG_T, xtol=1e-12)))


def by_temperature(labels: ArrayLike, probabilities: ArrayLike) -> Calibrator:
    """Fit :func:`temperature` to :func:`platt_targets`; keeps the order, and 0.5."""
    t = temperature(platt_targets(labels), probabilities)
    return lambda p: 1 / (1 + np.exp(-_logit(p) / t))


def platt_targets(labels: ArrayLike) -> Values:
    """Labels [n] of 0 and 1 as probabilities that few rows allow: never quite 0 nor 1.

    References
    ----------
    Platt (1999), Probabilistic outputs for support vector machines, section 2.2.
    """
    y = np.asarray(labels) == 1
    return np.asarray(np.where(y, (y.sum() + 1) / (y.sum() + 2), 1 / ((~y).sum() + 2)), np.float64)


def tempered(probabilities: ArrayLike, t: float) -> Values:
    r"""Change probabilities [..., c] by a temperature: :math:`p_c^{1/T}`, made to sum to 1.

    Of two classes the same as :math:`\mathrm{sigm}(\mathrm{logit}(p) / T)`.
    """
    raised = np.clip(np.asarray(probabilities, np.float64), _EDGE, 1) ** (1 / t)
    return np.asarray(raised / raised.sum(-1, keepdims=True), np.float64)


def by_isotonic(labels: ArrayLike, probabilities: ArrayLike) -> Calibrator:
    """Fit the closest function that never falls; wants more rows than a temperature.

    References
    ----------
    Zadrozny & Elkan (2002), Transforming classifier scores into accurate multiclass probability
    estimates, KDD.
    """
    from sklearn.isotonic import IsotonicRegression

    fitted = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip")
    fitted.fit(np.asarray(probabilities, np.float64), np.asarray(labels, np.float64))
    return lambda p: np.asarray(fitted.predict(p), np.float64)


def by_fold(probabilities: ArrayLike, fold: ArrayLike, fitted: Mapping[int, Calibrator]) -> Values:
    """Change the probabilities of each fold by what was fitted within its training rows: [n].

    No label of a fold moves the map that its own probabilities go through, nor any model that
    learnt from it.
    """
    p, k = np.asarray(probabilities, np.float64), np.asarray(fold)
    changed = np.empty_like(p)
    for number in np.unique(k):
        here = k == number
        changed[here] = fitted[int(number)](p[here])
    return changed


@dataclass(frozen=True)
class Bin:
    """One point of a reliability plot: rows, their mean probability, and the share of class 1."""

    n: int
    said: float
    found: float


def reliability(labels: ArrayLike, probabilities: ArrayLike, n_bins: int = 10) -> tuple[Bin, ...]:
    """Points of a reliability plot, from bins of equal width that have rows.

    The bins are those of :func:`~microtome.tasks.evaluation.calibration_error`.
    """
    y, p = np.asarray(labels, np.float64), np.asarray(probabilities, np.float64)
    bins = np.minimum((p * n_bins).astype(np.int64), n_bins - 1)
    rows = [bins == k for k in np.unique(bins)]
    return tuple(Bin(int(row.sum()), float(p[row].mean()), float(y[row].mean())) for row in rows)


def operating_point(labels: ArrayLike, scores: ArrayLike, sensitivity: float) -> float:
    """The highest threshold at which at least ``sensitivity`` of class 1 are at or above it.

    Raises
    ------
    LabelError
        No row is of class 1.
    """
    positive = np.sort(np.asarray(scores, np.float64)[np.asarray(labels) == 1])[::-1]
    if not len(positive):
        raise LabelError("no positive is present", remedy="A sensitivity needs positives")
    # A whisker less, so that 0.9 of ten rows asks for nine.
    needed = max(1, int(np.ceil(sensitivity * len(positive) - 1e-9)))
    return float(positive[needed - 1])


def certainty(probabilities: ArrayLike) -> Values:
    """How sure a probability is: its distance from one half."""
    return np.abs(np.asarray(probabilities, np.float64) - 0.5)


def least_certainty(probabilities: ArrayLike, abstain: float) -> float:
    """The certainty below which a share ``abstain`` of rows is left unsaid."""
    return float(np.quantile(certainty(probabilities), abstain))


def _logit(p: Values) -> Values:
    inside = np.clip(p, _EDGE, 1 - _EDGE)
    return np.asarray(np.log(inside) - np.log1p(-inside), np.float64)
