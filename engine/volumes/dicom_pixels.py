"""The pixels of DICOM files: whether they are all there, and how they are decoded."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ...storage.errors import TruncatedFile, UnreadableFile

# What pydicom alone cannot decode, imagecodecs can.
_CODECS = {
    "1.2.840.10008.1.2.4.51": "jpeg_decode",
    "1.2.840.10008.1.2.4.57": "jpegsof3_decode",
    "1.2.840.10008.1.2.4.70": "jpegsof3_decode",
    "1.2.840.10008.1.2.4.80": "jpegls_decode",
    "1.2.840.10008.1.2.4.81": "jpegls_decode",
    "1.2.840.10008.1.2.4.90": "jpeg2k_decode",
    "1.2.840.10008.1.2.4.91": "jpeg2k_decode",
    "1.2.840.10008.1.2.4.201": "htj2k_decode",
    "1.2.840.10008.1.2.4.202": "htj2k_decode",
    "1.2.840.10008.1.2.4.203": "htj2k_decode",
}
_PIXEL_DATA = (0x7FE0, 0x0010)
_UNDEFINED = 0xFFFFFFFF
_ITEM, _END = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"


def pixel_dtype(header: Any) -> np.dtype[Any]:
    """Type of the stored pixels."""
    sign = "i" if int(header.get("PixelRepresentation", 0)) else "u"
    return np.dtype(f"{sign}{int(header.BitsAllocated) // 8}")


def check_complete(file: BinaryIO, header: Any, path: Path) -> None:
    """Check that the pixel data are as long as the header promises.

    Parameters
    ----------
    file
        Open at the pixel data element, where reading a header up to the pixels leaves it.

    Raises
    ------
    TruncatedFile
        The file ends earlier.
    """
    syntax = header.file_meta.TransferSyntaxUID
    if syntax.is_deflated:
        return  # Read whole with the header, and an error where it is cut off.
    order = "<" if syntax.is_little_endian else ">"
    start = file.read(4)
    if start != struct.pack(f"{order}HH", *_PIXEL_DATA):
        raise _cut_off(path)
    explicit = not syntax.is_implicit_VR
    text = file.read(8 if explicit else 4)[-4:]
    length = struct.unpack(f"{order}I", text.rjust(4, b"\0"))[0]
    if length == _UNDEFINED:
        if not _fragments_end(file):
            raise _cut_off(path)
        return
    here = file.tell()
    there = file.seek(0, 2) - here
    bits = int(header.Rows) * int(header.Columns) * int(header.BitsAllocated)
    frames = int(header.get("NumberOfFrames") or 1) * int(header.get("SamplesPerPixel", 1))
    if there < max(length, bits * frames // 8):
        raise _cut_off(path)


def _fragments_end(file: BinaryIO) -> bool:
    while len(start := file.read(8)) == 8:
        tag, length = start[:4], struct.unpack("<I", start[4:])[0]
        if tag == _END:
            return True
        if tag != _ITEM:
            return False
        file.seek(length, 1)
    return False


def _cut_off(path: Path) -> TruncatedFile:
    return TruncatedFile(
        "the file ends before its pixels do", where=path, remedy="Copy the file again"
    )


def decode_frame(path: Path, frame: int, syntax: Any) -> NDArray[Any]:
    """Decode one frame as it is stored: [rows, columns], before any rescale.

    Parameters
    ----------
    syntax
        The file's transfer syntax (a pydicom UID).

    Raises
    ------
    UnreadableFile
        The pixels are damaged, or nothing here decodes their compression.
    """
    from pydicom import dcmread
    from pydicom.errors import BytesLengthException
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.pixels.utils import pixel_array

    try:
        if str(syntax) in _CODECS:
            return _decode_with_imagecodecs(path, frame, _CODECS[str(syntax)])
        if not get_decoder(syntax).is_available:
            raise UnreadableFile(f"nothing here decodes {syntax.name}", where=path)
        source = dcmread(path) if syntax.is_deflated else path
        return np.asarray(pixel_array(source, index=frame, raw=True))
    except (
        BytesLengthException, AttributeError, EOFError, LookupError, MemoryError, OSError,
        OverflowError, RuntimeError, TypeError, ValueError, struct.error, zlib.error,
    ) as error:  # fmt: skip
        why = " ".join(str(error).split())
        raise UnreadableFile(f"the pixels cannot be decoded ({why})", where=path) from error


def _decode_with_imagecodecs(path: Path, frame: int, codec: str) -> NDArray[Any]:
    import imagecodecs
    from pydicom import dcmread
    from pydicom.encaps import get_frame

    data = dcmread(path)
    count = int(data.get("NumberOfFrames") or 1)
    coded = get_frame(data.PixelData, frame, number_of_frames=count)
    pixels = np.asarray(getattr(imagecodecs, codec)(coded))
    shape = (int(data.Rows), int(data.Columns))
    if pixels.shape != shape:
        raise ValueError(f"a picture of {pixels.shape} where {shape} was promised")
    dtype = pixel_dtype(data)
    if dtype.kind == "u":
        return pixels.astype(dtype)
    # These codecs know no sign: the highest stored bit is it.
    spare = 8 * dtype.itemsize - int(data.BitsStored)
    unsigned = pixels.astype(np.dtype(f"u{dtype.itemsize}"))
    signed: NDArray[Any] = (unsigned << spare).view(dtype) >> spare
    return signed
