"""Random networks for what space alone explains: edges keep their lengths in millimetres."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from ..storage.errors import BadConnectome
from .matrices import Array, as_network


def rewire_in_space(
    weights: ArrayLike,
    centroids_mm: ArrayLike,
    *,
    n_bins: int = 20,
    swaps_per_edge: float = 10,
    seed: int = 0,
) -> Array:
    """Rewire so that every region keeps its degree and edges keep their lengths in space.

    Distances between regions are put into bins of as many edges each, and two edges are swapped
    only where the new ones lie in the bins of the old. A weight stays in its bin: the number of
    edges of each length, and what they cost (weight times distance), are those of the network, up
    to the width of a bin. Many short edges and few long ones are then no finding.

    Parameters
    ----------
    centroids_mm
        [r, 3].
    n_bins
        More keep lengths better, and leave fewer swaps.

    References
    ----------
    Betzel & Bassett (2018), PNAS 115:E4880; Samu et al. (2014), PLoS Comput. Biol. 10:e1003557.
    """
    from .rewiring import swap_within_bins

    network = as_network(weights, signed=True)
    places = np.asarray(centroids_mm, np.float64)
    if places.shape != (len(network), 3):
        raise BadConnectome(f"centroids {places.shape} do not fit {len(network)} regions")
    apart = np.linalg.norm(places[:, None] - places[None, :], axis=2)
    ends = np.argwhere(np.triu(network, 1) != 0)
    if n_bins < 1 or len(ends) < 2:
        raise BadConnectome("at least one bin and two edges are needed")
    edges = np.quantile(apart[tuple(ends.T)], np.linspace(0, 1, n_bins + 1)[1:-1])
    bins = np.searchsorted(edges, apart)
    tries = round(swaps_per_edge * len(ends)), n_bins**2
    swap_within_bins(network, ends, bins, tries, np.random.default_rng(seed))
    return network
