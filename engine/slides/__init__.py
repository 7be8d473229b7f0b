"""Whole-slide images, each read exactly, whatever file it comes in."""

from __future__ import annotations

from pathlib import Path

from ...storage.errors import UnreadableFile
from .base import Bounds, Level, Pixels, Slide, SlideInfo
from .registry import find_reader

__all__ = ["Bounds", "Level", "Pixels", "Slide", "SlideInfo", "open_slide"]


def open_slide(path: str | Path, *, mpp: float | None = None, reader: str | None = None) -> Slide:
    """Open a whole-slide image.

    Parameters
    ----------
    path
        A slide file; for MIRAX the ``.mrxs``; for DICOM any file of the series, or its folder;
        for OME-Zarr the folder, or its URL (``https://…``, ``s3://…``) where fsspec reaches it.
    mpp
        Micrometres per pixel at level 0, where the file states none or a wrong one; wins over it.
    reader
        Name of the reader to use; by default the one that fits the content best.

    Returns
    -------
    Slide
        Use as a context manager, or call ``close``.

    Raises
    ------
    MissingFile, EmptyFile, TruncatedFile, UnreadableFile
        What is wrong with the file.
    BadResolution
        ``mpp`` cannot be a pixel size.

    Examples
    --------
    >>> with open_slide("case-17.svs") as slide:  # doctest: +SKIP
    ...     slide.info.mpp, slide.read(0, 0, 0, 256, 256).shape
    ((0.499, 0.499), (256, 256, 3))
    """
    if isinstance(path, str) and "://" in path:
        from .zarr_reader import ZarrSlide

        return ZarrSlide(path, mpp)
    path = Path(path)
    try:
        return find_reader(path, reader).open(path, mpp)
    except PermissionError as error:
        raise UnreadableFile(
            "the file may not be read", where=error.filename or path, remedy="Mend its permissions"
        ) from error
