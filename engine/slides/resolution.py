"""How large a pixel is: every place a file may say so, and which sayings cannot be true.

Pure functions on what a reader found in the file. A pixel size is *stated* or it is not: nominal
magnification never stands in for it, and a value that cannot be is noted and not used.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal
from xml.etree import ElementTree as ET

from ...storage.errors import BadResolution

MAX_MPP = 1000.0
"""A pixel this large (µm) is no pixel of a slide: it is libvips' default of 1 px/mm, or worse."""

MAX_ANISOTROPY = 0.05
"""Pixels whose sides differ by more than this fraction are taken for a fault of the file."""

_SCREEN_DPI = (72.0, 96.0)
_UM_PER_INCH = 25_400.0
_TIFF_UNIT_UM = {2: _UM_PER_INCH, 3: 10_000.0}
_UM = {
    "µm": 1.0, "μm": 1.0, "um": 1.0, "\\u00b5m": 1.0, "micron": 1.0, "microns": 1.0,
    "micrometer": 1.0, "micrometre": 1.0, "nm": 1e-3, "pm": 1e-6, "å": 1e-4, "mm": 1e3,
    "cm": 1e4, "dm": 1e5, "m": 1e6, "in": _UM_PER_INCH, "inch": _UM_PER_INCH,
}  # fmt: skip


@dataclass(frozen=True)
class Statement:
    """A pixel size as one place of the file states it.

    Attributes
    ----------
    source
        The place, in words that a user finds again (``OME PhysicalSizeX``).
    mpp
        (y, x) micrometres per pixel, unchecked.
    doubt
        Why it is not to be believed although it could be, or None.
    """

    source: str
    mpp: tuple[float, float]
    doubt: str | None = None


Mpp = float | Literal["objective"]
"""A user's word on a pixel size: micrometres, or leave to take it from the objective power."""

Override = float | Statement
"""What a reader is told of it: micrometres as the user gives them, or a statement with a source."""

OBJECTIVE: Literal["objective"] = "objective"
_UM_BY_POWER = 10.0
"""A pixel of 10 µm on the camera, divided by the power: 0.25 µm at 40x, 0.5 µm at 20x."""


@dataclass(frozen=True)
class Resolution:
    """What came of all statements: the pixel size, where it is from, and what was refused."""

    mpp: tuple[float, float] | None
    source: str | None
    refused: tuple[str, ...] = ()


def resolve(statements: Iterable[Statement], override: Override | None = None) -> Resolution:
    """Choose the pixel size of a slide.

    Parameters
    ----------
    statements
        The most specific place first (vendor, OME-XML, then plain TIFF tags).
    override
        As the user gives it; wins over whatever the file says.

    Returns
    -------
    Resolution
        The first statement that can be true. One whose axes contradict each other ends the search:
        the file disagrees with itself, and another place of it is no better witness.

    Raises
    ------
    BadResolution
        ``override`` cannot be a pixel size.
    """
    if override is not None:
        if not isinstance(override, Statement):
            override = Statement("--slide-mpp", (float(override), float(override)))
        if fault := _fault(override.mpp):
            raise BadResolution(
                f"{override.mpp[0]:g} µm ({override.source}) cannot be a pixel size: {fault}",
                remedy="Give micrometres per pixel at level 0, such as 0.25",
            )
        return Resolution(override.mpp, override.source)
    refused: list[str] = []
    for statement in statements:
        fault = _fault(statement.mpp) or statement.doubt
        if fault is None:
            return Resolution(statement.mpp, statement.source, tuple(refused))
        y, x = statement.mpp
        refused.append(f"{statement.source} states {y:g} × {x:g} µm/px (y × x): {fault}")
        if _is_possible(y) and _is_possible(x) and statement.doubt is None:
            break
    return Resolution(None, None, tuple(refused))


def from_objective(power: float) -> Statement:
    """What the nominal magnification suggests: 10 µm divided by it.

    Only a convention: scanners of one power differ by up to a third (0.23 to 0.33 µm at 40x).
    """
    mpp = _UM_BY_POWER / power if power > 0 else math.nan
    return Statement(f"objective power {power:g}, as asked (10 µm / power)", (mpp, mpp))


def _is_possible(value: float) -> bool:
    return math.isfinite(value) and 0 < value < MAX_MPP


def _fault(mpp: tuple[float, float]) -> str | None:
    y, x = mpp
    if not (_is_possible(y) and _is_possible(x)):
        return f"not between 0 and {MAX_MPP:g}"
    if max(y, x) / min(y, x) - 1 > MAX_ANISOTROPY:
        return f"the sides of a pixel differ by more than {MAX_ANISOTROPY:.0%}"
    return None


