"""Probability maps: one value a place of a slide, at a working resolution, as OME-Zarr 0.5.

A map is written shard by shard, whole shards are kept when a run is resumed, and it is read box by
box: it is never in memory as a whole. Places that nobody looked at are not 0, they are unknown.

Values at rest are uint8: 0 is unknown, 1 … 255 is a probability of 0 … 1 in steps of 1 / 254.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import ngff
from .commit import Commit, require_commit
from .errors import BadProduct
from .shards import ShardedArray, is_whole, read_box, read_metadata, write_metadata, write_shard

KIND = "probability map"
SUFFIX = ".probability.ome.zarr"
STEPS = 254

_CHUNK_PX = 256
_SHARD_PX = 1024

Probabilities = NDArray[np.float32]
Codes = NDArray[np.uint8]


@dataclass(frozen=True)
class MapFrame:
    """Which pixels a map has, and where they are on the slide.

    Attributes
    ----------
    shape
        (height, width) of the map.
    origin_px
        (y, x) of its top left corner, in level-0 pixels of the whole image.
    pixel_px
        (y, x) level-0 pixels per pixel of the map; no whole number in general.
    mpp
        (y, x) micrometres per level-0 pixel.
    slide_px
        (height, width) of level 0.
    bounds_px
        (y, x, height, width) of the scanned area where the slide states one.
    """

    shape: tuple[int, int]
    origin_px: tuple[float, float]
    pixel_px: tuple[float, float]
    mpp: tuple[float, float]
    slide_px: tuple[int, int]
    bounds_px: tuple[int, int, int, int] | None = None

    @property
    def pixel_um2(self) -> float:
        """Area of a pixel of the map in square micrometres."""
        return self.pixel_px[0] * self.mpp[0] * self.pixel_px[1] * self.mpp[1]

    @property
    def pixel_um(self) -> float:
        """Mean side of a pixel of the map in micrometres."""
        return math.sqrt(self.pixel_um2)

    @classmethod
    def from_json(cls, stated: Mapping[str, Any]) -> MapFrame:
        """Of what :func:`dataclasses.asdict` made, by way of JSON; TypeError for anything else."""
        sides: dict[str, Any] = {k: None if v is None else tuple(v) for k, v in stated.items()}
        return cls(**sides)


def encode(probabilities: Probabilities) -> Codes:
    """Probabilities, NaN where unknown, as they are kept."""
    known = np.isfinite(probabilities)
    steps = np.rint(np.clip(np.where(known, probabilities, 0), 0, 1) * STEPS)
    return np.where(known, steps + 1, 0).astype(np.uint8)


def decode(codes: Codes) -> Probabilities:
    """What :func:`encode` kept, within 1 / 508; NaN where unknown."""
    return np.where(codes == 0, np.nan, (codes.astype(np.float32) - 1) / STEPS).astype(np.float32)


def at_least(codes: Codes, threshold: float) -> NDArray[np.bool_]:
    """Where the kept probability is known and not below a threshold of 0 … 1."""
    return np.asarray((codes > 0) & (codes >= math.ceil(1 + STEPS * threshold - 1e-9)))


@dataclass(frozen=True)
class MapPlan:
    """How a map is cut into levels and shards: pure geometry.

    Attributes
    ----------
    block_px
        Side of the square that is made at a time: whole shards.
    """

    frame: MapFrame
    shard_px: int = _SHARD_PX
    chunk_px: int = _CHUNK_PX
    block_px: int = 4 * _SHARD_PX

    @property
    def sizes_px(self) -> tuple[tuple[int, int], ...]:
        """(height, width) of every level, halved (rounding up) until one chunk holds it."""
        sizes = [self.frame.shape]
        while max(sizes[-1]) > self.chunk_px:
            sizes.append((-(-sizes[-1][0] // 2), -(-sizes[-1][1] // 2)))
        return tuple(sizes)

    def array(self, level: int) -> ShardedArray:
        """Layout of a level."""
        return ShardedArray(
            shape=self.sizes_px[level],
            dtype=np.dtype(np.uint8),
            shard=(self.shard_px, self.shard_px),
            chunk=(self.chunk_px, self.chunk_px),
            names=("y", "x"),
        )

    def blocks(self) -> Iterator[tuple[slice, slice]]:
        """(rows, columns) of the squares that the map is made of, row by row."""
        spans = (
            [slice(a, min(a + self.block_px, n)) for a in range(0, n, self.block_px)]
            for n in self.frame.shape
        )
        return itertools.product(*spans)

    def missing(self, folder: Path, block: tuple[slice, slice]) -> list[tuple[int, int]]:
        """Shards of a block that are not there yet, or not whole."""
        array = self.array(0)
        spans = (
            range(part.start // self.shard_px, -(-part.stop // self.shard_px)) for part in block
        )
        rows, columns = spans
        indices = itertools.product(rows, columns)
        return [index for index in indices if not is_whole(array, folder / "0", index)]

    def write(
        self,
        folder: Path,
        block: tuple[slice, slice],
        probabilities: Probabilities,
        missing: list[tuple[int, int]],
    ) -> None:
        """Write the missing shards of a block, whose probabilities are float32 [h, w]."""
        array = self.array(0)
        for index in missing:
            rows, columns = array.box(index)
            inside = (
                slice(rows.start - block[0].start, rows.stop - block[0].start),
                slice(columns.start - block[1].start, columns.stop - block[1].start),
            )
            write_shard(array, folder / "0", index, encode(probabilities[inside]))

    def finish(self, folder: Path, name: str, about: Mapping[str, Any]) -> None:
        """Make the coarser levels of the finest, a shard at a time, and write the metadata."""
        for level in range(1, len(self.sizes_px)):
            self._coarser(folder, level)
        downsamples = []
        for level in range(len(self.sizes_px)):
            write_metadata(folder / str(level), self.array(level).metadata())
            y, x = self.frame.pixel_px
            downsamples.append((y * 2**level, x * 2**level))
        ome = ngff.slide_map(name, self.frame.mpp, self.frame.origin_px, downsamples)
        values = {"unknown": 0, "probability": f"(value - 1) / {STEPS}"}
        own = {**about, "frame": asdict(self.frame), "values": values}
        write_metadata(folder, ngff.group({"ome": ome, "microtome": own}))

    def _coarser(self, folder: Path, level: int) -> None:
        array, below = self.array(level), self.array(level - 1)
        for index in array.indices():
            if is_whole(array, folder / str(level), index):
                continue
            box = [
                slice(2 * part.start, min(2 * part.stop, n), 1)
                for part, n in zip(array.box(index), below.shape, strict=True)
            ]
            codes = read_box(below, folder / str(level - 1), tuple(box))
            write_shard(array, folder / str(level), index, halve(codes))


def halve(codes: Codes) -> Codes:
    """Mean of the known ones among 2 × 2 values, rounded half up; unknown where none is.

    Parameters
    ----------
    codes
        uint8 [h, w].

    Returns
    -------
    uint8 [ceil(h / 2), ceil(w / 2)]
    """
    padded = np.pad(codes, [(0, n % 2) for n in codes.shape])
    parts = [padded[y::2, x::2].astype(np.uint16) for y in (0, 1) for x in (0, 1)]
    total = sum(parts, np.zeros_like(parts[0]))
    known = sum((part > 0).astype(np.uint16) for part in parts)
    mean = (2 * total + known) // np.maximum(2 * known, 1)
    return np.asarray(mean, np.uint8)


@dataclass(frozen=True)
class StoredMap:
    """A finished map, for reading; holds no open file.

    Attributes
    ----------
    about
        What the OME-Zarr metadata have no word for: the attribute ``microtome``.
    """

    path: Path
    commit: Commit
    array: ShardedArray
    frame: MapFrame
    about: Mapping[str, Any]

    def codes(self, rows: slice, columns: slice) -> Codes:
        """A rectangle of the map as it is kept, uint8 [h, w].

        Raises
        ------
        BadProduct
            A shard is missing or damaged.
        """
        box = (slice(rows.start, rows.stop, 1), slice(columns.start, columns.stop, 1))
        return read_box(self.array, self.path / "0", box)

    def read(self, rows: slice, columns: slice) -> Probabilities:
        """A rectangle of the map, float32 [h, w], NaN where nobody looked; raises as `codes`."""
        return decode(self.codes(rows, columns))

    def blocks(self, side_px: int) -> Iterator[tuple[slice, slice]]:
        """(rows, columns) of squares that the map is made of, row by row."""
        return MapPlan(self.frame, block_px=side_px).blocks()


def open_map(path: str | Path) -> StoredMap:
    """Open a map that Microtome wrote.

    Raises
    ------
    MissingFile, BadProduct
        Nothing is there; or it is unfinished, damaged or no probability map.
    """
    path = Path(path)
    commit = require_commit(path, KIND)
    try:
        about = read_metadata(path)["attributes"]["microtome"]
        frame = MapFrame.from_json(about["frame"])
        array = ShardedArray.from_metadata(read_metadata(path / "0"))
    except (KeyError, TypeError, ValueError) as error:
        raise BadProduct(f"damaged metadata ({error!r})", where=path) from error
    return StoredMap(path, commit, array, frame, about)
