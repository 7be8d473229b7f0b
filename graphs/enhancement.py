"""Networks of edges without a threshold: each edge is scored by what hangs together with it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from ..storage.errors import CohortError
from .design import Design
from .matrices import Array, edges_of, networks_of
from .statistics import Tail, directed_statistics, edge_statistics, over_permutations

if TYPE_CHECKING:
    from ..engine.schedule import Pool


@dataclass(frozen=True, eq=False)
class ThresholdFree:
    """What threshold-free network-based statistics found.

    Attributes
    ----------
    statistics, scores
        float64 [r, r]: t (or F), and enhanced score, of every edge.
    p
        float64 [r, r]: of each edge, corrected for all edges; 1 on the diagonal.
    null
        float64 [m]: largest score in each permutation.
    """

    statistics: Array
    scores: Array
    p: Array
    null: Array


def threshold_free_statistic(
    adjacency: ArrayLike,
    design: Design,
    *,
    n_permutations: int = 5000,
    extent_exponent: float = 0.4,
    height_exponent: float = 3.0,
    step: float = 0.1,
    tail: Tail = "both",
    seed: int = 0,
    pool: Pool | None = None,
) -> ThresholdFree:
    r"""Find edges that differ, the error over all edges controlled, with no threshold to choose.

    An edge's score is what the network-based statistic has at every threshold h below its own t:

    .. math:: \sum_h n(h)^E\, h^H\, \Delta h

    where n is the number of edges that hang together with it beyond h. Each score is compared with
    the largest of each permutation.

    Parameters
    ----------
    adjacency
        [s, r, r], undirected.
    extent_exponent, height_exponent, step
        E, H and Δh; the defaults are those of the reference and of MRtrix's ``connectomestats``.
    tail, pool
        As in :func:`.statistics.network_based_statistic`.

    References
    ----------
    Baggio et al. (2018), Hum. Brain Mapp. 39:2289; Smith & Nichols (2009), NeuroImage 44:83.
    """
    if step <= 0 or n_permutations < 1:
        raise CohortError("a step above 0 and at least one permutation are needed")
    values, n = edges_of(adjacency), np.shape(adjacency)[-1]
    exponents = (extent_exponent, height_exponent)
    statistics = edge_statistics(values, design)
    own = enhanced(directed_statistics(statistics, design, tail)[None], n, exponents, step)[0]
    largest = partial(
        _largest_score, design=design, tail=tail, n_regions=n, exponents=exponents, step=step
    )
    null = over_permutations(values, design, n_permutations, largest, seed=seed, pool=pool)
    below = np.searchsorted(np.sort(null), own * (1 - 1e-12))
    p = networks_of((1 + n_permutations - below) / (1 + n_permutations), n)
    np.fill_diagonal(p, 1.0)
    return ThresholdFree(networks_of(statistics, n), networks_of(own, n), p, null)


def _largest_score(
    statistics: Array,
    *,
    design: Design,
    tail: Tail,
    n_regions: int,
    exponents: tuple[float, float],
    step: float,
) -> Array:
    directed = directed_statistics(statistics, design, tail)
    found: Array = enhanced(directed, n_regions, exponents, step).max(axis=1)
    return found


def enhanced(
    statistics: Array, n_regions: int, exponents: tuple[float, float], step: float
) -> Array:
    """Scores of statistics [m, e], what is below ``step`` being nothing: float64 [m, e]."""
    from .rewiring import enhance

    rows, columns = np.triu_indices(n_regions, 1)
    found: Array = enhance(statistics, rows, columns, n_regions, exponents, step)
    return found
