"""Bags: all instances of one slide, with their place on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arrays import get_array, put_array
from .commit import new_product, require_commit
from .errors import BadProduct

SUFFIX = ".bag.zarr"
KIND = "bag"


@dataclass(frozen=True)
class Bag:
    """Features of the tiles of one slide.

    Attributes
    ----------
    id
        Identity of the slide in its cohort.
    features
        float32 [n, d].
    coords_px
        int64 [n, 2]: (y, x) of each tile's top left corner, in level-0 pixels of the whole image,
        in grid order.
    footprint_px
        (y, x) extent of a tile in level-0 pixels.
    slide_px
        (height, width) of level 0.
    bounds_px
        (y, x, height, width) of the scanned area where the slide states one, else None.
    mpp
        Micrometres per pixel at which the tiles were encoded.
    slide_mpp
        (y, x) micrometres per level-0 pixel.
    tile_px
        Side of a tile as the encoder saw it.
    encoder
        ``name@version`` of the encoder.
    feature_names
        d names, or empty where the features have none.
    quality
        float32 [n] columns by name (``tissue``, ``focus`` …).
    source
        Path of the slide as it was given.
    corrupt_tiles
        How many tiles of the grid are left out because their pixels could not be decoded.
    """

    id: str
    features: NDArray[np.float32]
    coords_px: NDArray[np.int64]
    footprint_px: tuple[float, float]
    slide_px: tuple[int, int]
    mpp: float
    slide_mpp: tuple[float, float]
    tile_px: int
    encoder: str
    bounds_px: tuple[int, int, int, int] | None = None
    feature_names: tuple[str, ...] = ()
    quality: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    source: str = ""
    corrupt_tiles: int = 0

    def __post_init__(self) -> None:
        n = len(self.features)
        shapes_fit = (
            self.features.ndim == 2
            and self.coords_px.shape == (n, 2)
            and all(column.shape == (n,) for column in self.quality.values())
            and len(self.feature_names) in (0, self.features.shape[1])
        )
        if not shapes_fit:
            raise ValueError(f"bag {self.id}: features, coordinates and names do not fit together")
        if any("/" in name for name in self.quality):
            raise ValueError(f"bag {self.id}: a quality column's name may not hold a slash")

    def __len__(self) -> int:
        return len(self.features)


_SCALARS = (
    "id", "footprint_px", "slide_px", "mpp", "slide_mpp", "tile_px", "encoder", "bounds_px",
    "feature_names", "source", "corrupt_tiles",
)  # fmt: skip


def write_bag(path: Path, bag: Bag, *, key: str, overwrite: bool = False) -> None:
    """Keep a bag as a Zarr v3 group: ``features``, ``coords_px`` and one array a quality column.

    Raises
    ------
    StaleProduct
        A bag made with another key is there and ``overwrite`` is false.
    """
    import zarr

    about = {name: getattr(bag, name) for name in _SCALARS}
    about["instances"], about["features"] = bag.features.shape
    about["quality"] = sorted(bag.quality)
    with new_product(path, kind=KIND, key=key, about=about, overwrite=overwrite) as folder:
        group = zarr.open_group(folder, mode="w", zarr_format=3, attributes={"microtome": about})
        rows = max(1, min(len(bag), 4096))
        features = np.asarray(bag.features, np.float32)
        put_array(group, "features", features, (rows, max(1, bag.features.shape[1])))
        put_array(group, "coords_px", np.asarray(bag.coords_px, np.int64), (rows, 2))
        for name, column in bag.quality.items():
            put_array(group, f"quality/{name}", np.asarray(column, np.float32), (rows,))


def read_bag(path: str | Path) -> Bag:
    """Read a bag that :func:`write_bag` kept.

    Raises
    ------
    MissingFile, BadProduct
        Nothing is there; or it is unfinished, damaged or not a bag.
    """
    import zarr

    path = Path(path)
    about = dict(require_commit(path, KIND).about)
    try:
        group: Any = zarr.open_group(path, mode="r")
        scalars: dict[str, Any] = {name: about[name] for name in _SCALARS}
        for name in ("footprint_px", "slide_px", "slide_mpp", "bounds_px", "feature_names"):
            scalars[name] = None if scalars[name] is None else tuple(scalars[name])
        quality = {name: get_array(group, f"quality/{name}") for name in about["quality"]}
        features, coords_px = get_array(group, "features"), get_array(group, "coords_px")
        return Bag(**scalars, features=features, coords_px=coords_px, quality=quality)
    except (KeyError, TypeError, ValueError, RuntimeError, OSError) as error:
        raise BadProduct(
            f"the bag is damaged ({error})", where=path, remedy="Delete it and encode again"
        ) from error


def find_bags(folder: Path) -> dict[str, Path]:
    """Bags in a folder, by slide id, in order of id."""
    return {path.name.removesuffix(SUFFIX): path for path in sorted(folder.glob(f"*{SUFFIX}"))}
