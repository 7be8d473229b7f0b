"""JPEG segments of a TIFF, and frames of DICOM: made whole streams, and decoded."""

from __future__ import annotations

from ...storage.jpeg import Pixels, decode_strict, segments

_START, _END = b"\xff\xd8", b"\xff\xd9"
_ADOBE_RGB = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00"
"""Adobe's APP14 marker with transform 0: the components are red, green and blue as they are."""


def decode_segment(
    segment: bytes,
    size_px: tuple[int, int],
    *,
    samples: int,
    tables: bytes | None = None,
    is_rgb: bool = False,
) -> Pixels:
    """Decode a tile or strip.

    Parameters
    ----------
    segment
        What lies in the file: a JPEG stream, abbreviated where there are ``tables``.
    size_px
        (height, width) of the memory that its pixels may take at most.
    samples
        3 for colour, 1 for a plane of one colour.
    tables
        The TIFF's JPEGTables.
    is_rgb
        The components are red, green and blue although the stream does not say so.

    Returns
    -------
    uint8 [h, w, samples]

    Raises
    ------
    ValueError
        The stream is damaged in any way that libjpeg notices, or its image is larger.
    """
    return decode_strict(standalone(segment, tables, is_rgb=is_rgb), size_px, samples)


def standalone(segment: bytes, tables: bytes | None, *, is_rgb: bool) -> bytes:
    """A segment as a JPEG file of its own, with its tables and, where ``is_rgb``, its colours."""
    if segment[:2] != _START:
        raise ValueError("its JPEG data do not begin as such")
    head = _START if tables is None else tables[: tables.rfind(_END)]
    if not is_rgb:
        return b"".join((head, memoryview(segment)[2:]))
    # Of several colour statements the last is believed.
    *_, (_, at, _) = segments(segment)
    whole = memoryview(segment)
    return b"".join((head, whole[2:at], _ADOBE_RGB, whole[at:]))
