"""Whole-slide images, each read exactly, whatever file it comes in."""

from __future__ import annotations

from pathlib import Path

from ...storage.errors import BadResolution, NoResolution, UnreadableFile
from .base import Bounds, Level, Pixels, Slide, SlideInfo
from .registry import find_reader
from .resolution import OBJECTIVE, Mpp, Override, from_objective

__all__ = ["Bounds", "Level", "Mpp", "Pixels", "Slide", "SlideInfo", "is_url", "open_slide"]


def is_url(place: str | Path) -> bool:
    """Whether a place is on the network: only OME-Zarr is read from there."""
    return isinstance(place, str) and "://" in place


def open_slide(path: str | Path, *, mpp: Mpp | None = None, reader: str | None = None) -> Slide:
    """Open a whole-slide image.

    Parameters
    ----------
    path
        A slide file; for MIRAX the ``.mrxs``; for DICOM any file of the series, or its folder;
        for OME-Zarr the folder, or its URL (``https://…``, ``s3://…``) where fsspec reaches it.
    mpp
        Micrometres per pixel at level 0, where the file states none or a wrong one; wins over it.
        ``"objective"``: where the file states none that can be true, 10 µm divided by the objective
        power that it states. Only a convention, so never done unasked.
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
    NoResolution
        The objective power is asked for, and not stated either.

    Examples
    --------
    >>> with open_slide("case-17.svs") as slide:  # doctest: +SKIP
    ...     slide.info.mpp, slide.read(0, 0, 0, 256, 256).shape
    ((0.499, 0.499), (256, 256, 3))
    """
    if not isinstance(mpp, str):
        return _open(path, mpp, reader)
    if mpp != OBJECTIVE:
        raise BadResolution(f"{mpp!r} is no pixel size", remedy=f"Give µm, or {OBJECTIVE!r}")
    slide = _open(path, None, reader)
    if slide.info.mpp is not None:
        return slide
    power = slide.info.objective_power
    slide.close()
    if power is None:
        raise NoResolution(
            "the file states neither how large its pixels are nor an objective power",
            where=path,
            remedy="Pass --slide-mpp with the scanner's value, in µm",
        )
    return _open(path, from_objective(power), reader)


def _open(path: str | Path, mpp: Override | None, reader: str | None) -> Slide:
    if is_url(path):
        from .zarr_reader import ZarrSlide

        return ZarrSlide(path, mpp)
    path = Path(path)
    try:
        return find_reader(path, reader).open(path, mpp)
    except PermissionError as error:
        raise UnreadableFile(
            "the file may not be read", where=error.filename or path, remedy="Mend its permissions"
        ) from error
