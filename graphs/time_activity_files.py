"""Files of time-activity curves: PMOD's ``.tac``, ``.voistat`` and ``.acqtimes``, Turku's ``.dft``.

Frame times are also read from the sidecar that BIDS gives a PET scan.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..storage.commit import writable, write_text
from ..storage.errors import BadFrames, MissingFile, UnreadableFile, blaming
from .matrices import Array
from .time_activity import FrameTimes, TimeActivity

_SECONDS = {"s": 1.0, "sec": 1.0, "seconds": 1.0, "min": 60.0, "minutes": 60.0}
_CORRECTED = "_C"
_MID_TOLERANCE_S = 0.01


@dataclass(frozen=True, eq=False)
class VoiStatistics:
    """What a PMOD ``.voistat`` file states of regions.

    Attributes
    ----------
    regions
        r unique names.
    mid_s
        float64 [t]: the middle of each frame; of a parametric map there is one.
    values
        float64 [t, r]: means; NaN where there is none.
    corrected
        float64 [t, r]: the same after PMOD's partial volume correction, or None.
    volumes_ml
        float64 [r].
    unit
        Of the values; ``1/1`` of a ratio.
    """

    regions: tuple[str, ...]
    mid_s: Array
    values: Array
    corrected: Array | None
    volumes_ml: Array
    unit: str


def read_time_activity(
    path: Path, *, frames: FrameTimes | None = None, corrected: bool = False
) -> TimeActivity:
    """Read the curves of one scan.

    Parameters
    ----------
    path
        PMOD ``.tac``; PMOD ``.voistat``, which gives middles of frames only and so needs
        ``frames``; Turku ``.dft``.
    frames
        Of a ``.voistat``; of other files they must be the same as theirs.
    corrected
        Take the curves that PMOD corrected for partial volume (columns ``…_C``, or ``PVC``), in
        place of the measured ones.

    Raises
    ------
    MissingFile, UnreadableFile
        Nothing is there, or not what the ending says.
    BadFrames
        Frames contradict each other, or the ones given.
    """
    _require_file(path)
    read = _READERS.get(path.suffix.lower())
    if read is None:
        raise UnreadableFile(
            f"{path.suffix or 'no ending'} is no file of time-activity curves",
            where=path,
            remedy=f"Give one of {', '.join(_READERS)}",
        )
    with blaming(path):
        return read(path, frames, corrected)


def read_frames(path: Path) -> FrameTimes:
    """Read frame times: PMOD ``.acqtimes``, or BIDS ``.json`` with FrameTimesStart, FrameDuration.

    Raises
    ------
    MissingFile, UnreadableFile, BadFrames
    """
    _require_file(path)
    with blaming(path):
        if path.suffix.lower() == ".json":
            return _frames_of_bids(path)
        return _frames_of_pmod(path)


def frames_beside(path: Path) -> Path | None:
    """The BIDS sidecar of a scan, called as the scan is, if there is one."""
    beside = path.with_name(path.name.removesuffix(".gz").removesuffix(".nii") + ".json")
    return beside if beside.is_file() else None


def write_tac(path: Path, curves: TimeActivity) -> None:
    """Write PMOD's ``.tac``, which :func:`read_time_activity` reads."""
    unit = curves.unit or "unknown"
    lines = ["\t".join(["start[seconds]", f"end[{unit}]", *curves.regions])]
    times = zip(curves.frames.start_s, curves.frames.end_s, curves.activity, strict=True)
    for start, end, row in times:
        lines.append("\t".join(repr(float(value)) for value in (start, end, *row)))
    with writable(path):
        write_text(path, "\n".join(lines) + "\n")


def _read_tac(path: Path, frames: FrameTimes | None, corrected: bool) -> TimeActivity:
    rows = [line.rstrip("\r\t ").split("\t") for line in _lines(path) if line.strip()]
    head = rows[0] if rows else []
    start = re.fullmatch(r"start\[(\w+)\]", head[0].strip()) if head else None
    end = re.fullmatch(r"end\[(.*)\]", head[1].strip()) if len(head) > 2 else None
    if start is None or end is None or start[1] not in _SECONDS:
        raise UnreadableFile("the first columns are not start[seconds] and end[unit]")
    table = _numbers(rows[1:], len(head))
    scale = _SECONDS[start[1]]
    found = FrameTimes(table[:, 0] * scale, table[:, 1] * scale)
    _require_same(found, frames)
    names = [name.strip() for name in head[2:]]
    chosen = _columns(names, corrected=corrected)
    return TimeActivity(
        table[:, 2:][:, list(chosen.values())], found, tuple(chosen), end[1].strip()
    )


