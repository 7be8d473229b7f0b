"""Several networks over the same regions, one layer per modality or measure: [l, r, r].

Layers are undirected and not negative. Weights of different measures have different units: scale
them, or threshold to one density, before they are added up.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from ..storage.connectomes import Connectome
from ..storage.errors import BadConnectome
from .matrices import Array, as_network, edges_of


def stack_layers(connectomes: Sequence[Connectome]) -> Array:
    """Layers of one person: float64 [l, r, r], in the order given.

    Raises
    ------
    BadConnectome
        Fewer than two, or regions or subjects that differ.
    """
    if len(connectomes) < 2:
        raise BadConnectome("a multiplex has at least two layers")
    first = connectomes[0]
    for other in connectomes[1:]:
        if other.regions != first.regions or other.subject != first.subject:
            raise BadConnectome(
                f"regions or subject differ from those of {first.subject}, {first.modality}",
                where=f"{other.subject}, {other.modality}",
                remedy="Build all layers with one atlas, and name the subject alike",
            )
    return np.stack([connectome.adjacency for connectome in connectomes])


def as_layers(layers: ArrayLike, *, signed: bool = False) -> Array:
    """Check layers and return them without diagonals, symmetric: float64 [l, r, r].

    Raises
    ------
    BadConnectome
        Fewer than two layers, or one is no network.
    """
    array = np.asarray(layers, np.float64)
    if array.ndim != 3 or len(array) < 2:
        raise BadConnectome(f"a multiplex is [l, r, r] with two or more layers, not {array.shape}")
    return np.stack([as_network(layer, signed=signed) for layer in array])


def overlapping_degree(layers: ArrayLike) -> Array:
    """Number of edges of each region over all layers: float64 [r].

    References
    ----------
    Battiston, Nicosia & Latora (2014), Phys. Rev. E 89:032804, equation 8.
    """
    number: Array = (as_layers(layers) != 0).sum(axis=(0, 1)).astype(np.float64)
    return number


def overlapping_strength(layers: ArrayLike) -> Array:
    """Sum of the weights of each region over all layers: float64 [r]."""
    total: Array = as_layers(layers).sum(axis=(0, 1))
    return total


def participation(layers: ArrayLike, *, weighted: bool = False) -> Array:
    r"""How evenly a region's edges are spread over the layers: float64 [r], 0 … 1.

    .. math:: P_i = \frac{L}{L - 1} \Big[1 - \sum_\alpha
              \Big(\frac{k_i^{[\alpha]}}{o_i}\Big)^2\Big]

    1 where all layers are alike, 0 for a region with edges in one layer only, nan for one without.

    Parameters
    ----------
    weighted
        With strengths in place of degrees.

    References
    ----------
    Battiston, Nicosia & Latora (2014), equation 10.
    """
    network = as_layers(layers)
    ties = network if weighted else (network != 0).astype(np.float64)
    own = ties.sum(axis=1)
    total = own.sum(axis=0)
    share = np.divide(own, total, out=np.full_like(own, np.nan), where=total > 0)
    n = len(network)
    found: Array = n / (n - 1) * (1 - (share**2).sum(axis=0))
    return found


def edge_overlap(layers: ArrayLike) -> Array:
    """In how many layers each pair has an edge: float64 [r, r].

    References
    ----------
    Battiston, Nicosia & Latora (2014), equation 23.
    """
    number: Array = (as_layers(layers, signed=True) != 0).sum(axis=0).astype(np.float64)
    return number


def layer_overlap(layers: ArrayLike) -> Array:
    """Share of the edges of either layer that both have: float64 [l, l]; nan where neither has any.

    Jaccard's index; 1 on the diagonal.
    """
    edges = (edges_of(as_layers(layers, signed=True)) != 0).astype(np.float64)
    both = edges @ edges.T
    number = edges.sum(axis=1)
    either = number[:, None] + number[None, :] - both
    found: Array = np.divide(both, either, out=np.full_like(both, np.nan), where=either > 0)
    return found


def layer_coupling(layers: ArrayLike) -> Array:
    """Correlation of the edge weights of each two layers over all pairs: float64 [l, l].

    Nan with a layer whose weights are all equal.
    """
    return _correlations(edges_of(as_layers(layers, signed=True)))


def regional_coupling(layers: ArrayLike) -> Array:
    """Correlation of each region's weights in one layer with those in another: float64 [r, l, l].

    As the coupling of structure and function. The region itself is left out; nan where all of a
    region's weights in a layer are equal.

    References
    ----------
    Baum et al. (2020), PNAS 117:771, with Pearson's correlation.
    """
    network = as_layers(layers, signed=True)
    n = network.shape[1]
    others = ~np.eye(n, dtype=bool)
    return np.stack([_correlations(network[:, i, others[i]]) for i in range(n)])


def _correlations(rows: Array) -> Array:
    """Pearson's correlations of rows, nan where one does not vary."""
    centred = rows - rows.mean(axis=1, keepdims=True)
    length = np.linalg.norm(centred, axis=1)
    level = np.abs(rows).max(axis=1) * np.sqrt(rows.shape[1])
    length = np.where(length > 1e-12 * level, length, np.nan)
    found: Array = np.clip(centred @ centred.T / np.outer(length, length), -1, 1)
    return found


