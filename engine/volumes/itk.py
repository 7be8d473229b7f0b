"""NRRD and MetaImage (MHA, MHD) through SimpleITK.

Both formats may leave open how the voxels lie, and ITK then takes its own axes; so the header is
read here as well, and what it does not state is refused. ITK's axes are LPS, ours RAS. Of NRRD the
directions are taken from the header itself: ITK 5.4 mirrors the space ``left-anterior-superior``.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...storage.errors import (
    BadGeometry,
    EmptyFile,
    MissingFile,
    TruncatedFile,
    UnreadableFile,
)
from .base import Box, Modality, Volume, Voxels

_HEADER_BYTES = 1 << 16
_BLOCK = 1 << 20
_META_START = re.compile(rb"\s*[A-Za-z]+\s*=[^\n]*\n")
_TO_RAS: Mapping[str, tuple[int, int, int]] = {
    "right-anterior-superior": (1, 1, 1), "ras": (1, 1, 1),
    "left-anterior-superior": (-1, 1, 1), "las": (-1, 1, 1),
    "left-posterior-superior": (-1, -1, 1), "lps": (-1, -1, 1),
}  # fmt: skip
_UNITS_MM = {"": 1.0, "mm": 1.0, "um": 0.001, "µm": 0.001, "cm": 10.0, "m": 1000.0}
_META_MODALITY: Mapping[str, Modality] = {"MET_MOD_CT": "CT", "MET_MOD_MR": "MR"}
_DEFLATE_MOST = 1032
"""Deflate shrinks nothing by more than this."""


@dataclass(frozen=True)
class _Header:
    """The text before the voxels: ``fields`` in lower case, and where the voxels are."""

    kind: str
    fields: Mapping[str, str]
    length: int
    voxels: Path
    notes: tuple[str, ...] = field(default=())

    def any_of(self, *names: str) -> str:
        return next((self.fields[name] for name in names if self.fields.get(name)), "")


def is_itk(path: Path) -> bool:
    """Whether a file is NRRD or MetaImage by its content."""
    with path.open("rb") as file:
        start = file.read(_HEADER_BYTES)
    return start.startswith(b"NRRD000") or _is_meta(start)


def _is_meta(start: bytes) -> bool:
    return bool(_META_START.match(start)) and b"ElementDataFile" in start and b"NDims" in start


def read_itk(path: Path) -> Volume:
    """Open an NRRD or MetaImage file.

    The voxels are read whole when the first of them is asked for: neither format is made to be
    read in parts where it is compressed.

    Raises
    ------
    EmptyFile, TruncatedFile, UnreadableFile, MissingFile
        No voxels; fewer than the header promises; not to be understood, colour or vectors; the
        file that the header names for the voxels is not there.
    BadGeometry
        Not three axes, or the header does not say how large voxels are and how they lie: left and
        right are never guessed.
    """
    header = _read_header(path)
    reader = _reader(path, header.kind)
    size, dtype = _check_kind(path, reader)
    expected = int(np.prod(size)) * dtype.itemsize
    _check_length(header, expected, path)
    place = _nrrd_affine if header.kind == "NRRD" else _meta_affine
    affine, notes = place(path, header, reader)
    return Volume(
        path=path,
        backend="itk",
        stored=Voxels(size[::-1], dtype, _Image(path, header.kind, size, dtype).read_box),
        affine=affine,
        modality=_META_MODALITY.get(header.any_of("modality"), "unknown"),
        files=tuple(sorted({path, header.voxels})),
        properties={"format": header.kind},
        notes=notes,
    )


def _read_header(path: Path) -> _Header:
    with path.open("rb") as file:
        start = file.read(_HEADER_BYTES)
    nrrd = start.startswith(b"NRRD000")
    if nrrd:
        blank = re.search(rb"\r?\n\r?\n", start)
        text = start[: blank.start()] if blank else start
        length = blank.end() if blank else len(start)
        pairs = re.findall(r"^([a-z][a-z ]*): ?(.*?)\s*$", text.decode("latin-1"), re.M | re.I)
    else:
        end = re.search(rb"ElementDataFile\s*=[^\n]*(\n|$)", start)
        length = end.end() if end else len(start)
        pairs = re.findall(r"^\s*(\w+)\s*=\s*(.*?)\s*$", start[:length].decode("latin-1"), re.M)
    fields = {name.lower(): value for name, value in pairs}
    named = fields.get("data file", fields.get("datafile", "")) if nrrd else ""
    named = named or ("" if nrrd else fields.get("elementdatafile", ""))
    voxels = path if named in ("", "LOCAL") else path.parent / named
    if named.startswith("LIST") or "%" in named:
        raise UnreadableFile(
            "its voxels are spread over many files", where=path, remedy="Save it as one file"
        )
    if voxels != path and not voxels.is_file():
        raise MissingFile(
            f"its voxels should be in {named}, which is not there",
            where=path,
            remedy="Copy both files",
        )
    return _Header("NRRD" if nrrd else "MetaImage", fields, length, voxels)


def _simple_itk() -> Any:
    import SimpleITK

    return SimpleITK


def _reader(path: Path, kind: str) -> Any:
    reader = _simple_itk().ImageFileReader()
    reader.SetImageIO("NrrdImageIO" if kind == "NRRD" else "MetaImageIO")
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except (RuntimeError, MemoryError) as error:
        raise UnreadableFile(f"not a sound {kind} file ({_why(error)})", where=path) from error
    return reader


def _why(error: Exception) -> str:
    """The end of ITK's message, without its own file names and addresses."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:200] if lines else type(error).__name__


