"""Harrell's c-index: how often who has the event earlier was said to be at the higher risk."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class Pairs:
    """Which pairs can be compared, and which of them are in order; of n rows.

    Attributes
    ----------
    comparable
        bool [n, n]: row i had the event before row j's time, or at the time at which j was
        censored.
    in_order
        float32 [n, n]: of these, 1 where i has the higher risk, one half where both have the
        same.
    """

    comparable: NDArray[np.bool_]
    in_order: NDArray[np.float32]

    def index(self, rows: NDArray[np.int64] | None = None) -> float:
        """The c-index of rows, some of them perhaps more than once; nan without a pair."""
        n = len(self.comparable)
        times = np.ones(n) if rows is None else np.bincount(rows, minlength=n)
        weight = times.astype(np.float32)
        total = float(weight @ (self.comparable @ weight))
        return float(weight @ (self.in_order @ weight)) / total if total else float("nan")


def pairs(
    time: ArrayLike, event: ArrayLike, risk: ArrayLike, strata: ArrayLike | None = None
) -> Pairs:
    """Compare all pairs of n rows; n² numbers are kept.

    Parameters
    ----------
    time, event, risk
        [n] each: event 1 where it was seen at ``time``, 0 where the row was censored then; a
        higher risk means an earlier event.
    strata
        [n]; only rows of one are compared. Risks of models that were fitted apart have no common
        zero: the folds of a cross-validation are strata.
    """
    t, e, f = (np.asarray(x, np.float64) for x in (time, event, risk))
    seen = e[:, None] == 1
    earlier = (t[:, None] < t) | ((t[:, None] == t) & (e == 0))
    comparable = seen & earlier
    if strata is not None:
        s = np.asarray(strata)
        comparable &= s[:, None] == s
    order = np.where(f[:, None] == f, 0.5, f[:, None] > f)
    return Pairs(comparable, (comparable * order).astype(np.float32))


def c_index(
    time: ArrayLike, event: ArrayLike, risk: ArrayLike, strata: ArrayLike | None = None
) -> float:
    """Harrell's index of concordance; 0.5 by chance, nan where no pair can be compared.

    Parameters are those of :func:`pairs`. Two events at one time are not compared; an event at the
    time at which another row was censored is the earlier; equal risks count one half.

    References
    ----------
    Harrell, Lee & Mark (1996), Multivariable prognostic models, Statistics in Medicine 15.
    """
    return pairs(time, event, risk, strata).index()
