"""Synthetic CT of heads, some with haemorrhage, to learn from labels of scans.

Ellipsoids with the attenuation of scalp, bone, brain, ventricles and blood, blurred and noisy. They
are not anatomy: nothing that is learnt or measured on them says anything about patients.

What a bleed could be mistaken for is in scans of both labels: calcifications, a bright falx, the
blurred inner edge of the skull, old infarcts, and a level that drifts from scan to scan. So neither
the size of a head nor its mean intensity tells the label, and a bright spot alone does not.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...storage.files import writable, write_text
from ..volumes.base import Volume, Voxels
from ..volumes.export import export_nifti
from .noise import key_of

LABELS = ("clear", "haemorrhage")
COLUMNS = ("id", "path", "patient", "label", "truth")
BLOOD_HU = (55.0, 85.0)

Triple = tuple[float, float, float]
Grid = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]
Mask = NDArray[np.bool_]

_FIELD_MM: Triple = (168.0, 216.0, 180.0)
_BRAIN_MM: Triple = (62.0, 82.0, 66.0)
_SKULL_MM, _SCALP_MM = 6.0, 5.0
_AIR, _SCALP, _BONE, _BRAIN, _WATER, _FALX = -1000.0, 10.0, 900.0, 35.0, 8.0, 52.0
_BLUR_MM, _NOISE_HU = 1.2, 5.0


@dataclass(frozen=True)
class HeadCt:
    """A simulated scan and what is true of it.

    Attributes
    ----------
    hu
        int16 [z, y, x]: Hounsfield units.
    affine
        float64 [4, 4]: voxel (x, y, z) -> RAS mm; oblique, with x running to the patient's left.
    blood
        bool [z, y, x]: voxels whose centre lies in a bleed.
    """

    hu: NDArray[np.int16]
    affine: NDArray[np.float64]
    blood: Mask


@dataclass(frozen=True)
class _Ellipsoid:
    centre_mm: Triple
    radii_mm: Triple

    def level(self, at: Grid) -> NDArray[np.float32]:
        """Squared distance from the centre in radii, at places in mm: below 1 is inside."""
        parts = zip(at, self.centre_mm, self.radii_mm, strict=True)
        return np.asarray(sum(((mm - c) / r) ** 2 for mm, c, r in parts), np.float32)

    def inside(self, at: Grid) -> Mask:
        return np.asarray(self.level(at) < 1)


def simulate_head(seed: int, *, bleeds: int = 0, spacing_mm: Triple = (3.0, 2.0, 2.0)) -> HeadCt:
    """Simulate a head CT.

    Parameters
    ----------
    seed
        Equal seeds give equal scans; the head is the same with and without bleeds.
    bleeds
        Haemorrhages: ellipsoids of about 9 to 17 mm radius and 55 to 85 HU, wholly in the brain.
    spacing_mm
        (z, y, x) distance between voxels.
    """
    rng = np.random.default_rng(key_of(seed, "head"))
    shape = tuple(round(mm / step) for mm, step in zip(_FIELD_MM, spacing_mm, strict=True))
    axes = [
        ((np.arange(n) - (n - 1) / 2) * step).astype(np.float32)
        for n, step in zip(shape, spacing_mm, strict=True)
    ]
    z, y, x = np.meshgrid(*axes, indexing="ij", sparse=True)
    at = (z, y, x)
    depth, length, width = (r * rng.uniform(0.93, 1.05) for r in _BRAIN_MM)
    brain = _Ellipsoid((0.0, 0.0, 0.0), (depth, length, width))
    hu = _head(at, brain, rng)
    blood = np.zeros(shape, np.bool_)
    own = np.random.default_rng(key_of(seed, "bleeds"))
    for _ in range(bleeds):
        bleed = _within(brain, own, (9.0, 17.0), farthest=0.8).inside(at)
        hu[bleed] = own.uniform(*BLOOD_HU)
        blood |= bleed
    scanned = _scanned(hu, spacing_mm, np.random.default_rng(key_of(seed, "noise")))
    return HeadCt(scanned, _affine(shape, spacing_mm, rng), blood)


def _head(at: Grid, brain: _Ellipsoid, rng: np.random.Generator) -> NDArray[np.float32]:
    """Everything but bleeds, in HU: scalp, skull, brain, ventricles, falx, and what misleads."""
    skull = _grown(brain, _SKULL_MM * rng.uniform(0.7, 1.3))
    inside = brain.inside(at)
    hu = np.full(inside.shape, _AIR, np.float32)
    hu[_grown(skull, _SCALP_MM).inside(at)] = _SCALP
    hu[skull.inside(at)] = _BONE * rng.uniform(0.8, 1.2)
    depth = brain.level(at)
    # Grey matter at the surface, white matter inside.
    hu[inside] = np.where(depth[inside] > 0.75, _BRAIN + 3, _BRAIN - 3) + rng.normal(0, 2)
    hu[(np.abs(at[2]) < 1.5) & (at[1] > -70) & (at[0] > 5) & inside] = _FALX + rng.normal(0, 3)
    for side in (-1, 1):
        wide = float(rng.uniform(5, 10))
        ventricle = _Ellipsoid((5.0, 0.0, side * (wide + 3)), (9.0, 26.0, wide))
        hu[ventricle.inside(at)] = _WATER
    for _ in range(rng.integers(0, 2, endpoint=True)):
        hu[_within(brain, rng, (6.0, 14.0), farthest=0.8).inside(at)] = rng.uniform(12, 22)
    for _ in range(rng.integers(1, 5)):
        hu[_within(brain, rng, (1.5, 3.0), farthest=0.9).inside(at)] = rng.uniform(90, 250)
    return hu


def _grown(shape: _Ellipsoid, by_mm: float) -> _Ellipsoid:
    z, y, x = (radius + by_mm for radius in shape.radii_mm)
    return _Ellipsoid(shape.centre_mm, (z, y, x))


def _within(
    brain: _Ellipsoid, rng: np.random.Generator, radius_mm: tuple[float, float], farthest: float
) -> _Ellipsoid:
    """An ellipsoid somewhere in the brain, that stays within ``farthest`` of its radii."""
    z, y, x = rng.uniform(*radius_mm) * rng.uniform(0.75, 1.25, 3)
    direction = rng.normal(size=3)
    direction *= rng.uniform() ** (1 / 3) / np.linalg.norm(direction)
    room = [max(0.0, farthest * r - own) for r, own in zip(brain.radii_mm, (z, y, x), strict=True)]
    centre = direction * np.array(room)
    return _Ellipsoid((float(centre[0]), float(centre[1]), float(centre[2])), (z, y, x))


def _scanned(
    hu: NDArray[np.float32], spacing_mm: Triple, rng: np.random.Generator
) -> NDArray[np.int16]:
    """Blur by the scanner's resolution, add noise of short range, round to whole HU."""
    from scipy.ndimage import gaussian_filter

    blurred = gaussian_filter(hu, [_BLUR_MM / mm for mm in spacing_mm])
    noise = gaussian_filter(rng.standard_normal(hu.shape, np.float32), 0.5)
    noise *= _NOISE_HU / noise.std()
    whole: NDArray[np.int16] = np.rint(np.clip(blurred + noise, -1024, 3071)).astype(np.int16)
    return whole