def _check_kind(path: Path, reader: Any) -> tuple[tuple[int, int, int], np.dtype[Any]]:
    sitk = _simple_itk()
    dtypes = {
        sitk.sitkUInt8: "u1", sitk.sitkInt8: "i1", sitk.sitkUInt16: "u2", sitk.sitkInt16: "i2",
        sitk.sitkUInt32: "u4", sitk.sitkInt32: "i4", sitk.sitkUInt64: "u8", sitk.sitkInt64: "i8",
        sitk.sitkFloat32: "f4", sitk.sitkFloat64: "f8",
    }  # fmt: skip
    count, pixel = reader.GetNumberOfComponents(), reader.GetPixelID()
    if count != 1 or pixel not in dtypes:
        what = sitk.GetPixelIDValueAsString(pixel)
        raise UnreadableFile(
            f"voxels of {count} components ({what}) are no scan",
            where=path,
            remedy="Save one component, or one time point, as a file",
        )
    size = tuple(int(n) for n in reader.GetSize())
    if len(size) != 3:
        raise BadGeometry(
            f"{len(size)} axes where three are wanted: nothing says what the others are",
            where=path,
            remedy="Save one volume a file",
        )
    if 0 in size:
        raise EmptyFile("there are no voxels", where=path)
    return (size[0], size[1], size[2]), np.dtype(dtypes[pixel])


def _check_length(header: _Header, expected: int, path: Path) -> None:
    """Check that all voxels are there, and sound where they are compressed with a checksum.

    ITK itself reads damaged compressed voxels of a MetaImage, and says nothing.
    """
    offset = header.length if header.voxels == path else 0
    there = header.voxels.stat().st_size - offset
    coding = header.fields.get("encoding", "raw").lower()
    if header.fields.get("compresseddata", "").lower() == "true":
        coding = "zlib"
    if coding in ("gzip", "gz", "zlib"):
        # Not unpacked where it could never be enough.
        there = 0 if there < expected // _DEFLATE_MOST else _unpacked_length(header.voxels, offset)
    elif coding != "raw":
        return
    if there < expected:
        raise TruncatedFile(
            "fewer voxels are there than the header promises",
            where=path,
            remedy="Copy the file again",
        )


def _unpacked_length(path: Path, offset: int) -> int:
    """Length of a zlib or gzip stream; 0 where it has no end."""
    unpack, length = zlib.decompressobj(wbits=32 + zlib.MAX_WBITS), 0
    with path.open("rb") as file:
        file.seek(offset)
        try:
            while not unpack.eof:
                packed = unpack.unconsumed_tail or file.read(_BLOCK)
                part = unpack.decompress(packed, 16 * _BLOCK)
                if not packed and not part:
                    return 0
                length += len(part)
        except zlib.error as error:
            raise UnreadableFile(
                f"the compressed voxels are damaged ({error})",
                where=path,
                remedy="Copy the file again",
            ) from error
    return length


