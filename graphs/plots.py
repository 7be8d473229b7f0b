"""Pictures of a connectome: seen from three sides, and as a matrix ordered by module."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..storage.commit import writable, write_bytes
from ..storage.connectomes import Connectome
from .communities import louvain
from .matrices import Array, without_diagonal

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_VIEWS = (("from above", 0, 1), ("from behind", 0, 2), ("from the right", 1, 2))
_OUTLINE_MM = 9.0
_ROUND_MM = 25.0


def plot_connectome(
    connectome: Connectome,
    path: Path,
    *,
    modules: ArrayLike | None = None,
    max_edges: int = 150,
    title: str = "",
) -> Path:
    """Draw a connectome into a PNG file.

    Where centroids are known: regions seen from above, from behind and from the right (left is
    left), coloured by module and sized by strength, joined by the strongest edges. Beside it the
    matrix, regions ordered by module.

    Parameters
    ----------
    modules
        [r]; found with Louvain's method in the positive weights when not given.
    max_edges
        How many of the strongest edges (by absolute weight) are drawn.

    Returns
    -------
    pathlib.Path
        ``path``.
    """
    from matplotlib.figure import Figure

    weights = without_diagonal(connectome.adjacency)
    groups = louvain(np.maximum(weights, 0.0)) if modules is None else np.asarray(modules)
    _, number = np.unique(groups, return_inverse=True)
    centroids = connectome.centroids_mm
    widths = [] if centroids is None else [np.ptp(centroids[:, axis]) + 30 for _, axis, _ in _VIEWS]
    inches = [width / 55 for width in widths]
    figure = Figure(figsize=(sum(inches) + 4.6, 4.2), layout="constrained", dpi=120)
    axes = figure.subplots(1, len(widths) + 1, width_ratios=[*inches, 4.6], squeeze=False)[0]
    colours = _Colours.of(weights)
    if centroids is not None:
        for axis, (name, across, up) in zip(axes, _VIEWS, strict=False):
            places = centroids[:, [across, up]]
            _draw_view(axis, places, weights, number, n_edges=max_edges, colours=colours)
            axis.set_title(name, fontsize=9)
    _draw_matrix(axes[-1], weights, number, label=connectome.measure, colours=colours)
    figure.suptitle(title or f"{connectome.subject}  {connectome.modality} {connectome.measure}")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    with writable(path):
        write_bytes(path, buffer.getvalue())
    return path


def strongest_edges(weights: ArrayLike, n: int) -> NDArray[np.int64]:
    """Pairs i < j of the n largest absolute weights that are not 0, weakest first: int64 [n, 2]."""
    array = np.abs(np.asarray(weights, np.float64))
    rows, columns = np.triu_indices(len(array), 1)
    size = array[rows, columns]
    order = np.argsort(size, kind="stable")[max(0, len(size) - n) :]
    order = order[size[order] > 0]
    return np.stack([rows[order], columns[order]], axis=1).astype(np.int64)


@dataclass(frozen=True)
class _Colours:
    name: str
    low: float
    high: float

    @classmethod
    def of(cls, weights: Array) -> _Colours:
        """Diverging around 0 where there are negative weights, else from 0 on."""
        limit = float(np.abs(weights).max()) or 1.0
        return cls("RdBu_r", -limit, limit) if (weights < 0).any() else cls("YlOrRd", 0.0, limit)


def _draw_view(
    axis: Axes,
    positions: Array,
    weights: Array,
    number: NDArray[np.int64],
    *,
    n_edges: int,
    colours: _Colours,
) -> None:
    from matplotlib.collections import LineCollection

    _draw_outline(axis, positions)
    edges = strongest_edges(weights, n_edges)
    if len(edges):
        lines = LineCollection(
            list(positions[edges]),
            array=weights[edges[:, 0], edges[:, 1]],
            cmap=colours.name,
            clim=(colours.low, colours.high),
            linewidths=0.9,
            alpha=0.7,
        )
        axis.add_collection(lines)
    strength = np.abs(weights).sum(axis=0)
    size = 8 + 60 * strength / (strength.max() or 1.0)
    across, up = positions.T
    axis.scatter(across, up, size, number % 10, cmap="tab10", vmin=0, vmax=9, lw=0, zorder=3)
    axis.set_aspect("equal")
    axis.set_axis_off()


def _draw_outline(axis: Axes, positions: Array) -> None:
    """The rounded hull of the regions: like a brain's, where they cover one."""
    from shapely import MultiPoint

    hull: Any = MultiPoint(positions).convex_hull.buffer(_OUTLINE_MM + _ROUND_MM)
    hull = hull.buffer(-_ROUND_MM)
    axis.fill(*np.asarray(hull.exterior.coords).T, fc="0.96", ec="0.6", lw=1.0, zorder=0)


def _draw_matrix(
    axis: Axes, weights: Array, number: NDArray[np.int64], *, label: str, colours: _Colours
) -> None:
    order = np.argsort(number, kind="stable")
    image = axis.imshow(
        weights[np.ix_(order, order)],
        cmap=colours.name,
        vmin=colours.low,
        vmax=colours.high,
        interpolation="nearest",
    )
    for edge in np.flatnonzero(np.diff(number[order])) + 0.5:
        axis.axhline(edge, color="k", lw=0.4)
        axis.axvline(edge, color="k", lw=0.4)
    axis.set(xticks=[], yticks=[])
    axis.set_xlabel(f"{len(order)} regions in {len(np.unique(number))} modules", fontsize=9)
    assert axis.figure is not None
    axis.figure.colorbar(image, ax=axis, shrink=0.8, label=label)
