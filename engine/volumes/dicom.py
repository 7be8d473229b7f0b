"""DICOM scans: a file, or a folder with one series or several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...storage.errors import BadGeometry, EmptyFile
from .base import Box, Modality, Volume, Voxels
from .dicom_pet import pet_properties
from .dicom_pictures import Header, check_scan, is_dicom, named_errors, pictures_of, read_header
from .dicom_pixels import decode_frame, pixel_dtype
from .resample import regridded
from .stack import Picture, arrange, frame_times

_MODALITY: Mapping[str, Modality] = {"CT": "CT", "MR": "MR", "PT": "PT"}
_DESCRIBED = (
    "Manufacturer", "ManufacturerModelName", "SeriesDescription", "ProtocolName", "SeriesNumber",
    "RepetitionTime", "EchoTime", "FlipAngle", "MagneticFieldStrength", "KVP", "ConvolutionKernel",
    "Units", "PatientPosition",
)  # fmt: skip


@dataclass(frozen=True)
class Series:
    """One series of a folder: its files with their headers."""

    uid: str
    files: Mapping[Path, Header]

    @property
    def header(self) -> Any:
        """The first file's data set."""
        return next(iter(self.files.values())).data

    @property
    def number(self) -> str:
        """The series number, as the scanner counts."""
        return str(self.header.get("SeriesNumber") or "")

    def __str__(self) -> str:
        words = self.header.get("SeriesDescription") or self.header.get("ProtocolName") or ""
        modality = self.header.get("Modality", "?")
        count = len(self.files)
        files = f"{count} file{'s' if count != 1 else ''}"
        return f"{self.number or '-'}: {modality} {words}".rstrip() + f", {files}, {self.uid}"


def find_series(path: Path) -> list[Series]:
    """Series of a file or folder that hold pictures, by number.

    Raises
    ------
    EmptyFile
        No DICOM file is there, or none with a picture.
    UnreadableFile
        A file has DICOM's magic word and cannot be understood.
    """
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    groups: dict[str, dict[Path, Header]] = {}
    for file in files:
        if is_dicom(file):
            with named_errors(file):
                header = read_header(file)
                if header.has_pictures or path.is_file():
                    groups.setdefault(header.series, {})[file] = header
    if not groups:
        raise EmptyFile("no DICOM pictures are there", where=path)
    found = [Series(uid, members) for uid, members in groups.items()]
    return sorted(found, key=lambda s: (not s.number, s.number.zfill(8), s.uid))


def choose_series(found: Sequence[Series], wanted: str | None, where: Path) -> Series:
    """The only series, or the one asked for by UID or number.

    Raises
    ------
    BadGeometry
        Several are there and none was asked for; or not exactly one is what was asked for.
    """
    listing = "by its number or its UID" + "".join(f"\n  {series}" for series in found)
    if wanted is None:
        if len(found) == 1:
            return found[0]
        raise BadGeometry(
            f"{len(found)} series are there",
            where=where,
            remedy=f"Choose one with --series, {listing}",
        )
    chosen = [series for series in found if wanted in (series.uid, series.number)]
    if len(chosen) != 1:
        which = f"{len(chosen)} series are called {wanted}" if chosen else f"no series {wanted}"
        raise BadGeometry(which, where=where, remedy=f"Choose one {listing}")
    return chosen[0]


def read_dicom(path: Path, series: str | None = None, *, resample: bool = False) -> Volume:
    """Open a DICOM scan.

    Parameters
    ----------
    path
        One file (a slice, an enhanced multi-frame, a mosaic) or a folder, searched through.
    series
        Which series of a folder: its UID, or its number.
    resample
        Bring slices that are tilted, uneven or incomplete onto a regular grid.

    Raises
    ------
    EmptyFile, UnreadableFile, TruncatedFile
        No pictures; not to be understood; cut off.
    BadGeometry
        The pictures are not one regular volume, or there are several series.
    """
    with named_errors(path):
        return _volume_of(path, choose_series(find_series(path), series, path), resample)


