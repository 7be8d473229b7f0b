"""JPEG segments of a TIFF by libjpeg-turbo, each of whose warnings is an error here.

libjpeg goes on after damage, and makes the rest up in grey; imagecodecs does not pass its warnings
on. simplejpeg raises them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]

_START, _END, _SCAN = b"\xff\xd8", b"\xff\xd9", 0xDA
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
    import simplejpeg

    out = np.empty((*size_px, samples), np.uint8)
    pixels: Pixels = simplejpeg.decode_jpeg(
        standalone(segment, tables, is_rgb=is_rgb), "RGB" if samples == 3 else "GRAY", buffer=out
    )
    return pixels


def standalone(segment: bytes, tables: bytes | None, *, is_rgb: bool) -> bytes:
    """A segment as a JPEG file of its own, with its tables and, where ``is_rgb``, its colours."""
    if segment[:2] != _START:
        raise ValueError("its JPEG data do not begin as such")
    head = _START if tables is None else tables[: tables.rfind(_END)]
    if not is_rgb:
        return b"".join((head, memoryview(segment)[2:]))
    # Of several colour statements the last is believed.
    at = _scan(segment)
    whole = memoryview(segment)
    return b"".join((head, whole[2:at], _ADOBE_RGB, whole[at:]))


def _scan(jpeg: bytes) -> int:
    """Where the first scan begins."""
    at = 2
    while at + 4 <= len(jpeg):
        if jpeg[at + 1] == _SCAN:
            return at
        at += 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")
    raise ValueError("its JPEG data end before the image")
