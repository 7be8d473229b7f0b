"""What was understood of a file: slide, scan, or a product of ours."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..storage.commit import Commit, read_commit
from ..storage.errors import MissingFile
from .slides import Slide, SlideInfo, open_slide

if TYPE_CHECKING:
    from .volumes import Volume

_FLAT_PX = 50_000_000
"""A slide of one level larger than this is slow to look at."""


def describe(path: Path, *, mpp: float | None = None) -> dict[str, Any]:
    """Say what a file is, in values that JSON can hold.

    Parameters
    ----------
    path
        A slide, a scan (file or DICOM folder), or a product.
    mpp
        Overrides a slide's resolution.

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
    if not path.exists():
        raise MissingFile("no such file or folder", where=path, remedy="Check the path")
    record = read_commit(path) if path.is_dir() else None
    if record is not None:
        return _of_product(path, record)
    from .volumes import is_scan, open_volume

    if is_scan(path):
        return _of_scan(open_volume(path))
    with open_slide(path, mpp=mpp) as slide:
        return _of_slide(slide.info)


def write_thumbnail(slide: Slide, path: Path, *, max_px: int = 1024) -> None:
    """Write the whole slide as a picture whose longer side is at most ``max_px``.

    Raises
    ------
    UnwritableOutput
        The place cannot be written.
    """
    import io

    from PIL import Image

    from ..storage.commit import writable, write_bytes
    from .tiles import read_overview

    buffer = io.BytesIO()
    Image.fromarray(read_overview(slide, max_px=max_px)[0]).save(buffer, format="PNG")
    with writable(path):
        write_bytes(path, buffer.getvalue())


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


def _of_scan(volume: Volume) -> dict[str, Any]:
    import nibabel

    spacing = volume.spacing_mm
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
        "time_s": None if volume.time_s is None else volume.time_s.tolist(),
        "repetition_time_s": volume.repetition_time_s,
        "series": volume.series,
        "files": len(volume.files),
        "odd": list(volume.notes),
        "properties": dict(volume.properties),
    }


def _of_product(path: Path, record: Commit) -> dict[str, Any]:
    return {
        "path": str(path),
        "kind": "product",
        "product": record.kind,
        "key": record.key,
        "made": record.made,
        "about": dict(record.about),
        "odd": [],
    }
