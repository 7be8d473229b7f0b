"""What is known of a synthetic slide: its tumour, as GeoJSON and as a share of each tile."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ...storage.errors import BadProduct, MissingFile

Outline = NDArray[np.float64]

_SAMPLES = 16


class Tiles(Protocol):
    """Where tiles lie: a grid, a bag, a prediction."""

    @property
    def coords_px(self) -> NDArray[np.int64]:
        """[n, 2]: (y, x) of the top left corners in level-0 pixels of the whole image."""
        ...

    @property
    def footprint_px(self) -> tuple[float, float]:
        """(y, x) extent of a tile in level-0 pixels."""
        ...


def outlines_geojson(outlines: Sequence[Outline]) -> str:
    """GeoJSON FeatureCollection of polygons, (x, y) in level-0 pixels, rings closed."""
    features = [
        {
            "type": "Feature",
            "id": f"tumour-{index}",
            "geometry": {"type": "Polygon", "coordinates": [_ring(outline)]},
            "properties": {
                "objectType": "annotation",
                "name": f"tumour {index}",
                "classification": {"name": "Tumor", "color": [200, 0, 0]},
            },
        }
        for index, outline in enumerate(outlines, start=1)
    ]
    return json.dumps({"type": "FeatureCollection", "features": features})


def _ring(outline: Outline) -> list[list[float]]:
    ring = np.round(outline[:, ::-1], 2).tolist()
    return [*ring, ring[0]]


def read_outlines(path: Path) -> tuple[Outline, ...]:
    """Read the outlines of a truth file: float64 [n, 2] each, (y, x) in level-0 pixels.

    Raises
    ------
    MissingFile, BadProduct
        Nothing is there; or it holds no polygons.
    """
    try:
        collection: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return tuple(
            np.array(feature["geometry"]["coordinates"][0], np.float64)[:-1, ::-1]
            for feature in collection["features"]
        )
    except FileNotFoundError as error:
        raise MissingFile("no such truth file", where=path) from error
    except (json.JSONDecodeError, KeyError, IndexError, TypeError) as error:
        raise BadProduct(f"not a collection of polygons ({error})", where=path) from error


def tumour_fraction(tiles: Tiles, outlines: Sequence[Outline]) -> NDArray[np.float32]:
    """Share of each tile that lies inside the outlines.

    Each tile is sampled at the centres of 16 × 16 equal squares.

    Parameters
    ----------
    outlines
        Simple polygons, [m, 2] each, (y, x) in level-0 pixels.

    Returns
    -------
    float32 [n]
        0 … 1, in the order of ``tiles.coords_px``.
    """
    import shapely

    offset = (np.arange(_SAMPLES) + 0.5) / _SAMPLES
    y = offset[:, None] * tiles.footprint_px[0] + np.zeros(_SAMPLES)
    x = offset[None, :] * tiles.footprint_px[1] + np.zeros(_SAMPLES)[:, None]
    shape = shapely.unary_union([shapely.Polygon(outline[:, ::-1]) for outline in outlines])
    fraction = np.zeros(len(tiles.coords_px), np.float32)
    if shape.is_empty:
        return fraction
    shapely.prepare(shape)
    top, left = tiles.coords_px[:, 0], tiles.coords_px[:, 1]
    boxes = shapely.box(left, top, left + tiles.footprint_px[1], top + tiles.footprint_px[0])
    fraction[shapely.contains(shape, boxes)] = 1
    cut = shapely.intersects(shape, boxes) & (fraction == 0)
    for index in np.flatnonzero(cut):
        inside = shapely.contains_xy(shape, left[index] + x, top[index] + y)
        fraction[index] = inside.mean()
    return fraction
