r"""How well single regions steer the network, were activity to spread linearly along its edges.

Activity at a step is :math:`x(t + 1) = A\,x(t) + B\,u(t)`, where A is the network divided by one
more than its largest eigenvalue (in size), so that activity dies out, and one region at a time is
driven (B). Networks are undirected and may have signs; the diagonal plays no part.

References
----------
Gu et al. (2015), Nat. Commun. 6:8414.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from .matrices import Array, as_network


def average_controllability(weights: ArrayLike) -> Array:
    r"""Energy that driving a region alone brings into the network, summed over time: float64 [r].

    The trace of the controllability Gramian over infinite time, :math:`[(I - A^2)^{-1}]_{ii}`; at
    least 1, large at hubs.
    """
    values, vectors = _modes(weights)
    energy: Array = (vectors**2) @ (1 / (1 - values**2))
    return energy


def modal_controllability(weights: ArrayLike) -> Array:
    r"""Reach of a region over all modes, fast-fading ones counted most: float64 [r], 0 … 1.

    :math:`\sum_j (1 - \lambda_j^2)\, v_{ij}^2`, with eigenvalues λ and eigenvectors v of A.
    """
    values, vectors = _modes(weights)
    reach: Array = (vectors**2) @ (1 - values**2)
    return reach


def _modes(weights: ArrayLike) -> tuple[Array, Array]:
    values, vectors = np.linalg.eigh(as_network(weights, signed=True))
    return values / (1 + np.abs(values).max()), vectors
