"""What was understood of a file: slide, scan, or a product of ours."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..storage.commit import Commit, read_commit
from ..storage.errors import MicrotomeError, MissingFile, NoUptake
from ..storage.virtual import KIND as VIEW
from ..storage.virtual import open_view
from .slides import Mpp, SlideInfo, is_url, open_slide

if TYPE_CHECKING:
    from .volumes import SeriesInfo, Volume

_CT_HU = (-1100, 32000)
"""Less than air, or more than any metal that a scanner's extended scale holds."""

_FLAT_PX = 50_000_000
"""A slide of one level larger than this is slow to look at."""


def describe(
    path: str | Path, *, mpp: Mpp | None = None, series: str | None = None, resample: bool = False
) -> dict[str, Any]:
    """Say what a file is, in values that JSON can hold.

    Parameters
    ----------
    path
        A slide, a scan (file or DICOM folder), a product, or the URL of an OME-Zarr.
    mpp
        Overrides a slide's resolution.
    series, resample
        As in :func:`~microtome.engine.volumes.open_volume`.

    Returns
    -------
    dict
        ``path``, ``kind`` (slide, scan, product), ``odd`` (what is strange about it, in
        sentences) and what belongs to the kind, with units in the names.

    Raises
    ------
    MicrotomeError
        What is wrong with the file.
    """
    if not is_url(path):
        path = Path(path)
        if not path.exists():
            raise MissingFile("no such file or folder", where=path, remedy="Check the path")
        record = read_commit(path) if path.is_dir() else None
        if record is not None:
            return _of_product(path, record)
        from .volumes import is_scan, open_volume

        if is_scan(path):
            return _of_scan(open_volume(path, series=series, resample=resample))
    with open_slide(path, mpp=mpp) as slide:
        # A path would lose one of the slashes of a URL.
        return _of_slide(slide.info) | {"path": str(path)}


def describe_each(
    path: str | Path, *, mpp: Mpp | None = None, series: str | None = None, resample: bool = False
) -> list[dict[str, Any]]:
    """As :func:`describe`, with an entry for each series of a DICOM folder that holds several.

    A series that cannot be read has ``error`` and ``message`` in place of what would be said of
    it.
    """
    from .volumes import is_scan, read_each_series

    if is_url(path):
        return [describe(path, mpp=mpp)]
    path = Path(path)
    if series is None and path.is_dir() and read_commit(path) is None and is_scan(path):
        found = list(read_each_series(path, resample=resample))
        if len(found) > 1:
            return [_of_series(path, info, volume) for info, volume in found]
    return [describe(path, mpp=mpp, series=series, resample=resample)]


def _holds_scan(path: str | Path) -> bool:
    from ..storage.scans import KIND
    from .volumes import is_scan

    if is_url(path):
        return False
    path = Path(path)
    record = read_commit(path) if path.is_dir() else None
    return is_scan(path) if record is None else record.kind == KIND


def draw(
    path: str | Path,
    out: Path,
    *,
    mpp: Mpp | None = None,
    series: str | None = None,
    resample: bool = False,
    max_px: int = 1024,
) -> None:
    """Write a picture (PNG) of a slide, or of the middle of a scan; stored or not.

    Raises
    ------
    MicrotomeError
        What is wrong with the file, or with the place of the picture.
    """
    import io

    from PIL import Image

    from ..storage.commit import writable, write_bytes
    from .tiles import read_overview
    from .volumes import open_volume
    from .volumes.picture import draw_scan

    if _holds_scan(path):
        pixels = draw_scan(open_volume(path, series=series, resample=resample), max_px=max_px)
    else:
        with open_slide(path, mpp=mpp) as slide:
            pixels = read_overview(slide, max_px=max_px)[0]
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    with writable(out):
        write_bytes(out, buffer.getvalue())


