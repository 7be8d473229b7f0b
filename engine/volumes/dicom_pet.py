"""What DICOM says of a PET scan's dose, decay and patient's build: properties for SUV."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from .suv import TAGS

_OWN = ("units", "decay_correction", "corrected_image", "suv_type", "weight_kg", "height_m", "sex")
_OF_DOSE = ("dose_bq", "half_life_s")
_PHILIPS = "Philips PET Private Group"
_GE = "GEMS_PETD_01"
_ZONE = re.compile(r"[+-]\d{4}")
_MOMENT = re.compile(r"(\d{14})(?:\.(\d{1,6}))?([+-]\d{4})?")
_SAME_S = 1.0
"""Times that are written in whole seconds may seem to be this much too early."""


def pet_properties(headers: Sequence[Any]) -> dict[str, str]:
    """Values for :func:`~microtome.engine.volumes.suv.to_suv`, by ``pet.<key>``.

    Parameters
    ----------
    headers
        The data sets of all files of one series.

    Returns
    -------
    dict
        Numbers as they are written, and ``pet.decay_s``: seconds from the injection to the moment
        that the voxels are corrected to. ``pet.<key>.unknown`` is why there is no value. Dates and
        times themselves are not kept.
    """
    doses = list(headers[0].get("RadiopharmaceuticalInformationSequence") or ())
    found = {name: _shared(headers, _keyword(name)) for name in _OWN}
    found["philips_suv_factor"] = _private(headers[0], 0x7053, _PHILIPS, 0x00)
    found["philips_bqml_factor"] = _private(headers[0], 0x7053, _PHILIPS, 0x09)
    unknown = {
        name: f"{TAGS[name]} differs between the files" for name in _OWN if found[name] is None
    }
    if len(doses) == 1:
        found |= {name: _text(doses[0].get(_keyword(name))) for name in _OF_DOSE}
        try:
            found["decay_s"] = repr(_decay_s(headers, doses[0]))
        except ValueError as problem:
            unknown["decay_s"] = str(problem)
    elif doses:
        what = f"{len(doses)} injections are in RadiopharmaceuticalInformationSequence (0054,0016)"
        unknown |= dict.fromkeys((*_OF_DOSE, "decay_s"), f"{what}, one is wanted")
    else:
        what = "RadiopharmaceuticalInformationSequence (0054,0016) is missing"
        unknown |= {name: f"{TAGS[name]}: {what}" for name in (*_OF_DOSE, "decay_s")}
    said = {f"pet.{name}": value for name, value in found.items() if value}
    return said | {f"pet.{name}.unknown": why for name, why in unknown.items()}


def _keyword(name: str) -> str:
    return TAGS[name].split()[0]


def _shared(headers: Sequence[Any], keyword: str) -> str | None:
    """The value that all files have; None where they differ."""
    values = {_text(header.get(keyword)) for header in headers}
    return values.pop() if len(values) == 1 else None


def _private(header: Any, group: int, creator: str, element: int) -> str:
    try:
        return _text(header.private_block(group, creator)[element].value)
    except KeyError:
        return ""


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bytes):
        return value.decode("ascii", "replace").strip("\0 ")
    if isinstance(value, str) or not isinstance(value, Sequence):
        return str(value).strip("\0 ")
    return " ".join(str(part) for part in value)


def _decay_s(headers: Sequence[Any], dose: Any) -> float:
    """Seconds from injection to the scan's start, which the voxels are corrected to."""
    scan = _scan_start(headers, dose)
    injected = _injection(dose, scan, _text(headers[0].get("TimezoneOffsetFromUTC")))
    if injected > scan + timedelta(seconds=_SAME_S):
        raise ValueError(
            "RadiopharmaceuticalStartDateTime (0018,1078) or RadiopharmaceuticalStartTime "
            "(0018,1072) has the injection after the scan; a start before midnight needs its date, "
            "in RadiopharmaceuticalStartDateTime"
        )
    return max(0.0, (scan - injected).total_seconds())


