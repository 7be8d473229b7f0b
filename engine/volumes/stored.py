"""Scans that Microtome keeps as OME-Zarr, opened like any other."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from ...storage.errors import BadProduct
from ...storage.scans import open_stored_scan
from .base import Modality, Volume, Voxels


def read_stored(path: Path) -> Volume:
    """Open an ``.ome.zarr`` scan.

    Raises
    ------
    BadProduct
        It is unfinished, damaged or not a scan.
    """
    scan = open_stored_scan(path)
    header = scan.header
    if header.modality not in get_args(Modality):
        raise BadProduct(f"unknown modality {header.modality!r}", where=path)
    modality: Modality = header.modality  # type: ignore[assignment]
    return Volume(
        path=path,
        backend="ome-zarr",
        stored=Voxels(scan.array.shape, scan.array.dtype, scan.read),
        affine=header.affine,
        modality=modality,
        slope=header.slope,
        intercept=header.intercept,
        unit=header.unit,
        time_s=header.time_s,
        files=(path / "zarr.json",),
        header=header.nifti_header,
        properties=header.properties,
        notes=header.notes,
    )