def _nrrd_affine(
    path: Path, header: _Header, _: Any
) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    space = header.fields.get("space", "").lower()
    if space not in _TO_RAS:
        raise _unstated(path, f"space is {space!r}" if space else "there is no field 'space'")
    directions = _vectors(header.any_of("space directions", "spacedirections"))
    if directions.shape != (3, 3):
        raise _unstated(path, "'space directions' are not three vectors of three numbers")
    units = {unit.lower() for unit in re.findall(r'"([^"]*)"', header.any_of("space units"))}
    unit = "mixed" if len(units) > 1 else "".join(units)
    if unit not in _UNITS_MM:
        raise BadGeometry(f"the unit of length {unit!r} is not known", where=path)
    origin = _vectors(header.any_of("space origin"))
    placed = origin.shape == (1, 3)
    affine = _affine(path, directions.T, origin[0] if placed else np.zeros(3), _TO_RAS[space])
    affine[:3] *= _UNITS_MM[unit]
    return affine, () if placed else (_NO_ORIGIN,)


def _vectors(text: str) -> NDArray[np.float64]:
    """The vectors (a,b,c) of a field, a row each; an empty array where one is not all numbers."""
    try:
        rows = [part.split(",") for part in re.findall(r"\(([^)]*)\)", text)]
        return np.array(rows, np.float64)
    except ValueError:
        return np.empty(0)


def _meta_affine(
    path: Path, header: _Header, reader: Any
) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    oriented = header.any_of("transformmatrix", "rotation", "orientation")
    letters = header.any_of("anatomicalorientation").upper()
    # ITK's own axes, written by where they come from.
    if not oriented and letters != "RAI":
        what = f"AnatomicalOrientation {letters}" if letters else "no AnatomicalOrientation"
        raise _unstated(path, f"there is no TransformMatrix, and {what}")
    if not header.any_of("elementspacing", "elementsize"):
        raise BadGeometry("the header has no ElementSpacing: how large is a voxel?", where=path)
    unit = header.any_of("distanceunits").lower()
    if unit not in ("", "?", "mm"):
        raise BadGeometry(f"distances in {unit} are not read", where=path)
    axes = np.array(reader.GetDirection(), np.float64).reshape(3, 3) * reader.GetSpacing()
    affine = _affine(path, axes, np.array(reader.GetOrigin()), _TO_RAS["lps"])
    return affine, () if header.any_of("offset", "position", "origin") else (_NO_ORIGIN,)


_NO_ORIGIN = "where the first voxel lies is not stated; 0, 0, 0 is taken"


def _unstated(path: Path, what: str) -> BadGeometry:
    return BadGeometry(
        f"the file does not say how it lies in space ({what})",
        where=path,
        remedy="Convert it again from its source; left and right are never guessed",
    )


def _affine(
    path: Path, axes: NDArray[np.float64], origin: NDArray[np.float64], to_ras: tuple[int, int, int]
) -> NDArray[np.float64]:
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = axes, origin
    affine[:3] *= np.array(to_ras, np.float64)[:, None]
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
        raise BadGeometry("the stated axes are singular or not finite", where=path)
    return affine


class _Image:
    """The voxels, read whole at the first touch."""

    def __init__(
        self, path: Path, kind: str, size: tuple[int, int, int], dtype: np.dtype[Any]
    ) -> None:
        self._path, self._kind = path, kind
        self._shape, self._dtype = size[::-1], dtype
        self._voxels: NDArray[Any] | None = None

    def read_box(self, box: Box) -> NDArray[Any]:
        if self._voxels is None:
            self._voxels = self._read()
        return self._voxels[box].copy()

    def _read(self) -> NDArray[Any]:
        reader = _reader(self._path, self._kind)
        try:
            voxels = _simple_itk().GetArrayFromImage(reader.Execute())
        except (RuntimeError, MemoryError) as error:
            raise UnreadableFile(
                f"the voxels cannot be read ({_why(error)})",
                where=self._path,
                remedy="Copy the file again",
            ) from error
        if voxels.shape != self._shape or voxels.dtype != self._dtype:
            raise UnreadableFile("the file changed while it was read", where=self._path)
        return np.asarray(voxels)
