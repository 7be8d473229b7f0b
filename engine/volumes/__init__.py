"""Scans: one function opens them all, by content and not by name."""

from __future__ import annotations

from pathlib import Path

from ...storage.commit import RECORD
from ...storage.errors import EmptyFile, MicrotomeError, MissingFile, UnreadableFile
from .base import Modality, Volume, Voxels
from .dicom import read_dicom, read_each_series
from .dicom_pictures import is_dicom
from .export import export_nifti
from .itk import is_itk, read_itk
from .nifti import is_nifti, read_nifti
from .series import SeriesInfo, list_series
from .stored import read_stored
from .suv import to_bqml, to_suv

__all__ = [
    "Modality",
    "SeriesInfo",
    "Volume",
    "Voxels",
    "export_nifti",
    "is_scan",
    "list_series",
    "open_volume",
    "read_each_series",
    "to_bqml",
    "to_suv",
]


def open_volume(path: str | Path, *, series: str | None = None, resample: bool = False) -> Volume:
    """Open a scan.

    Parameters
    ----------
    path
        A NIfTI, NRRD or MetaImage (MHA, MHD) file, a DICOM file, a folder with a DICOM series, or
        a scan that ``microtome ingest`` made (``.ome.zarr``).
    series
        Which series of a DICOM folder: its SeriesInstanceUID, or its number where that is unique.
    resample
        Bring DICOM slices that are tilted, uneven or incomplete onto a regular, right-angled grid
        by linear interpolation; ``notes`` say what was done. The voxels are then true values in
        float32, NaN where no slice reaches. What is regular is left as it is.

    Returns
    -------
    Volume
        With ``data`` [t,] z, y, x read when sliced, and ``affine`` from voxel (x, y, z) to RAS mm.

    Raises
    ------
    MissingFile
        Nothing is there.
    EmptyFile, UnreadableFile, TruncatedFile
        No image in it; not to be understood; less data than the header promises.
    BadGeometry
        The pictures do not form one regular volume: a gap, duplicates, several series, uneven
        spacing, a tilted gantry, no stated orientation.
    """
    path = Path(path)
    if not path.exists():
        raise MissingFile("no such file or folder", where=path, remedy="Check the path")
    if path.is_file() and path.stat().st_size == 0:
        raise EmptyFile("the file has no bytes", where=path, remedy="Copy it again")
    try:
        if (path / RECORD).is_file():
            return read_stored(path)
        if path.is_dir() or is_dicom(path):
            return read_dicom(path, series, resample=resample)
        if is_nifti(path):
            return read_nifti(path)
        if is_itk(path):
            return read_itk(path)
    except PermissionError as error:
        raise UnreadableFile(
            "this file may not be read", where=error.filename, remedy="Mend its permissions"
        ) from error
    raise UnreadableFile("no reader for scans understands this", where=path)


def is_scan(path: Path) -> bool:
    """Whether a file or folder is for :func:`open_volume` and not for a slide reader.

    DICOM holds slides as well as scans: what a slide reader takes is a slide.
    """
    from ..slides.registry import find_reader

    try:
        find_reader(path)
    except MicrotomeError:
        if path.is_dir():
            return True
        return path.stat().st_size > 0 and (is_dicom(path) or is_nifti(path) or is_itk(path))
    return False
