"""Models of tracer kinetics against a reference region: how much of a tracer is bound.

Activity is corrected for decay and given as the mean over each frame, [t, r] for regions and [t]
for the reference, whose frames follow each other from the injection on.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.integrate import cumulative_trapezoid
from scipy.optimize import minimize_scalar
from scipy.signal import lfilter

from ..storage.errors import BadFrames, BadSeries
from .matrices import Array
from .time_activity import FrameTimes

MIN_FRAMES = 3
"""A line through fewer frames says nothing about how well it fits."""

K2A_PER_MIN = (0.006, 0.6)
"""Range of apparent efflux constants that :func:`simplified_reference_tissue` looks through."""

_N_BASES = 100
_FINE_S = 1.0


@dataclass(frozen=True, eq=False)
class LoganFit:
    """Lines of Logan's plot.

    Attributes
    ----------
    dvr
        float64 [r]: slope, the distribution volume ratio.
    intercept_min
        float64 [r].
    t_star_s
        float64 [r]: start of the first frame of the line.
    max_error
        float64 [r]: largest deviation of a point from the line, as a fraction of the point.
    """

    dvr: Array
    intercept_min: Array
    t_star_s: Array
    max_error: Array

    @property
    def bp_nd(self) -> Array:
        """Binding potential relative to what is not displaceable, DVR - 1: float64 [r]."""
        return self.dvr - 1


def logan_reference(
    activity: ArrayLike,
    reference: ArrayLike,
    frames: FrameTimes,
    *,
    t_star_s: float | None = None,
    k2_prime_per_min: float | None = None,
    max_error: float = 0.1,
) -> LoganFit:
    r"""Logan's graphical analysis with a reference region.

    .. math:: \frac{\int_0^t C\,d\tau}{C(t)} = \mathrm{DVR}\,
              \frac{\int_0^t C'\,d\tau + C'(t) / k_2'}{C(t)} + b, \quad t \ge t^*

    at the middle of frames, by ordinary least squares. For the integral, activity is 0 at the
    injection and straight between the middles of frames, as in Turku PET Centre's program.

    Parameters
    ----------
    activity, reference
        [t, r] and [t]; positive in the frames of the line.
    t_star_s
        Frames that begin here or later make the line. Without it, for each region the earliest
        frame from which on no point deviates from the line by more than ``max_error`` of itself.
    k2_prime_per_min
        Efflux constant of the reference region, of the tracer or from
        :func:`simplified_reference_tissue`; without it the term is left out, which is right where
        the ratio of the curves is constant.

    Raises
    ------
    BadFrames
        Frames do not follow each other from the injection on; fewer than three from ``t_star_s``.
    BadSeries
        Activity that is not positive where it divides; no line fits within ``max_error``.

    References
    ----------
    Logan et al. (1996), J. Cereb. Blood Flow Metab. 16:834.
    """
    target, base = _checked(activity, reference, frames)
    if k2_prime_per_min is not None and not k2_prime_per_min > 0:
        raise BadSeries("k2' must be positive")
    delay = 0.0 if k2_prime_per_min is None else 1 / k2_prime_per_min
    with np.errstate(divide="ignore", invalid="ignore"):
        y = _until_middle(target, frames) / 60 / target
        x = (_until_middle(base, frames) / 60 + base * delay)[:, None] / target
    usable = (target > 0) & (base > 0)[:, None]
    if t_star_s is not None:
        first = int(np.searchsorted(frames.start_s, t_star_s - 1e-3))
        lines = [_line(x[first:, r], y[first:, r], usable[first:, r]) for r in range(x.shape[1])]
        starts = [first] * len(lines)
    else:
        found = [_earliest_line(x[:, r], y[:, r], usable[:, r], max_error) for r in range(len(x.T))]
        lines, starts = [line for _, line in found], [start for start, _ in found]
    slope, intercept, error = np.array(lines).T
    return LoganFit(slope, intercept, frames.start_s[starts], error)


@dataclass(frozen=True, eq=False)
class SrtmFit:
    """Parameters of the simplified reference tissue model.

    Attributes
    ----------
    bp_nd
        float64 [r]; NaN where ``at_bound``.
    r1
        float64 [r]: delivery relative to the reference, K1 / K1'.
    k2_per_min
        float64 [r].
    at_bound
        bool [r]: the best k2a is the first or last that was looked at, so that it is none.
    """

    bp_nd: Array
    r1: Array
    k2_per_min: Array
    at_bound: NDArray[np.bool_]

    @property
    def k2_prime_per_min(self) -> Array:
        """Efflux constant of the reference region, k2 / R1: float64 [r]."""
        return self.k2_per_min / self.r1


def simplified_reference_tissue(
    activity: ArrayLike,
    reference: ArrayLike,
    frames: FrameTimes,
    *,
    k2a_per_min: tuple[float, float] = K2A_PER_MIN,
    weights: ArrayLike | None = None,
) -> SrtmFit:
    r"""Simplified reference tissue model, solved with basis functions.

    .. math:: C(t) = R_1 C'(t) + (k_2 - R_1 k_{2a})\, C'(t) \otimes e^{-k_{2a} t}, \quad
              k_{2a} = k_2 / (1 + \mathrm{BP}_{ND})

    For each of 100 values of k2a, even on a logarithmic scale, the rest is linear; the best is
    refined between its neighbours. Between the middles of frames the reference is taken for
    straight, and the convolution is averaged over each frame as the scanner does.

    Parameters
    ----------
    activity, reference
        [t, r] and [t].
    k2a_per_min
        Range that is looked through.
    weights
        [t]: of the squared deviations; the lengths of the frames by default.

    Raises
    ------
    BadFrames
        Frames do not follow each other from the injection on.
    BadSeries
        A value is missing; a range or weights that cannot be.

    References
    ----------
    Lammertsma & Hume (1996), NeuroImage 4:153; Gunn et al. (1997), NeuroImage 6:279.
    """
    target, base = _checked(activity, reference, frames)
    low, high = k2a_per_min
    weight = frames.duration_s if weights is None else np.asarray(weights, np.float64)
    if not 0 < low < high or weight.shape != base.shape or not (weight > 0).all():
        raise BadSeries("k2a must have a range above 0, and every frame a positive weight")
    root = np.sqrt(weight)[:, None]
    bases = _Bases.of(base, frames)
    logs = np.linspace(np.log(low), np.log(high), _N_BASES)
    tried = np.stack([_fit(target * root, bases, log, root)[1] for log in logs])
    best = tried.argmin(axis=0)
    at_bound = (best == 0) | (best == _N_BASES - 1)
    refined = [
        logs[at]
        if bound
        else minimize_scalar(
            partial(_misfit, target=target[:, [r]] * root, bases=bases, root=root),
            bounds=(logs[at - 1], logs[at + 1]),
            method="bounded",
            options={"xatol": 1e-6},
        ).x
        for r, (at, bound) in enumerate(zip(best, at_bound, strict=True))
    ]
    factors = [_fit(target[:, [r]] * root, bases, x, root)[0][:, 0] for r, x in enumerate(refined)]
    r1, second = np.array(factors).T
    k2a = np.exp(np.array(refined))
    k2 = second * 60 + r1 * k2a
    return SrtmFit(np.where(at_bound, np.nan, k2 / k2a - 1), r1, k2, at_bound)


@dataclass(frozen=True, eq=False)
class _Bases:
    """The reference on a fine grid, ready to be convolved with exponentials."""

    frames: FrameTimes
    means: Array
    grid_s: Array
    fine: Array

    @classmethod
    def of(cls, reference: Array, frames: FrameTimes) -> _Bases:
        n = int(np.ceil(frames.end_s[-1] / min(_FINE_S, frames.duration_s.min() / 5)))
        grid = np.linspace(0, frames.end_s[-1], n + 1)
        fine = np.interp(grid, np.r_[0.0, frames.mid_s], np.r_[0.0, reference])
        return cls(frames, reference, grid, fine)

    def convolved(self, k2a_per_min: float) -> Array:
        """Frame means of the reference convolved with an exponential, in activity times seconds.

        Exact for a reference that is straight between the points of the grid.
        """
        step = self.grid_s[1]
        rate = k2a_per_min / 60
        decay = np.exp(-rate * step)
        whole = -np.expm1(-rate * step) / rate
        newer = (step - whole) / (rate * step)
        response = lfilter([newer, whole - newer], [1.0, -decay], self.fine)
        areas = np.r_[0.0, np.cumsum((response[1:] + response[:-1]) / 2 * step)]
        edges = np.interp(self.frames.end_s, self.grid_s, areas)
        starts = np.interp(self.frames.start_s, self.grid_s, areas)
        means: Array = (edges - starts) / self.frames.duration_s
        return means


def _fit(scaled: Array, bases: _Bases, log_k2a: float, root: Array) -> tuple[Array, Array]:
    """Factors [2, r] of the reference and of its convolution, and squared deviations [r]."""
    design = np.stack([bases.means, bases.convolved(float(np.exp(log_k2a)))], axis=1) * root
    factors = np.asarray(np.linalg.lstsq(design, scaled, rcond=None)[0], np.float64)
    return factors, ((scaled - design @ factors) ** 2).sum(axis=0)


def _misfit(log_k2a: float, target: Array, bases: _Bases, root: Array) -> float:
    return float(_fit(target, bases, log_k2a, root)[1][0])


def _checked(activity: ArrayLike, reference: ArrayLike, frames: FrameTimes) -> tuple[Array, Array]:
    target, base = np.asarray(activity, np.float64), np.asarray(reference, np.float64)
    if target.ndim != 2 or base.shape != (len(frames),) or len(target) != len(frames):
        raise BadFrames(
            f"curves of shape {target.shape} and {base.shape} do not fit {len(frames)} frames"
        )
    if not (np.isfinite(target).all() and np.isfinite(base).all()):
        raise BadSeries("a curve has no value in a frame", remedy="Leave its region out")
    frames.require_whole()
    return target, base


def _until_middle(activity: Array, frames: FrameTimes) -> Array:
    """Integral from the injection to the middle of each frame, in activity times seconds."""
    with_start = np.concatenate([np.zeros_like(activity[:1]), activity])
    whole = cumulative_trapezoid(with_start, np.r_[0.0, frames.mid_s], axis=0)
    return np.asarray(whole, np.float64)


def _line(x: Array, y: Array, usable: NDArray[np.bool_]) -> tuple[float, float, float]:
    """Slope, intercept and largest relative deviation."""
    if len(x) < MIN_FRAMES:
        raise BadFrames(
            f"{len(x)} frames after t* are too few, {MIN_FRAMES} are needed",
            remedy="Let t* be earlier",
        )
    if not usable.all():
        raise BadSeries(
            "activity after t* is not positive", remedy="Let t* be later, or leave the region out"
        )
    slope, intercept = np.polyfit(x, y, 1)
    error = np.abs((y - slope * x - intercept) / y).max()
    return float(slope), float(intercept), float(error)


def _earliest_line(
    x: Array, y: Array, usable: NDArray[np.bool_], max_error: float
) -> tuple[int, tuple[float, float, float]]:
    for first in range(len(x) - MIN_FRAMES + 1):
        if usable[first:].all():
            line = _line(x[first:], y[first:], usable[first:])
            if line[2] <= max_error:
                return first, line
    raise BadSeries(
        f"no line of Logan's plot fits within {max_error:.0%}",
        remedy="Give t*, or leave the region out",
    )
