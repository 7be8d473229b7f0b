"""Bags: all instances of one slide or scan, with their place in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arrays import get_array, put_array, require_whole
from .commit import new_product, require_commit
from .errors import BadModel, BadProduct

SUFFIX = ".bag.zarr"
KIND = "bag"

Box = tuple[float, float, float, float]
"""(y, x, height, width) in level-0 pixels of the whole image."""

_CHUNK_ROWS, _SHARD_ROWS = 512, 16_384
"""Rows that are read at once, and rows of a file."""


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
    view
        Number of the altered view of the tiles that was encoded; 0 for the tiles as they are.
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
    view: int = 0

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


def write_bag(
    path: Path, bag: Bag, *, key: str, overwrite: bool = False, half: bool = False
) -> None:
    """Keep a bag as a Zarr v3 group: ``features``, ``coords_px`` and ``quality`` [n, columns].

    That of a scan has ``corner_vox`` too, and the rest of its places in the record. Features are
    sharded: a file for each 16,384 tiles.

    Parameters
    ----------
    half
        Keep features as float16: half of the disk, three decimal digits.

    Raises
    ------
    StaleProduct
        A bag made with another key is there and ``overwrite`` is false.
    BadModel
        A feature is too large for ``half``.
    """
    import zarr

    about = {name: getattr(bag, name) for name in _SCALARS}
    about["instances"], about["features"] = bag.features.shape
    about["quality"] = sorted(bag.quality)
    if bag.view:
        about["view"] = bag.view
    if bag.scan is not None:
        about["scan"] = {
            "footprint_vox": bag.scan.footprint_vox,
            "scan_vox": bag.scan.scan_vox,
            "affine": bag.scan.affine.tolist(),
        }
    with new_product(path, kind=KIND, key=key, about=about, overwrite=overwrite) as folder:
        group = zarr.open_group(folder, mode="w", zarr_format=3, attributes={"microtome": about})
        _put_features(group, bag, half=half)
        rows = max(1, min(len(bag), _SHARD_ROWS))
        put_array(group, "coords_px", np.asarray(bag.coords_px, np.int64), (rows, 2))
        if bag.scan is not None:
            put_array(group, "corner_vox", np.asarray(bag.scan.corner_vox, np.float64), (rows, 3))
        if bag.quality:
            columns = [np.asarray(bag.quality[name], np.float32) for name in about["quality"]]
            put_array(group, "quality", np.stack(columns, axis=1), (rows, len(columns)))


def _put_features(group: Any, bag: Bag, *, half: bool) -> None:
    with np.errstate(over="ignore"):
        features = np.asarray(bag.features, np.float16 if half else np.float32)
    if half and (np.isinf(features) & np.isfinite(bag.features)).any():
        raise BadModel(
            f"a feature of {bag.encoder} is too large for 16 bits",
            where=bag.id,
            remedy="Encode without --half",
        )
    rows, width = max(1, min(len(bag), _CHUNK_ROWS)), max(1, features.shape[1])
    shard = rows * max(1, min(-(-len(bag) // rows), _SHARD_ROWS // rows))
    put_array(group, "features", features, (rows, width), (shard, width))


def read_bag(path: str | Path, *, within: Box | None = None) -> Bag:
    """Read a bag that :func:`write_bag` kept.

    Parameters
    ----------
    within
        Only tiles that reach into this rectangle; of the others no feature is read.

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
        names = about["quality"]
        quality = dict(zip(names, get_array(group, "quality").T, strict=True)) if names else {}
        coords_px = get_array(group, "coords_px")
        scan = _read_places(group, about["scan"]) if "scan" in about else None
        rows: Any = slice(None)
        if within is not None:
            rows = rows_within(coords_px, scalars["footprint_px"], within)
            scan = None if scan is None else replace(scan, corner_vox=scan.corner_vox[rows])
        require_whole(group["features"])
        return Bag(
            **scalars,
            features=np.asarray(group["features"].oindex[rows], np.float32),
            coords_px=coords_px[rows],
            quality={name: np.ascontiguousarray(column[rows]) for name, column in quality.items()},
            scan=scan,
            view=int(about.get("view", 0)),
        )
    except (KeyError, TypeError, ValueError, RuntimeError, OSError) as error:
        raise BadProduct(
            f"the bag is damaged ({error})", where=path, remedy="Delete it and encode again"
        ) from error


def rows_within(
    coords_px: NDArray[np.int64], footprint_px: tuple[float, float], within: Box
) -> NDArray[np.int64]:
    """Which tiles reach into a rectangle: int64 [k], in order."""
    corner, size = np.array(within[:2]), np.array(within[2:])
    reaches = (coords_px < corner + size) & (coords_px + np.array(footprint_px) > corner)
    return np.flatnonzero(reaches.all(axis=1))


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
