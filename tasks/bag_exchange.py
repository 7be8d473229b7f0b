"""Bags of a cohort to and from other tools, one file at a time, beside the slides they are of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from ..engine.schedule import Skipped
from ..engine.slides import SlideInfo, open_slide
from ..storage.bag_records import bag_id
from ..storage.bags import KIND, SUFFIX, read_bag, write_bag
from ..storage.commit import file_identity, is_done, product_key, require_commit
from ..storage.errors import CohortError, InputError, MissingFile, StaleProduct, UnreadableFile
from ..storage.exchange import (
    Facts,
    export_anndata,
    export_clam,
    export_pt,
    export_spatialdata,
    export_stamp,
    import_bag,
)
from ..storage.exchange.anndata import KIND as ANNDATA
from ..storage.exchange.anndata import SUFFIX as ZARR
from ..storage.exchange.apart import import_apart, is_hdf5
from ..storage.exchange.hdf5 import opened
from ..storage.exchange.spatialdata import KIND as SPATIALDATA

Format = Literal["clam", "trident", "stamp", "anndata", "spatialdata"]
EXPORT_VERSION = 1
IMPORT_VERSION = 2
"""Go up when the same input would give another file, or another bag."""

FILES = (".h5", ".hdf5", ".pt")
_FOLDERS: Mapping[str, Callable[..., None]] = {
    ANNDATA: export_anndata,
    SPATIALDATA: export_spatialdata,
}


@dataclass(frozen=True)
class Exchanged:
    """A file that was exported, or a bag that was imported."""

    path: Path
    tiles: int
    dim: int


@dataclass(frozen=True)
class ImportOptions:
    """What is known of the bags of another tool besides their files.

    Attributes
    ----------
    slides
        Folder of the slides, by id: they say size, resolution and bounds.
    coords
        Folder of h5 files of coordinates (``<id>.h5`` or ``<id>_patches.h5``), or one such file.
    encoder, tile_px, mpp
        See :class:`~microtome.storage.exchange.Facts`.
    slide_mpp
        Micrometres per level-0 pixel, where the slide states none or is not there.
    """

    slides: Path | None = None
    coords: Path | None = None
    encoder: str | None = None
    tile_px: int | None = None
    mpp: float | None = None
    slide_mpp: float | None = None


def export_file(
    bag: Path, *, form: Format, out: Path, overwrite: bool = False
) -> Exchanged | Skipped[Exchanged]:
    """Write a bag for another tool.

    ``clam`` gives ``<out>/h5_files/<id>.h5`` and ``<out>/pt_files/<id>.pt``, ``trident`` and
    ``stamp`` give ``<out>/<id>.h5``, ``anndata`` and ``spatialdata`` give ``<out>/<id>.zarr``.
    Nothing is done where that was made from this very bag.

    Raises
    ------
    StaleProduct
        A file of another bag or another tool is in the way and ``overwrite`` is false.
    MissingFile, BadProduct
        No such bag; or it is damaged.
    """
    record = require_commit(bag, KIND)
    identity = bag_id(bag)
    suffix = ZARR if form in _FOLDERS else ".h5"
    path = out / ("h5_files" if form == "clam" else ".") / f"{identity}{suffix}"
    tensor = out / "pt_files" / f"{identity}.pt" if form == "clam" else None
    made = Exchanged(path, int(record.about["instances"]), int(record.about["features"]))
    key = product_key(kind="export", version=EXPORT_VERSION, form=form, bag=record.key)
    if form in _FOLDERS:
        is_there = is_done(path, kind=form, key=key, overwrite=overwrite)
    else:
        is_there = _is_exported(path, key) and (tensor is None or tensor.is_file())
        _refuse_other(path, key, overwrite)
    if is_there:
        return Skipped(made)
    content = read_bag(bag)
    if content.scan is not None:
        raise InputError(
            "the bag is that of a scan, and these formats place tiles on slides only",
            where=bag,
            remedy="Read it with microtome.read_bag",
        )
    if form in _FOLDERS:
        _FOLDERS[form](content, path, key=key, overwrite=overwrite)
        return made
    if tensor is not None:
        export_pt(content, tensor)
    (export_stamp if form == "stamp" else export_clam)(content, path, key=key)
    return made


def _is_exported(path: Path, key: str) -> bool:
    if not path.is_file():
        return False
    try:
        with opened(path) as file:
            return bool(file.attrs.get("microtome_key") == key)
    except UnreadableFile:
        return False


def _refuse_other(path: Path, key: str, overwrite: bool) -> None:
    if path.exists() and not overwrite and not _is_exported(path, key):
        raise StaleProduct(
            "a file that was not made from this bag in this format is in the way",
            where=path,
            remedy="Choose another --out, or pass --overwrite to replace it",
        )


def import_file(
    path: Path, *, out: Path, options: ImportOptions, overwrite: bool = False
) -> Exchanged | Skipped[Exchanged]:
    """Read a bag of another tool and keep it as ``<out>/<id>.bag.zarr``; id is the file's stem.

    Raises
    ------
    StaleProduct
        A bag made otherwise is there and ``overwrite`` is false.
    MissingFile, UnreadableFile, BadProduct, NoResolution, BadResolution, BadGeometry
        See :func:`~microtome.storage.exchange.import_bag`; or the bag's slide is not there.
    """
    identity = path.stem
    coords = None if options.coords is None else _coords_of(identity, options.coords)
    facts = _facts(identity, options)
    key = product_key(
        kind=KIND,
        imported=IMPORT_VERSION,
        file=file_identity(path),
        coords=None if coords is None else file_identity(coords),
        facts=asdict(replace(facts, source="")),
    )
    target = out / f"{identity}{SUFFIX}"
    if is_done(target, kind=KIND, key=key, overwrite=overwrite):
        about = require_commit(target, KIND).about
        return Skipped(Exchanged(target, about["instances"], about["features"]))
    # HDF5's library may crash on a damaged file, and must not take the run with it.
    files = [path] if coords is None else [path, coords]
    read = import_apart if any(is_hdf5(file) for file in files) else import_bag
    bag = replace(read(path, facts=facts, coords=coords), id=identity)
    write_bag(target, bag, key=key, overwrite=overwrite)
    return Exchanged(target, *bag.features.shape)


def _coords_of(identity: str, place: Path) -> Path:
    if not place.is_dir():
        return place
    for name in (f"{identity}.h5", f"{identity}_patches.h5"):
        if (place / name).is_file():
            return place / name
    raise MissingFile(
        f"there are no coordinates of {identity}", where=place, remedy="Check --coords"
    )


def _facts(identity: str, options: ImportOptions) -> Facts:
    known = Facts(encoder=options.encoder, tile_px=options.tile_px, mpp=options.mpp)
    if options.slides is None:
        mpp = options.slide_mpp
        return replace(known, slide_mpp=None if mpp is None else (mpp, mpp))
    info = _slide_of(identity, options.slides, options.slide_mpp)
    box = info.bounds
    return replace(
        known,
        slide_mpp=info.mpp,
        slide_px=(info.height_px, info.width_px),
        bounds_px=None if box is None else (box.y_px, box.x_px, box.height_px, box.width_px),
        source=str(info.path),
    )


def _slide_of(identity: str, folder: Path, mpp: float | None) -> SlideInfo:
    """The one slide of that id; a MIRAX folder or an .xml beside it does not count."""
    if not folder.is_dir():
        raise MissingFile("no such folder of slides", where=folder, remedy="Check --slides")
    found, refused = [], []
    for path in sorted(folder.iterdir()):
        if path.stem.removesuffix(".ome") == identity:
            try:
                with open_slide(path, mpp=mpp) as slide:
                    found.append(slide.info)
            except InputError as error:
                refused.append(error)
    if len(found) > 1:
        names = ", ".join(info.path.name for info in found)
        raise CohortError(f"{len(found)} slides have the id {identity!r}: {names}", where=folder)
    if not found and refused:
        raise refused[0]
    if not found:
        raise MissingFile(f"there is no slide {identity}.*", where=folder, remedy="Check --slides")
    return found[0]


def list_foreign(places: Sequence[Path]) -> list[Path]:
    """Files that are named, and the h5 and pt files and AnnData of folders that are named.

    Raises
    ------
    MissingFile
        A place is neither.
    CohortError
        Two files of one id.
    """
    found: list[Path] = []
    for place in places:
        inside = [place]
        if place.is_dir() and not _is_zarr(place):
            inside = sorted(path for path in place.iterdir() if _is_foreign(path))
        if not inside or not inside[0].exists():
            raise MissingFile("no h5 or pt file, nor a folder of them", where=place)
        found += inside
    for identity, count in Counter(path.stem for path in found).items():
        if count > 1:
            twice = ", ".join(str(path) for path in found if path.stem == identity)
            raise CohortError(f"{count} files have the id {identity!r}", where=twice)
    return found


def _is_foreign(path: Path) -> bool:
    # Bags and OME-Zarr of ours are Zarr v3, and have no .zattrs.
    return path.suffix.lower() in FILES or (_is_zarr(path) and (path / ".zattrs").is_file())


def _is_zarr(path: Path) -> bool:
    return path.suffix == ZARR and path.is_dir()
