"""NIfTI-1 and NIfTI-2 through nibabel: lazy, in the stored type, with the affine as it stands."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...storage.errors import BadGeometry, EmptyFile, TruncatedFile, UnreadableFile
from .base import Box, Volume, Voxels

_MM = {"mm": 1.0, "meter": 1000.0, "micron": 0.001, "unknown": 1.0}
_SECONDS = {"sec": 1.0, "msec": 1e-3, "usec": 1e-6}
_BLOCK = 1 << 20


def is_nifti(path: Path) -> bool:
    """Whether a file is NIfTI by its content: a header of 348 or 540 bytes, magic word included."""
    try:
        with _opened(path) as file:
            start = file.read(348)
    except (OSError, EOFError, zlib.error):
        return False
    return start[344:347] in (b"n+1", b"ni1") or start[4:7] in (b"n+2", b"ni2")


def read_nifti(path: Path) -> Volume:
    """Open a NIfTI file.

    Parameters
    ----------
    path
        ``.nii``, ``.nii.gz``, or the ``.hdr`` of a pair.

    Raises
    ------
    EmptyFile, TruncatedFile, UnreadableFile
        No voxels; fewer than the header promises; not to be understood.
    BadGeometry
        More than four axes, or an orientation that the file does not state: left and right are
        never guessed.
    """
    import nibabel
    from nibabel.arrayproxy import ArrayProxy

    image = _load(path)
    header = image.header
    shape = tuple(int(n) for n in image.shape)
    dtype = header.get_data_dtype()
    _check_kind(path, shape, dtype)
    affine, notes = _affine(path, image)
    offset = int(image.dataobj.offset)
    voxel_file = Path(image.file_map["image"].filename)
    _check_length(voxel_file, offset + int(np.prod(shape)) * dtype.itemsize)
    xyz = (*shape, 1)[:3] if len(shape) < 3 else shape
    # Slope 1 keeps the stored type; an open file makes gzip run forwards only once.
    proxy = ArrayProxy(
        str(voxel_file), (xyz, dtype, offset, 1.0, 0.0), keep_file_open=True, mmap=False
    )

    def read_box(box: Box) -> NDArray[Any]:
        try:
            return np.asarray(proxy[box[::-1]]).T
        except (OSError, EOFError, ValueError, zlib.error) as error:
            raise TruncatedFile(
                f"the voxels cannot be read ({error})", where=path, remedy="Copy the file again"
            ) from error

    time_s, time_notes = _times(header, shape)
    return Volume(
        path=path,
        backend="nifti",
        stored=Voxels(xyz[::-1], dtype, read_box),
        affine=affine,
        slope=np.array(image.dataobj.slope, np.float64),
        intercept=np.array(image.dataobj.inter, np.float64),
        time_s=time_s,
        files=tuple(sorted({voxel_file, path})),
        header=_raw_header(path, image, voxel_file),
        properties={
            "format": "NIfTI-2" if isinstance(header, nibabel.Nifti2Header) else "NIfTI-1",
            "orientation": "".join(nibabel.aff2axcodes(affine)),
        },
        notes=(*notes, *time_notes),
    )


def _load(path: Path) -> Any:
    import nibabel
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import HeaderDataError

    if path.stat().st_size == 0:
        raise EmptyFile("the file has no bytes", where=path, remedy="Copy it again")
    try:
        image = nibabel.load(path)
    except (EOFError, zlib.error) as error:
        raise TruncatedFile(
            f"the file ends within its header ({error})", where=path, remedy="Copy it again"
        ) from error
    except (ImageFileError, HeaderDataError, OSError, ValueError) as error:
        raise UnreadableFile(f"not a sound NIfTI file ({error})", where=path) from error
    if not isinstance(image, nibabel.Nifti1Pair):
        raise UnreadableFile(f"{type(image).__name__} is not NIfTI", where=path)
    return image


def _check_kind(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    if not shape or 0 in shape:
        raise EmptyFile(f"the volume has no voxels (shape {shape})", where=path)
    if len(shape) > 4:
        raise BadGeometry(
            f"the volume has {len(shape)} axes; Microtome reads x, y, z and time",
            where=path,
            remedy="Split it into volumes of one component",
        )
    if dtype.fields is not None or dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise UnreadableFile(f"voxels of type {dtype} are not supported", where=path)


def _affine(path: Path, image: Any) -> tuple[NDArray[np.float64], list[str]]:
    header, notes = image.header, []
    try:
        qform, sform = header.get_qform(coded=True)[0], header.get_sform(coded=True)[0]
    except ValueError as error:
        raise BadGeometry(f"the orientation is damaged ({error})", where=path) from error
    if qform is None and sform is None:
        raise BadGeometry(
            "the file does not say how it lies in space (qform_code and sform_code are 0)",
            where=path,
            remedy="Convert it again from its source; left and right are never guessed",
        )
    if qform is not None and sform is not None and not np.allclose(qform, sform, atol=0.01):
        apart = float(np.abs(qform - sform).max())
        notes.append(f"qform and sform differ by up to {apart:.3g}; sform is used")
    unit = header.get_xyzt_units()[0]
    if unit == "unknown":
        notes.append("the unit of length is not stated; read as mm")
    affine = np.array(image.affine, np.float64)
    affine[:3] *= _MM[unit]
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
        raise BadGeometry("the affine is singular or not finite", where=path)
    return affine, notes


def _times(header: Any, shape: tuple[int, ...]) -> tuple[NDArray[np.float64] | None, list[str]]:
    if len(shape) < 4:
        return None, []
    step = float(header["pixdim"][4]) * _SECONDS.get(header.get_xyzt_units()[1], 0.0)
    if not (np.isfinite(step) and step > 0):
        return None, ["the time between volumes is not stated"]
    odd = [f"{step:g} s between volumes is stated; milliseconds meant?"] if step >= 100 else []
    return np.arange(shape[3], dtype=np.float64) * step, odd


def _opened(path: Path) -> Any:
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    return gzip.open(path, "rb") if packed else path.open("rb")


def _raw_header(path: Path, image: Any, voxel_file: Path) -> bytes:
    """All that stands before the voxels; of a pair, as a single file would have it."""
    if voxel_file == path:
        with _opened(path) as file:
            return bytes(file.read(int(image.dataobj.offset)))
    with _opened(path) as file:
        header = type(image.header)(file.read(image.header.sizeof_hdr), check=False)
    header["magic"], header["vox_offset"] = header.single_magic, header.single_vox_offset
    return bytes(header.binaryblock) + bytes(header.single_vox_offset - header.sizeof_hdr)


def _check_length(path: Path, expected: int) -> None:
    length = path.stat().st_size
    with path.open("rb") as file:
        if file.read(2) == b"\x1f\x8b":
            file.seek(max(0, length - 4))
            # A gzip member ends with its length modulo 2^32; where that is another, count.
            if int.from_bytes(file.read(4), "little") == expected % 2**32:
                return
            length = _unpacked_length(path)
    if length < expected:
        raise TruncatedFile(
            f"{length} of {expected} bytes are there", where=path, remedy="Copy the file again"
        )


def _unpacked_length(path: Path) -> int:
    length = 0
    try:
        with gzip.open(path, "rb") as file:
            while block := file.read(_BLOCK):
                length += len(block)
    except (EOFError, OSError, zlib.error):
        return length
    return length