def _columns(names: Sequence[str], *, corrected: bool) -> dict[str, int]:
    """Region -> column, of the measured or of the corrected curves."""
    known = set(names)
    is_corrected = [
        name.endswith(_CORRECTED) and name.removesuffix(_CORRECTED) in known for name in names
    ]
    chosen = {
        name.removesuffix(_CORRECTED) if corrected else name: column
        for column, name in enumerate(names)
        if is_corrected[column] == corrected
    }
    if not chosen:
        raise UnreadableFile("no curve is corrected for partial volume")
    if len(chosen) < is_corrected.count(corrected):
        raise UnreadableFile("a region is there twice")
    return chosen


def _read_dft(path: Path, frames: FrameTimes | None, corrected: bool) -> TimeActivity:
    if corrected:
        raise UnreadableFile("a .dft does not say whether it is corrected for partial volume")
    lines = [line for line in _lines(path) if line.strip() and not line.startswith("#")]
    if len(lines) < 5 or not lines[0].startswith("DFT"):
        raise UnreadableFile("it does not begin with DFT and a table")
    first, second, third = (line.split()[1:] for line in lines[:3])
    unit = lines[2].split()[0]
    time = re.match(r"Times\s*\((\w+)\)(.*)", lines[3])
    if time is None or time[1] not in _SECONDS:
        raise UnreadableFile("it does not give the start and end of frames: no 'Times (min)'")
    words = zip(first, second, third, strict=True)
    names = tuple("_".join(word for word in parts if word != ".") for parts in words)
    table = _numbers([line.split() for line in lines[4:]], len(names) + 2)
    volumes_mm3 = _numbers([time[2].split()], len(names))[0]
    scale = _SECONDS[time[1]]
    found = FrameTimes(table[:, 0] * scale, table[:, 1] * scale)
    _require_same(found, frames)
    volumes = volumes_mm3 / 1000 if np.isfinite(volumes_mm3).all() else None
    return TimeActivity(table[:, 2:], found, names, unit, volumes)


def read_voistat(path: Path) -> VoiStatistics:
    """Read PMOD's statistics of regions: curves of a dynamic scan, or means of a parametric map.

    Raises
    ------
    MissingFile, UnreadableFile
        No such file; not of this kind, of several scans, or a region lacks a frame.
    """
    _require_file(path)
    with blaming(path):
        lines = _lines(path)
        if not lines or not lines[0].startswith("# PMOD_VOI_STATISTICS"):
            raise UnreadableFile("it does not begin with PMOD_VOI_STATISTICS")
        rows = [line.split("\t") for line in lines if line.strip() and not line.startswith("#")]
        return _statistics(rows)


def _statistics(rows: Sequence[Sequence[str]]) -> VoiStatistics:
    head = [re.sub(r"^//\s*", "", name) for name in rows[0]] if rows else []
    column = {name.split(" [")[0].split("(")[0]: place for place, name in enumerate(head)}
    missing = {"VoiName", "Time", "Averaged", "Volume"} - set(column)
    if missing:
        raise UnreadableFile(f"no column {', '.join(sorted(missing))}")
    body = rows[1:]
    if any(len(row) != len(head) for row in body):
        raise UnreadableFile(f"a row does not have {len(head)} columns")
    if len({row[column["File"]] for row in body if "File" in column}) > 1:
        raise UnreadableFile("it is of several scans", remedy="Export one file a scan")
    names = tuple(dict.fromkeys(row[column["VoiName"]].strip() for row in body))
    wanted = [column[name] for name in ("Time", "Averaged", "Volume", "PVC") if name in column]
    by_region = [
        _numbers([[row[c] for c in wanted] for row in body if row[column["VoiName"]].strip() == n])
        for n in names
    ]
    if len({len(table) for table in by_region}) != 1:
        raise UnreadableFile("regions have different numbers of frames")
    cube = np.stack(by_region, axis=1)
    if np.ptp(cube[:, :, 0], axis=1).max() > 0:
        raise UnreadableFile("regions have different times")
    unit = re.search(r"\[(.*)\]", head[column["Averaged"]])
    return VoiStatistics(
        names,
        cube[:, 0, 0],
        cube[:, :, 1],
        cube[:, :, 3] if "PVC" in column else None,
        cube[0, :, 2],
        unit[1] if unit else "",
    )


