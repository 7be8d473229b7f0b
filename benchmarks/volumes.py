"""Parts of a scan: how long a series, a slice or a block takes, by how the scan is kept.

Run: ``python benchmarks/volumes.py`` (about two minutes; writes docs/benchmarks/volumes.md).
``--quick`` takes small scans and writes nothing.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import zarr
from numpy.typing import NDArray
from scipy import ndimage
from tables import ROOT, measured_on, table, write_report

from microtome.engine.ingest import ingest_volume
from microtome.engine.volumes import open_volume

FMRI, CT = (400, 48, 64, 64), (300, 512, 512)
QUICK_FMRI, QUICK_CT = (40, 12, 16, 16), (30, 64, 64)
ROUNDS = 3

Part = tuple[slice, ...]
Reader = Callable[[Path, Part], NDArray[Any]]

ABOUT = (
    "Written by `benchmarks/volumes.py`. Each read opens the file anew, as a script does; files "
    "are in the system's cache; the quickest of three. *One volume a chunk* and *one slice a "
    "chunk* are zarr-python's arrays with such chunks and its default codec, the usual first "
    "choice. All give the same voxels, compared in the same run."
)


def fmri(shape: tuple[int, ...]) -> NDArray[np.int16]:
    """Voxels t, z, y, x with a head's shape, slow fluctuations in space and time, and noise."""
    rng = np.random.default_rng(0)
    head = _head(shape[1:])
    slow = ndimage.gaussian_filter(rng.standard_normal(shape, np.float32), (4, 1, 1, 1))
    noise = rng.standard_normal(shape, np.float32)
    return np.asarray((1000 + 200 * slow + 8 * noise) * head, np.int16)


def ct(shape: tuple[int, ...]) -> NDArray[np.int16]:
    """Voxels z, y, x: air around, tissue within, and the noise of a scanner."""
    rng = np.random.default_rng(0)
    noise = ndimage.gaussian_filter(rng.standard_normal(shape, np.float32), 0.6)
    return np.asarray(np.where(_head(shape), 40 + 40 * noise, -1000 + 8 * noise), np.int16)


def _head(shape: tuple[int, ...]) -> NDArray[np.bool_]:
    axes = np.ogrid[tuple(slice(-1, 1, n * 1j) for n in shape)]
    return np.asarray(sum(axis**2 for axis in axes) < 0.8)


def parts_of(shape: tuple[int, ...]) -> dict[str, Part]:
    """What is asked for."""
    middle = tuple(n // 2 for n in shape)
    cube = tuple(slice(n - 2, n + 3) for n in middle[-3:])
    if len(shape) == 4:
        return {
            "series of a region (5 × 5 × 5)": (slice(None), *cube),
            "a volume": (slice(middle[0], middle[0] + 1),) + (slice(None),) * 3,
            "a slice of a volume": tuple(slice(n, n + 1) for n in middle[:2]) + (slice(None),) * 2,
        }
    side = min(shape) // 4
    return {
        "an axial slice": (slice(middle[0], middle[0] + 1), slice(None), slice(None)),
        "a sagittal slice": (slice(None), slice(None), slice(middle[2], middle[2] + 1)),
        f"a block ({side} × {side} × {side})": tuple(slice(n - side, n) for n in middle),
        "all": (slice(None),) * 3,
    }


def with_nibabel(path: Path, part: Part) -> NDArray[Any]:
    """x, y, z, t there."""
    return np.asarray(nibabel.load(path).dataobj[part[::-1]]).transpose()


def with_zarr(path: Path, part: Part) -> NDArray[Any]:
    """An array as it lies."""
    return np.asarray(zarr.open_array(path, mode="r")[part])


def with_microtome(path: Path, part: Part) -> NDArray[Any]:
    """Our store, through our reader."""
    return np.asarray(open_volume(path).data[part])


def kept(voxels: NDArray[np.int16], folder: Path) -> dict[str, tuple[Reader, Path]]:
    """The same scan in every form."""
    image = nibabel.Nifti1Image(voxels.transpose(), np.diag((2.0, 2.0, 2.0, 1.0)))
    image.header.set_xyzt_units("mm", "sec")
    plain, packed, chunked = (folder / name for name in ("a.nii", "a.nii.gz", "a.zarr"))
    nibabel.save(image, plain)
    nibabel.save(image, packed)
    whole = "one volume a chunk" if voxels.ndim == 4 else "one slice a chunk"
    array = zarr.create_array(
        chunked, shape=voxels.shape, chunks=(1, *voxels.shape[1:]), dtype=voxels.dtype
    )
    array[:] = voxels
    made = ingest_volume(plain, folder / "ours")
    ours = getattr(made, "value", made).path
    return {
        "microtome": (with_microtome, ours),
        ".nii (nibabel)": (with_nibabel, plain),
        ".nii.gz (nibabel)": (with_nibabel, packed),
        f"zarr, {whole}": (with_zarr, chunked),
    }


def rows_of(voxels: NDArray[np.int16], folder: Path) -> list[list[str]]:
    """One row a form: megabytes, and milliseconds of each part."""
    rows = []
    for name, (read, path) in kept(voxels, folder).items():
        files = [path] if path.is_file() else [f for f in path.rglob("*") if f.is_file()]
        row = [name, f"{sum(f.stat().st_size for f in files) / 1e6:,.0f}", f"{len(files):,}"]
        for part in parts_of(voxels.shape).values():
            np.testing.assert_array_equal(read(path, part), voxels[part])
            row.append(f"{1000 * _quickest(read, path, part):,.1f}")
        rows.append(row)
        print(row, flush=True)
    return rows


def _quickest(read: Reader, path: Path, part: Part) -> float:
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        read(path, part)
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    is_quick = parser.parse_args().quick
    shapes = (QUICK_FMRI, QUICK_CT) if is_quick else (FMRI, CT)
    lines = ["# Reading parts of a scan", "", ABOUT]
    for title, make, shape in zip(("fMRI", "CT"), (fmri, ct), shapes, strict=True):
        size = " × ".join(f"{n:,}" for n in shape)
        header = ["kept as", "MB", "files", *(f"{name} (ms)" for name in parts_of(shape))]
        with tempfile.TemporaryDirectory(dir=ROOT) as folder:
            rows = rows_of(make(shape), Path(folder))
        lines += ["", f"## {title}, {size}, 16 bits", "", *table(header, rows)]
    lines += ["", measured_on("zarr", "nibabel", "numpy")]
    if not is_quick:
        write_report("volumes.md", lines)


if __name__ == "__main__":
    main()
