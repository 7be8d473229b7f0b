"""Volumes back to NIfTI."""

from __future__ import annotations

import gzip
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from ...storage.errors import StaleProduct
from ...storage.files import new_file, writable
from .base import Volume, Voxels

_SLAB_VOXELS = 1 << 24


def export_nifti(volume: Volume, out: str | Path, *, overwrite: bool = False) -> None:
    """Write a volume as NIfTI.

    What came from a NIfTI file gets its own header back, byte for byte, and its voxels in their
    own type and byte order, unscaled. Anything else gets a NIfTI-1 header with the affine as
    qform and sform (scanner coordinates), millimetres and seconds, the rescale as slope and
    intercept, and voxels in the stored type; float32 where the rescale differs between slices.

    Parameters
    ----------
    out
        ``.nii`` or ``.nii.gz``.
    overwrite
        Replace a file that is there.

    Raises
    ------
    ValueError
        The name ends neither in ``.nii`` nor in ``.nii.gz``.
    StaleProduct
        A file is there and ``overwrite`` is false.
    UnwritableOutput
        The place cannot be written.
    """
    out = Path(out)
    if not out.name.endswith((".nii", ".nii.gz")):
        raise ValueError(f"{out}: a NIfTI file is called .nii or .nii.gz")
    if out.exists() and not overwrite:
        raise StaleProduct(
            "a file is there already", where=out, remedy="Pass --overwrite to replace it"
        )
    header = volume.header or _new_header(volume)
    varying = volume.slope.ndim > 0 or volume.intercept.ndim > 0
    voxels = volume.data if varying else volume.stored
    with writable(out), new_file(out) as file, ExitStack() as stack:
        stream: Any = file
        if out.suffix == ".gz":
            # No name and no time inside: equal volumes give equal files.
            stream = stack.enter_context(gzip.GzipFile("", "wb", 6, file, mtime=0))
        stream.write(header)
        _write_voxels(stream, voxels, _dtype_of(header))


def _write_voxels(stream: Any, voxels: Voxels, dtype: np.dtype[Any]) -> None:
    rows = max(1, _SLAB_VOXELS // int(np.prod(voxels.shape[1:])))
    for start in range(0, len(voxels), rows):
        # [t,] z, y, x in C order are x, y, z[, t] in NIfTI's.
        stream.write(np.ascontiguousarray(voxels[start : start + rows], dtype).data)


def _dtype_of(header: bytes) -> np.dtype[Any]:
    import nibabel

    if header[344:347] == b"n+1":
        parsed: Any = nibabel.Nifti1Header(header[:348], check=False)
    else:
        parsed = nibabel.Nifti2Header(header[:540], check=False)
    dtype: np.dtype[Any] = parsed.get_data_dtype()
    return dtype


def _new_header(volume: Volume) -> bytes:
    import nibabel

    varying = volume.slope.ndim > 0 or volume.intercept.ndim > 0
    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.float32 if varying else volume.stored.dtype)
    header.set_data_shape(volume.shape[::-1])
    zooms = volume.spacing_mm[::-1]
    header.set_zooms((*zooms, volume.repetition_time_s or 0.0)[: len(volume.shape)])
    header.set_xyzt_units("mm", "sec")
    header.set_qform(volume.affine, code="scanner")
    header.set_sform(volume.affine, code="scanner")
    if not varying:
        header.set_slope_inter(float(volume.slope), float(volume.intercept))
    header["magic"], header["vox_offset"] = header.single_magic, header.single_vox_offset
    return bytes(header.binaryblock) + bytes(4)
