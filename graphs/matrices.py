"""Adjacency matrices as plain arrays: what counts as one, and how it is checked."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..storage.connectomes import SYMMETRY_TOLERANCE
from ..storage.errors import BadConnectome, BadSeries

Array = NDArray[np.float64]

_CONSTANT = 1e-10
"""A column does not vary when it deviates by less than this fraction of its level."""


def without_diagonal(matrix: ArrayLike) -> Array:
    """A float64 copy with zeros on the diagonal: no region is connected with itself."""
    copy = np.array(matrix, np.float64)
    index = np.arange(copy.shape[-1])
    copy[..., index, index] = 0.0
    return copy


def edge_weights(matrix: ArrayLike) -> Array:
    """Weights of the pairs i < j, row by row: float64 [r (r - 1) / 2]."""
    array = np.asarray(matrix, np.float64)
    edges: Array = array[np.triu_indices(len(array), 1)]
    return edges


def as_network(weights: ArrayLike, *, signed: bool = False) -> Array:
    """Check an undirected network and return it without diagonal, exactly symmetric.

    Parameters
    ----------
    weights
        [r, r], symmetric; 0 means no edge.
    signed
        Whether weights below zero are allowed. Measures on clustering and paths do not allow them.

    Returns
    -------
    float64 [r, r]

    Raises
    ------
    BadConnectome
        Not square, not finite, not symmetric; or negative where it must not be.
    """
    network = as_directed_network(weights, signed=True)
    if np.abs(network - network.T).max() > SYMMETRY_TOLERANCE * np.abs(network).max():
        raise BadConnectome(
            "the network is directed: weights differ with direction",
            remedy="Symmetrise it first, or use measures of directed networks",
        )
    network = (network + network.T) / 2
    return network if signed else _not_negative(network)


def as_directed_network(weights: ArrayLike, *, signed: bool = False) -> Array:
    """Check a network whose weights may differ with direction, and return it without diagonal.

    Parameters
    ----------
    weights
        [r, r]; ``weights[i, j]`` is of the edge from i to j, 0 means no edge.
    signed
        Whether weights below zero are allowed.

    Returns
    -------
    float64 [r, r]
        A copy.

    Raises
    ------
    BadConnectome
        Not square, not finite; or negative where it must not be.
    """
    array = np.asarray(weights, np.float64)
    if array.ndim != 2 or array.shape[0] != array.shape[1] or not len(array):
        raise BadConnectome(f"a network is a square matrix, not {array.shape}")
    network = without_diagonal(array)
    if not np.isfinite(network).all():
        raise BadConnectome("a weight is not a finite number")
    return network if signed else _not_negative(network)


def edges_of(adjacency: ArrayLike) -> Array:
    """Weights of the pairs i < j of every network of a cohort: [s, r, r] to float64 [s, e]."""
    array = np.asarray(adjacency, np.float64)
    if array.ndim != 3 or array.shape[1] != array.shape[2]:
        raise BadConnectome(f"a cohort of networks is [s, r, r], not {array.shape}")
    i, j = np.triu_indices(array.shape[-1], 1)
    edges: Array = array[:, i, j]
    return edges


def networks_of(edges: ArrayLike, n_regions: int) -> Array:
    """Undo :func:`edges_of`: [.., e] to symmetric float64 [.., r, r], 0 on the diagonal."""
    array = np.asarray(edges, np.float64)
    i, j = np.triu_indices(n_regions, 1)
    if array.shape[-1] != len(i):
        raise BadConnectome(f"{array.shape[-1]} edges do not join {n_regions} regions")
    found = np.zeros((*array.shape[:-1], n_regions, n_regions))
    found[..., i, j] = found[..., j, i] = array
    return found


def _not_negative(network: Array) -> Array:
    if (network < 0).any():
        raise BadConnectome(
            "the network has negative weights, for which this is not defined",
            remedy="Threshold it first, or take absolute values",
        )
    return network


def checked_columns(
    values: ArrayLike,
    names: Sequence[str] = (),
    *,
    rows: str,
    minimum: int,
    remedy: str | None = None,
) -> Array:
    """Return a table as float64 [n, r] if its columns can be related to each other.

    Parameters
    ----------
    names
        r names, for the message.
    rows
        What a row is, in the plural: ``time points``, ``subjects``.
    minimum
        Rows that are needed.
    remedy
        What to do about too few.

    Raises
    ------
    BadSeries
        Not two axes, too few rows, not finite, or a column that does not vary; names the first
        columns at fault.
    """
    array = np.asarray(values, np.float64)
    if array.ndim != 2 or array.shape[1] == 0:
        raise BadSeries(f"a table of shape {array.shape} has no {rows} of several regions")
    if len(array) < max(2, minimum):
        raise BadSeries(
            f"{len(array)} {rows} are too few, {max(2, minimum)} are needed", remedy=remedy
        )
    known = list(names) or [f"region {i + 1}" for i in range(array.shape[1])]
    finite = np.asarray(np.isfinite(array).all(axis=0))
    if not finite.all():
        raise BadSeries(f"values that are not finite: {_some(known, ~finite)}")
    constant = np.asarray(array.std(axis=0) <= _CONSTANT * np.abs(array).max(axis=0))
    if constant.any():
        raise BadSeries(
            f"the same at all {rows}: {_some(known, constant)}",
            remedy="Leave these out, or check where their values come from",
        )
    return array


def _some(names: Sequence[str], which: NDArray[np.bool_]) -> str:
    chosen = [name for name, hit in zip(names, which, strict=True) if hit]
    return ", ".join(chosen[:5]) + (f" and {len(chosen) - 5} more" if len(chosen) > 5 else "")
