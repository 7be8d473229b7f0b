"""Intensities of scans to 0 … 1: CT windows, uptake values, and robust scaling of MR.

Every scaling is a window in the end, a line from ``low`` to ``high`` that is cut off at 0 and 1:
fixed for CT and for uptake values, found within the body for the rest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...storage.errors import BadGeometry, NoModality, NoTissue
from .base import Modality, Volume

Samples = NDArray[np.float32]

MODALITIES: tuple[Modality, ...] = ("CT", "MR", "PT")
AIR_HU, SOFT_HU = -1000.0, 200.0
"""The window in which the body is told from air on CT."""

PERCENTILES = (1.0, 99.0)
"""Of the body's values, for what has no scale of its own."""

MOST_SUV = 10.0
"""Upper end of uptake values: where whole-body FDG is commonly shown to; a choice, no standard."""

_N4_MM = 4.0
_N4_ROUNDS = (30, 30, 20)


@dataclass(frozen=True)
class Window:
    """Values from ``low`` to ``high`` onto 0 … 1; what is beyond, or NaN below, is cut off.

    The function LINEAR_EXACT of DICOM (PS3.3, C.11.2.1.3.2).
    """

    name: str
    low: float
    high: float

    @classmethod
    def at(cls, name: str, centre: float, width: float) -> Window:
        """A window by centre and width."""
        return cls(name, centre - width / 2, centre + width / 2)

    def apply(self, values: Samples) -> Samples:
        """Scale values of any shape; NaN becomes 0."""
        scaled = np.clip((values - self.low) / (self.high - self.low), 0, 1)
        cut: Samples = np.nan_to_num(scaled, nan=0.0).astype(np.float32, copy=False)
        return cut


WINDOWS: dict[str, Window] = {
    window.name: window
    for window in (
        Window.at("brain", 40, 80),
        Window.at("subdural", 80, 200),
        Window.at("bone", 600, 2800),
        Window.at("lung", -600, 1500),
        Window.at("abdomen", 50, 400),
    )
}
"""CT windows in HU. Centres and widths are those that Radiopaedia lists as typical ("Windowing
(CT)"): brain 40/80, temporal bone 600/2800, lung -600/1500, soft tissue of the abdomen 50/400;
subdural 80/200 is within its 50 to 100/130 to 300, and what models of intracranial haemorrhage
commonly take. Departments differ: ``CENTRE/WIDTH`` says another."""

HEAD_WINDOWS = ("brain", "subdural", "bone")


def window_of(text: str) -> Window:
    """A window by its name, or as ``CENTRE/WIDTH`` in HU.

    Raises
    ------
    BadGeometry
        It is neither.
    """
    if text in WINDOWS:
        return WINDOWS[text]
    try:
        centre, width = (float(part) for part in text.split("/"))
    except ValueError:
        centre, width = math.nan, math.nan
    if not (math.isfinite(centre) and 0 < width < math.inf):
        raise BadGeometry(
            f"{text!r} is no CT window",
            where="--window",
            remedy=f"Name one of {', '.join(WINDOWS)}, or give CENTRE/WIDTH in HU, as 40/80",
        )
    return Window.at(f"{centre:g}/{width:g}", centre, width)


def modality_of(volume: Volume, said: str | None = None) -> Modality:
    """What a scan is: as its file states it, or, where it states nothing, as the user says.

    Raises
    ------
    NoModality
        Nobody says it, the two differ, or a CT is not in Hounsfield units.
    """
    given = None if said is None else said.upper()
    remedy = "Pass --modality ct, mr or pt; what a scan shows is never guessed"
    if given is not None and given not in MODALITIES:
        raise NoModality(f"no modality {said!r}", where="--modality", remedy=remedy)
    if volume.modality == "unknown":
        found = next((name for name in MODALITIES if name == given), None)
        if found is None:
            raise NoModality(
                "the file does not say whether this is CT, MR or PET",
                where=volume.path,
                remedy=remedy,
            )
        return found
    if given not in (None, volume.modality):
        raise NoModality(
            f"the file says that this is {volume.modality}, not {given}",
            where=volume.path,
            remedy="Leave --modality out",
        )
    if volume.modality == "CT" and volume.unit != "HU":
        raise NoModality(
            f"a CT in {volume.unit or 'no stated unit'}, not in Hounsfield units",
            where=volume.path,
            remedy="Convert it again from its source, with its rescale",
        )
    return volume.modality


