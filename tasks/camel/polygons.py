"""A probability map as polygons with holes, and as tiles, for QuPath; block by block."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from ...storage.errors import BadGeometry
from ...storage.maps import MapFrame, StoredMap, at_least
from ...storage.polygons import outline, repaired
from ...storage.qupath import (
    Annotation,
    Export,
    Frame,
    PathClass,
    Tiles,
    write_annotations,
    write_tiles,
)

AREA = "Area mm^2"
"""QuPath's own way to write a unit in a measurement's name."""

COLOUR = (200, 0, 0)
BLOCK_PX = 2048


@dataclass(frozen=True)
class PolygonOptions:
    """How a map becomes polygons.

    Attributes
    ----------
    threshold
        Least probability of what lies inside.
    min_area_um2
        Smaller pieces are left out, smaller holes are filled.
    simplify_um
        An outline may leave the edges of the map's pixels by so much, to have fewer corners; None
        is 0.75 pixels of the map, which takes most steps out of slanted edges. 0 keeps all.
    """

    threshold: float = 0.5
    min_area_um2: float = 1000.0
    simplify_um: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1 or self.min_area_um2 < 0 or (self.simplify_um or 0) < 0:
            raise BadGeometry(
                f"a threshold of {self.threshold:g}, areas from {self.min_area_um2:g} µm² and a "
                f"tolerance of {self.simplify_um} µm make no polygons",
                remedy="Take a threshold over 0 and up to 1, and sizes that are not negative",
            )


def polygonise(
    stored: StoredMap, options: PolygonOptions, *, block_px: int = BLOCK_PX
) -> list[shapely.Polygon]:
    """Outlines of where a map is not below a threshold, holes included, and their areas kept.

    Each block is outlined along the edges of its pixels (:func:`~...storage.polygons.outline`);
    what reaches a seam is put together when its row of blocks is done. Outlines run along whole
    pixels, so that the parts fit exactly. What the next row cannot touch is simplified at once:
    memory follows a row of blocks and what reaches out of it, not the slide.

    Returns
    -------
    list of shapely.Polygon
        Valid, in (x, y) level-0 pixels, from the top down.
    """
    finished: list[shapely.Polygon] = []
    pending: list[BaseGeometry] = []
    for _, row in groupby(stored.blocks(block_px), key=lambda block: block[0].start):
        for rows, columns in row:
            mask = at_least(stored.codes(rows, columns), options.threshold)
            if not mask.any():
                continue
            found = shapely.get_parts(outline(mask, (1.0, 1.0)))
            placed = _scaled(found, (1.0, 1.0), (rows.start, columns.start))
            at_seam = _at_seam(placed, (rows, columns), stored.frame.shape)
            finished += _finished(placed[~at_seam], options, stored.frame)
            pending += list(placed[at_seam])
        joined = np.asarray(shapely.get_parts(shapely.unary_union(pending)))
        goes_on = shapely.bounds(joined)[:, 3] == rows.stop
        goes_on &= rows.stop < stored.frame.shape[0]
        finished += _finished(joined[~goes_on], options, stored.frame)
        pending = list(joined[goes_on])
    in_order = np.array(sorted(finished, key=_top_left), object)
    return [*_scaled(in_order, stored.frame.pixel_px, stored.frame.origin_px)]


def _finished(
    pieces: NDArray[Any], options: PolygonOptions, frame: MapFrame
) -> list[shapely.Polygon]:
    """Whole pieces, those that are large enough, with fewer corners and no small holes."""
    least_px = options.min_area_um2 / frame.pixel_um2
    kept = pieces[shapely.area(pieces) >= least_px - 1e-9]
    tolerance = _tolerance_px(options, frame)
    return [
        part
        for piece in kept
        for part in _simplified(_without_small_holes(piece, least_px), tolerance)
    ]


def _at_seam(
    pieces: NDArray[Any], block: tuple[slice, slice], shape: tuple[int, int]
) -> NDArray[np.bool_]:
    """Which pieces touch a side of their block that is no side of the map: bool [n]."""
    left, top, right, bottom = shapely.bounds(pieces).T
    (rows, columns), (height, width) = block, shape
    touches = (left == columns.start) & (columns.start > 0)
    touches |= (top == rows.start) & (rows.start > 0)
    touches |= (right == columns.stop) & (columns.stop < width)
    touches |= (bottom == rows.stop) & (rows.stop < height)
    return np.asarray(touches)


def _without_small_holes(piece: Any, least_px: float) -> BaseGeometry:
    holes = [ring for ring in piece.interiors if shapely.Polygon(ring).area >= least_px - 1e-9]
    return shapely.Polygon(piece.exterior, holes)


def _tolerance_px(options: PolygonOptions, frame: MapFrame) -> float:
    if options.simplify_um is None:
        return 0.75
    return options.simplify_um / frame.pixel_um


def _simplified(piece: BaseGeometry, tolerance_px: float) -> Iterator[shapely.Polygon]:
    """Fewer corners, still valid; corners on one line always go."""
    simple = shapely.simplify(piece, tolerance_px, preserve_topology=True)
    yield from (part for part in repaired(simple).geoms if part.area > 0)


def _top_left(piece: BaseGeometry) -> tuple[float, float]:
    left, top, _, _ = piece.bounds
    return top, left


def _scaled(
    pieces: NDArray[Any], scale: tuple[float, float], origin: tuple[float, float]
) -> NDArray[Any]:
    """Geometries [n] in (x, y), enlarged and moved by (y, x)."""
    factor, offset = np.array(scale[::-1]), np.array(origin[::-1])
    moved: NDArray[Any] = shapely.transform(pieces, lambda xy: xy * factor + offset)
    return moved


def as_annotations(pieces: list[shapely.Polygon], frame: MapFrame, name: str) -> list[Annotation]:
    """Polygons as annotations of a class, with their areas in mm²."""
    path_class = PathClass(name, COLOUR)
    mm2 = frame.mpp[0] * frame.mpp[1] / 1e6
    return [Annotation(piece, path_class, "", {AREA: piece.area * mm2}) for piece in pieces]


def export_polygons(
    stored: StoredMap,
    path: Path,
    options: PolygonOptions,
    *,
    slide: str,
    crop: bool = True,
) -> Export:
    """Write a map's polygons as annotations that QuPath opens.

    Parameters
    ----------
    path
        Ends in ``.geojson.gz`` or ``.geojson``.
    slide
        Identity of the slide.
    crop
        False for slides that were imported into QuPath with ``--no-crop``.

    Raises
    ------
    UnwritableOutput
        The file system refuses, or QuPath would not read a file of this name.
    """
    name = str(stored.about["classes"][1])
    return write_annotations(
        path,
        as_annotations(polygonise(stored, options), stored.frame, name),
        shown_frame(stored.frame, crop=crop),
        slide=slide,
        kind="camel polygons",
        about={
            "map": stored.commit.key,
            "threshold": options.threshold,
            "min_area_um2": options.min_area_um2,
            "simplify_um": _tolerance_px(options, stored.frame) * stored.frame.pixel_um,
        },
    )


def shown_frame(frame: MapFrame, *, crop: bool = True) -> Frame:
    """The slide as QuPath shows it."""
    return Frame(frame.slide_px, frame.bounds_px, crop)


def mean_tiles(stored: StoredMap, tile_px: int) -> Tiles:
    """Mean probability of each square of a map, of the pixels that were looked at.

    Parameters
    ----------
    tile_px
        Side of a square in pixels of the map.

    Returns
    -------
    Tiles
        Those of which at least half was looked at; corners rounded to level-0 pixels.
    """
    frame = stored.frame
    side = tile_px * max(1, BLOCK_PX // tile_px)
    corners, means = [], []
    for rows, columns in stored.blocks(side):
        values = stored.read(rows, columns)
        padded = np.pad(values, [(0, -n % tile_px) for n in values.shape], constant_values=np.nan)
        down, across = (n // tile_px for n in padded.shape)
        squares = padded.reshape(down, tile_px, across, tile_px)
        known = np.isfinite(squares).sum(axis=(1, 3))
        total = np.asarray(np.nansum(squares, axis=(1, 3), dtype=np.float64))
        y, x = np.nonzero(np.asarray(2 * known >= tile_px**2))
        corners.append(np.stack([y * tile_px + rows.start, x * tile_px + columns.start], axis=1))
        means.append((total[y, x] / known[y, x]).astype(np.float32))
    places = np.concatenate(corners) * np.asarray(frame.pixel_px) + np.asarray(frame.origin_px)
    footprint = (tile_px * frame.pixel_px[0], tile_px * frame.pixel_px[1])
    return Tiles(
        np.rint(places).astype(np.int64),
        footprint,
        {f"probability of {stored.about['classes'][1]}": np.concatenate(means)},
    )


def export_tiles(
    stored: StoredMap, path: Path, *, slide: str, tile_um: float = 64.0, crop: bool = True
) -> Export:
    """Write a map as tiles with their mean probability, for QuPath's measurement maps.

    Parameters
    ----------
    path
        Ends in ``.geojson.gz`` or ``.geojson``.
    tile_um
        Side of a tile in micrometres; rounded to whole pixels of the map.

    Raises
    ------
    UnwritableOutput
        The file system refuses, or QuPath would not read a file of this name.
    """
    tile_px = max(1, math.floor(tile_um / stored.frame.pixel_um + 0.5))
    return write_tiles(
        path,
        mean_tiles(stored, tile_px),
        shown_frame(stored.frame, crop=crop),
        slide=slide,
        kind="camel probability",
        about={"map": stored.commit.key},
    )
