"""Slides through OpenSlide: every vendor format that it knows, DICOM among them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...storage.errors import MicrotomeError, UnreadableFile
from . import resolution
from .base import (
    Bounds,
    Closing,
    Level,
    Pixels,
    SlideInfo,
    downsample,
    no_jpeg_tiles,
    require_inside,
)
from .tiff_check import is_tiff, require_whole_tiff
from .tiff_layout import PARSE_ERRORS

if TYPE_CHECKING:
    from .dicom_tiles import DicomTiles

_CACHE_BYTES = 32 * 1024**2


def is_ours(path: Path) -> bool:
    """Whether OpenSlide recognises the file, or the folder holds whole-slide DICOM."""
    if path.is_dir():
        return bool(wsi_series(path))
    return _format(path) is not None


def _format(path: Path) -> str | None:
    import openslide

    try:
        found: str | None = openslide.OpenSlide.detect_format(path)
    except openslide.OpenSlideError:
        return None
    return found


class VendorSlide(Closing):
    """A slide that OpenSlide opens.

    Notes
    -----
    OpenSlide addresses every level by whole level-0 pixels, through a downsample of its own: the
    mean of both axes' ratios. Level 0, and levels where that is a whole number, are read exactly.
    At another level the rectangle begins at the level-0 pixel nearest to its corner, at most half
    a level-0 pixel away, and OpenSlide interpolates by that fraction of a pixel.

    After an error OpenSlide's handle answers every call with that same error; it is closed, and
    the next read opens a fresh one.
    """

    def __init__(self, path: Path, mpp: resolution.Override | None = None) -> None:
        self._path = path
        self._file = entry_file(path)
        self._handle: Any = None
        self._frames: tuple[Any, DicomTiles] | None = None
        # Past 4 GiB Hamamatsu's offsets are not a TIFF's.
        if is_tiff(self._file) and _format(self._file) != "hamamatsu":
            require_whole_tiff(self._file)
        with self._translated("the slide cannot be opened"):
            handle = self._open()
            properties = dict(handle.properties)
            self._downsamples: tuple[float, ...] = handle.level_downsamples
            self._info = _describe(path, properties, handle, mpp)

    @property
    def info(self) -> SlideInfo:
        """What is known of the slide without decoding it."""
        return self._info

    def read(self, level: int, y_px: int, x_px: int, height_px: int, width_px: int) -> Pixels:
        """Read a rectangle of a level; see :class:`~microtome.engine.slides.base.Slide`."""
        require_inside(self._info, level, Bounds(y_px, x_px, height_px, width_px))
        scale = self._downsamples[level]
        corner = (round(x_px * scale), round(y_px * scale))
        place = f"level {level}, {height_px} × {width_px} px at y {y_px}, x {x_px}"
        with self._translated(f"the pixels cannot be decoded ({place})"):
            image = self._open().read_region(corner, level, (width_px, height_px))
            return _over_white(np.asarray(image))

    def associated_image(self, name: str) -> Pixels:
        """Label, macro or thumbnail as uint8 [h, w, 3]; KeyError where there is none."""
        if name not in self._info.associated:
            raise KeyError(name)
        with self._translated(f"the {name} image cannot be decoded"):
            return _over_white(np.asarray(self._open().associated_images[name]))

    def require_jpeg_tiles(self) -> None:
        """Raise NoJpegTiles unless this is DICOM whose frames are JPEG."""
        self._dicom_tiles()

    def jpeg_tile(self, level: int, row: int, column: int) -> bytes | None:
        """A frame as it is; see :class:`~microtome.engine.slides.base.JpegTiled`."""
        from .dicom_reader import translated

        with translated(self._path, f"frame ({row}, {column}) of level {level} cannot be read"):
            return self._dicom_tiles().tile(level, row, column)

    def _dicom_tiles(self) -> DicomTiles:
        """The frames, through wsidicom: OpenSlide gives pixels only."""
        from .dicom_reader import open_series, translated
        from .dicom_tiles import DicomTiles

        if self._info.vendor != "dicom":
            raise no_jpeg_tiles(self._path, "OpenSlide, which reads it, gives pixels only")
        if self._frames is None:
            try:
                with translated(self._path, "its frames are not found"), ExitStack() as on_error:
                    opened = on_error.enter_context(open_series(self._file))
                    frames = DicomTiles(self._path, opened, self._info.levels)
                    on_error.pop_all()
            except UnreadableFile as error:
                raise no_jpeg_tiles(self._path, error.what) from error
            self._frames = opened, frames
        return self._frames[1]

    def close(self) -> None:
        """Release the file."""
        if self._frames is not None:
            self._frames[0].close()
            self._frames = None
        if self._handle is not None:
            self._handle.close()
            self._handle = None

    def _open(self) -> Any:
        import openslide

        if self._handle is None:
            self._handle = openslide.OpenSlide(self._file)
            self._handle.set_cache(openslide.OpenSlideCache(_CACHE_BYTES))
        return self._handle

    @contextmanager
    def _translated(self, what: str) -> Iterator[None]:
        import openslide

        try:
            yield
        except MicrotomeError:
            self.close()
            raise
        except (openslide.OpenSlideError, OSError) as error:
            self.close()
            raise UnreadableFile(
                f"{what}: {error}",
                where=self._path,
                remedy="Copy the file again from its source; if it is no better there, scan anew",
            ) from error


def _over_white(rgba: NDArray[np.uint8]) -> Pixels:
    """Composite straight-alpha RGBA [h, w, 4] over white.

    OpenSlide premultiplies, p = colour in 0 … alpha, and openslide-python divides by alpha,
    rounding down; ceil(c * alpha / 255) is p again, exactly.
    """
    alpha = rgba[..., 3:]
    if alpha.min(initial=255) == 255:
        return np.ascontiguousarray(rgba[..., :3])
    wide = alpha.astype(np.uint16)
    premultiplied = (rgba[..., :3] * wide + 254) // 255
    return (premultiplied + (255 - wide)).astype(np.uint8)


def _describe(
    path: Path, properties: Mapping[str, str], handle: Any, mpp: resolution.Override | None
) -> SlideInfo:
    width_px, height_px = handle.dimensions
    found = resolution.resolve(resolution.from_openslide(properties), mpp)
    power = properties.get("openslide.objective-power")
    bounds, notes = _bounds(properties, height_px, width_px)
    return SlideInfo(
        path=path,
        backend="openslide",
        vendor=properties["openslide.vendor"],
        levels=tuple(
            Level(h, w, *downsample((height_px, width_px), (h, w)), _tile_px(properties, i))
            for i, (w, h) in enumerate(handle.level_dimensions)
        ),
        mpp=found.mpp,
        mpp_source=found.source,
        objective_power=None if power is None else float(power),
        bounds=bounds,
        associated=tuple(handle.associated_images),
        properties=properties,
        mpp_refused=found.refused,
        notes=notes,
    )


def _tile_px(properties: Mapping[str, str], level: int) -> tuple[int, int] | None:
    names = (f"openslide.level[{level}].tile-{side}" for side in ("height", "width"))
    sizes = [int(properties.get(name, 0)) for name in names]
    return (sizes[0], sizes[1]) if all(sizes) else None


def _bounds(
    properties: Mapping[str, str], height_px: int, width_px: int
) -> tuple[Bounds | None, tuple[str, ...]]:
    names = [f"openslide.bounds-{side}" for side in ("y", "x", "height", "width")]
    if not all(name in properties for name in names):
        return None, ()
    y, x, height, width = (int(properties[name]) for name in names)
    top, left = max(0, y), max(0, x)
    bottom, right = min(height_px, y + height), min(width_px, x + width)
    if bottom <= top or right <= left:
        return None, ("the stated bounds lie outside the image; not used",)
    clipped = Bounds(top, left, bottom - top, right - left)
    if clipped != Bounds(y, x, height, width):
        return clipped, ("the stated bounds leave the image; cut to it",)
    return clipped, ()


def entry_file(path: Path) -> Path:
    """The file to hand to OpenSlide: the path itself, or one file of a DICOM folder's series."""
    if not path.is_dir():
        return path
    series = wsi_series(path)
    if len(series) == 1:
        return next(iter(series.values()))
    if not series:
        raise UnreadableFile(
            "the folder holds no whole-slide DICOM file",
            where=path,
            remedy="Name a slide file, or a folder with the files of one DICOM series",
        )
    names = ", ".join(sorted(file.name for file in series.values()))
    raise UnreadableFile(
        f"the folder holds {len(series)} slides",
        where=path,
        remedy=f"Name one file of the series that you want: {names}",
    )