def supra_adjacency(layers: ArrayLike, coupling: ArrayLike = 1.0) -> Array:
    r"""One network of all regions in all layers: float64 [l · r, l · r], layer by layer.

    Layers are the blocks on the diagonal; each region is tied to itself in every other layer with
    the weight ``coupling``. Any measure of one network can be taken of it.

    Parameters
    ----------
    coupling
        One weight, or [l, l] symmetric, one for each two layers; its diagonal plays no part.

    References
    ----------
    De Domenico et al. (2013), Phys. Rev. X 3:041022.
    """
    network = as_layers(layers)
    n_layers, n = network.shape[:2]
    between = as_network(np.broadcast_to(np.asarray(coupling, np.float64), (n_layers, n_layers)))
    supra: Array = np.kron(between, np.eye(n)).astype(np.float64)
    for i, layer in enumerate(network):
        supra[i * n : (i + 1) * n, i * n : (i + 1) * n] = layer
    return supra


def fuse(layers: ArrayLike, *, n_neighbours: int = 20, n_iterations: int = 20) -> Array:
    r"""Similarity network fusion: one network that strong edges of any layer, shared or not, make.

    Each layer's similarities are normalised, :math:`P = W / (2 \sum_{k \ne i} W_{ik})` with 1/2 on
    the diagonal, and kept for the nearest neighbours only, S. Then every layer takes over the mean
    of the others through its own neighbours,

    .. math:: P^{(v)} \leftarrow S^{(v)}\,
              \frac{\sum_{k \ne v} P^{(k)}}{l - 1}\, (S^{(v)})^T

    and is normalised again; the mean of the layers is what is left.

    Parameters
    ----------
    layers
        [l, r, r] similarities, not negative.
    n_neighbours
        Regions that a region's similarities are kept for; at most r - 1. Equal ones are told apart
        by position.

    Returns
    -------
    float64 [r, r]
        Symmetric, 0 on the diagonal.

    Raises
    ------
    BadConnectome
        A region has no edge in one of the layers.

    References
    ----------
    Wang et al. (2014), Nat. Methods 11:333, equations 2-8.
    """
    network = as_layers(layers)
    if (network.sum(axis=1) == 0).any():
        layer, region = np.argwhere(network.sum(axis=1) == 0)[0]
        raise BadConnectome(
            f"region {region} has no edge in layer {layer}, so nothing is similar to it there",
            remedy="Fuse networks that are not thresholded, or keep their spanning trees",
        )
    n_layers, n = network.shape[:2]
    local = np.stack([_neighbours(layer, min(n_neighbours, n - 1)) for layer in network])
    state = np.stack([_normalised(layer) for layer in network])
    for _ in range(n_iterations):
        others = (state.sum(axis=0) - state) / (n_layers - 1)
        spread = local @ others @ local.transpose(0, 2, 1)
        state = np.stack([_normalised((layer + layer.T) / 2) for layer in spread])
    fused = state.mean(axis=0)
    return as_network((fused + fused.T) / 2)


def _normalised(similarity: Array) -> Array:
    off = similarity - np.diag(np.diag(similarity))
    found: Array = off / (2 * off.sum(axis=1, keepdims=True)) + np.eye(len(off)) / 2
    return found


def _neighbours(layer: Array, k: int) -> Array:
    nearest = np.argsort(-layer, axis=1, kind="stable")[:, :k]
    kept = np.zeros_like(layer)
    np.put_along_axis(kept, nearest, np.take_along_axis(layer, nearest, axis=1), axis=1)
    found: Array = kept / kept.sum(axis=1, keepdims=True)
    return found
