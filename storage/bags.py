"""Bags: all instances of one slide or scan, with their place in it."""

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
class ScanPlaces:
    """Where the instances of a scan's bag lie: blocks or slices, in voxels as the scan has them.

    Voxels are counted as the pixels of a slide are: the first reaches from 0 to 1 on each axis,
    and its centre, where ``affine`` puts voxel (0, 0, 0), is at 0.5.

    Attributes
    ----------
    corner_vox
        float64 [n, 3]: (z, y, x) where each block begins; part of a voxel where samples are larger
        than voxels, negative where a block was filled up beyond the scan.
    footprint_vox
        (z, y, x) extent of a block.
    scan_vox
        (z, y, x) voxels of the scan.
    affine
        float64 [4, 4]: voxel (x, y, z) -> RAS millimetres.
    """

    corner_vox: NDArray[np.float64]
    footprint_vox: tuple[float, float, float]
    scan_vox: tuple[int, int, int]
    affine: NDArray[np.float64]

    @property
    def centre_mm(self) -> NDArray[np.float64]:
        """float64 [n, 3]: middle of each block in RAS millimetres."""
        middle = self.corner_vox + np.array(self.footprint_vox) / 2 - 0.5
        centre: NDArray[np.float64] = middle[:, ::-1] @ self.affine[:3, :3].T + self.affine[:3, 3]
        return centre


@dataclass(frozen=True)
class Bag:
    """Features of the tiles of one slide, or of the blocks of one scan.

    What is said of a slide holds of a scan's planes: coordinates, footprint and size are those of
    its last two axes, in whole voxels, and ``scan`` has the exact ones in space.

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
    scan
        Where the instances lie in a scan; None for a slide.
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
    scan: ScanPlaces | None = None

    def __post_init__(self) -> None:
        n = len(self.features)
        shapes_fit = (
            self.features.ndim == 2
            and self.coords_px.shape == (n, 2)
            and (self.scan is None or self.scan.corner_vox.shape == (n, 3))
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

    That of a scan has ``corner_vox`` too, and the rest of its places in the record.

    Raises
    ------
    StaleProduct
        A bag made with another key is there and ``overwrite`` is false.
    """
    import zarr

    about = {name: getattr(bag, name) for name in _SCALARS}
    about["instances"], about["features"] = bag.features.shape
    about["quality"] = sorted(bag.quality)
    if bag.scan is not None:
        about["scan"] = {
            "footprint_vox": bag.scan.footprint_vox,
            "scan_vox": bag.scan.scan_vox,
            "affine": bag.scan.affine.tolist(),
        }
    with new_product(path, kind=KIND, key=key, about=about, overwrite=overwrite) as folder:
        group = zarr.open_group(folder, mode="w", zarr_format=3, attributes={"microtome": about})
        rows = max(1, min(len(bag), 4096))
        features = np.asarray(bag.features, np.float32)
        put_array(group, "features", features, (rows, max(1, bag.features.shape[1])))
        put_array(group, "coords_px", np.asarray(bag.coords_px, np.int64), (rows, 2))
        if bag.scan is not None:
            put_array(group, "corner_vox", np.asarray(bag.scan.corner_vox, np.float64), (rows, 3))
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
        scan = _read_places(group, about["scan"]) if "scan" in about else None
        return Bag(**scalars, features=features, coords_px=coords_px, quality=quality, scan=scan)
    except (KeyError, TypeError, ValueError, RuntimeError, OSError) as error:
        raise BadProduct(
            f"the bag is damaged ({error})", where=path, remedy="Delete it and encode again"
        ) from error


def _read_places(group: Any, about: Mapping[str, Any]) -> ScanPlaces:
    affine = np.array(about["affine"], np.float64)
    if affine.shape != (4, 4):
        raise ValueError("the affine is not 4 x 4")
    depth, height, width = about["footprint_vox"]
    return ScanPlaces(
        corner_vox=get_array(group, "corner_vox"),
        footprint_vox=(depth, height, width),
        scan_vox=tuple(about["scan_vox"]),
        affine=affine,
    )


def find_bags(folder: Path) -> dict[str, Path]:
    """Bags in a folder, by slide id, in order of id."""
    return {path.name.removesuffix(SUFFIX): path for path in sorted(folder.glob(f"*{SUFFIX}"))}
