"""What regions of a PET scan took up or bound, from scans or curves of a cohort to a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np

from ..engine.volumes import Volume, Voxels, open_volume
from ..storage.errors import BadFrames, BadGeometry, BadSeries, CohortError, blaming
from .build import AtlasRecipe, subject_of
from .kinetics import logan_reference, simplified_reference_tissue
from .matrices import Array
from .metabolic import suvr
from .partial_volume import correct_means, mueller_gaertner, transfer_matrix
from .regions import Parcellation
from .scans import choose_regions
from .tables import write_rows
from .time_activity import FrameTimes, TimeActivity, time_activity
from .time_activity_files import SUFFIXES, frames_beside, read_frames, read_time_activity

Model = Literal["logan", "srtm"]
Window = tuple[float, float]


@dataclass(frozen=True)
class CurveRecipe:
    """How the activity of regions is had from a file.

    Attributes
    ----------
    regions
        Which regions a scan is divided into; ``leave_out`` is for files of curves too.
    frames
        Table of frame times; by default the BIDS sidecar of a scan.
    corrected
        Of a file of PMOD: the curves that it corrected for partial volume.
    psf_mm
        Of a scan: correct the regions for a blur of this FWHM by the geometric transfer matrix.
    """

    regions: AtlasRecipe = field(default_factory=AtlasRecipe)
    frames: Path | None = None
    corrected: bool = False
    psf_mm: float | None = None


@dataclass(frozen=True, eq=False)
class Uptake:
    """One value of each region of one subject, and where it comes from.

    Attributes
    ----------
    values
        float64 [r]; NaN where it could not be told.
    reference
        Names of the regions that were divided by.
    details
        What else a model gives: name -> [r].
    """

    subject: str
    regions: tuple[str, ...]
    values: Array
    reference: tuple[str, ...]
    details: Mapping[str, Array] = field(default_factory=dict)


def curves_of(path: Path, recipe: CurveRecipe) -> TimeActivity:
    """Curves of a subject from a file of curves, or from a dynamic scan and an atlas.

    Raises
    ------
    BadFrames
        The times of the frames are not known, or do not fit.
    """
    with blaming(path):
        if path.suffix.lower() in SUFFIXES:
            if recipe.psf_mm is not None:
                raise CohortError("curves cannot be corrected for a blur, only scans can")
            frames = None if recipe.frames is None else read_frames(recipe.frames)
            found = read_time_activity(path, frames=frames, corrected=recipe.corrected)
            return found.without(recipe.regions.leave_out)
        volume = open_volume(path)
        parcellation = recipe.regions.over(volume)
        curves = time_activity(volume, parcellation, _frames(path, recipe))
        if recipe.psf_mm is None:
            return curves
        transfer = transfer_matrix(parcellation, recipe.psf_mm, volume.spacing_mm)
        times = range(len(curves.frames))
        corrected = [correct_means(volume.data[t], parcellation, transfer) for t in times]
        return replace(curves, activity=np.stack(corrected))


def suvr_of(
    path: Path, recipe: CurveRecipe, *, reference: str, window: Window | None = None
) -> Uptake:
    """Uptake ratios of a subject; see :func:`.metabolic.suvr`.

    Parameters
    ----------
    reference
        Region or regions, as in :func:`.scans.choose_regions`; weighed by their volumes.
    window
        Start and end in seconds from the injection, of whole frames; for a single volume none.
    """
    with blaming(path):
        regions, level, volumes = _level(path, recipe, window)
        _require_complete(level, regions)
        chosen = choose_regions(regions, reference)
        values = suvr(level, chosen, n_voxels=volumes)
    return Uptake(subject_of(path), regions, values, tuple(regions[i] for i in chosen))


def binding_of(
    path: Path,
    recipe: CurveRecipe,
    *,
    reference: str,
    model: Model = "logan",
    t_star_s: float | None = None,
    k2_prime_per_min: float | None = None,
) -> Uptake:
    """Binding potentials (BPnd) of a subject.

    Parameters
    ----------
    reference
        As in :func:`suvr_of`.
    model
        ``logan``: :func:`.kinetics.logan_reference`, to which ``t_star_s`` and ``k2_prime_per_min``
        belong; ``srtm``: :func:`.kinetics.simplified_reference_tissue`.
    """
    with blaming(path):
        curves = curves_of(path, recipe)
        chosen = choose_regions(curves.regions, reference)
        activity, base = curves.complete(), curves.pooled(chosen)
        names = tuple(curves.regions[i] for i in chosen)
        if model == "srtm":
            if t_star_s is not None or k2_prime_per_min is not None:
                raise CohortError("t* and k2' are of Logan's plot, not of --model srtm")
            fit = simplified_reference_tissue(activity, base, curves.frames)
            details = {"r1": fit.r1, "k2_per_min": fit.k2_per_min}
            return Uptake(subject_of(path), curves.regions, fit.bp_nd, names, details)
        line = logan_reference(
            activity, base, curves.frames, t_star_s=t_star_s, k2_prime_per_min=k2_prime_per_min
        )
    details = {
        "dvr": line.dvr,
        "intercept_min": line.intercept_min,
        "t_star_s": line.t_star_s,
        "max_error": line.max_error,
    }
    return Uptake(subject_of(path), curves.regions, line.bp_nd, names, details)


def correct_scan(
    path: Path,
    *,
    grey: Path,
    white: Path,
    csf: Path | None = None,
    psf_mm: float,
    white_uptake: float | None = None,
    csf_uptake: float = 0.0,
) -> Volume:
    """Scan with grey matter corrected by :func:`.partial_volume.mueller_gaertner`.

    Parameters
    ----------
    grey, white, csf
        Images of the fractions of tissue, on the grid of the scan.

    Returns
    -------
    Volume
        float32 [z, y, x] on the grid of the scan; NaN outside grey matter.

    Raises
    ------
    BadGeometry
        Not one volume, or an image of tissue on another grid.
    """
    with blaming(path):
        volume = open_volume(path)
        if len(volume.shape) != 3:
            raise BadGeometry(f"one volume is corrected at a time, not {volume.shape}")
        corrected = mueller_gaertner(
            np.asarray(volume.data),
            _on_grid(grey, volume),
            _on_grid(white, volume),
            csf=None if csf is None else _on_grid(csf, volume),
            fwhm_mm=psf_mm,
            spacing_mm=volume.spacing_mm,
            white_uptake=white_uptake,
            csf_uptake=csf_uptake,
        ).astype(np.float32)
    voxels = Voxels(corrected.shape, corrected.dtype, corrected.__getitem__)
    return Volume(path, volume.backend, voxels, volume.affine, volume.modality, unit=volume.unit)


def write_uptake(path: Path, rows: Sequence[Uptake]) -> None:
    """Write a table with a row a subject, as ``connectome build`` reads it.

    Raises
    ------
    CohortError
        Subjects have different regions.
    """
    for row in rows:
        if row.regions != rows[0].regions:
            differ = sorted(set(row.regions) ^ set(rows[0].regions)) or ["their order"]
            raise CohortError(
                f"regions of {row.subject} and {rows[0].subject} differ: {', '.join(differ[:5])}",
                remedy="Use one atlas for all",
            )
    write_rows(
        path,
        [
            {"subject": row.subject} | dict(zip(row.regions, row.values, strict=True))
            for row in rows
        ],
    )


def write_details(path: Path, rows: Sequence[Uptake]) -> None:
    """Write a table with a row for each region of each subject, and all that a model gave."""
    write_rows(
        path,
        [
            {"subject": row.subject, "region": region, "bp_nd": row.values[i]}
            | {name: values[i] for name, values in row.details.items()}
            for row in rows
            for i, region in enumerate(row.regions)
        ],
    )


def _frames(path: Path, recipe: CurveRecipe) -> FrameTimes:
    table = recipe.frames or frames_beside(path)
    if table is None:
        raise BadFrames(
            "the times of the frames are not known",
            remedy="Give them with --frames: PMOD's .acqtimes or a BIDS .json",
        )
    return read_frames(table)


def _level(
    path: Path, recipe: CurveRecipe, window: Window | None
) -> tuple[tuple[str, ...], Array, Array | None]:
    """Regions, their mean activity over the window, and their sizes."""
    if window is None and path.suffix.lower() not in SUFFIXES:
        volume = open_volume(path)
        if len(volume.shape) == 3:
            parcellation = recipe.regions.over(volume)
            level = _means(volume, parcellation, recipe.psf_mm)
            return parcellation.names, level, parcellation.n_voxels.astype(np.float64)
    if window is None:
        raise BadFrames(
            "a dynamic scan has a ratio for each window of frames",
            remedy="State the window with --window START:END, in seconds",
        )
    curves = curves_of(path, recipe)
    return curves.regions, curves.mean_over(*window), curves.volumes_ml


def _means(volume: Volume, parcellation: Parcellation, psf_mm: float | None) -> Array:
    if psf_mm is None:
        return parcellation.means(volume.data)
    transfer = transfer_matrix(parcellation, psf_mm, volume.spacing_mm)
    return correct_means(np.asarray(volume.data), parcellation, transfer)


def _require_complete(level: Array, regions: Sequence[str]) -> None:
    lacking = [name for name, value in zip(regions, level, strict=True) if not np.isfinite(value)]
    if lacking:
        raise BadSeries(
            f"no value in {', '.join(lacking[:5])}", remedy="Leave them out with --leave-out"
        )


def _on_grid(tissue: Path, scan: Volume) -> Array:
    image = open_volume(tissue)
    if image.shape != scan.shape or not np.allclose(image.affine, scan.affine, atol=1e-3):
        raise BadGeometry(
            f"an image of tissue {image.shape} is not on the grid of the scan {scan.shape}",
            where=tissue,
            remedy="Bring it to the space and grid of the scan first",
        )
    return np.asarray(image.data, np.float64)
