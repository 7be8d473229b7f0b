"""Networks that change with time: sliding windows, and the states that recur in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..storage.errors import BadSeries
from .matrices import Array, edges_of, networks_of

MIN_WINDOW = 10
"""Fewer time points than this are no window: a correlation of them is noise."""


def sliding_pearson(series: ArrayLike, *, window: int, step: int = 1, taper: float = 0.0) -> Array:
    """Pearson correlation within windows that slide over a series: float64 [w, r, r].

    Parameters
    ----------
    series
        [t, r].
    window
        Time points of a window. One shorter than the slowest rhythm in the series sees changes
        that are none: with a high-pass filter at f Hz it should be at least 1 / f long.
    step
        Time points from one window to the next.
    taper
        Standard deviation of a Gaussian, in time points, that a window's edges are smoothed with;
        0 for sharp ones.

    Raises
    ------
    BadSeries
        A window shorter than ten points or longer than the series; a region that does not vary in
        one.

    References
    ----------
    Allen et al. (2014), Cereb. Cortex 24:663; Leonardi & Van De Ville (2015), NeuroImage 104:430,
    for the length.
    """
    array = np.asarray(series, np.float64)
    if not MIN_WINDOW <= window <= len(array) or step < 1:
        raise BadSeries(
            f"windows of {window} points every {step} do not fit {len(array)} time points",
            remedy=f"Use {MIN_WINDOW} points or more, and a longer series",
        )
    weights = _taper(window, taper)
    starts = range(0, len(array) - window + 1, step)
    return np.stack([_weighted(array[start : start + window], weights) for start in starts])


@dataclass(frozen=True, eq=False)
class States:
    """Networks that recur, and when each subject is in which.

    Attributes
    ----------
    networks
        float64 [k, r, r]: mean of the windows in a state; states in the order of how often they
        are.
    labels
        For each subject int64 [w]: state of each window.
    fractions
        float64 [s, k]: share of the windows in each state.
    dwell
        float64 [s, k]: mean length of a stay, in windows; NaN where there is none.
    transitions
        int64 [s, k, k]: how often the row is followed by the column.
    """

    networks: Array
    labels: tuple[NDArray[np.int64], ...]
    fractions: Array
    dwell: Array
    transitions: NDArray[np.int64]


def find_states(
    windows: Sequence[ArrayLike], n_states: int, *, seed: int = 0, restarts: int = 20
) -> States:
    """Group the windows of all subjects into states, by k-means on their edges.

    States found on people whom a model is tested on leak: find them on the training people, and
    assign the others with :func:`assign_states`.

    Parameters
    ----------
    windows
        For each subject [w, r, r], of any number of windows.
    n_states
        How many; chosen beforehand.

    Raises
    ------
    BadSeries
        Fewer windows than states.

    References
    ----------
    Allen et al. (2014), Cereb. Cortex 24:663.
    """
    from sklearn.cluster import KMeans

    arrays = [np.asarray(w, np.float64) for w in windows]
    edges = np.concatenate([edges_of(w) for w in arrays])
    if len(edges) < n_states or n_states < 2:
        raise BadSeries(f"{len(edges)} windows do not make {n_states} states")
    model = KMeans(n_states, n_init=restarts, random_state=seed).fit(edges)
    order = np.argsort(-np.bincount(model.labels_, minlength=n_states), kind="stable")
    centres = model.cluster_centers_[order]
    return assign_states(arrays, networks_of(centres, arrays[0].shape[-1]))


def assign_states(windows: Sequence[ArrayLike], networks: ArrayLike) -> States:
    """Say which of given states each window is nearest to, and how subjects move between them."""
    centres = edges_of(networks)
    labels = tuple(_nearest(edges_of(np.asarray(w, np.float64)), centres) for w in windows)
    k = len(centres)
    return States(
        np.asarray(networks, np.float64),
        labels,
        np.stack([np.bincount(found, minlength=k) / len(found) for found in labels]),
        np.stack([_dwell(found, k) for found in labels]),
        np.stack([_transitions(found, k) for found in labels]),
    )


def _taper(window: int, sigma: float) -> Array:
    weights = np.ones(window)
    if sigma > 0:
        from scipy.ndimage import gaussian_filter1d

        weights = gaussian_filter1d(weights, sigma, mode="constant")
    scaled: Array = weights / weights.sum()
    return scaled


def _weighted(part: Array, weights: Array) -> Array:
    centred = part - weights @ part
    spread = np.sqrt(weights @ centred**2)
    if (spread <= 1e-10 * np.abs(part).max(axis=0)).any():
        flat = int(np.argmin(spread))
        raise BadSeries(f"region {flat + 1} does not vary within a window")
    z = centred / spread
    found: Array = np.clip((z * weights[:, None]).T @ z, -1.0, 1.0)
    return (found + found.T) / 2


def _nearest(edges: Array, centres: Array) -> NDArray[np.int64]:
    distance = ((edges[:, None] - centres) ** 2).sum(axis=2)
    return np.asarray(distance.argmin(axis=1), np.int64)


def _transitions(labels: NDArray[np.int64], k: int) -> NDArray[np.int64]:
    counts = np.zeros((k, k), np.int64)
    np.add.at(counts, (labels[:-1], labels[1:]), 1)
    return counts


def _dwell(labels: NDArray[np.int64], k: int) -> Array:
    begins = np.r_[True, labels[1:] != labels[:-1]]
    stays = np.bincount(labels[begins], minlength=k).astype(np.float64)
    windows = np.bincount(labels, minlength=k)
    mean: Array = np.divide(windows, stays, out=np.full(k, np.nan), where=stays > 0)
    return mean
