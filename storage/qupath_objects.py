"""What QuPath shows of a slide: classes, tiles, annotations, cells; and in which frame."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from .errors import LabelError

OBJECT_TYPES = ("annotation", "detection", "tile", "cell", "tmaCore")
"""What QuPath takes an object for."""


@dataclass(frozen=True)
class PathClass:
    """QuPath's classification: a name and a colour, which QuPath keeps to one per name.

    Attributes
    ----------
    name
        Not blank, one line. A colon makes QuPath derive a class from what stands before it.
    color
        (red, green, blue), 0 … 255. A class that the user's project already has keeps its own.
        None leaves it to QuPath.
    """

    name: str
    color: tuple[int, int, int] | None

    def __post_init__(self) -> None:
        if not self.name.strip() or "\n" in self.name:
            raise LabelError(
                f"{self.name!r} cannot name a class in QuPath",
                remedy="Use a name of one line that is not blank",
            )
        if self.color is None:
            return
        if len(self.color) != 3 or not all(0 <= c <= 255 for c in self.color):
            raise ValueError(f"class {self.name}: {self.color} is no RGB colour of 0 … 255")

    def as_json(self) -> dict[str, Any] | str:
        """The ``classification`` member of a feature."""
        # QuPath refuses a whole file for an object that has a name and no colour; a mere name not.
        if self.color is None:
            return self.name
        return {"name": self.name, "color": [int(c) for c in self.color]}


@dataclass(frozen=True)
class Frame:
    """Which image the coordinates of a file are for.

    Attributes
    ----------
    slide_px
        (height, width) of level 0.
    bounds_px
        (y, x, height, width) of the scanned area where the slide states one.
    crop
        True: the image as QuPath shows it, its origin at the bounds. False: the whole of level 0,
        for slides that were imported into QuPath with ``--no-crop``.
    """

    slide_px: tuple[int, int]
    bounds_px: tuple[int, int, int, int] | None = None
    crop: bool = True

    @property
    def box_px(self) -> tuple[int, int, int, int]:
        """(y, x, height, width) of the shown image within level 0."""
        if self.crop and self.bounds_px is not None:
            return self.bounds_px
        return (0, 0, *self.slide_px)

    def as_json(self) -> dict[str, Any]:
        """What the file says of its coordinates; QuPath ignores it, a reader need not guess."""
        y, x, height, width = self.box_px
        return {
            "coordinates": "level-0 pixels, x right, y down",
            "origin": "bounds" if self.crop and self.bounds_px is not None else "slide",
            "origin_px": {"x": x, "y": y},
            "size_px": {"width": width, "height": height},
            "slide_px": {"width": self.slide_px[1], "height": self.slide_px[0]},
        }


@dataclass(frozen=True)
class Tiles:
    """Tiles of one slide and what was measured of them.

    Attributes
    ----------
    coords_px
        int64 [n, 2]: (y, x) of the top left corners, in level-0 pixels of the whole image.
    footprint_px
        (y, x) extent of a tile in level-0 pixels.
    measurements
        [n] columns by name. A value that is not finite is left out of its tile, which QuPath then
        does not paint. QuPath keeps 32-bit floats of a tile.
    classes
        The classes that ``class_index`` numbers.
    class_index
        int [n], -1 for a tile without a class; None where no tile has one.
    """

    coords_px: NDArray[np.int64]
    footprint_px: tuple[float, float]
    measurements: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    classes: tuple[PathClass, ...] = ()
    class_index: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        n = len(self.coords_px)
        columns = [*self.measurements.values()]
        if self.class_index is not None:
            columns.append(self.class_index)
        if self.coords_px.shape != (n, 2) or any(column.shape != (n,) for column in columns):
            raise ValueError("tiles: coordinates, measurements and classes do not fit together")
        if len({c.name for c in self.classes}) != len(self.classes):
            raise ValueError("tiles: QuPath keeps one colour for a class; a name occurs twice")

    def __len__(self) -> int:
        return len(self.coords_px)


@dataclass(frozen=True)
class Annotation:
    """A region that a person may look at or edit; or a detection, or a cell with its nucleus.

    Attributes
    ----------
    geometry
        A shapely Polygon or MultiPolygon, holes allowed; or a point or line, which QuPath shows
        but which enclose nothing. In **(x, y)**, shapely's own order, in level-0 pixels of the
        whole image.
    path_class, name, measurements
        What QuPath shows of it. Values that are not finite are left out.
    object_type
        One of :data:`OBJECT_TYPES`. Measurement maps show detections, tiles and cells only.
    nucleus
        Of a cell: a Polygon in (x, y).
    id
        The object's UUID; by default made from what it is and where.
    is_locked
        Whether QuPath refuses to edit it.
    color
        (red, green, blue) of this object alone, shown over its class's.
    is_ellipse
        Whether QuPath shall show the ellipse that fits the geometry's box, and let it be edited
        as one.
    metadata
        Texts by name.
    """

    geometry: BaseGeometry
    path_class: PathClass | None = None
    name: str = ""
    measurements: Mapping[str, float] = field(default_factory=dict)
    object_type: str = "annotation"
    nucleus: BaseGeometry | None = None
    id: str = ""
    is_locked: bool = False
    color: tuple[int, int, int] | None = None
    is_ellipse: bool = False
    metadata: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.object_type not in OBJECT_TYPES:
            raise ValueError(f"{self.object_type!r} is none of {', '.join(OBJECT_TYPES)}")
        if self.nucleus is not None and self.object_type != "cell":
            raise ValueError(f"only a cell has a nucleus, not a {self.object_type}")
