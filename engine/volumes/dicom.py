"""DICOM scans: a file, or a folder with one series or several."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...storage.errors import BadGeometry, MicrotomeError
from .base import Box, Modality, Volume, Voxels
from .dicom_pet import pet_properties
from .dicom_pictures import check_scan, named_errors, pictures_of
from .dicom_pixels import decode_frame, pixel_dtype
from .resample import regridded
from .series import Series, SeriesInfo, choose_series, find_series
from .stack import Picture, arrange, frame_times

_MODALITY: Mapping[str, Modality] = {"CT": "CT", "MR": "MR", "PT": "PT"}
_DESCRIBED = (
    "Manufacturer", "ManufacturerModelName", "SeriesDescription", "ProtocolName", "SeriesNumber",
    "RepetitionTime", "EchoTime", "FlipAngle", "MagneticFieldStrength", "KVP", "ConvolutionKernel",
    "Units", "PatientPosition",
)  # fmt: skip


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


def read_each_series(
    path: Path, *, resample: bool = False
) -> Iterator[tuple[SeriesInfo, Volume | MicrotomeError]]:
    """Open every series of a folder, in the order of their numbers.

    Yields
    ------
    (SeriesInfo, Volume or MicrotomeError)
        A series and its reading, or what is wrong with it.

    Raises
    ------
    EmptyFile, UnreadableFile
        No pictures at all; a file that cannot be understood.
    """
    for series in find_series(path):
        with named_errors(path):
            info = series.info
        found: Volume | MicrotomeError
        try:
            with named_errors(path):
                found = _volume_of(path, series, resample)
        except MicrotomeError as error:
            found = error
        yield info, found


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
    if modality == "CT" and not _states_rescale(header):
        volume = replace(volume, unit="", notes=(*volume.notes, _NO_RESCALE))
    return volume if stack.regrid is None else regridded(volume, stack.regrid)


def _states_rescale(header: Any) -> bool:
    shared = header.get("SharedFunctionalGroupsSequence") or ()
    frames = header.get("PerFrameFunctionalGroupsSequence") or ()
    groups = [*shared, *frames[:1]]
    return "RescaleIntercept" in header or any(
        "PixelValueTransformationSequence" in group for group in groups
    )


_NO_RESCALE = "CT without RescaleIntercept (0028,1052): the values may not be Hounsfield units"


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