def _affine(
    shape: tuple[int, ...], spacing_mm: Triple, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Head tilted by up to 10 degrees, its middle near the origin."""
    tilt = np.deg2rad(rng.uniform(-10, 10))
    turn = np.array([[1, 0, 0], [0, np.cos(tilt), -np.sin(tilt)], [0, np.sin(tilt), np.cos(tilt)]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([-1.0, 1.0, 1.0]) @ np.diag(spacing_mm[::-1])
    middle = (np.array(shape[::-1]) - 1) / 2
    affine[:3, 3] = rng.normal(0, 5, 3) - affine[:3, :3] @ middle
    return affine


def write_heads(
    out: Path, n_scans: int = 24, *, seed: int = 0, spacing_mm: Triple = (3.0, 2.0, 2.0)
) -> Path:
    """Write a cohort: half of the scans with 1 to 3 bleeds, one scan a patient.

    Writes ``scans/<id>.nii.gz``, ``truth/<id>.nii.gz`` (1 where blood is) and ``cohort.csv``, a
    table with the columns id, path, patient, label and truth.

    Returns
    -------
    pathlib.Path
        The table.

    Raises
    ------
    StaleProduct, UnwritableOutput
        A scan is there already, or cannot be written.
    """
    rows = []
    for folder in ("scans", "truth"):
        with writable(out):
            (out / folder).mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(key_of(seed, "heads"))
    for number in range(n_scans):
        bleeds = int(rng.integers(1, 4)) * (number % 2)
        head = simulate_head(key_of(seed, number), bleeds=bleeds, spacing_mm=spacing_mm)
        name = f"head-{number + 1:02d}"
        scan, truth = f"scans/{name}.nii.gz", f"truth/{name}.nii.gz"
        _write(out / scan, head.hu, head.affine)
        _write(out / truth, head.blood.astype(np.uint8), head.affine)
        rows.append((name, scan, f"patient-{number + 1:02d}", LABELS[bleeds > 0], truth))
    table = io.StringIO()
    csv.writer(table, lineterminator="\n").writerows([COLUMNS, *rows])
    with writable(out):
        write_text(out / "cohort.csv", table.getvalue())
    return out / "cohort.csv"


def _write(path: Path, voxels: NDArray[np.generic], affine: NDArray[np.float64]) -> None:
    lazy = Voxels(voxels.shape, voxels.dtype, voxels.__getitem__)
    export_nifti(Volume(path, "synthetic", lazy, affine), path)
