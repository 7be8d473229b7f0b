"""Adjacency matrices as plain arrays: what counts as one, and how it is checked."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..storage.connectomes import SYMMETRY_TOLERANCE
from ..storage.errors import BadConnectome

Array = NDArray[np.float64]


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
    array = np.asarray(weights, np.float64)
    if array.ndim != 2 or array.shape[0] != array.shape[1] or not len(array):
        raise BadConnectome(f"a network is a square matrix, not {array.shape}")
    network = without_diagonal(array)
    if not np.isfinite(network).all():
        raise BadConnectome("a weight is not a finite number")
    if np.abs(network - network.T).max() > SYMMETRY_TOLERANCE * np.abs(network).max():
        raise BadConnectome(
            "the network is directed: weights differ with direction",
            remedy="Symmetrise it first; measures here are for undirected networks",
        )
    network = (network + network.T) / 2
    if not signed and (network < 0).any():
        raise BadConnectome(
            "the network has negative weights, for which this is not defined",
            remedy="Threshold it first, or take absolute values",
        )
    return network
