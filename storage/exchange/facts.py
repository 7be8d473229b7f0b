"""What a bag needs to be placed on its slide, from the file, the slide or the user."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..bags import Bag
from ..errors import BadGeometry, BadProduct, BadResolution, NoResolution

TOLERANCE = 0.01
"""Two statements of one resolution that differ by more contradict each other."""

Pair = tuple[float, float]


@dataclass(frozen=True)
class Facts:
    """What is known of a bag besides its file; None where it is not.

    Attributes
    ----------
    encoder
        What made the features, as text.
    tile_px
        Side of a tile as the encoder saw it; in place of what the file says, for encoders that
        shrink what they are given.
    mpp
        Micrometres per pixel of those tiles.
    slide_mpp
        (y, x) micrometres per level-0 pixel.
    slide_px
        (height, width) of level 0.
    bounds_px
        (y, x, height, width) of the scanned area.
    source
        Path of the slide.
    """

    encoder: str | None = None
    tile_px: int | None = None
    mpp: float | None = None
    slide_mpp: Pair | None = None
    slide_px: tuple[int, int] | None = None
    bounds_px: tuple[int, int, int, int] | None = None
    source: str = ""


def first(name: str, path: Path, *stated: Pair | None) -> Pair | None:
    """The first of several statements of one (y, x) pair; they must agree.

    Raises
    ------
    BadResolution
        They do not.
    """
    known = [pair for pair in stated if pair is not None]
    for other in known[1:]:
        if not np.allclose(known[0], other, rtol=TOLERANCE, atol=0):
            raise BadResolution(
                f"{name} is {_pair(known[0])} by one source and {_pair(other)} by another",
                where=path,
                remedy="Check that bag and slide belong together",
            )
    return known[0] if known else None


def _pair(values: Pair) -> str:
    return f"({values[0]:.6g}, {values[1]:.6g})"


def needed(value: Any, what: str, option: str, path: Path) -> Any:
    """A fact that there is no bag without.

    Raises
    ------
    NoResolution
        It is not known.
    """
    if value is None:
        raise NoResolution(f"nothing says {what}", where=path, remedy=f"Pass {option}")
    return value


def tile_mpp(footprint_px: Pair, tile_px: int, slide_mpp: Pair, path: Path) -> float:
    """Micrometres per pixel of tiles that cover so much of level 0.

    Raises
    ------
    BadResolution
        They are not square in micrometres: no one number tells it.
    """
    down, right = (f * m / tile_px for f, m in zip(footprint_px, slide_mpp, strict=True))
    if not np.isclose(down, right, rtol=TOLERANCE, atol=0):
        raise BadResolution(
            f"its tiles have {down:.4g} µm/px down and {right:.4g} across",
            where=path,
            remedy="Encode the slide anew: its pixels are not square",
        )
    return (down + right) / 2


def checked_features(values: NDArray[Any], path: Path) -> NDArray[np.float32]:
    """Features float32 [n, d] of what a file holds: [n, d], or [1, n, d] as some tools write.

    Raises
    ------
    BadProduct
        Another shape, or no floating-point numbers.
    """
    if values.ndim == 3 and len(values) == 1:
        values = values[0]
    if values.ndim != 2 or values.dtype.kind != "f":
        raise BadProduct(
            f"features are {values.dtype} {list(values.shape)}, where floats [n, d] are wanted",
            where=path,
        )
    return np.ascontiguousarray(values, np.float32)


def checked_coords(values: NDArray[Any], n: int, path: Path) -> NDArray[Any]:
    """Coordinates [n, 2] of n tiles, whatever their unit.

    Raises
    ------
    BadProduct
        Not as many as tiles, or not finite.
    """
    if values.ndim == 3 and len(values) == 1:
        values = values[0]
    if values.shape != (n, 2) or not np.isfinite(values).all():
        raise BadProduct(
            f"coordinates are {list(values.shape)} for {n} tiles, where finite [{n}, 2] are wanted",
            where=path,
            remedy="Features and coordinates must be of one run",
        )
    return values


def whole_pixels(values: NDArray[Any], path: Path) -> NDArray[np.int64]:
    """Coordinates int64 [n, 2], to the nearest pixel.

    Raises
    ------
    BadGeometry
        They are larger than any slide.
    """
    if len(values) and np.abs(values).max() > np.iinfo(np.int32).max:
        raise BadGeometry("coordinates are larger than any slide", where=path)
    return np.ascontiguousarray(np.rint(values), np.int64)


def require_inside(bag: Bag, path: Path) -> Bag:
    """Refuse tiles that begin off the slide: coordinates of another slide, or (y, x) swapped.

    Raises
    ------
    BadGeometry
        A tile begins beyond the slide's far edges, or lies wholly before its near ones.
    """
    begin, end = bag.coords_px, bag.coords_px + np.array(bag.footprint_px)
    off = int(((begin >= np.array(bag.slide_px)) | (end <= 0)).any(axis=1).sum())
    if off:
        height, width = bag.slide_px
        raise BadGeometry(
            f"{off} of {len(bag)} tiles lie off the slide of {height} x {width} px",
            where=path,
            remedy="Check that bag and slide belong together",
        )
    return bag
