"""Scans at rest: OME-Zarr 0.5 arrays [t,] z, y, x in the type that the scanner's file holds.

Everything that OME-Zarr cannot say is in the group's attribute ``microtome``: the full affine, the
rescale, the frame times, and of a NIfTI file its header, byte for byte.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import ngff
from .commit import Commit, require_commit
from .errors import BadProduct
from .shards import (
    Box,
    ShardedArray,
    ShardWriter,
    encoded_chunks,
    is_whole,
    read_box,
    read_metadata,
    write_metadata,
)

KIND = "scan image"

_CHUNK_PX, _SHARD_PX = 64, 256
_CHUNK_PX_4D, _SHARD_PX_4D, _CHUNK_T = 32, 128, 16


@dataclass(frozen=True)
class ScanHeader:
    """What belongs to the voxels of a scan.

    Attributes
    ----------
    affine
        float64 [4, 4]: voxel (x, y, z) -> RAS mm.
    slope, intercept
        float64 [] or [t,] z, 1, 1: true value = stored * slope + intercept.
    modality, unit
        As in :class:`~microtome.engine.volumes.Volume`.
    time_s
        float64 [t] or None.
    nifti_header
        The bytes before the voxels of the NIfTI file that it came from, or none.
    properties, notes
        Description; no patient data.
    """

    affine: NDArray[np.float64]
    slope: NDArray[np.float64]
    intercept: NDArray[np.float64]
    modality: str
    unit: str
    time_s: NDArray[np.float64] | None
    nifti_header: bytes = field(default=b"", repr=False)
    properties: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Values that JSON holds without loss."""
        return {
            "affine": self.affine.tolist(),
            "slope": self.slope.tolist(),
            "intercept": self.intercept.tolist(),
            "modality": self.modality,
            "unit": self.unit,
            "time_s": None if self.time_s is None else self.time_s.tolist(),
            "nifti_header": base64.b64encode(self.nifti_header).decode("ascii"),
            "properties": dict(self.properties),
            "notes": list(self.notes),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ScanHeader:
        """The inverse of :meth:`to_json`; KeyError, TypeError or ValueError where it is damaged."""
        affine = np.array(values["affine"], np.float64)
        if affine.shape != (4, 4):
            raise ValueError("the affine is not 4 x 4")
        time_s = values["time_s"]
        return cls(
            affine=affine,
            slope=np.array(values["slope"], np.float64),
            intercept=np.array(values["intercept"], np.float64),
            modality=str(values["modality"]),
            unit=str(values["unit"]),
            time_s=None if time_s is None else np.array(time_s, np.float64),
            nifti_header=base64.b64decode(values["nifti_header"], validate=True),
            properties=dict(values["properties"]),
            notes=tuple(values["notes"]),
        )


def scan_array(shape: tuple[int, ...], dtype: np.dtype[Any]) -> ShardedArray:
    """Layout of a scan.

    Three axes: chunks of 64³ in shards of 256³, for slices in any plane. Four: chunks of 16
    volumes by 32³ in shards of 128³, a compromise between single volumes and time series.
    """
    chunk: tuple[int, ...] = tuple(min(_CHUNK_PX, n) for n in shape)
    most: tuple[int, ...] = (_SHARD_PX,) * 3
    if len(shape) == 4:
        chunk = (min(_CHUNK_T, shape[0]), *(min(_CHUNK_PX_4D, n) for n in shape[1:]))
        most = (_CHUNK_T, *(_SHARD_PX_4D,) * 3)
    shard = tuple(c * -(-min(n, m) // c) for n, c, m in zip(shape, chunk, most, strict=True))
    names = ("t", "z", "y", "x")[-len(shape) :]
    return ShardedArray(shape, dtype.newbyteorder("="), shard, chunk, names)


def write_scan_shards(
    array: ShardedArray,
    folder: Path,
    source: Callable[[Box], NDArray[Any]],
    on_progress: Callable[[int, int], None] | None = None,
) -> tuple[int, int]:
    """Write the shards that are not there yet, a slab along the first axis at a time.

    Parameters
    ----------
    folder
        Of the array.
    source
        Reads a box of the scan in its stored type.
    on_progress
        Told of (voxels done, voxels in all).

    Returns
    -------
    (int, int)
        Shards written, and shards that were there.
    """
    written = kept = 0
    row_size = int(np.prod(array.shape[1:]))
    with ShardWriter() as writer:
        for row in range(array.grid[0]):
            indices = [index for index in array.indices() if index[0] == row]
            missing = [index for index in indices if not is_whole(array, folder, index)]
            span = array.box(indices[0])[0]
            if missing:
                whole = tuple(slice(0, n, 1) for n in array.shape[1:])
                slab = source((slice(span.start, span.stop, 1), *whole))
                for index in missing:
                    values = slab[(slice(None), *array.box(index)[1:])]
                    chunks = encoded_chunks(array, values.astype(array.dtype, copy=False))
                    writer.write(array, folder, index, chunks)
            written += len(missing)
            kept += len(indices) - len(missing)
            if on_progress is not None:
                on_progress(span.stop * row_size, array.shape[0] * row_size)
    return written, kept


def write_scan_metadata(
    array: ShardedArray, folder: Path, name: str, header: ScanHeader, about: Mapping[str, Any]
) -> None:
    """Write the metadata of a scan; the last thing before the commit."""
    write_metadata(folder / "0", array.metadata())
    spacing = np.linalg.norm(header.affine[:3, :3], axis=0)
    with_time = len(array.shape) == 4
    ome = ngff.scan_image(
        name,
        (float(spacing[2]), float(spacing[1]), float(spacing[0])),
        _even_step(header.time_s),
        with_time,
    )
    attributes = {"ome": ome, "microtome": {**about, **header.to_json()}}
    write_metadata(folder, ngff.group(attributes))


def _even_step(time_s: NDArray[np.float64] | None) -> float | None:
    if time_s is None or len(time_s) < 2:
        return None
    steps = np.diff(time_s)
    return float(steps[0]) if np.allclose(steps, steps[0], rtol=1e-4) and steps[0] > 0 else None


@dataclass(frozen=True)
class StoredScan:
    """A finished scan, for reading; holds no open file."""

    path: Path
    commit: Commit
    array: ShardedArray
    header: ScanHeader

    def read(self, box: Box) -> NDArray[Any]:
        """Read a box, given by one slice an axis with start, stop and step 1.

        Raises
        ------
        BadProduct
            A shard is missing or damaged.
        """
        return read_box(self.array, self.path / "0", box)


def open_stored_scan(path: str | Path) -> StoredScan:
    """Open a scan that Microtome wrote.

    Raises
    ------
    MissingFile, BadProduct
        Nothing is there; or it is unfinished, damaged or not a scan.
    """
    path = Path(path)
    commit = require_commit(path, KIND)
    try:
        attributes = read_metadata(path)["attributes"]
        header = ScanHeader.from_json(attributes["microtome"])
        array = ShardedArray.from_metadata(read_metadata(path / "0"))
    except (KeyError, TypeError, ValueError) as error:
        raise BadProduct(f"damaged metadata ({error!r})", where=path) from error
    return StoredScan(path, commit, array, header)
