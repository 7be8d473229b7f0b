"""The series of a DICOM folder: which there are, and which is meant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...storage.errors import BadGeometry, EmptyFile
from .dicom_pictures import Header, is_dicom, named_errors, read_header


@dataclass(frozen=True)
class SeriesInfo:
    """What the headers of a series say, before any picture is looked at.

    Attributes
    ----------
    uid, number
        SeriesInstanceUID; the number that the scanner gave, empty where there is none.
    description
        SeriesDescription or ProtocolName; nothing of the patient.
    modality
        ``CT``, ``MR``, ``PT``, ``SEG`` …
    files
        How many hold it.
    shape
        (pictures, rows, columns) of the first file's size: a guess at the volume's shape, which
        time points and mosaics change.
    """

    uid: str
    number: str
    description: str
    modality: str
    files: int
    shape: tuple[int, int, int]

    def __str__(self) -> str:
        files = f"{self.files} file{'s' if self.files != 1 else ''}"
        size = " × ".join(str(n) for n in self.shape)
        words = f"{self.number or '-'}: {self.modality} {self.description}".rstrip()
        return f"{words}, {files}, {size}, {self.uid}"


@dataclass(frozen=True)
class Series:
    """One series of a folder: its files with their headers."""

    uid: str
    files: Mapping[Path, Header]

    @property
    def header(self) -> Any:
        """The first file's data set."""
        return next(iter(self.files.values())).data

    @property
    def info(self) -> SeriesInfo:
        """What the headers say."""
        header = self.header
        frames = [int(opened.data.get("NumberOfFrames") or 1) for opened in self.files.values()]
        return SeriesInfo(
            uid=self.uid,
            number=str(header.get("SeriesNumber") or ""),
            description=str(header.get("SeriesDescription") or header.get("ProtocolName") or ""),
            modality=str(header.get("Modality", "?")),
            files=len(self.files),
            shape=(sum(frames), int(header.get("Rows") or 0), int(header.get("Columns") or 0)),
        )


def list_series(path: str | Path) -> tuple[SeriesInfo, ...]:
    """Series of a DICOM file or folder that hold pictures, by number.

    Raises
    ------
    EmptyFile
        No DICOM file is there, or none with a picture.
    UnreadableFile
        A file has DICOM's magic word and cannot be understood.
    """
    path = Path(path)
    with named_errors(path):
        return tuple(series.info for series in find_series(path))


def find_series(path: Path) -> list[Series]:
    """As :func:`list_series`, with the headers of every file."""
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    groups: dict[str, dict[Path, Header]] = {}
    for file in files:
        if is_dicom(file):
            with named_errors(file):
                header = read_header(file)
                if header.has_pictures or path.is_file():
                    groups.setdefault(header.series, {})[file] = header
    if not groups:
        raise EmptyFile("no DICOM pictures are there", where=path)
    with named_errors(path):
        return sorted((Series(uid, members) for uid, members in groups.items()), key=_by_number)


def _by_number(series: Series) -> tuple[bool, str, str]:
    number = str(series.header.get("SeriesNumber") or "")
    return not number, number.zfill(8), series.uid


def choose_series(found: Sequence[Series], wanted: str | None, where: Path) -> Series:
    """The only series, or the one asked for by UID or number.

    Raises
    ------
    BadGeometry
        Several are there and none was asked for; or not exactly one is what was asked for.
    """
    infos = [series.info for series in found] if wanted is not None or len(found) > 1 else []
    listing = "by its number or its UID" + "".join(f"\n  {info}" for info in infos)
    if wanted is None:
        if len(found) == 1:
            return found[0]
        raise BadGeometry(
            f"{len(found)} series are there",
            where=where,
            remedy=f"Choose one with --series, {listing}",
        )
    chosen = [s for s, info in zip(found, infos, strict=True) if wanted in (s.uid, info.number)]
    if len(chosen) != 1:
        which = f"{len(chosen)} series are called {wanted}" if chosen else f"no series {wanted}"
        raise BadGeometry(which, where=where, remedy=f"Choose one {listing}")
    return chosen[0]
