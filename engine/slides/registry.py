"""Which reader opens which file: picked by content, never by suffix alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from ...storage.errors import (
    EmptyFile,
    InputError,
    MissingDependency,
    MissingFile,
    UnreadableFile,
)
from .base import Slide
from .resolution import Override

ENTRY_POINTS = "microtome.readers"


@dataclass(frozen=True)
class Reader:
    """One way to open slides.

    Another package adds its own as an entry point of the group ``microtome.readers`` that names a
    ``Reader``.

    Attributes
    ----------
    name
        Short name, as in ``open_slide(path, reader=name)``.
    what
        The formats it is for, for a human.
    priority
        Of several readers that open a file, the highest is taken.
    opens
        Whether this reader is the one for a file, by its content. Never raises on a bad file.
    open
        Open a file, with what overrides its pixel size (micrometres, or a statement of them with
        its source) or None; raises named errors.
    """

    name: str
    what: str
    priority: int
    opens: Callable[[Path], bool]
    open: Callable[[Path, Override | None], Slide]


def _tifffile_opens(path: Path) -> bool:
    from .tifffile_reader import is_ours

    return is_ours(path)


def _tifffile_open(path: Path, mpp: Override | None) -> Slide:
    from .tifffile_reader import TiffSlide

    return TiffSlide(path, mpp)


def _openslide_opens(path: Path) -> bool:
    from .openslide_reader import is_ours

    return is_ours(path)


def _openslide_open(path: Path, mpp: Override | None) -> Slide:
    from .openslide_reader import VendorSlide

    return VendorSlide(path, mpp)


def _wsidicom_opens(path: Path) -> bool:
    from .dicom_reader import is_ours

    return is_ours(path)


def _wsidicom_open(path: Path, mpp: Override | None) -> Slide:
    from .dicom_reader import DicomSlide

    return DicomSlide(path, mpp)


def _stored_opens(path: Path) -> bool:
    from .stored_reader import is_ours

    return is_ours(path)


def _stored_open(path: Path, mpp: Override | None) -> Slide:
    from .stored_reader import open_stored

    return open_stored(path, mpp)


def _picture_opens(path: Path) -> bool:
    from .picture_reader import is_ours

    return is_ours(path)


def _picture_open(path: Path, mpp: Override | None) -> Slide:
    from .picture_reader import PictureSlide

    return PictureSlide(path, mpp)


def _zarr_opens(path: Path) -> bool:
    from .zarr_reader import is_ours

    return is_ours(path)


def _zarr_open(path: Path, mpp: Override | None) -> Slide:
    from .zarr_reader import ZarrSlide

    return ZarrSlide(path, mpp)


BUILT_IN = (
    Reader(
        "tifffile",
        "Aperio SVS, OME-TIFF, QPTIFF and plain TIFF, RGB or channels, by the file's own tiles",
        20,
        _tifffile_opens,
        _tifffile_open,
    ),
    Reader(
        "wsidicom",
        "DICOM in transfer syntaxes that OpenSlide refuses (RLE, JPEG-LS, lossless JPEG …)",
        12,
        _wsidicom_opens,
        _wsidicom_open,
    ),
    Reader(
        "openslide",
        "DICOM, MIRAX, Hamamatsu, Leica, Philips, Ventana, Trestle, Sakura, and what TIFF remains",
        10,
        _openslide_opens,
        _openslide_open,
    ),
    Reader(
        "ome-zarr",
        "OME-Zarr that microtome ingest made",
        8,
        _stored_opens,
        _stored_open,
    ),
    Reader(
        "zarr",
        "OME-Zarr 0.4 and 0.5, RGB or channels, also by URL",
        7,
        _zarr_opens,
        _zarr_open,
    ),
    Reader(
        "picture",
        "PNG, JPEG and BMP, 8-bit RGB, without a resolution",
        4,
        _picture_opens,
        _picture_open,
    ),
)


@cache
def readers() -> tuple[Reader, ...]:
    """All readers, the most preferred first.

    Raises
    ------
    MissingDependency
        One that another package adds does not import.
    """
    added = tuple(_load(entry) for entry in entry_points(group=ENTRY_POINTS))
    return tuple(sorted(BUILT_IN + added, key=lambda reader: -reader.priority))


def _load(entry: EntryPoint) -> Reader:
    try:
        reader = entry.load()
    except (ImportError, AttributeError) as error:
        raise MissingDependency(
            f"the slide reader {entry.name} ({entry.value}) does not import: {error}",
            remedy="Mend or remove the package that adds it",
        ) from error
    if not isinstance(reader, Reader):
        raise MissingDependency(
            f"the slide reader {entry.name} ({entry.value}) is no Reader",
            remedy="Mend or remove the package that adds it",
        )
    return reader


def find_reader(path: Path, name: str | None = None) -> Reader:
    """The reader for a file or folder.

    Raises
    ------
    MissingFile, EmptyFile
        Nothing is there, or nothing is in it.
    InputError
        There is no reader called ``name``.
    UnreadableFile
        No reader understands the content.
    """
    if not path.exists():
        raise MissingFile("no such file", where=path, remedy="Check the path")
    if path.is_file() and path.stat().st_size == 0:
        raise EmptyFile("the file is empty", where=path, remedy="Copy or download it again")
    if name is not None:
        for reader in readers():
            if reader.name == name:
                return reader
        known = ", ".join(reader.name for reader in readers())
        raise InputError(f"no reader is called {name!r}", where=path, remedy=f"Choose from {known}")
    for reader in readers():
        if reader.opens(path):
            return reader
    raise UnreadableFile(
        "no reader understands this file as a slide",
        where=path,
        remedy="Check that it was copied whole and is a slide; microtome doctor lists the readers",
    )
