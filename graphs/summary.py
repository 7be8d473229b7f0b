"""The measures of a network that go into a table: one row a subject, or one a region."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from . import communities, metrics, paths
from .matrices import Array, as_network


def global_measures(weights: ArrayLike, *, seed: int = 0) -> dict[str, float]:
    """Measures of the whole network, by name.

    Parameters
    ----------
    weights
        [r, r], not negative, usually thresholded. Divided by the largest weight first, so that
        weighted measures compare between networks.
    seed
        Of the search for modules.

    Returns
    -------
    dict
        Names that end in ``_weighted`` use the weights (and lengths 1 / weight), names that end in
        ``_binary`` do not. Nan where a measure is not defined.
    """
    network = _scaled(weights)
    hops = paths.distances(paths.Lengths.hops(network))
    distance = paths.distances(paths.Lengths.from_weights(network))
    modules = communities.louvain(network, seed=seed)
    return {
        "density": metrics.density(network),
        "n_components": float(metrics.components(network).max() + 1),
        "mean_degree": float(metrics.degree(network).mean()),
        "mean_strength": float(metrics.strength(network).mean()),
        "clustering_binary": float(metrics.clustering_binary(network).mean()),
        "clustering_weighted": float(metrics.clustering_weighted(network).mean()),
        "transitivity_binary": metrics.transitivity(network, weighted=False),
        "path_length_binary": paths.characteristic_path_length(hops),
        "path_length_weighted": paths.characteristic_path_length(distance),
        "global_efficiency_binary": paths.global_efficiency(hops),
        "global_efficiency_weighted": paths.global_efficiency(distance),
        "local_efficiency_binary": float(paths.local_efficiency_binary(network).mean()),
        "assortativity_binary": metrics.assortativity(network, weighted=False),
        "modularity_weighted": communities.modularity(network, modules),
        "n_modules": float(modules.max() + 1),
        "mean_participation_weighted": float(communities.participation(network, modules).mean()),
    }


def nodal_measures(weights: ArrayLike, *, seed: int = 0) -> dict[str, Array]:
    """Measures of each region, by name: float64 [r] each; weights as in :func:`global_measures`."""
    network = _scaled(weights)
    modules = communities.louvain(network, seed=seed)
    return {
        "degree": metrics.degree(network),
        "strength": metrics.strength(network),
        "clustering_binary": metrics.clustering_binary(network),
        "clustering_weighted": metrics.clustering_weighted(network),
        "betweenness_binary": paths.betweenness(paths.Lengths.hops(network)),
        "betweenness_weighted": paths.betweenness(paths.Lengths.from_weights(network)),
        "local_efficiency_binary": paths.local_efficiency_binary(network),
        "eigenvector_centrality": metrics.eigenvector_centrality(network),
        "pagerank": metrics.pagerank(network),
        "core_number": metrics.core_number(network),
        "module": modules.astype(np.float64),
        "participation_weighted": communities.participation(network, modules),
        "within_module_z": communities.within_module_z(network, modules),
    }


def _scaled(weights: ArrayLike) -> Array:
    network = as_network(weights)
    largest = network.max()
    return network / largest if largest > 0 else network