def _read_voistat(path: Path, frames: FrameTimes | None, corrected: bool) -> TimeActivity:
    found = read_voistat(path)
    if frames is None:
        raise BadFrames(
            "a .voistat gives the middle of each frame only",
            remedy="Give the frames with --frames: PMOD's .acqtimes or a BIDS .json",
        )
    if len(frames) != len(found.mid_s):
        raise BadFrames(f"{len(frames)} frame times for curves of {len(found.mid_s)} frames")
    off = np.flatnonzero(np.abs(frames.mid_s - found.mid_s) > _MID_TOLERANCE_S)
    if len(off):
        raise BadFrames(
            f"the middle of frame {off[0] + 1} is {found.mid_s[off[0]]:g} s here and "
            f"{frames.mid_s[off[0]]:g} s in the table of frames"
        )
    values = found.corrected if corrected else found.values
    if values is None:
        raise UnreadableFile("no curve is corrected for partial volume")
    return TimeActivity(values, frames, found.regions, found.unit, found.volumes_ml)


_READERS: dict[str, Callable[[Path, FrameTimes | None, bool], TimeActivity]] = {
    ".tac": _read_tac,
    ".voistat": _read_voistat,
    ".dft": _read_dft,
}
SUFFIXES = tuple(_READERS)
"""Endings of files of curves."""


def _frames_of_pmod(path: Path) -> FrameTimes:
    lines = [line.split("#")[0].split() for line in _lines(path)]
    rows = [words for words in lines if words]
    if not rows or len(rows[0]) != 1 or not rows[0][0].isdigit():
        raise UnreadableFile("it does not begin with the number of acquisitions")
    table = _numbers(rows[1:], 2)
    if len(table) != int(rows[0][0]):
        raise BadFrames(f"{rows[0][0]} acquisitions are announced, {len(table)} are there")
    return FrameTimes(table[:, 0], table[:, 1])


def _frames_of_bids(path: Path) -> FrameTimes:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        start, duration = content["FrameTimesStart"], content["FrameDuration"]
        starts, durations = np.asarray(start, np.float64), np.asarray(duration, np.float64)
    except (ValueError, TypeError, KeyError) as error:
        raise UnreadableFile(f"no FrameTimesStart and FrameDuration ({error})") from error
    if starts.shape != durations.shape:
        raise BadFrames(f"{starts.size} FrameTimesStart, {durations.size} FrameDuration")
    return FrameTimes.of_durations(starts, durations)


def _require_same(found: FrameTimes, given: FrameTimes | None) -> None:
    if given is None:
        return
    if len(found) != len(given):
        raise BadFrames(f"{len(given)} frame times for curves of {len(found)} frames")
    for own, other in ((found.start_s, given.start_s), (found.end_s, given.end_s)):
        for frame in np.flatnonzero(np.abs(own - other) > _MID_TOLERANCE_S)[:1]:
            raise BadFrames(
                f"frame {frame + 1} has {own[frame]:g} s here and {other[frame]:g} s in the table "
                "of frames"
            )


def _numbers(rows: Sequence[Sequence[str]], width: int | None = None) -> Array:
    """A table of numbers; ``.`` and ``NaN`` are none."""
    width = width or len(rows[0])
    for number, row in enumerate(rows):
        if len(row) != width:
            raise UnreadableFile(f"row {number + 1} has {len(row)} columns, not {width}")
    try:
        values = [[float("nan" if word in (".", "") else word) for word in row] for row in rows]
    except ValueError as error:
        raise UnreadableFile(f"no number ({error})") from error
    if not values:
        raise UnreadableFile("it has no rows")
    return np.asarray(values, np.float64)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise UnreadableFile(f"no text ({error})") from error


def _require_file(path: Path) -> None:
    if not path.is_file():
        raise MissingFile("no such file", where=path, remedy="Check the path")