def _volume_of(path: Path, chosen: Series, resample: bool) -> Volume:
    pictures: list[Picture] = []
    for file, opened in chosen.files.items():
        check_scan(file, opened)
        pictures += pictures_of(file, opened.data)
    header = chosen.header
    stack = arrange(
        pictures,
        where=path,
        stated_times=int(header.get("NumberOfTemporalPositions") or 0) or None,
        resample=resample,
    )
    kinds = {
        (pixel_dtype(h.data), h.data.file_meta.TransferSyntaxUID) for h in chosen.files.values()
    }
    if len(kinds) > 1:
        raise BadGeometry("one series mixes several pixel types or compressions", where=path)
    dtype, syntax = kinds.pop()
    modality = _MODALITY[str(header.Modality)]
    repetition_ms = header.get("RepetitionTime") if modality == "MR" else None
    frames = _Frames(pictures, stack.order, dtype, syntax)
    volume = Volume(
        path=path,
        backend="dicom",
        stored=Voxels(frames.shape, frames.dtype, frames.read_box),
        affine=stack.affine,
        modality=modality,
        slope=_per_slice([p.slope for p in pictures], stack.order),
        intercept=_per_slice([p.intercept for p in pictures], stack.order),
        unit=_unit(header, modality),
        time_s=frame_times(
            pictures, stack.order, float(repetition_ms) / 1000 if repetition_ms else None
        ),
        series=chosen.uid,
        files=tuple(chosen.files),
        properties=_properties(chosen, modality),
        notes=stack.notes,
    )
    return volume if stack.regrid is None else regridded(volume, stack.regrid)


def _properties(chosen: Series, modality: Modality) -> dict[str, str]:
    header = chosen.header
    said = {name: str(header.get(name)) for name in _DESCRIBED if header.get(name) is not None}
    if modality != "PT":
        return said
    return said | pet_properties([opened.data for opened in chosen.files.values()])


def _unit(header: Any, modality: Modality) -> str:
    if modality == "CT":
        return str(header.get("RescaleType") or "HU")
    return str(header.get("Units") or "") if modality == "PT" else ""


def _per_slice(values: Sequence[float], order: NDArray[np.intp]) -> NDArray[np.float64]:
    """A scalar where all slices agree, else [t,] z, 1, 1."""
    table = np.array(values, np.float64)[order]
    if (table == table.flat[0]).all():
        return np.array(table.flat[0])
    spread: NDArray[np.float64] = (table if len(table) > 1 else table[0])[..., None, None]
    return spread


class _Frames:
    """Reads boxes of a stack, decoding only the pictures that they touch."""

    def __init__(
        self,
        pictures: Sequence[Picture],
        order: NDArray[np.intp],
        dtype: np.dtype[Any],
        syntax: Any,
    ) -> None:
        self._pictures = pictures
        self._order = order
        self._syntax = syntax
        self._last: tuple[tuple[Path, int], NDArray[Any]] | None = None
        self.dtype = dtype
        grid = order.shape if len(order) > 1 else order.shape[1:]
        self.shape = (*grid, *pictures[0].size_px)

    def read_box(self, box: Box) -> NDArray[Any]:
        *outer, rows, columns = box
        chosen = self._order[tuple(outer)] if len(outer) == 2 else self._order[0][outer[0]]
        flat = [self._read(self._pictures[int(i)])[rows, columns] for i in chosen.ravel()]
        return np.stack(flat).reshape(*chosen.shape, *flat[0].shape)

    def _read(self, picture: Picture) -> NDArray[Any]:
        # The slices of a mosaic come from one picture: it is decoded once.
        place = (picture.file, picture.frame)
        if self._last is None or self._last[0] != place:
            self._last = place, decode_frame(*place, self._syntax).astype(self.dtype, copy=False)
        whole = self._last[1]
        if picture.tile is None:
            return whole
        (y, x), (height, width) = picture.tile, picture.size_px
        return whole[y : y + height, x : x + width]
