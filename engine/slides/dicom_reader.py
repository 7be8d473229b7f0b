"""Whole-slide DICOM in a transfer syntax that OpenSlide refuses, through wsidicom."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ...storage.errors import UnreadableFile
from . import resolution
from .base import Bounds, Closing, Level, Pixels, SlideInfo, downsample, require_inside
from .openslide_reader import dicom_errors, entry_file, has_dicom_magic, wsi_series

_OPENSLIDES = frozenset(
    "1.2.840.10008.1.2" + suffix for suffix in ("", ".1", ".4.50", ".4.90", ".4.91")
)
"""Transfer syntaxes that OpenSlide 4 decodes: plain little-endian, JPEG baseline, JPEG 2000."""


def is_ours(path: Path) -> bool:
    """Whether a file, or a folder's one series, is whole-slide DICOM that OpenSlide refuses."""
    import pydicom

    if path.is_dir():
        series = wsi_series(path)
        return len(series) == 1 and is_ours(next(iter(series.values())))
    if not (path.is_file() and has_dicom_magic(path)):
        return False
    try:
        syntax = pydicom.filereader.read_file_meta_info(path).get("TransferSyntaxUID")
        is_slide = path in wsi_series(path.parent, [path]).values()
    except dicom_errors():
        return False
    return is_slide and syntax is not None and str(syntax) not in _OPENSLIDES


class DicomSlide(Closing):
    """A slide that wsidicom opens; levels are those of the series in the file's folder."""

    def __init__(self, path: Path, mpp: resolution.Override | None = None) -> None:
        self._path = path
        self._slide: Any = None
        with translated(path, "the slide cannot be opened"):
            self._slide = open_series(entry_file(path))
            self._levels = sorted(self._slide.levels, key=lambda level: -level.size.area)
            self._info = self._describe(mpp)

    @property
    def info(self) -> SlideInfo:
        """What is known of the slide without decoding it."""
        return self._info

    def read(self, level: int, y_px: int, x_px: int, height_px: int, width_px: int) -> Pixels:
        """Read a rectangle of a level; see :class:`~microtome.engine.slides.base.Slide`."""
        from wsidicom.geometry import Point, Region, Size

        require_inside(self._info, level, Bounds(y_px, x_px, height_px, width_px))
        place = f"level {level}, {height_px} × {width_px} px at y {y_px}, x {x_px}"
        with translated(self._path, f"the pixels cannot be decoded ({place})"):
            part = Region(Point(x_px, y_px), Size(width_px, height_px))
            return np.array(self._levels[level].get_region(part).convert("RGB"))

    def associated_image(self, name: str) -> Pixels:
        """Label or macro as uint8 [h, w, 3]; KeyError where there is none."""
        if name not in self._info.associated:
            raise KeyError(name)
        with translated(self._path, f"the {name} image cannot be decoded"):
            read = {"label": self._slide.read_label, "macro": self._slide.read_overview}[name]
            return np.array(read().convert("RGB"))

    def close(self) -> None:
        """Release the files."""
        if self._slide is not None:
            self._slide.close()

    def _describe(self, mpp: resolution.Override | None) -> SlideInfo:
        first = self._levels[0]
        base_px = (first.size.height, first.size.width)
        stated = resolution.Statement("DICOM PixelSpacing", (first.mpp.height, first.mpp.width))
        found = resolution.resolve([stated], mpp)
        extra = {"label": self._slide.labels, "macro": self._slide.overviews}
        return SlideInfo(
            path=self._path,
            backend="wsidicom",
            vendor="dicom",
            levels=tuple(
                Level(
                    level.size.height,
                    level.size.width,
                    *downsample(base_px, (level.size.height, level.size.width)),
                    (level.tile_size.height, level.tile_size.width),
                )
                for level in self._levels
            ),
            mpp=found.mpp,
            mpp_source=found.source,
            objective_power=None,
            bounds=None,
            associated=tuple(name for name, images in extra.items() if images),
            properties={},
            mpp_refused=found.refused,
        )


@contextmanager
def translated(path: Path, what: str) -> Iterator[None]:
    """Turn what wsidicom and pydicom raise into UnreadableFile."""
    from wsidicom import errors

    own = tuple(kind for name, kind in vars(errors).items() if name.startswith("WsiDicom"))
    try:
        yield
    except (*own, *dicom_errors()) as error:
        raise UnreadableFile(
            f"{what}: {error}",
            where=path,
            remedy="Copy the files again from their source; all of a series, in one folder",
        ) from error


def open_series(file: Path) -> Any:
    """All files of the series of one, opened by wsidicom."""
    from wsidicom import WsiDicom

    return WsiDicom.open(_series(file))


def _series(file: Path) -> list[Path]:
    """All files of the series of one, from its folder."""
    series = wsi_series(file.parent, [file] if file.is_file() else [])
    if not series:
        raise ValueError("no whole-slide DICOM")
    others = (p for p in sorted(file.parent.iterdir()) if p.is_file() and has_dicom_magic(p))
    return [p for p in others if series.keys() == wsi_series(file.parent, [p]).keys()]
