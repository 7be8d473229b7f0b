"""Graphs of tissue: tiles or cells are nodes, and neighbours are joined by an edge.

Nodes are places in micrometres. A graph is a list of edges, and its matrix is sparse (CSR): a
million nodes with eight neighbours each take some hundred megabytes, and nothing here is n × n.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, product
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..storage.errors import InputError

if TYPE_CHECKING:
    from scipy.sparse import csr_array

    from ..storage.bags import Bag

Weight = Literal["binary", "gaussian", "length"]
Places = NDArray[np.float64]
Nodes = NDArray[np.int64]

_ROWS = 2**17
"""Nodes whose neighbours are sought at once."""
_TIES = 12
"""Places that can be equally far on a lattice, for every axis beyond the first."""
_FLAT = 1e-6
"""Share of its length that a line of places may be wide."""
_OFF_GRID = 0.25
"""Share of a step that a tile may lie beside its place on the grid."""


@dataclass(frozen=True, eq=False)
class TissueGraph:
    """An undirected graph of places; no self-loops, no edge twice.

    Attributes
    ----------
    places_um
        float64 [n, 2] or [n, 3]: (y, x), or three coordinates, of each node in micrometres.
    edges
        int64 [e, 2]: the two nodes i < j of each edge, in ascending order.
    """

    places_um: Places
    edges: Nodes

    def __len__(self) -> int:
        return len(self.places_um)

    @cached_property
    def length_um(self) -> NDArray[np.float64]:
        """Length of each edge: float64 [e]."""
        return _lengths(self.places_um, self.edges)

    @property
    def degree(self) -> Nodes:
        """Neighbours of each node: int64 [n]."""
        return np.bincount(self.edges.ravel(), minlength=len(self)).astype(np.int64)

    def adjacency(self, weight: Weight = "binary", *, scale_um: float | None = None) -> csr_array:
        r"""Symmetric matrix of the edges: sparse float32 [n, n], zeros on the diagonal.

        Parameters
        ----------
        weight
            ``binary`` is 1. ``gaussian`` is :math:`\exp(-l^2 / 2 s^2)` of the length l. ``length``
            is the length in micrometres, as for shortest paths: the longer the further apart. An
            edge between two nodes at one place has length 0, and is stored.
        scale_um
            s; the median length by default.
        """
        from scipy.sparse import csr_array

        i, j = self.edges.T
        values = self._weights(weight, scale_um).astype(np.float32)
        pairs = np.concatenate([i, j]), np.concatenate([j, i])
        return csr_array((np.concatenate([values, values]), pairs), shape=(len(self), len(self)))

    def _weights(self, weight: Weight, scale_um: float | None) -> NDArray[np.float64]:
        if weight == "binary" or not len(self.edges):
            return np.ones(len(self.edges))
        if weight == "length":
            return self.length_um
        scale = float(np.median(self.length_um)) if scale_um is None else scale_um
        if scale <= 0:
            raise InputError("the scale of edges is 0", remedy="Pass scale_um, above 0")
        return np.asarray(np.exp(-0.5 * (self.length_um / scale) ** 2), np.float64)

    @cached_property
    def pieces(self) -> Nodes:
        """Which piece of tissue each node is of: int64 [n]; 0 is the piece with most nodes."""
        from scipy.sparse.csgraph import connected_components

        count, piece = connected_components(self.adjacency(), directed=False)
        order = np.argsort(-np.bincount(piece, minlength=count), kind="stable")
        rank = np.empty(count, np.int64)
        rank[order] = np.arange(count)
        return np.asarray(rank[piece], np.int64)

    def without_longer(self, longest_um: float) -> TissueGraph:
        """The same nodes without edges that are longer, as those across gaps are."""
        return TissueGraph(self.places_um, self.edges[self.length_um <= longest_um])


def centres_um(bag: Bag) -> Places:
    """Where the instances of a bag lie: float64 [n, 2] or [n, 3] micrometres.

    (y, x) of each tile's middle, from the corner of the slide's image; of a scan the middle of each
    block in RAS.
    """
    if bag.scan is not None:
        return bag.scan.centre_mm * 1000
    middle = bag.coords_px + np.array(bag.footprint_px) / 2
    return np.asarray(middle * np.array(bag.slide_mpp), np.float64)


def spacing_um(places_um: ArrayLike) -> float:
    """Median distance from a node [n, 2] or [n, 3] to its nearest other; 0 of fewer than two."""
    from scipy.spatial import cKDTree

    places = _checked(places_um)
    if len(places) < 2:
        return 0.0
    distance, _ = cKDTree(places).query(places, 2)
    return float(np.median(distance[:, 1]))


def neighbour_graph(
    places_um: ArrayLike, k: int = 8, *, longest_um: float = np.inf, mutual: bool = False
) -> TissueGraph:
    """Join every node with its k nearest others.

    Two nodes are joined if either is among the other's nearest (``mutual``: if each is). Of nodes
    that are equally far, those with the smaller coordinates come first, so that the order of nodes
    decides nothing; it does where more than the count of a lattice tie (12 in a plane), or where
    nodes lie at one place. A node with fewer than k others has them all; one node has none.

    Parameters
    ----------
    places_um
        [n, 2] or [n, 3] coordinates in micrometres.
    k
        At least 1.
    longest_um
        Nodes further apart are not joined.

    Raises
    ------
    InputError
        Coordinates are not finite, or k is below 1.
    """
    places = _checked(places_um)
    if k < 1:
        raise InputError(f"{k} neighbours were asked for", remedy="Ask for at least one")
    pairs = [found for found in _nearest(places, min(k, len(places) - 1), longest_um) if len(found)]
    if not pairs:
        return TissueGraph(places, np.empty((0, 2), np.int64))
    return TissueGraph(places, _undirected(np.concatenate(pairs), len(places), mutual=mutual))


def delaunay_graph(places_um: ArrayLike, *, longest_um: float = np.inf) -> TissueGraph:
    """Join nodes by Delaunay's triangulation: where their Voronoi cells touch.

    A triangulation spans gaps and the outside of bays: ``longest_um`` cuts its long edges. Nodes on
    a line are joined in a row, nodes at one place with one of them, and blocks in a plane by the
    plane's triangulation. Of four tiles in a square, one diagonal is an edge: which one is not
    defined.

    Raises
    ------
    InputError
        Coordinates are not finite.
    """
    places = _checked(places_um)
    edges = _undirected(_triangulated(_spanned(places)), len(places))
    return TissueGraph(places, edges).without_longer(longest_um)


def grid_graph(
    places_um: ArrayLike, step_um: float | tuple[float, ...], *, diagonal: bool = True
) -> TissueGraph:
    """Join tiles that lie beside each other on their grid.

    Parameters
    ----------
    places_um
        [n, 2] or [n, 3] coordinates in micrometres.
    step_um
        From one tile to the next, the same along all axes or one for each.
    diagonal
        Whether tiles that share only a corner are joined: eight neighbours, or four.

    Raises
    ------
    InputError
        Coordinates are not finite, or tiles do not lie on such a grid, or two are at one place.
    """
    places = _checked(places_um)
    if not len(places):
        return TissueGraph(places, np.empty((0, 2), np.int64))
    steps = (places - places.min(axis=0)) / np.asarray(step_um, np.float64)
    cells = np.rint(steps).astype(np.int64)
    if np.abs(steps - cells).max() > _OFF_GRID:
        raise InputError(
            f"the tiles do not lie on a grid with a step of {step_um} µm",
            remedy="Pass the distance from one tile to the next, or join nearest neighbours",
        )
    # An empty rim around the grid, so that no row runs into the next.
    shape = cells.max(axis=0) + 3
    code = np.ravel_multi_index(tuple((cells + 1).T), tuple(shape))
    order = np.argsort(code, kind="stable")
    ranked = code[order]
    if (np.diff(ranked) == 0).any():
        raise InputError("two tiles lie at one place", remedy="Take one of them out")
    found = [_beside(ranked, order, shift) for shift in _shifts(shape, diagonal=diagonal)]
    return TissueGraph(places, _undirected(np.concatenate(found), len(places)))


def _checked(places_um: ArrayLike) -> Places:
    places = np.asarray(places_um, np.float64)
    if places.ndim != 2 or places.shape[1] not in (2, 3):
        raise InputError(
            f"coordinates have the shape {list(places.shape)}", remedy="Pass [n, 2] or [n, 3]"
        )
    if not np.isfinite(places).all():
        raise InputError("coordinates are not finite", remedy="Take these nodes out")
    return places


def _lengths(places: Places, edges: Nodes) -> NDArray[np.float64]:
    apart = places[edges[:, 0]] - places[edges[:, 1]]
    return np.asarray(np.sqrt((apart**2).sum(axis=1)), np.float64)


def _undirected(pairs: Nodes, n: int, *, mutual: bool = False) -> Nodes:
    """Each pair [p, 2] once, with i < j; ``mutual``: those that are there both ways."""
    code, times = np.unique(pairs.min(axis=1) * n + pairs.max(axis=1), return_counts=True)
    code = code[times == 2] if mutual else code
    return np.stack([code // max(1, n), code % max(1, n)], axis=1)


def _nearest(places: Places, k: int, longest_um: float) -> Iterator[Nodes]:
    """Pairs [p, 2] of a node and one of its k nearest, for some nodes at a time."""
    from scipy.spatial import cKDTree

    n, dims = places.shape
    if k < 1:
        return
    tree = cKDTree(places)
    position = np.empty(n + 1, np.int64)
    position[np.lexsort(places.T[::-1])] = np.arange(n)
    asked = min(n, k + 1 + _TIES * (dims - 1))
    # The bound is exclusive, and what is exactly as far as asked shall be in.
    bound = np.nextafter(longest_um, np.inf)
    for start in range(0, n, _ROWS):
        here = np.arange(start, min(start + _ROWS, n))
        distance, other = tree.query(places[here], asked, distance_upper_bound=bound)
        distance[other == here[:, None]] = np.inf
        first = np.lexsort((position[other], distance), axis=-1)[:, :k]
        other = np.take_along_axis(other, first, axis=1)
        there = np.isfinite(np.take_along_axis(distance, first, axis=1))
        yield np.stack([np.repeat(here, there.sum(axis=1)), other[there]], axis=1)


def _spanned(places: Places) -> Places:
    """Coordinates [n, r] in the line, plane or space that the places span; r may be 0."""
    if len(places) < 2:
        return places[:, :0]
    centred = places - places.mean(axis=0)
    _, extent, axes = np.linalg.svd(centred, full_matrices=False)
    rank = int((extent > _FLAT * extent[0]).sum()) if extent[0] > 0 else 0
    if rank == places.shape[1]:
        return np.asarray(centred, np.float64)
    return np.asarray(centred @ axes[:rank].T, np.float64)


def _triangulated(places: Places) -> Nodes:
    """Pairs [p, 2] of places [n, r] that a triangulation joins, in any order."""
    from scipy.spatial import Delaunay

    n, dims = places.shape
    if dims < 2:
        order = np.argsort(places[:, 0], kind="stable") if dims else np.arange(n)
        return np.stack([order[:-1], order[1:]], axis=1).astype(np.int64)
    found = Delaunay(places)
    corners = [found.simplices[:, list(two)] for two in combinations(range(dims + 1), 2)]
    # Of places that coincide, the triangulation has one, and says which.
    return np.concatenate([*corners, found.coplanar[:, [0, 2]]]).astype(np.int64)


def _shifts(shape: Nodes, *, diagonal: bool) -> Iterator[int]:
    """How far on the neighbours lie in a raveled grid, one of each two opposite ones."""
    strides = np.append(np.cumprod(shape[:0:-1])[::-1], 1)
    for step in product((-1, 0, 1), repeat=len(shape)):
        if step > (0,) * len(shape) and (diagonal or np.abs(step).sum() == 1):
            yield int(strides @ step)


def _beside(code: Nodes, order: Nodes, shift: int) -> Nodes:
    """Pairs [p, 2] of tiles whose codes, ascending, are so far apart."""
    place = np.minimum(np.searchsorted(code, code + shift), len(code) - 1)
    there = code[place] == code + shift
    return np.stack([order[there], order[place[there]]], axis=1)
