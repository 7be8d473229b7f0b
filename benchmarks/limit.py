"""The physical limit of reading: what libjpeg-turbo does with the tiles' bytes in memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path


def jpeg_streams(path: Path) -> list[bytes]:
    """The tiles of level 0 of a TIFF, each as a JPEG file of its own."""
    import tifffile

    from microtome.storage.jpeg import standalone

    with tifffile.TiffFile(path) as tif, path.open("rb") as file:
        page = tif.pages.first
        is_rgb = page.photometric == 2 and not page.is_jfif
        streams = []
        for offset, size in zip(page.dataoffsets, page.databytecounts, strict=True):
            file.seek(offset)
            streams.append(standalone(file.read(size), page.jpegtables, is_rgb=is_rgb))
    return streams


def decoder(path: Path) -> Callable[[], None]:
    """A function that decodes all of level 0, from memory."""
    import simplejpeg

    streams = jpeg_streams(path)

    def decode() -> None:
        for stream in streams:
            simplejpeg.decode_jpeg(stream)

    return decode


def decoding_seconds(path: Path) -> float:
    """Processor seconds that decoding level 0 takes."""
    decode = decoder(path)
    start = time.process_time()
    decode()
    return time.process_time() - start
