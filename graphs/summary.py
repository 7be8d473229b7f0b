"""The measures of a network that go into a table: one row a subject, or one a region."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from ..storage.errors import BadConnectome
from . import communities, controllability, metrics, nulls, paths
from .matrices import Array, as_network
from .threshold import proportional


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
        "average_controllability": controllability.average_controllability(network),
        "modal_controllability": controllability.modal_controllability(network),
    }


def null_measures(weights: ArrayLike, n_nulls: int, *, seed: int = 0) -> dict[str, float]:
    """Small-worldness by name, compared with ``n_nulls`` random networks of the same degrees.

    See :func:`.nulls.small_world` and :func:`.nulls.small_world_propensity`. Names end in
    ``_binary`` and ``_weighted`` as in :func:`global_measures`.
    """
    network = _scaled(weights)
    found: dict[str, float] = {}
    for kind, weighted in (("binary", False), ("weighted", True)):
        world = nulls.small_world(network, n_nulls=n_nulls, weighted=weighted, seed=seed)
        found[f"clustering_normalised_{kind}"] = world.clustering_normalised
        found[f"path_length_normalised_{kind}"] = world.path_length_normalised
        found[f"small_world_sigma_{kind}"] = world.sigma
        found[f"small_world_omega_{kind}"] = world.omega
    found["small_world_propensity_weighted"] = nulls.small_world_propensity(network, seed=seed)
    return found


def area_over_densities(
    weights: ArrayLike,
    densities: Sequence[float],
    *,
    keep: Callable[[ArrayLike, float], Array] = proportional,
    seed: int = 0,
) -> dict[str, float]:
    """Area under each of :func:`global_measures` over a range of densities, by name.

    One number in place of an arbitrary density: the integral by trapezoids. Divide by the width of
    the range for a mean. Nan where a measure is not defined at one of the densities.

    Parameters
    ----------
    densities
        Ascending, at least two, 0 … 1.
    keep
        How a network is thresholded: :func:`.threshold.proportional` or
        :func:`.threshold.tree_and_strongest`.

    Raises
    ------
    BadConnectome
        Densities are not ascending, or one cannot be reached.

    References
    ----------
    Ginestet et al. (2011), PLoS ONE 6:e21570; Bassett et al. (2009) for the area.
    """
    curves = measures_over_densities(weights, densities, keep=keep, seed=seed)
    return {name: float(np.trapezoid(curve, densities)) for name, curve in curves.items()}


def measures_over_densities(
    weights: ArrayLike,
    densities: Sequence[float],
    *,
    keep: Callable[[ArrayLike, float], Array] = proportional,
    seed: int = 0,
) -> dict[str, Array]:
    """Each of :func:`global_measures` at each of ascending densities, by name: float64 [d].

    Parameters and errors are those of :func:`area_over_densities`.
    """
    x = np.asarray(densities, np.float64)
    if len(x) < 2 or not (np.diff(x) > 0).all():
        raise BadConnectome(f"two or more ascending densities are needed, not {list(densities)}")
    each = [global_measures(keep(weights, density), seed=seed) for density in densities]
    return {name: np.array([measures[name] for measures in each]) for name in each[0]}


def _scaled(weights: ArrayLike) -> Array:
    network = as_network(weights)
    largest = network.max()
    return network / largest if largest > 0 else network
