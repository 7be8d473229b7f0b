"""Standardised uptake values (SUV) of PET, and activity concentrations in Bq/ml.

SUV by body weight = concentration [Bq/ml] x weight [g] / dose [Bq] decayed to the moment that the
voxels are corrected to. The rules for tags and vendors are those of QIBA's vendor-neutral
pseudo-code (RSNA QIBA FDG-PET/CT technical committee, "Standardized Uptake Value (SUV)").

What is needed is among a scan's ``properties``, under the keys of :data:`TAGS` after ``pet.``, in
the units that their names have; so a stored scan can be converted as well. Where a value cannot be
known, ``pet.<key>.unknown`` says why. Nothing there names the patient, and no date is kept.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from ...storage.errors import NoUptake
from .base import Volume

By = Literal["body weight", "lean body mass"]
Formula = Literal["Janmahasatian", "James"]

TAGS: Mapping[str, str] = {
    "units": "Units (0054,1001)",
    "decay_correction": "DecayCorrection (0054,1102)",
    "corrected_image": "CorrectedImage (0028,0051)",
    "suv_type": "SUVType (0054,1006)",
    "weight_kg": "PatientWeight (0010,1030)",
    "height_m": "PatientSize (0010,1020)",
    "sex": "PatientSex (0010,0040)",
    "dose_bq": "RadionuclideTotalDose (0018,1074)",
    "half_life_s": "RadionuclideHalfLife (0018,1075)",
    "decay_s": "RadiopharmaceuticalStartDateTime (0018,1078)",
    "philips_suv_factor": "the private SUV factor of Philips (7053,xx00)",
    "philips_bqml_factor": "the private activity factor of Philips (7053,xx09)",
}
"""Keys after ``pet.`` and the DICOM attribute that each value comes from."""

_LIMITS = {
    "weight_kg": (0.001, 700.0),
    "height_m": (0.2, 2.8),
    "dose_bq": (1e4, 1e12),
    "half_life_s": (1.0, math.inf),
    "decay_s": (0.0, math.inf),
    "philips_suv_factor": (1e-12, math.inf),
    "philips_bqml_factor": (1e-12, math.inf),
}
_MOST_HALF_LIVES = 10
"""With less than a thousandth of the dose left nobody scans: a time or a half-life is wrong."""

_UNITS = {
    ("body weight", ""): "{SUVbw}g/ml",
    ("lean body mass", "Janmahasatian"): "{SUVlbm(Janma)}g/ml",
    ("lean body mass", "James"): "{SUVlbm(James128)}g/ml",
}


def decayed_dose(dose_bq: float, half_life_s: float, decay_s: float) -> float:
    """Activity in Bq that is left of a dose after a time: dose x 2^(-time / half-life)."""
    return float(dose_bq * 2.0 ** (-decay_s / half_life_s))


def lean_body_mass_kg(
    weight_kg: float, height_m: float, sex: str, *, formula: Formula = "Janmahasatian"
) -> float:
    """Lean body mass by a formula.

    Parameters
    ----------
    sex
        ``M`` or ``F``, as DICOM writes them.
    formula
        ``Janmahasatian`` (Clin Pharmacokinet 2005; 44: 1051): 9270 w / (6680 + 216 BMI) for men,
        9270 w / (8780 + 244 BMI) for women. ``James`` (Research on Obesity, 1976, with 128):
        1.10 w - 128 (w / h)² for men, 1.07 w - 148 (w / h)² for women, h in cm; it falls for the
        very obese (Tahari et al., J Nucl Med 2014; 55: 1481).

    Raises
    ------
    ValueError
        Another sex or formula.
    """
    if sex not in ("M", "F"):
        raise ValueError(f"the formulas are for M and F, not {sex!r}")
    man = sex == "M"
    if formula == "Janmahasatian":
        bmi = weight_kg / height_m**2
        return 9270 * weight_kg / ((6680 + 216 * bmi) if man else (8780 + 244 * bmi))
    if formula == "James":
        squared = (weight_kg / (100 * height_m)) ** 2
        return 1.10 * weight_kg - 128 * squared if man else 1.07 * weight_kg - 148 * squared
    raise ValueError(f"no formula {formula!r}; there are Janmahasatian and James")


def to_suv(
    volume: Volume,
    *,
    by: By = "body weight",
    formula: Formula = "Janmahasatian",
    weight_kg: float | None = None,
    height_m: float | None = None,
    sex: str | None = None,
) -> Volume:
    """Convert a PET scan to standardised uptake values.

    Voxels in Bq/ml (``BQML``) are scaled by weight and decayed dose. Philips' counts (``CNTS``) by
    the scanner's own factor, or through Bq/ml. ``GML`` is SUV by body weight already. Values that
    are corrected for decay to the injection (``ADMIN``) take the dose undecayed.

    Parameters
    ----------
    volume
        Of modality PT, from DICOM or kept as OME-Zarr; its ``properties`` are used.
    by
        What the dose is taken to be spread over.
    formula
        Of the lean body mass; see :func:`lean_body_mass_kg`.
    weight_kg, height_m, sex
        In place of the file's.

    Returns
    -------
    Volume
        The same voxels, as lazy as before, with slope and intercept scaled; ``unit`` is the UCUM
        code of DICOM's context group 84: ``{SUVbw}g/ml``, ``{SUVlbm(Janma)}g/ml`` or
        ``{SUVlbm(James128)}g/ml``.

    Raises
    ------
    NoUptake
        It is no PET, not corrected for attenuation or decay, or an attribute is missing or cannot
        be; the message names it.
    """
    factor = suv_factor(
        volume, by=by, formula=formula, weight_kg=weight_kg, height_m=height_m, sex=sex
    )
    return _scaled(volume, factor, _UNITS[by, formula if by == "lean body mass" else ""])


def suv_factor(
    volume: Volume,
    *,
    by: By = "body weight",
    formula: Formula = "Janmahasatian",
    weight_kg: float | None = None,
    height_m: float | None = None,
    sex: str | None = None,
) -> float:
    """What :func:`to_suv` multiplies true values by; parameters and errors as there."""
    if by not in ("body weight", "lean body mass"):
        raise ValueError(f"by {by!r}: body weight or lean body mass")
    told = _Told(volume, {"weight_kg": weight_kg, "height_m": height_m, "sex": sex})
    told.check_corrected()
    factor = _body_weight_factor(told)
    return factor * _lean_fraction(told, formula) if by == "lean body mass" else factor


def to_bqml(volume: Volume) -> Volume:
    """Convert a PET scan to activity concentration in Bq/ml, at the time it is corrected to.

    Raises
    ------
    NoUptake
        Its unit is another, and no attribute says how it is related.
    """
    told = _Told(volume)
    units = told.text("units")
    if units == "BQML":
        return volume
    if units == "CNTS":
        return _scaled(volume, told.number("philips_bqml_factor"), "BQML")
    raise told.error(f"voxels in {units} are not related to Bq/ml", "units")


def _scaled(volume: Volume, factor: float, unit: str) -> Volume:
    described = {name: value for name, value in volume.properties.items() if name != "Units"}
    return replace(
        volume,
        slope=volume.slope * factor,
        intercept=volume.intercept * factor,
        unit=unit,
        header=b"",  # A NIfTI header would state the old rescale.
        properties={**described, "pet.units": unit},
    )


def _body_weight_factor(told: _Told) -> float:
    units = told.text("units")
    if units == "GML":
        kind = told.get("suv_type") or "BW"
        if kind != "BW":
            raise told.error(f"the voxels are SUV of type {kind} already", "suv_type")
        return 1.0
    if units == "BQML":
        return _weight_over_dose(told)
    if units == "CNTS":
        if told.has("philips_suv_factor"):
            return told.number("philips_suv_factor")
        return told.number("philips_bqml_factor") * _weight_over_dose(told)
    raise told.error(f"voxels in {units} cannot be related to a dose", "units")


def _weight_over_dose(told: _Told) -> float:
    dose, half_life = told.number("dose_bq"), told.number("half_life_s")
    decay = 0.0 if told.text("decay_correction") == "ADMIN" else told.number("decay_s")
    if decay > _MOST_HALF_LIVES * half_life:
        raise told.error(
            f"{decay:.0f} s from injection to scan are over {_MOST_HALF_LIVES} half-lives of "
            f"{half_life:.0f} s",
            "decay_s",
        )
    return 1000 * told.number("weight_kg") / decayed_dose(dose, half_life, decay)


def _lean_fraction(told: _Told, formula: Formula) -> float:
    weight, height, sex = told.number("weight_kg"), told.number("height_m"), told.text("sex")
    if sex not in ("M", "F"):
        raise told.error(f"no formula for lean body mass serves the sex {sex}", "sex")
    lean = lean_body_mass_kg(weight, height, sex, formula=formula)
    if not 0 < lean <= weight:
        raise told.error(
            f"{formula}'s lean body mass of {weight:g} kg and {height:g} m is {lean:.1f} kg",
            "height_m",
        )
    return lean / weight


@dataclass(frozen=True)
class _Told:
    """What a scan says of its dose, checked as it is asked for."""

    volume: Volume
    given: Mapping[str, float | str | None] | None = None

    def get(self, name: str) -> str:
        given = (self.given or {}).get(name)
        return self.volume.properties.get(f"pet.{name}", "") if given is None else str(given)

    def has(self, name: str) -> bool:
        return self.get(name) not in ("", "0", "0.0")

    def text(self, name: str) -> str:
        if self.volume.modality != "PT":
            raise NoUptake(
                f"a scan of modality {self.volume.modality}: uptake values are of PET (PT)",
                where=self.volume.path,
                remedy="Open the DICOM series of the PET, or what ingest made of it",
            )
        value = self.get(name)
        if not value:
            why = self.volume.properties.get(f"pet.{name}.unknown")
            raise self.error(why or f"{TAGS[name]} is missing or empty", name)
        return value

    def number(self, name: str) -> float:
        text = self.text(name)
        try:
            value = float(text)
        except ValueError:
            raise self.error(f"{TAGS[name]} is {text!r}, not a number", name) from None
        low, high = _LIMITS[name]
        if not low <= value <= high:
            hint = " (in Bq, not in MBq)" if name == "dose_bq" else ""
            raise self.error(f"{TAGS[name]} is {text}, which cannot be{hint}", name)
        return value

    def check_corrected(self) -> None:
        done = self.text("corrected_image").split()
        for word, what in (("ATTN", "attenuation"), ("DECY", "decay")):
            if word not in done:
                raise self.error(
                    f"the scan is not corrected for {what}: {TAGS['corrected_image']} is "
                    f"{' '.join(done)}, without {word}",
                    "corrected_image",
                )
        if self.text("decay_correction") not in ("START", "ADMIN"):
            found = self.text("decay_correction")
            raise self.error(
                f"{TAGS['decay_correction']} is {found}, START or ADMIN is needed",
                "decay_correction",
            )

    def error(self, what: str, name: str) -> NoUptake:
        remedy = "Mend the attribute in the DICOM files"
        if name in ("weight_kg", "height_m", "sex"):
            remedy = f"Pass {name}=, or mend the attribute in the DICOM files"
        if name in ("units", "suv_type", "corrected_image", "decay_correction"):
            remedy = "Choose the series in Bq/ml that is corrected for attenuation and decay"
        return NoUptake(what, where=self.volume.path, remedy=remedy)
