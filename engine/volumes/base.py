"""What a scan is to the rest of Microtome, whatever file it came from.

Axis order
----------
``data`` is [z, y, x] or [t, z, y, x]. The affine speaks of voxels as (x, y, z): the value
``data[k, j, i]`` lies at ``affine @ (i, j, k, 1)``, in millimetres, +x to the patient's right, +y
to the front, +z to the head (RAS). Which way an array axis runs is in the affine and nowhere else:
nothing is flipped on reading.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import DTypeLike, NDArray

Modality = Literal["CT", "MR", "PT", "unknown"]
Box = tuple[slice, ...]


@dataclass(frozen=True)
class Voxels:
    """A lazy array: sliced like NumPy's, read when sliced.

    Attributes
    ----------
    shape
        [t,] z, y, x.
    dtype
        Of what slicing returns.
    read_box
        Reads a box given by one slice an axis, each with start, stop and step 1.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    read_box: Callable[[Box], NDArray[Any]] = field(repr=False)

    @property
    def ndim(self) -> int:
        """Number of axes: 3, or 4 with time."""
        return len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> NDArray[Any]:
        """Read a part: integers, slices (with any step) and ``...``."""
        box, inside = _split_index(index, self.shape)
        if any(part.start >= part.stop for part in box):
            part = np.empty([p.stop - p.start for p in box], self.dtype)
        else:
            part = self.read_box(box)
        picked: NDArray[Any] = part[inside]
        return picked

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        """Read everything; with a ``dtype``, one outermost slice at a time is converted."""
        if copy is False:
            raise ValueError("these voxels are on disk: they cannot be had without a copy")
        if dtype is None or np.dtype(dtype) == self.dtype:
            return self[...]
        whole = np.empty(self.shape, dtype)
        for i in range(len(self)):
            whole[i] = self[i]
        return whole


def _split_index(index: Any, shape: tuple[int, ...]) -> tuple[Box, tuple[Any, ...]]:
    """Split an index into the box that covers it and the index into that box."""
    parts = index if isinstance(index, tuple) else (index,)
    if sum(part is Ellipsis for part in parts) > 1:
        raise IndexError("an index can only have one ellipsis")
    if Ellipsis in parts:
        at = parts.index(Ellipsis)
        fill = (slice(None),) * (len(shape) - len(parts) + 1)
        parts = (*parts[:at], *fill, *parts[at + 1 :])
    if len(parts) > len(shape):
        raise IndexError(f"{len(parts)} indices for {len(shape)} axes")
    parts = (*parts, *(slice(None),) * (len(shape) - len(parts)))
    pairs = [_split_axis(part, size) for part, size in zip(parts, shape, strict=True)]
    return tuple(box for box, _ in pairs), tuple(inside for _, inside in pairs)


def _split_axis(part: Any, size: int) -> tuple[slice, Any]:
    if isinstance(part, slice):
        chosen = range(size)[part]
        if not chosen:
            return slice(0, 0, 1), slice(None)
        low, high = min(chosen[0], chosen[-1]), max(chosen[0], chosen[-1])
        flipped = slice(None, None, chosen.step)
        return slice(low, high + 1, 1), flipped
    position = range(size)[part]
    return slice(position, position + 1, 1), 0


@dataclass(frozen=True)
class Volume:
    """An opened scan.

    Attributes
    ----------
    path
        What was opened: a file, or a folder of DICOM files.
    backend
        ``nifti``, ``dicom``, ``itk`` or ``ome-zarr``.
    stored
        Lazy array [t,] z, y, x in the type that the file holds, before rescaling.
    affine
        float64 [4, 4]: voxel (x, y, z) -> RAS millimetres; see the module's text.
    modality
        As the file states it; NIfTI files do not.
    slope, intercept
        ``data = stored * slope + intercept``; float64, either scalar [] or, where it differs
        between slices (PET), [t,] z, 1, 1.
    unit
        Of ``data``: ``HU``, ``BQML`` …, empty where the file does not say.
    time_s
        float64 [t]: when each volume began, in seconds from the first; None without a time axis
        or where the file does not say.
    files
        Every file that the scan was read from.
    header
        The bytes before the data of a NIfTI file, as they are; empty for other formats.
    properties
        Descriptive values from the header; none that identifies a patient.
    notes
        What is odd about the file, for a human.
    """

    path: Path
    backend: str
    stored: Voxels
    affine: NDArray[np.float64]
    modality: Modality = "unknown"
    slope: NDArray[np.float64] = field(default_factory=lambda: np.array(1.0))
    intercept: NDArray[np.float64] = field(default_factory=lambda: np.array(0.0))
    unit: str = ""
    time_s: NDArray[np.float64] | None = None
    series: str = ""
    files: tuple[Path, ...] = ()
    header: bytes = field(default=b"", repr=False)
    properties: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """[t,] z, y, x."""
        return self.stored.shape

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between voxel centres along (z, y, x), in the order of the array."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(z), float(y), float(x)

    @property
    def is_rescaled(self) -> bool:
        """Whether ``data`` differs from ``stored``."""
        return bool(np.any(self.slope != 1) or np.any(self.intercept != 0))

    @property
    def repetition_time_s(self) -> float | None:
        """Seconds between volumes; None without a time axis or where they are not even."""
        if self.time_s is None or len(self.time_s) < 2:
            return None
        steps = np.diff(self.time_s)
        return float(steps[0]) if np.allclose(steps, steps[0], rtol=1e-4, atol=1e-6) else None

    @cached_property
    def data(self) -> Voxels:
        """Lazy array [t,] z, y, x of true values: rescaled, float64 where a rescale applies."""
        if not self.is_rescaled:
            return self.stored

        def read_box(box: Box) -> NDArray[Any]:
            return self.stored.read_box(box) * _part(self.slope, box) + _part(self.intercept, box)

        return Voxels(self.shape, np.dtype(np.float64), read_box)


def _part(factor: NDArray[np.float64], box: Box) -> NDArray[np.float64]:
    if factor.ndim == 0:
        return factor
    part: NDArray[np.float64] = factor[tuple(box[:-2])]
    return part