def from_openslide(properties: Mapping[str, str]) -> list[Statement]:
    """Statements in OpenSlide's properties.

    For a plain TIFF OpenSlide passes the resolution tags off as a pixel size; they are read as
    tags there (:func:`from_tiff_tags`).
    """
    if properties.get("openslide.vendor") == "generic-tiff":
        return from_description(properties.get("tiff.ImageDescription", "")) + from_tiff_tags(
            _number(properties.get("tiff.XResolution")),
            _number(properties.get("tiff.YResolution")),
            {"inch": 2, "centimeter": 3}.get(properties.get("tiff.ResolutionUnit", ""), 1),
        )
    names = ("openslide.mpp-y", "openslide.mpp-x")
    if not any(name in properties for name in names):
        return []
    y, x = (_number(properties.get(name)) for name in names)
    return [Statement("openslide.mpp-x", (y, x))]


def from_tiff_tags(x_per_unit: float, y_per_unit: float, unit: int) -> list[Statement]:
    """The statement of XResolution, YResolution and ResolutionUnit (2 inch, 3 centimetre).

    Programs that know nothing of the scanner fill these tags with the resolution of a screen: 72
    or 96 dpi are doubted. A unit of 1 ("none") and an absent tag (NaN) state nothing.
    """
    if unit not in _TIFF_UNIT_UM or math.isnan(x_per_unit) or math.isnan(y_per_unit):
        return []
    y, x = (_TIFF_UNIT_UM[unit] / n if n > 0 else math.nan for n in (y_per_unit, x_per_unit))
    doubt = next(
        (
            f"that is {dpi:g} dpi, a screen's default, not a measured pixel"
            for dpi in _SCREEN_DPI
            if math.isclose(x * dpi, _UM_PER_INCH, rel_tol=1e-3)
        ),
        None,
    )
    return [Statement("TIFF XResolution", (y, x), doubt)]


def from_description(text: str, x_per_unit: float = math.nan) -> list[Statement]:
    """Statements in a TIFF ImageDescription: Aperio's ``MPP``, OpenSlide's kept by libvips, ImageJ.

    Parameters
    ----------
    x_per_unit
        XResolution, whose unit is named by ImageJ's description.
    """
    if text.startswith("Aperio"):
        mpp = aperio_fields(text).get("MPP")
        return [] if mpp is None else [Statement("aperio.MPP", (_number(mpp), _number(mpp)))]
    if text.startswith("ImageJ="):
        fields = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
        um = _UM.get(fields.get("unit", "").strip().lower())
        if um is None or not x_per_unit > 0:
            return []
        return [Statement("ImageJ unit", (um / x_per_unit, um / x_per_unit))]
    kept = {
        axis: _number(match.group(1))
        for axis in "yx"
        if (match := re.search(rf"openslide\.mpp-{axis}</name>\s*<value[^>]*>([^<]+)<", text))
    }
    return [Statement("openslide.mpp-x", (kept["y"], kept["x"]))] if len(kept) == 2 else []


def aperio_fields(description: str) -> dict[str, str]:
    """The ``key = value`` fields of an Aperio ImageDescription."""
    pairs = (field.split("=", 1) for field in description.split("|")[1:] if "=" in field)
    return {key.strip(): value.strip() for key, value in pairs}


def from_ome(xml: str, height_px: int, width_px: int) -> list[Statement]:
    """PhysicalSizeY and PhysicalSizeX of the image of the given size, with their units.

    The unit is µm where none is named (OME schema 2016-06). A unit without length (``pixel``,
    ``reference frame``) states nothing.
    """
    for pixels in _ome_root(xml).iter():
        if not pixels.tag.endswith("}Pixels"):
            continue
        if (pixels.get("SizeY"), pixels.get("SizeX")) != (str(height_px), str(width_px)):
            continue
        sizes = []
        for axis in "YX":
            stated = pixels.get(f"PhysicalSize{axis}")
            um = _UM.get(pixels.get(f"PhysicalSize{axis}Unit", "µm").strip().lower())
            if stated is None or um is None:
                return []
            sizes.append(_number(stated) * um)
        return [Statement("OME PhysicalSizeX", (sizes[0], sizes[1]))]
    return []


def ome_objective_power(xml: str) -> float | None:
    """Nominal magnification of the first objective in OME-XML."""
    for element in _ome_root(xml).iter():
        if element.tag.endswith("}Objective") and element.get("NominalMagnification"):
            power = _number(element.get("NominalMagnification"))
            return power if power > 0 else None
    return None


def _ome_root(xml: str) -> ET.Element:
    try:
        return ET.fromstring(xml.strip().rstrip("\0"))
    except ET.ParseError:
        return ET.Element("unreadable")


def _number(text: str | None) -> float:
    try:
        return float("nan" if text is None else text.strip().replace(",", "."))
    except ValueError:
        return math.nan
