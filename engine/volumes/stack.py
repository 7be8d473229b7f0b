"""From loose pictures to one regular volume: order, spacing, affine; or why there is none.

Pure geometry: no file is read here. DICOM's patient axes are LPS; the affine made here is RAS.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...storage.errors import BadGeometry
from .resample import SAME_PLACE_MM, Regrid, plan_regrid

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Picture:
    """One slice at one time, before any pixel is decoded.

    Attributes
    ----------
    file, frame, tile
        Where its pixels are: file, frame in it, and (row, column) of its corner in a mosaic.
    position_mm
        (x, y, z) of the centre of the first pixel, LPS.
    orientation
        Direction of increasing column, then of increasing row (DICOM ImageOrientationPatient).
    spacing_mm
        (row, column) distance between pixel centres.
    size_px
        (rows, columns).
    stated_step_mm
        Distance to the next slice as the header has it; used for a single slice only.
    slope, intercept
        Rescale of this slice.
    identity
        SOPInstanceUID and frame: two pictures that share it are one picture twice.
    contrast
        What must be equal among the pictures of one volume: echo time, image type.
    temporal_position, reference_ms, acquisition, acquired_s, instance
        What may tell times apart; None where the file does not say.
    """

    file: Path
    frame: int
    tile: tuple[int, int] | None
    position_mm: tuple[float, float, float]
    orientation: tuple[float, ...]
    spacing_mm: tuple[float, float]
    size_px: tuple[int, int]
    stated_step_mm: float | None = None
    slope: float = 1.0
    intercept: float = 0.0
    identity: str = ""
    contrast: tuple[str, ...] = ()
    temporal_position: int | None = None
    reference_ms: float | None = None
    acquisition: int | None = None
    acquired_s: float | None = None
    instance: int | None = None


@dataclass(frozen=True)
class Stack:
    """Pictures in order.

    Attributes
    ----------
    order
        int [t, z]: index of each picture; z along column-direction × row-direction.
    affine
        float64 [4, 4]: voxel (column, row, slice) -> RAS millimetres.
    notes
        What is odd, for a human.
    regrid
        How the slices come onto the affine's grid, where they do not lie on it.
    """

    order: NDArray[np.intp]
    affine: NDArray[np.float64]
    notes: tuple[str, ...] = ()
    regrid: Regrid | None = None


def arrange(
    pictures: Sequence[Picture],
    *,
    where: Path,
    stated_times: int | None = None,
    resample: bool = False,
) -> Stack:
    """Put pictures in order and say where the volume lies.

    Parameters
    ----------
    pictures
        All of one series.
    where
        For the error's text.
    stated_times
        Number of temporal positions as the header has it.
    resample
        Lay a regular grid over slices that are tilted, uneven or incomplete.

    Raises
    ------
    BadGeometry
        They are not one regular volume.
    """
    _check_alike(pictures, where)
    rows_to, normal = _axes(pictures[0])
    positions = np.array([p.position_mm for p in pictures])
    order = _split_times(pictures, positions @ normal, where, stated_times)
    for later in order[1:]:
        if np.abs(positions[later] - positions[order[0]]).max() > SAME_PLACE_MM * 10:
            raise BadGeometry("the slices move between time points", where=where)
    first = pictures[order[0, 0]]
    lps = np.eye(4)
    lps[:3, 0] = rows_to[0] * first.spacing_mm[1]
    lps[:3, 1] = rows_to[1] * first.spacing_mm[0]
    lps[:3, 3] = first.position_mm
    if order.shape[1] == 1:
        if not first.stated_step_mm or not first.stated_step_mm > 0:
            raise BadGeometry("a single slice without a stated thickness", where=where)
        lps[:3, 2] = normal * first.stated_step_mm
        notes = ("a single slice; its thickness is taken as stated",)
        return Stack(order, _LPS_TO_RAS @ lps, notes)
    places = positions[order[0]] - positions[order[0, 0]]
    uneven, sheared = _uneven(places @ normal), _sheared(places, normal)
    if not (uneven or sheared):
        lps[:3, 2] = places[-1] / (len(places) - 1)
        return Stack(order, _LPS_TO_RAS @ lps)
    if not resample:
        raise BadGeometry(
            uneven or sheared,
            where=where,
            remedy=_COPY_AGAIN if "missing" in uneven else _RESAMPLE,
        )
    # Without a shear, what sideways is left is rounding.
    shift_px = places @ rows_to[::-1].T / first.spacing_mm * bool(sheared)
    regrid = plan_regrid(places @ normal, shift_px, first.size_px, even=not uneven)
    if regrid is None:
        raise BadGeometry(f"{uneven}: an even grid would be made up for the most part", where=where)
    lps[:3, 2] = normal * regrid.step_mm
    lps[:3, 3] += lps[:3, :2] @ regrid.origin_px[::-1]
    return Stack(order, _LPS_TO_RAS @ lps, _told(uneven, sheared, regrid), regrid)


_RESAMPLE = "Pass --resample to have the scan resampled onto an even, right-angled grid"
_COPY_AGAIN = (
    "Copy the series again, complete; or pass --resample to have what is missing interpolated"
)


def _axes(picture: Picture) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    directions = np.array(picture.orientation, np.float64).reshape(2, 3)
    return directions, np.cross(directions[0], directions[1])


def _check_alike(pictures: Sequence[Picture], where: Path) -> None:
    first = pictures[0]
    directions, normal = _axes(first)
    if not np.allclose(np.linalg.norm([*directions, normal], axis=1), 1, atol=1e-3):
        raise BadGeometry("the stated image orientation is no pair of directions", where=where)
    if not all(np.isfinite(first.spacing_mm)) or min(first.spacing_mm) <= 0:
        raise BadGeometry(f"pixel spacing {first.spacing_mm} mm cannot be", where=where)
    if len({p.identity for p in pictures}) < len(pictures):
        raise BadGeometry(
            "the same picture is there twice", where=where, remedy="Remove the copies"
        )
    unlike: list[tuple[str, Callable[[Picture], bool]]] = [
        ("orientations", lambda p: not np.allclose(p.orientation, first.orientation, atol=1e-3)),
        ("picture sizes", lambda p: p.size_px != first.size_px),
        ("pixel spacings", lambda p: not np.allclose(p.spacing_mm, first.spacing_mm, rtol=1e-3)),
        ("contrasts (echo times or image types)", lambda p: p.contrast != first.contrast),
    ]
    for what, differs in unlike:
        if any(differs(p) for p in pictures):
            raise BadGeometry(
                f"one series mixes several {what}",
                where=where,
                remedy="Split it into folders, one volume each",
            )


def _split_times(
    pictures: Sequence[Picture], depth: NDArray[np.float64], where: Path, stated: int | None
) -> NDArray[np.intp]:
    """Sort by depth, and split pictures at one depth by time: indices [t, z]."""
    along = np.argsort(depth, kind="stable")
    edges = np.flatnonzero(np.diff(depth[along]) > SAME_PLACE_MM) + 1
    places = np.split(along, edges)
    counts = {len(place) for place in places}
    if counts == {1}:
        return along[np.newaxis]
    if len(places) == 1:
        raise BadGeometry(f"all {len(along)} pictures lie at one position", where=where)
    if len(counts) > 1:
        raise BadGeometry(
            f"{len(places)} slice positions have between {min(counts)} and {max(counts)} pictures: "
            "slices are missing or there more than once",
            where=where,
            remedy="Remove the copies, or split the volumes into folders",
        )
    grid = np.stack(places)
    for ranked in _rankings(pictures, grid, stated):
        return ranked.T
    raise BadGeometry(
        f"there are {grid.shape[1]} pictures at each position, and nothing says which belong "
        "together in time",
        where=where,
        remedy="Split the volumes into folders",
    )


def _rankings(
    pictures: Sequence[Picture], grid: NDArray[np.intp], stated: int | None
) -> list[NDArray[np.intp]]:
    """The grid [z, t] sorted by each clock that orders it without contradiction, best first."""
    found = []
    shared = ("temporal_position", "reference_ms", "acquisition")
    for clock in (*shared, "acquired_s", "instance"):
        values = [getattr(p, clock) for p in pictures]
        if None in values:
            continue
        times = np.array(values, np.float64)[grid]
        rank = np.argsort(times, axis=1, kind="stable")
        ranked = np.take_along_axis(times, rank, axis=1)
        if clock in shared:
            sound = bool((ranked == ranked[0]).all() and (np.diff(ranked[0]) > 0).all())
        elif clock == "acquired_s":
            sound = bool((ranked.max(0)[:-1] < ranked.min(0)[1:]).all())
        else:
            sound = stated == grid.shape[1] and bool((np.diff(ranked, axis=1) > 0).all())
        if sound:
            found.append(np.take_along_axis(grid, rank, axis=1))
    return found


def _uneven(depth: NDArray[np.float64]) -> str:
    """What is wrong with the distances between slices; empty where they are even."""
    gaps = np.diff(depth)
    usual = float(np.median(gaps))
    worst = int(np.argmax(np.abs(gaps - usual)))
    gap, ratio = gaps[worst], gaps[worst] / usual
    if abs(gap - usual) <= max(0.02 * usual, 2 * SAME_PLACE_MM):
        return ""
    if ratio > 1.5 and abs(ratio - round(ratio)) < 0.05:
        lost = round(ratio) - 1
        return (
            f"{lost} slice{'s are' if lost > 1 else ' is'} missing after slice {worst + 1}: "
            f"a gap of {gap:.3f} mm where others have {usual:.3f}"
        )
    return (
        f"the slices are unevenly spaced: {gap:.3f} mm after slice {worst + 1}, "
        f"{usual:.3f} mm elsewhere"
    )


def _sheared(places: NDArray[np.float64], normal: NDArray[np.float64]) -> str:
    """How the slices are shifted against each other; empty where they are not."""
    sideways = places - np.outer(places @ normal, normal)
    length = float(np.linalg.norm(places[-1]))
    apart = float(np.linalg.norm(sideways, axis=1).max())
    if apart <= max(0.1, 0.002 * length):
        return ""
    line = np.outer(places @ normal, sideways[-1]) / (places[-1] @ normal)
    if np.linalg.norm(sideways - line, axis=1).max() > 0.1:
        return f"the slices are displaced sideways by up to {apart:.2f} mm"
    angle = np.degrees(np.arctan2(np.linalg.norm(sideways[-1]), places[-1] @ normal))
    return f"the slices are sheared by {angle:.1f}° (tilted gantry)"


def _told(uneven: str, sheared: str, regrid: Regrid) -> tuple[str, ...]:
    """What the resampling did, in sentences."""
    told = []
    if sheared:
        most = np.abs(regrid.shift_px + regrid.origin_px).max(axis=0)
        told.append(
            f"resampled on request: {sheared}; each was shifted within its plane, by up to "
            f"{most[0]:.2f} rows and {most[1]:.2f} columns, by linear interpolation onto "
            f"{regrid.size_px[0]} x {regrid.size_px[1]} pixels; NaN where no slice reaches"
        )
    if uneven:
        gaps = np.diff(regrid.depth_mm)
        told.append(
            f"resampled on request: {uneven}; {len(regrid.depth_mm)} slices {gaps.min():.3f} to "
            f"{gaps.max():.3f} mm apart gave {len(regrid.grid_depth_mm)} that are "
            f"{regrid.step_mm:.3f} mm apart; linearly interpolated: slices {_ranges(regrid.made)}"
        )
    return tuple(told)


def _ranges(numbers: Sequence[int]) -> str:
    """Ascending numbers, such as ``3, 5-8``."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{r[0]}-{r[-1]}" if len(r) > 1 else f"{r[0]}" for r in runs)


def frame_times(
    pictures: Sequence[Picture], order: NDArray[np.intp], repetition_s: float | None
) -> NDArray[np.float64] | None:
    """When each volume began, in seconds from the first; None where nothing says.

    The stated repetition time holds, unless the clock of the acquisition contradicts it by over
    10 % (several shots a volume, pauses); PET frames have their own reference times.
    """
    if len(order) < 2:
        return None
    reference = _clock(pictures, order, "reference_ms")
    if reference is not None:
        return reference / 1000
    clock = _clock(pictures, order, "acquired_s")
    if repetition_s and repetition_s > 0:
        stated = np.arange(len(order), dtype=np.float64) * repetition_s
        if clock is None or np.abs(np.diff(clock) / repetition_s - 1).max() <= 0.1:
            return stated
    return clock


def _clock(
    pictures: Sequence[Picture], order: NDArray[np.intp], name: str
) -> NDArray[np.float64] | None:
    values = [getattr(p, name) for p in pictures]
    if None in values:
        return None
    starts = np.array(values, np.float64)[order].min(axis=1)
    return starts - starts[0] if (np.diff(starts) > 0).all() else None
