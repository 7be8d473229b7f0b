"""What a DICOM header says of its pictures: classic slices, enhanced frames, Siemens mosaics."""

from __future__ import annotations

import math
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from ...storage.errors import BadGeometry, EmptyFile, UnreadableFile
from .dicom_pixels import check_complete
from .stack import Picture

_MODALITIES = ("CT", "MR", "PT")


@contextmanager
def named_errors(path: Path) -> Iterator[None]:
    """Turn what a damaged header makes a parser raise into a named error."""
    from pydicom.errors import BytesLengthException, InvalidDicomError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (
        InvalidDicomError, BytesLengthException, AttributeError, EOFError, LookupError,
        MemoryError, OSError, OverflowError, RuntimeError, TypeError, ValueError, struct.error,
        zlib.error,
    ) as error:  # fmt: skip
        # An element that claims to be longer than memory says nothing in its error.
        why = str(error) or type(error).__name__
        raise UnreadableFile(f"not a sound DICOM file ({why})", where=path) from error


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM by its magic word."""
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


@dataclass(frozen=True)
class Header:
    """A data set up to its pixels, and where in the file these begin."""

    data: Any
    pixels_at: int

    @property
    def series(self) -> str:
        """SeriesInstanceUID."""
        return str(self.data.get("SeriesInstanceUID", ""))

    @property
    def has_pictures(self) -> bool:
        """Whether pictures (rows and columns) are described at all."""
        return "Rows" in self.data and "Columns" in self.data


def read_header(path: Path) -> Header:
    """Read a file up to its pixels.

    Raises
    ------
    UnreadableFile
        It cannot be understood.
    """
    from pydicom import dcmread

    with named_errors(path), path.open("rb") as file:
        data = dcmread(file, stop_before_pixels=True)
        return Header(data, 0 if file.closed else file.tell())


def check_scan(path: Path, header: Header) -> None:
    """Refuse what is no scan: no image, no CT, MR or PET, colour, cut off.

    Raises
    ------
    EmptyFile, UnreadableFile, TruncatedFile
        See the message.
    """
    data = header.data
    with named_errors(path):
        modality = str(data.get("Modality", ""))
        if not header.has_pictures:
            what = f"a DICOM {modality or 'directory'} without pictures"
            raise EmptyFile(what, where=path, remedy="Name the image files, or their folder")
        if modality not in _MODALITIES:
            raise UnreadableFile(
                f"DICOM of modality {modality or '?'} is not a scan that Microtome reads",
                where=path,
                remedy="CT, MR and PT are read",
            )
        if int(data.get("SamplesPerPixel", 1)) != 1:
            raise UnreadableFile("colour pictures are no scan", where=path)
        if int(data.BitsAllocated) not in (8, 16, 32):
            raise UnreadableFile(f"{data.BitsAllocated} bits a pixel are not read", where=path)
        with path.open("rb") as file:
            file.seek(header.pixels_at)
            check_complete(file, data, path)


def pictures_of(path: Path, data: Any) -> list[Picture]:
    """Every picture in a file, by its header alone.

    Raises
    ------
    BadGeometry
        The header does not say where the pictures lie.
    UnreadableFile
        The header is damaged.
    """
    with named_errors(path):
        if "PerFrameFunctionalGroupsSequence" in data:
            return _enhanced(path, data)
        if int(data.get("NumberOfFrames") or 1) > 1:
            raise BadGeometry("many frames in one file without their positions", where=path)
        single = _classic(path, data)
        if "MOSAIC" in (data.get("ImageType") or ()):
            return _mosaic(path, data, single)
        return [single]


def _classic(path: Path, header: Any) -> Picture:
    if not (header.get("ImagePositionPatient") and header.get("ImageOrientationPatient")):
        raise BadGeometry("the header does not say where the picture lies", where=path)
    if not header.get("PixelSpacing"):
        raise BadGeometry("the header does not say how large a pixel is", where=path)
    return Picture(
        file=path,
        frame=0,
        tile=None,
        position_mm=_triple(header.ImagePositionPatient),
        orientation=tuple(float(v) for v in header.ImageOrientationPatient),
        spacing_mm=_pair(header.PixelSpacing),
        size_px=(int(header.Rows), int(header.Columns)),
        stated_step_mm=_number(header.get("SpacingBetweenSlices") or header.get("SliceThickness")),
        slope=_rescale(header, "RescaleSlope", 1.0),
        intercept=_rescale(header, "RescaleIntercept", 0.0),
        identity=str(header.get("SOPInstanceUID", path)),
        contrast=(str(header.get("EchoTime", "")), *_kind(header.get("ImageType"))),
        temporal_position=_whole(header.get("TemporalPositionIdentifier")),
        reference_ms=_number(header.get("FrameReferenceTime")),
        acquisition=_whole(header.get("AcquisitionNumber")),
        acquired_s=_seconds(header.get("AcquisitionTime")),
        instance=_whole(header.get("InstanceNumber")),
    )


def _enhanced(path: Path, header: Any) -> list[Picture]:
    shared = header.get("SharedFunctionalGroupsSequence") or [{}]
    frames = header.PerFrameFunctionalGroupsSequence
    if len(frames) != int(header.NumberOfFrames):
        raise BadGeometry(
            f"{header.NumberOfFrames} frames, but positions for {len(frames)}", where=path
        )

    def group(frame: Any, name: str) -> Any:
        found = frame.get(name) or shared[0].get(name)
        return found[0] if found else {}

    pictures = []
    for index, frame in enumerate(frames):
        position = group(frame, "PlanePositionSequence").get("ImagePositionPatient")
        orientation = group(frame, "PlaneOrientationSequence").get("ImageOrientationPatient")
        measures = group(frame, "PixelMeasuresSequence")
        if not (position and orientation and measures.get("PixelSpacing")):
            raise BadGeometry(f"the header does not say where frame {index + 1} lies", where=path)
        rescale = group(frame, "PixelValueTransformationSequence")
        content = group(frame, "FrameContentSequence")
        echo = group(frame, "MREchoSequence").get("EffectiveEchoTime", "")
        kind = group(frame, "MRImageFrameTypeSequence").get("FrameType")
        pictures.append(
            Picture(
                file=path,
                frame=index,
                tile=None,
                position_mm=_triple(position),
                orientation=tuple(float(v) for v in orientation),
                spacing_mm=_pair(measures.PixelSpacing),
                size_px=(int(header.Rows), int(header.Columns)),
                stated_step_mm=_number(
                    measures.get("SpacingBetweenSlices") or measures.get("SliceThickness")
                ),
                slope=_rescale(rescale, "RescaleSlope", 1.0),
                intercept=_rescale(rescale, "RescaleIntercept", 0.0),
                identity=f"{header.get('SOPInstanceUID', path)}/{index}",
                contrast=(str(echo), *_kind(kind)),
                temporal_position=_whole(content.get("TemporalPositionIndex")),
                acquisition=_whole(content.get("FrameAcquisitionNumber")),
                acquired_s=_seconds(content.get("FrameAcquisitionDateTime")),
                instance=index,
            )
        )
    return pictures


def _mosaic(path: Path, header: Any, whole: Picture) -> list[Picture]:
    """Cut a Siemens mosaic: the slices of one volume, tiled on one picture.

    The stated position is that of a picture as large as the mosaic; a tile's own corner lies half
    the difference further in (as in nibabel.nicom.dicomwrappers.MosaicWrapper).
    """
    from nibabel.nicom.csareader import CSAReadError, get_csa_header

    try:
        csa = (get_csa_header(header, "image") or {}).get("tags", {})
    except (CSAReadError, AssertionError) as error:
        raise UnreadableFile(f"the mosaic's own header is damaged ({error})", where=path) from error
    count = _whole(next(iter(csa.get("NumberOfImagesInMosaic", {}).get("items", [])), None))
    along = csa.get("SliceNormalVector", {}).get("items", [])
    step = _number(header.get("SpacingBetweenSlices"))
    if not count or len(along) != 3 or not step:
        raise BadGeometry("a mosaic that does not say how its slices lie", where=path)
    side = math.ceil(math.sqrt(count))
    rows, columns = (size // side for size in whole.size_px)
    x, y = np.array(whole.orientation).reshape(2, 3)
    corner = (
        np.array(whole.position_mm)
        + x * whole.spacing_mm[1] * (whole.size_px[1] - columns) / 2
        + y * whole.spacing_mm[0] * (whole.size_px[0] - rows) / 2
    )
    return [
        replace(
            whole,
            tile=(k // side * rows, k % side * columns),
            position_mm=_triple(corner + k * step * np.array(along, np.float64)),
            size_px=(rows, columns),
            identity=f"{whole.identity}/{k}",
        )
        for k in range(count)
    ]


def _kind(image_type: Any) -> tuple[str, ...]:
    return tuple(str(v) for v in (image_type or ())[2:])


def _rescale(header: Any, name: str, default: float) -> float:
    value = header.get(name)
    return default if value is None else float(value)


def _number(value: Any) -> float | None:
    return None if value in (None, "") else float(value)


def _whole(value: Any) -> int | None:
    return None if value in (None, "") else int(value)


def _pair(values: Any) -> tuple[float, float]:
    first, second = (float(v) for v in values)
    return first, second


def _triple(values: Any) -> tuple[float, float, float]:
    x, y, z = (float(v) for v in values)
    return x, y, z


def _seconds(value: Any) -> float | None:
    """Seconds of a DICOM time (HHMMSS.f) or date and time (YYYYMMDDHHMMSS.f)."""
    text = str(value or "").split("+")[0].strip()
    whole, _, fraction = text.partition(".")
    if not whole.isdigit() or len(whole) not in (6, 14):
        return None
    date = whole[:-6] or "19700101"
    moment = datetime.strptime(f"{date}{whole[-6:]}+0000", "%Y%m%d%H%M%S%z")
    return moment.timestamp() + float(f"0.{fraction or 0}")
