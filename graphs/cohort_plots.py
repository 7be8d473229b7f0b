"""Pictures of a cohort: a matrix by network, a circle, a glass brain, hubs, curves over densities.

Each function returns a Matplotlib figure; :func:`png_of` makes a file of it.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .matrices import Array
from .plots import strongest_edges

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def png_of(figure: Figure) -> bytes:
    """A figure as a PNG file; the same every time."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def matrix_figure(weights: Array, networks: Sequence[str], label: str) -> Figure:
    """Weights [r, r] with regions ordered by network, networks parted by lines and named."""
    from matplotlib.figure import Figure

    order, names, ends = _ordered(networks)
    figure = Figure(figsize=(6.4, 5.4), layout="constrained", dpi=120)
    axis = figure.subplots()
    size = float(np.abs(weights).max()) or 1.0
    signed = bool((weights < 0).any())
    image = axis.imshow(
        weights[np.ix_(order, order)],
        cmap="RdBu_r" if signed else "YlOrRd",
        vmin=-size if signed else 0.0,
        vmax=size,
        interpolation="nearest",
    )
    for end in ends[:-1] - 0.5:
        axis.axhline(end, color="k", lw=0.5)
        axis.axvline(end, color="k", lw=0.5)
    middle = (ends + np.concatenate([[0], ends[:-1]])) / 2 - 0.5
    axis.set_yticks(middle, names, fontsize=8)
    axis.set_xticks(middle, names, fontsize=8, rotation=90)
    figure.colorbar(image, ax=axis, shrink=0.8, label=label)
    return figure


def circle_figure(
    weights: Array, regions: Sequence[str], networks: Sequence[str], *, max_edges: int = 150
) -> Figure:
    """Regions on a circle, network by network, joined by the strongest edges."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure
    from matplotlib.patches import PathPatch, Wedge
    from matplotlib.path import Path as Outline

    order, names, ends = _ordered(networks)
    n = len(order)
    angle = np.empty(n)
    angle[order] = np.pi / 2 - 2 * np.pi * (np.arange(n) + 0.5) / n
    at = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    figure = Figure(figsize=(7.2, 7.2), layout="constrained", dpi=120)
    axis = figure.subplots()
    edges = strongest_edges(weights, max_edges)
    size = float(np.abs(weights).max()) or 1.0
    for i, j in edges:
        weight = weights[i, j] / size
        curve = Outline([at[i], (0, 0), at[j]], [Outline.MOVETO, Outline.CURVE3, Outline.CURVE3])
        colour = colormaps["RdBu_r"](0.5 + weight / 2)
        axis.add_patch(PathPatch(curve, fc="none", ec=colour, lw=0.4 + abs(weight), alpha=0.7))
    starts = np.concatenate([[0], ends[:-1]])
    for number, (name, first, last) in enumerate(zip(names, starts, ends, strict=True)):
        span = 90 - 360 * last / n, 90 - 360 * first / n
        axis.add_patch(Wedge((0, 0), 1.08, *span, width=0.05, fc=colormaps["tab20"](number % 20)))
        middle = np.deg2rad(sum(span) / 2)
        axis.text(
            1.32 * np.cos(middle), 1.32 * np.sin(middle), name, ha="center", va="center", fontsize=9
        )
    if n <= 120:
        for region, place in enumerate(angle):
            turned = np.rad2deg(place)
            left = np.cos(place) < 0
            axis.text(
                1.1 * at[region, 0],
                1.1 * at[region, 1],
                regions[region],
                rotation=turned + 180 if left else turned,
                rotation_mode="anchor",
                ha="right" if left else "left",
                va="center",
                fontsize=4.5,
            )
    axis.set(xlim=(-1.5, 1.5), ylim=(-1.5, 1.5), aspect="equal")
    axis.set_axis_off()
    return figure


def glass_brain_figure(
    weights: Array, centroids_mm: Array, colours: NDArray[np.int64], *, max_edges: int = 150
) -> Figure:
    """The strongest edges in a glass brain seen from four sides; nilearn."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure
    from nilearn import plotting

    kept = _only(weights, strongest_edges(weights, max_edges))
    strength = np.abs(weights).sum(axis=0)
    figure = Figure(figsize=(11, 3.2), dpi=120)
    plotting.plot_connectome(
        kept,
        centroids_mm,
        node_color=[colormaps["tab20"](int(c) % 20) for c in colours],
        node_size=8 + 50 * strength / (strength.max() or 1.0),
        display_mode="lyrz",
        figure=figure,
        edge_kwargs={"linewidth": 1.0},
        colorbar=True,
    )
    return figure