def wsi_series(folder: Path, files: Iterable[Path] | None = None) -> dict[str, Path]:
    """The first file of each whole-slide microscopy series, by SeriesInstanceUID.

    Of all files in a folder, or of those given.
    """
    import pydicom
    from pydicom.uid import VLWholeSlideMicroscopyImageStorage

    series: dict[str, Path] = {}
    there = folder.iterdir() if files is None else files
    for file in sorted(p for p in there if p.is_file() and has_dicom_magic(p)):
        try:
            tags = pydicom.dcmread(
                file, stop_before_pixels=True, specific_tags=["SOPClassUID", "SeriesInstanceUID"]
            )
            kind, of_series = tags.get("SOPClassUID"), str(tags.get("SeriesInstanceUID", ""))
        except dicom_errors():
            continue
        if kind == VLWholeSlideMicroscopyImageStorage:
            series.setdefault(of_series, file)
    return series


def dicom_errors() -> tuple[type[Exception], ...]:
    """What pydicom raises on bytes that are not what they claim to be."""
    from pydicom.errors import BytesLengthException, InvalidDicomError

    return (InvalidDicomError, BytesLengthException, *PARSE_ERRORS)


def has_dicom_magic(file: Path) -> bool:
    """Whether a file says that it is DICOM, behind its preamble."""
    with file.open("rb") as stream:
        return stream.read(132)[128:] == b"DICM"
