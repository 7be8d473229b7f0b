"""JPEG segments of a TIFF, and frames of DICOM: made whole streams, and decoded."""

from __future__ import annotations

from ...storage.jpeg import Pixels, decode_strict, standalone


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
