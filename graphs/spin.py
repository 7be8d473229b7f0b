"""Do two maps of the cortex go together more than smooth maps do by chance: spin tests.

Neighbouring places are alike, so that two maps which have nothing to do with each other correlate
far beyond what a p-value for independent places allows. Turning one map on the sphere keeps its
smoothness and breaks what joins it to the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..storage.errors import BadConnectome, CohortError
from .matrices import Array

Match = Literal["nearest", "once"]
Correlation = Literal["pearson", "spearman"]

_ROUND = 1e-3
"""How much the distances from the centre may differ, relative to their mean."""

_FEWEST = 3


@dataclass(frozen=True, eq=False)
class SpinTest:
    """How two maps correlate, and how they do when one is turned.

    Attributes
    ----------
    correlation
        Of the maps as they are.
    p
        Two-sided: (1 + turns with a correlation at least as far from 0) / (1 + turns).
    null
        float64 [n]: correlations of the turned map.
    """

    correlation: float
    p: float
    null: Array


def spin_test(
    one: ArrayLike,
    other: ArrayLike,
    orders: ArrayLike,
    *,
    correlation: Correlation = "pearson",
) -> SpinTest:
    """Compare the correlation of two maps with that of turned ones.

    Parameters
    ----------
    one, other
        [r]: values at places; NaN where there is none, as in the medial wall. ``one`` is turned.
    orders
        int [n, r], of :func:`spin_orders`.
    correlation
        ``pearson``, or ``spearman`` of the ranks among the places that both have.

    Raises
    ------
    CohortError
        Maps and orders do not fit, or fewer than three places that vary have both values, in the
        maps or in a turn.

    References
    ----------
    Alexander-Bloch et al. (2018), NeuroImage 178:540.
    """
    first, second = np.asarray(one, np.float64), np.asarray(other, np.float64)
    turned = np.asarray(orders)
    if first.ndim != 1 or first.shape != second.shape or turned.shape[1:] != first.shape:
        raise CohortError(
            f"maps {first.shape} and {second.shape} and orders {turned.shape} do not fit"
        )
    found = _correlated(first, second, correlation)
    null = np.array([_correlated(first[order], second, correlation) for order in turned])
    beyond = int((np.abs(null) >= abs(found) * (1 - 1e-12)).sum())
    return SpinTest(found, (1 + beyond) / (1 + len(null)), null)


def spin_orders(
    coordinates: ArrayLike,
    hemispheres: Sequence[str],
    n: int = 1000,
    *,
    match: Match = "nearest",
    seed: int = 0,
) -> NDArray[np.int64]:
    """Which place each place takes its value from, in each of n random turns: int64 [n, r].

    Both hemispheres are turned alike: the right by the mirror image of the left's turn.

    Parameters
    ----------
    coordinates
        [r, 3]: places on the sphere of their hemisphere (FreeSurfer's ``?h.sphere``), x from left
        to right, around the origin. Parcels: :func:`sphere_centroids`.
    hemispheres
        r times ``L`` or ``R``.
    match
        ``nearest``: the value of the nearest turned place, some then more than once, some not at
        all (Alexander-Bloch et al. 2018). ``once``: of all ways to take each value once, that with
        the least distance (Markello & Misic 2021); for parcels.

    Raises
    ------
    BadConnectome
        Coordinates that do not lie on a sphere around the origin, or other hemispheres.

    References
    ----------
    Alexander-Bloch et al. (2018), NeuroImage 178:540; Markello & Misic (2021), NeuroImage
    236:118052.
    """
    places = np.asarray(coordinates, np.float64)
    sides = np.array([str(name).upper()[:1] for name in hemispheres])
    _require_spheres(places, sides)
    orders = np.tile(np.arange(len(places)), (n, 1))
    mirror = np.diag([-1.0, 1.0, 1.0])
    for side in np.unique(sides):
        own = np.flatnonzero(sides == side)
        directions = places[own] / np.linalg.norm(places[own], axis=1, keepdims=True)
        for order, rotation in zip(orders, random_rotations(n, seed=seed), strict=True):
            turn = rotation if side == "L" else mirror @ rotation @ mirror
            order[own] = own[_matched(directions, directions @ turn.T, match)]
    return orders


def random_rotations(n: int, *, seed: int = 0) -> Array:
    """Rotations drawn evenly from all there are: float64 [n, 3, 3].

    References
    ----------
    Stewart (1980), SIAM J. Numer. Anal. 17:403; Mezzadri (2007), Notices AMS 54:592.
    """
    rng = np.random.default_rng(seed)
    q, r = np.linalg.qr(rng.standard_normal((n, 3, 3)))
    rotations: Array = q * np.sign(np.diagonal(r, axis1=1, axis2=2))[:, None, :]
    rotations[np.linalg.det(rotations) < 0, :, 0] *= -1
    return rotations


def sphere_centroids(vertices: ArrayLike, regions: ArrayLike, n_regions: int) -> Array:
    """Middle of each region on its sphere: float64 [n_regions, 3].

    Parameters
    ----------
    vertices
        [v, 3]: of one hemisphere's sphere.
    regions
        int [v]: number of the region from 0, below 0 for none.

    Raises
    ------
    BadConnectome
        A region without vertices, or one that goes round the sphere and has no middle.
    """
    places, number = np.asarray(vertices, np.float64), np.asarray(regions)
    radius = np.linalg.norm(places, axis=1).mean()
    centroids = np.zeros((n_regions, 3))
    for region in range(n_regions):
        own = places[number == region]
        middle = own.mean(axis=0) if len(own) else np.zeros(3)
        length = np.linalg.norm(middle)
        if length < _ROUND * radius:
            raise BadConnectome(f"region {region} has no vertices, or no middle on the sphere")
        centroids[region] = middle * radius / length
    return centroids


def _matched(places: Array, turned: Array, match: Match) -> NDArray[np.intp]:
    from scipy.optimize import linear_sum_assignment
    from scipy.spatial import cKDTree
    from scipy.spatial.distance import cdist

    if match == "once":
        return np.asarray(linear_sum_assignment(cdist(places, turned))[1], np.intp)
    return np.asarray(cKDTree(turned).query(places)[1], np.intp)


def _require_spheres(places: Array, sides: NDArray[np.str_]) -> None:
    if places.ndim != 2 or places.shape[1] != 3 or len(sides) != len(places):
        raise BadConnectome(f"coordinates {places.shape} and {len(sides)} hemispheres do not fit")
    if not set(sides.tolist()) <= {"L", "R"}:
        raise BadConnectome(f"a hemisphere is L or R, not {sorted(set(sides.tolist()))}")
    for side in np.unique(sides):
        radius = np.linalg.norm(places[sides == side], axis=1)
        if not np.isfinite(radius).all() or np.ptp(radius) > _ROUND * radius.mean():
            raise BadConnectome(
                f"coordinates of {side} do not lie on a sphere around the origin: "
                f"{radius.min():.4g} to {radius.max():.4g} from it",
                remedy="Take those of the spherical surface, as FreeSurfer's lh.sphere, not those "
                "of the brain",
            )


def _correlated(one: Array, other: Array, kind: Correlation) -> float:
    from scipy.stats import rankdata

    both = np.isfinite(one) & np.isfinite(other)
    first, second = one[both], other[both]
    if kind == "spearman":
        first, second = rankdata(first), rankdata(second)
    if len(first) < _FEWEST or np.ptp(first) == 0 or np.ptp(second) == 0:
        raise CohortError(
            f"{len(first)} places have both values, or they do not vary: no correlation"
        )
    return float(np.corrcoef(first, second)[0, 1])