def _of_slide(info: SlideInfo) -> dict[str, Any]:
    size_mm = None
    if info.mpp is not None:
        size_mm = {
            "height": info.height_px * info.mpp[0] / 1000,
            "width": info.width_px * info.mpp[1] / 1000,
        }
    return {
        "path": str(info.path),
        "kind": "slide",
        "reader": info.backend,
        "vendor": info.vendor,
        "height_px": info.height_px,
        "width_px": info.width_px,
        "channels": list(info.channels),
        "dtype": info.dtype,
        "levels": [asdict(level) for level in info.levels],
        "mpp": None if info.mpp is None else {"y": info.mpp[0], "x": info.mpp[1]},
        "mpp_source": info.mpp_source,
        "size_mm": size_mm,
        "objective_power": info.objective_power,
        "bounds": None if info.bounds is None else asdict(info.bounds),
        "associated": list(info.associated),
        "odd": _odd(info),
        "properties": dict(info.properties),
    }


def _odd(info: SlideInfo) -> list[str]:
    odd = [*info.notes, *info.mpp_refused]
    if info.mpp is None:
        odd.append("no usable pixel size: pass --slide-mpp wherever one is needed")
    elif info.mpp[0] != info.mpp[1]:
        odd.append("pixels are not square")
    if len(info.levels) == 1 and info.height_px * info.width_px > _FLAT_PX:
        odd.append("no pyramid: every overview decodes the whole slide")
    if any(level.tile_px is None for level in info.levels):
        odd.append("stored in strips, not in tiles")
    return odd


def _of_series(path: Path, info: SeriesInfo, found: Volume | MicrotomeError) -> dict[str, Any]:
    listed = {"path": str(path), "kind": "scan", "series": info.uid, "listed": str(info)}
    if isinstance(found, MicrotomeError):
        return {**listed, "error": found.reason, "message": str(found), "odd": []}
    return {**_of_scan(found), "listed": str(info)}


def _of_scan(volume: Volume) -> dict[str, Any]:
    import nibabel

    spacing = volume.spacing_mm
    suv, no_suv = _suv(volume)
    return {
        "path": str(volume.path),
        "kind": "scan",
        "reader": volume.backend,
        "modality": volume.modality,
        "shape": list(volume.shape),
        "axes": "tzyx"[-len(volume.shape) :],
        "spacing_mm": dict(zip("zyx", spacing, strict=True)),
        "orientation": "".join(nibabel.aff2axcodes(volume.affine)),
        "affine": volume.affine.tolist(),
        "dtype": str(volume.stored.dtype),
        "unit": volume.unit,
        "suv_factor": suv,
        "time_s": None if volume.time_s is None else volume.time_s.tolist(),
        "repetition_time_s": volume.repetition_time_s,
        "series": volume.series,
        "files": len(volume.files),
        "odd": [*volume.notes, *no_suv, *_odd_values(volume)],
        "properties": dict(volume.properties),
    }


def _suv(volume: Volume) -> tuple[float | None, list[str]]:
    """What a PET scan is multiplied by to become SUV by body weight; or why there is no SUV."""
    from .volumes.suv import suv_factor

    if volume.modality != "PT":
        return None, []
    try:
        return suv_factor(volume), []
    except NoUptake as error:
        return None, [f"no uptake values (SUV): {error.what}"]


def _odd_values(volume: Volume) -> list[str]:
    """What cannot be right about the values in the middle of a CT; none is changed."""
    if volume.modality != "CT":
        return []
    values = volume.data[tuple(n // 2 for n in volume.shape[:-2])]
    values = values[np.isfinite(values)]
    low, high = _CT_HU
    outside = np.mean((values < low) | (values > high)) if values.size else 0
    if outside > 0:
        found = f"runs from {values.min():g} to {values.max():g}"
        beyond = f"{outside:.1%} of it is not between {low} and {high} HU"
        return [f"the middle slice {found}; {beyond}: padding, or a wrong rescale"]
    if values.size and values.min() >= 0:
        return ["no value of the middle slice is below 0 HU: is the rescale missing?"]
    return []


def _of_product(path: Path, record: Commit) -> dict[str, Any]:
    return {
        "path": str(path),
        "kind": "product",
        "product": record.kind,
        "key": record.key,
        "made": record.made,
        "about": dict(record.about),
        "odd": _odd_view(path) if record.kind == VIEW else [],
    }


def _odd_view(path: Path) -> list[str]:
    """What is wrong with a view: its slide has gone, or has changed."""
    try:
        open_view(path).original.find(path)
    except MicrotomeError as error:
        return [str(error)]
    return []