def body_window(lattice: Samples, modality: Modality) -> tuple[float, float]:
    """The window in which the body is told from air.

    -1000 to 200 HU on CT; else from the least value to the 99.5th percentile, so that a few very
    bright voxels do not decide.
    """
    if modality == "CT":
        return AIR_HU, SOFT_HU
    known = lattice[np.isfinite(lattice)]
    if not known.size:
        return 0.0, 0.0
    return float(known.min()), float(np.percentile(known, 99.5))


def find_foreground(lattice: Samples, low: float, high: float, *, where: Path) -> NDArray[np.bool_]:
    """Body or head: above Otsu's threshold of the values clipped to a window, holes filled.

    Holes (lungs, ventricles, the dark skull of MR) are filled in each slice along the first axis;
    what touches the edge of a slice is air. What is NaN is background.

    Parameters
    ----------
    low, high
        Window that values are clipped to.

    Raises
    ------
    NoTissue
        All values are one within the window.

    References
    ----------
    Otsu (1979), A threshold selection method from gray-level histograms, IEEE Trans. SMC 9.
    """
    from scipy.ndimage import binary_fill_holes
    from skimage import filters

    known = np.isfinite(lattice)
    clipped = np.clip(np.where(known, lattice, low), low, high)
    if not known.any() or np.ptp(clipped) == 0:
        raise NoTissue(
            f"all values are one between {low:g} and {high:g}: no body is told from air",
            where=where,
            remedy="Look at the scan with microtome info --thumbnail",
        )
    otsu: Any = filters.threshold_otsu
    above = clipped > float(otsu(clipped))
    return np.stack([binary_fill_holes(plane) for plane in above]) & known


def robust_window(
    lattice: Samples, foreground: NDArray[np.bool_], *, name: str = "intensity", where: Path
) -> Window:
    """From the 1st to the 99th percentile of the values within the body.

    Raises
    ------
    NoTissue
        There is no body, or no two values in it.
    """
    values = lattice[foreground]
    low, high = np.percentile(values, PERCENTILES) if values.size else (0.0, 0.0)
    if not high > low:
        raise NoTissue("the body has a single value", where=where)
    return Window(name, float(low), float(high))


def without_bias(
    lattice: Samples, foreground: NDArray[np.bool_], spacing_mm: Sequence[float]
) -> Samples:
    """Divide an MR scan by its bias field, which N4 finds within the body.

    N4 (SimpleITK's, one thread, so that results are the same everywhere) works on every n-th
    sample, about 4 mm apart; the field is smooth and is evaluated at every sample. Values that are
    not positive have no logarithm and take no part.

    References
    ----------
    Tustison et al. (2010), N4ITK: improved N3 bias correction, IEEE Trans. Med. Imaging 29.
    """
    import SimpleITK

    sitk: Any = SimpleITK

    def image(array: NDArray[Any]) -> Any:
        made = sitk.GetImageFromArray(array)
        made.SetSpacing([float(mm) for mm in reversed(tuple(spacing_mm))])
        return made

    usable = foreground & (lattice > 0)
    thin = [max(1, round(_N4_MM / mm)) for mm in reversed(tuple(spacing_mm))]
    whole = image(np.where(np.isfinite(lattice), lattice, 0).astype(np.float32))
    corrector = sitk.N4BiasFieldCorrectionImageFilter()
    corrector.SetNumberOfThreads(1)
    corrector.SetMaximumNumberOfIterations(list(_N4_ROUNDS))
    corrector.Execute(sitk.Shrink(whole, thin), sitk.Shrink(image(usable.astype(np.uint8)), thin))
    field = sitk.GetArrayFromImage(corrector.GetLogBiasFieldAsImage(whole))
    corrected: Samples = (lattice / np.exp(field)).astype(np.float32)
    return corrected
