"""Polygons in level-0 pixels: outlines of masks, and geometry that every program accepts."""

from __future__ import annotations

from typing import Any

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
    # Sides of pixels where the mask ends, joined to the lines that they lie on: two or four lines
    # meet in a corner, so that the faces between them are the pieces, and the holes in these.
    y, left, right = _sides(mask)
    x, top, bottom = _sides(mask.T)
    across = np.stack([np.stack([left, y], 1), np.stack([right, y], 1)], 1)
    down = np.stack([np.stack([x, top], 1), np.stack([x, bottom], 1)], 1)
    ends = np.concatenate([across, down]).astype(np.float64)
    lines = np.asarray(shapely.linestrings(ends))
    faces = shapely.get_parts(shapely.polygonize(lines))
    pieces = faces[mask[_first_pixels(faces)]]
    scale = np.array([pixel_px[1], pixel_px[0]])
    scaled = shapely.transform(pieces, lambda xy: xy * scale)
    return scaled[0] if len(scaled) == 1 else shapely.MultiPolygon(list(scaled))


def _sides(
    mask: NDArray[np.bool_],
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    """(row, first column, column after the last) of the lines above rows where a mask ends."""
    step = np.diff(np.pad(mask.astype(np.int8), 1), axis=0)
    # Mask above a line turns to mask below it where pieces touch in a corner: it is cut there.
    turns = step[:, 1:] != step[:, :-1]
    rows, starts = np.nonzero(turns & (step[:, 1:] != 0))
    _, ends = np.nonzero(turns & (step[:, :-1] != 0))
    return rows, starts, ends


def _first_pixels(faces: NDArray[Any]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """(rows, columns): the topmost pixel of each face, of these the leftmost."""
    corners, face = shapely.get_coordinates(shapely.get_exterior_ring(faces), return_index=True)
    order = np.lexsort((corners[:, 0], corners[:, 1], face))
    _, first = np.unique(face[order], return_index=True)
    x, y = corners[order[first]].astype(np.intp).T
    return y, x


def rasterise(
    geometry: BaseGeometry, shape: tuple[int, int], pixel_px: tuple[float, float]
) -> NDArray[np.bool_]:
    """Pixels whose centre lies in a polygon: what :func:`outline` is undone by, bit for bit.

    Parameters
    ----------
    shape
        (height, width) of the mask, which covers the whole of level 0.
    geometry, pixel_px
        See :func:`fill`.

    Returns
    -------
    bool [height, width]
    """
    mask = np.zeros(shape, np.bool_)
    fill(mask, geometry, pixel_px, True)
    return mask


def fill(
    image: NDArray[Any], geometry: BaseGeometry, pixel_px: tuple[float, float], value: int
) -> None:
    """Give a value to the pixels whose centre lies in a polygon; takes time by its size alone.

    Along each row of centres the edges of all rings are crossed from left to right; inside is
    where their number is odd. A centre on an edge belongs to the polygon on its right, or below:
    of two polygons that share an edge, to exactly one.

    Parameters
    ----------
    image
        [h, w], written into; it covers the whole of level 0.
    geometry
        A valid Polygon or MultiPolygon in (x, y) level-0 pixels; it may leave the image.
    pixel_px
        (y, x) level-0 pixels per pixel of the image.
    """
    height, width = image.shape
    start, stop = _edges(geometry, pixel_px)
    # The row of centres number r lies at r + 0.5.
    first = np.clip(np.ceil(start[:, 1] - 0.5), 0, height).astype(np.int64)
    count = np.clip(np.ceil(stop[:, 1] - 0.5), 0, height).astype(np.int64) - first
    edge = np.repeat(np.arange(len(count)), count)
    if not len(edge):
        return
    row = np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count) + first[edge]
    run, rise = (stop - start)[edge].T
    x = start[edge, 0] + (row + 0.5 - start[edge, 1]) / rise * run
    column = np.clip(np.ceil(x - 0.5), 0, width).astype(np.int64)
    top, left, bottom, right = row.min(), column.min(), row.max() + 1, column.max() + 1
    shape = (bottom - top, right - left)
    places = (row - top) * shape[1] + column - left
    crossings = np.bincount(places, minlength=shape[0] * shape[1]).reshape(shape)
    inside = np.cumsum(crossings, axis=1) % 2 == 1
    # To the right of the last crossing nothing is inside.
    image[top:bottom, left : right - 1][inside[:, :-1]] = value


def _edges(
    geometry: BaseGeometry, pixel_px: tuple[float, float]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(x, y) of both ends of every edge, in pixels of the mask, the upper end first."""
    rings = shapely.get_rings(shapely.get_parts(geometry))
    points, ring = shapely.get_coordinates(rings, return_index=True)
    points = points / np.array([pixel_px[1], pixel_px[0]])
    same_ring = ring[1:] == ring[:-1]
    ends = np.stack([points[:-1][same_ring], points[1:][same_ring]])
    # An edge that two polygons share is crossed at the very same place in both.
    falls = ends[0, :, 1] > ends[1, :, 1]
    ends[:, falls] = ends[::-1, falls]
    return ends[0], ends[1]


def fit(geometry: BaseGeometry, box_px: tuple[int, int, int, int]) -> shapely.MultiPolygon:
    """Make a polygon valid, clip it to a box, move the box to the origin, round to the grid.

    Parameters
    ----------
    geometry
        Polygon or MultiPolygon in (x, y), made valid as by :func:`repaired`.
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
    box = shapely.box(x, y, x + width, y + height)
    inside = shapely.intersection(repaired(geometry), box)
    moved = shapely.transform(_areas(inside), lambda xy: xy - np.array([x, y]))
    return shapely.normalize(_areas(on_grid(moved)))


def repaired(geometry: BaseGeometry) -> shapely.MultiPolygon:
    """Make a Polygon or MultiPolygon valid, as ``make_valid``'s *structure* method does.

    Crossing rings and overlapping parts are united: a doubly covered place stays covered, a hole
    outside its shell goes.
    """
    if not geometry.is_valid:
        geometry = shapely.make_valid(geometry, method="structure", keep_collapsed=False)
    return _areas(geometry)


def _areas(geometry: BaseGeometry) -> shapely.MultiPolygon:
    """The polygons among the parts; lines and points, where edges only touched, go."""
    parts = shapely.get_parts(geometry)
    return shapely.MultiPolygon([part for part in parts if part.geom_type == "Polygon"])


def on_grid(geometry: BaseGeometry) -> BaseGeometry:
    """Round a valid geometry to QuPath's grid; it stays valid, and may lose parts."""
    # GEOS divides by zero, harmlessly, where an edge vanishes.
    with np.errstate(divide="ignore", invalid="ignore"):
        return shapely.set_precision(geometry, GRID_PX)
