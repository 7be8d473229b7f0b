"""Polygons in level-0 pixels: outlines of masks, and geometry that every program accepts."""

from __future__ import annotations

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from .errors import BadGeometry

GRID_PX = 0.01
"""QuPath reduces every geometry to this grid when it imports it."""


def outline(mask: NDArray[np.bool_], pixel_px: tuple[float, float]) -> BaseGeometry:
    """The exact outline of a mask, holes included, along the edges of its pixels.

    Parameters
    ----------
    mask
        bool [h, w] over the whole of level 0.
    pixel_px
        (y, x) level-0 pixels per pixel of the mask.

    Returns
    -------
    shapely.Polygon or shapely.MultiPolygon
        In (x, y) level-0 pixels; empty where the mask is.
    """
    edges = np.diff(np.pad(mask.astype(np.int8), ((0, 0), (1, 1))), axis=1)
    rows, starts = np.nonzero(edges == 1)
    _, ends = np.nonzero(edges == -1)
    runs = shapely.box(starts, rows, ends, rows + 1)
    united = shapely.union_all(runs)
    scale = np.array([pixel_px[1], pixel_px[0]])
    return shapely.transform(united, lambda xy: xy * scale)


def fit(geometry: BaseGeometry, box_px: tuple[int, int, int, int]) -> shapely.MultiPolygon:
    """Make a polygon valid, clip it to a box, move the box to the origin, round to the grid.

    Crossing rings and overlapping parts are united, as ``make_valid``'s *structure* method does:
    a doubly covered place stays covered, a hole outside its shell goes.

    Parameters
    ----------
    geometry
        Polygon or MultiPolygon in (x, y).
    box_px
        (y, x, height, width).

    Returns
    -------
    shapely.MultiPolygon
        Valid and in normal form: equal areas give equal coordinates. Empty where nothing is left.

    Raises
    ------
    BadGeometry
        No polygon, or coordinates that are not finite.
    """
    if geometry.geom_type not in ("Polygon", "MultiPolygon"):
        raise BadGeometry(f"a region must be a polygon, not a {geometry.geom_type}")
    if not np.isfinite(shapely.get_coordinates(geometry)).all():
        raise BadGeometry("a region has coordinates that are not finite")
    y, x, height, width = box_px
    valid = shapely.make_valid(geometry, method="structure", keep_collapsed=False)
    inside = shapely.intersection(valid, shapely.box(x, y, x + width, y + height))
    moved = shapely.transform(_areas(inside), lambda xy: xy - np.array([x, y]))
    return shapely.normalize(_areas(on_grid(moved)))


def _areas(geometry: BaseGeometry) -> shapely.MultiPolygon:
    """The polygons among the parts; lines and points, where edges only touched, go."""
    parts = shapely.get_parts(geometry)
    return shapely.MultiPolygon([part for part in parts if part.geom_type == "Polygon"])


def on_grid(geometry: BaseGeometry) -> BaseGeometry:
    """Round a valid geometry to QuPath's grid; it stays valid, and may lose parts."""
    # GEOS divides by zero, harmlessly, where an edge vanishes.
    with np.errstate(divide="ignore", invalid="ignore"):
        return shapely.set_precision(geometry, GRID_PX)