def _injection(dose: Any, scan: datetime, zone: str) -> datetime:
    stated = _text(dose.get("RadiopharmaceuticalStartDateTime"))
    if stated:
        return _moment(stated, "RadiopharmaceuticalStartDateTime (0018,1078)", zone)
    time = _text(dose.get("RadiopharmaceuticalStartTime"))
    if not time:
        raise ValueError(
            "RadiopharmaceuticalStartDateTime (0018,1078) and RadiopharmaceuticalStartTime "
            "(0018,1072) are missing or empty"
        )
    # As in QIBA's pseudo-code the day is that of the scan.
    day = scan.strftime("%Y%m%d")
    return _moment(day + time, "RadiopharmaceuticalStartTime (0018,1072)")


def _scan_start(headers: Sequence[Any], dose: Any) -> datetime:
    """When the scan began, by QIBA's rules.

    The series' time, unless it is after the acquisition (a derived series): then GE's private
    time, or the moment that the first frame's reference time counts from.
    """
    first = min(headers, key=_acquired)
    acquired = _acquired(first)
    series = _of_header(headers[0], "Series", "(0008,0021)", "(0008,0031)")
    if series <= acquired + timedelta(seconds=_SAME_S):
        return series
    private = _private(headers[0], 0x0009, _GE, 0x0D)
    if private:
        return _moment(private, "GE's private scan time (0009,xx0d)")
    reference_ms = _text(first.get("FrameReferenceTime"))
    duration_ms = _text(first.get("ActualFrameDuration"))
    if not reference_ms or not duration_ms:
        raise ValueError(
            "SeriesTime (0008,0031) is after AcquisitionTime (0008,0032), and FrameReferenceTime "
            "(0054,1300) or ActualFrameDuration (0018,1242), which would tell the scan's start, "
            "is missing"
        )
    if float(reference_ms) == 0:
        return acquired
    half_life = float(_text(dose.get("RadionuclideHalfLife")) or 0)
    middle = _average_moment_s(float(duration_ms) / 1000, half_life)
    return acquired + timedelta(seconds=middle - float(reference_ms) / 1000)


def _average_moment_s(duration_s: float, half_life_s: float) -> float:
    """When in a frame the count rate equals its mean, in seconds from the frame's start."""
    if not (duration_s > 0 and half_life_s > 0):
        raise ValueError(
            "ActualFrameDuration (0018,1242) and RadionuclideHalfLife (0018,1075) must be positive"
        )
    rate = math.log(2) / half_life_s
    decayed = rate * duration_s
    return math.log(decayed / -math.expm1(-decayed)) / rate


def _acquired(header: Any) -> datetime:
    return _of_header(header, "Acquisition", "(0008,0022)", "(0008,0032)")


def _of_header(header: Any, of: str, date_tag: str, time_tag: str) -> datetime:
    date, time = _text(header.get(f"{of}Date")), _text(header.get(f"{of}Time"))
    if not date:
        raise ValueError(f"{of}Date {date_tag} is missing or empty")
    if not time:
        raise ValueError(f"{of}Time {time_tag} is missing or empty")
    return _moment(date + time, f"{of}Date {date_tag} or {of}Time {time_tag}")


def _moment(text: str, tag: str, zone: str = "") -> datetime:
    """A moment by the scanner's clock; its offset from UTC counts where the scanner's is known."""
    found = _MOMENT.fullmatch(text)
    if found is None:
        raise ValueError(f"{tag} is {text!r}, no date and time")
    whole, fraction, offset = found.groups()
    moment = datetime.strptime(f"{whole}+0000", "%Y%m%d%H%M%S%z")
    if offset and _ZONE.fullmatch(zone):
        moment += _from_utc(zone) - _from_utc(offset)
    return moment + timedelta(seconds=float(f"0.{fraction or 0}"))


def _from_utc(offset: str) -> timedelta:
    return timedelta(hours=int(offset[:3]), minutes=int(offset[0] + offset[3:]))