def hub_figure(
    values: Array, regions: Sequence[str], label: str, centroids_mm: Array | None, *, n: int = 15
) -> Figure:
    """The n regions of the largest values as bars, and all of them in a glass brain."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11 if centroids_mm is not None else 5, 3.8), dpi=120)
    width = 0.3 if centroids_mm is not None else 0.6
    axis = figure.add_axes((0.95 - width, 0.14, width, 0.82))
    first = np.argsort(-values, kind="stable")[:n][::-1]
    axis.barh([regions[i] for i in first], values[first], color="0.45")
    axis.tick_params(labelsize=7)
    axis.set_xlabel(label, fontsize=8)
    if centroids_mm is not None:
        from nilearn import plotting

        plotting.plot_markers(
            values,
            centroids_mm,
            node_size=15 + 90 * values / (values.max() or 1.0),
            node_cmap="YlOrRd",
            display_mode="xz",
            figure=figure,
            axes=(0.0, 0.05, 0.5, 0.9),
            colorbar=True,
        )
    return figure


def curves_figure(densities: Sequence[float], curves: Mapping[str, Mapping[str, Array]]) -> Figure:
    """Mean and standard deviation of measures over densities: {measure: {group: [s, d]}}."""
    from matplotlib.figure import Figure

    n = len(curves)
    rows = -(-n // 3)
    figure = Figure(figsize=(10.5, 2.8 * rows), layout="constrained", dpi=120)
    axes = figure.subplots(rows, 3, squeeze=False).ravel()
    for axis, (measure, groups) in zip(axes, curves.items(), strict=False):
        for group, values in groups.items():
            mean, deviation = values.mean(axis=0), values.std(axis=0)
            (line,) = axis.plot(densities, mean, marker=".", label=f"{group} ({len(values)})")
            low, high = mean - deviation, mean + deviation
            axis.fill_between(densities, low, high, alpha=0.2, color=line.get_color(), lw=0)
        axis.set_title(measure.replace("_", " "), fontsize=9)
        axis.set_xlabel("density", fontsize=8)
        axis.tick_params(labelsize=7)
    for axis in axes[n:]:
        axis.set_axis_off()
    axes[0].legend(fontsize=7)
    return figure


def interactive_view(weights: Array, centroids_mm: Array, *, max_edges: int = 300) -> str:
    """The strongest edges in a brain that can be turned: an HTML page of its own; nilearn."""
    import re

    from nilearn import plotting

    kept = _only(weights, strongest_edges(weights, max_edges))
    view = plotting.view_connectome(kept, centroids_mm, edge_threshold=None, node_size=5)
    # Its icon is the only thing that it would ask of a network.
    return re.sub(r"<link[^>]*favicon[^>]*>", "", str(view.html))


def _ordered(networks: Sequence[str]) -> tuple[NDArray[np.int64], list[str], NDArray[np.int64]]:
    """Regions network by network, in the order in which networks occur; names; where each ends."""
    names = list(dict.fromkeys(networks))
    number = np.array([names.index(name) for name in networks])
    order = np.argsort(number, kind="stable")
    return order, names, np.cumsum(np.bincount(number, minlength=len(names)))


def _only(weights: Array, edges: NDArray[np.int64]) -> Array:
    kept = np.zeros_like(weights)
    i, j = edges.T
    kept[i, j] = kept[j, i] = weights[i, j]
    return kept
