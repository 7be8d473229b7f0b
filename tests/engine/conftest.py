"""Fixtures that tests of slides, or of scans, share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import tifffile
from products import done
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from microtome.engine.ingest import ingest_slide

SliceWriter = Callable[..., Path]


@pytest.fixture(scope="session")
def write_slices() -> SliceWriter:
    """Write [z, y, x] as classic DICOM slices at given places; see :func:`_write_slices`."""
    return _write_slices


def _write_slices(
    folder: Path,
    values: np.ndarray,
    positions_mm: Sequence[Sequence[float]],
    *,
    orientation: Sequence[float] = (1, 0, 0, 0, 1, 0),
    spacing_mm: tuple[float, float] = (1.0, 1.0),
    modality: str = "CT",
    change: Callable[[int, Dataset], None] | None = None,
    prefix: str = "s",
) -> Path:
    """Positions and orientation are LPS, spacing is (row, column); names tell no order."""
    folder.mkdir(exist_ok=True)
    series = generate_uid()
    for k, plane in enumerate(values):
        data = Dataset()
        data.file_meta = FileMetaDataset()
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
        data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        data.SeriesInstanceUID, data.Modality = series, modality
        data.Rows, data.Columns = plane.shape
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        data.BitsAllocated = data.BitsStored = 8 * plane.dtype.itemsize
        data.HighBit = data.BitsStored - 1
        data.PixelRepresentation = int(plane.dtype.kind == "i")
        data.ImageOrientationPatient = [f"{v:.12f}"[:16] for v in orientation]
        data.ImagePositionPatient = [f"{v:.10f}"[:16] for v in positions_mm[k]]
        data.PixelSpacing = list(spacing_mm)
        data.RescaleSlope, data.RescaleIntercept = 1, 0
        data.PixelData = plane.tobytes()
        data["PixelData"].VR = "OW"
        if change is not None:
            change(k, data)
        data.save_as(folder / f"{prefix}{k * 7 % 101:03}.dcm", enforce_file_format=True)
    return folder


@pytest.fixture(scope="session")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiled, lossless slide of 36 MPix that is not a round number of anything."""
    path = tmp_path_factory.mktemp("slide") / "case.tif"
    draw = np.random.default_rng(0)
    small = draw.integers(0, 256, (375, 401, 3), np.uint8)
    pixels = np.kron(small, np.ones((16, 15, 1), np.uint8))[:, :6001]
    tifffile.imwrite(
        path,
        pixels,
        tile=(256, 256),
        photometric="rgb",
        compression="deflate",
        resolution=(20_000, 20_000),
        resolutionunit="CENTIMETER",
    )
    return path


@pytest.fixture
def reproducible(monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal products are equal to the byte: the time of making is told."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")


@pytest.fixture(scope="session")
def undisturbed(slide: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That slide, ingested at one go."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOURCE_DATE_EPOCH", "1700000000")
        return done(ingest_slide(slide, tmp_path_factory.mktemp("undisturbed"))).path
