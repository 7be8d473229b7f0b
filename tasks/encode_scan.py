"""Scans to bags: blocks or slices at one spacing, windows, features; MIL takes them as slides'."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..engine.ingest import scan_identity
from ..engine.schedule import Skipped
from ..engine.staging import unless_known
from ..engine.stain import VERSION as STAIN_VERSION
from ..engine.tissue import KIND as MASK
from ..engine.tissue import VERSION as TISSUE_VERSION
from ..engine.volumes import Modality, Volume, is_scan, open_volume, to_suv
from ..engine.volumes.blocks import (
    BlockGrid,
    cut_blocks,
    foreground_fraction,
    read_lattice,
)
from ..engine.volumes.windows import (
    MOST_SUV,
    Window,
    body_window,
    find_foreground,
    modality_of,
    robust_window,
    window_of,
    without_bias,
)
from ..storage.bags import KIND, SUFFIX, Bag, ScanPlaces, write_bag
from ..storage.commit import is_done, product_key, read_commit, require_commit
from ..storage.errors import BadModel, InputError, NoTissue, NoUptake
from ..storage.objects import url_of
from ..storage.scans import KIND as STORED
from .encode import Encoded, EncodeOptions, encode_slide
from .encode_options import PIPELINE_VERSION as SLIDES_VERSION
from .scan_options import DEFAULT, UM_PER_MM, BlockEncoder, ScanOptions
from .slide_list import SlideItem
from .tile_views import VERSION as VIEW_VERSION
from .tile_views import view_folder

PIPELINE_VERSION = 2
"""Goes up with every change that alters the samples, the windows or the blocks of a scan's bag."""


_NO_MATTER = ("device", "masks", "readers")
"""Options on which no bit of a bag depends, or that stand for something else that does."""


def load_early(items: Sequence[SlideItem], slides: EncodeOptions, scans: ScanOptions) -> None:
    """Load what encodes the first item, so that a wrong encoder is refused once, not every time.

    Raises
    ------
    BadModel, MissingFile, MissingDependency
        As :func:`~microtome.tasks.encoders.load_encoder`.
    """
    if not items or (scans.is_cubes and _is_scan(items[0])):
        return
    if _is_scan(items[0]):
        scans.load_pictures()
    else:
        _require_for_slides(slides, items[0])
        slides.load()


def encode_item(
    item: SlideItem,
    *,
    out: Path,
    slides: EncodeOptions,
    scans: ScanOptions,
    overwrite: bool = False,
) -> Encoded | Skipped[Encoded]:
    """Encode a slide or a scan, whichever the file's content says it is.

    One that lies in an object store is fetched first, unless its bag is known to be of it.

    Raises
    ------
    MicrotomeError
        As :func:`~microtome.tasks.encode.encode_slide` and :func:`encode_scan`, and of
        :mod:`~microtome.engine.staging`.
    """
    bag = out / f"{item.id}{SUFFIX}"

    def work(path: Path) -> Encoded | Skipped[Encoded]:
        here = SlideItem.fetched(item, path)
        return _encode_here(here, out=out, slides=slides, scans=scans, overwrite=overwrite)

    request = "" if url_of(item.path) is None else _request(item, slides, scans)
    return unless_known(item.path, bag, request, known=lambda: _known(bag, slides.views), work=work)


def _request(item: SlideItem, slides: EncodeOptions, scans: ScanOptions) -> str:
    """Key over all that decides a bag, besides the slide or scan itself."""
    own = {name: str(value) for name, value in asdict(slides).items() if name not in _NO_MATTER}
    mask = slides.mask_path(item.id)
    return product_key(
        versions=[SLIDES_VERSION, PIPELINE_VERSION, TISSUE_VERSION, STAIN_VERSION, VIEW_VERSION],
        slides=own,
        scans={name: str(value) for name, value in asdict(scans).items()},
        mask=None if mask is None else require_commit(mask, MASK).key,
        mpp=item.mpp,
    )


def _known(bag: Path, views: int) -> Encoded | None:
    of_views = (view_folder(bag.parent, view) / bag.name for view in range(1, views + 1))
    if any(read_commit(path) is None for path in of_views):
        return None
    about = require_commit(bag, KIND).about
    lost = about.get("corrupt_tiles", 0)
    return Encoded(bag, about["instances"], about["features"], lost)


def _encode_here(
    item: SlideItem, *, out: Path, slides: EncodeOptions, scans: ScanOptions, overwrite: bool
) -> Encoded | Skipped[Encoded]:
    if _is_scan(item):
        if slides.views:
            raise InputError(
                "views are made of slides, and this is a scan",
                where=item.path,
                remedy="Leave --views out",
            )
        return encode_scan(item, out=out, options=scans, overwrite=overwrite)
    _require_for_slides(slides, item)
    return encode_slide(item, out=out, options=slides, overwrite=overwrite)


def _is_scan(item: SlideItem) -> bool:
    if not item.path.exists():
        return False
    record = read_commit(item.path) if item.path.is_dir() else None
    return is_scan(item.path) if record is None else record.kind == STORED


def _require_for_slides(slides: EncodeOptions, item: SlideItem) -> None:
    if slides.encoder == DEFAULT:
        raise BadModel(
            f"{DEFAULT} is made for scans, and this is none",
            where=item.path,
            remedy="Leave --encoder out, or name one of `microtome encoder list`",
        )


def encode_scan(
    item: SlideItem,
    *,
    out: Path,
    options: ScanOptions | None = None,
    overwrite: bool = False,
) -> Encoded | Skipped[Encoded]:
    """Encode one scan to ``<out>/<id>.bag.zarr``.

    Nothing is done where the bag is there already, made from the same files with the same
    options. Features are in the order of the grid and depend on the voxels alone.

    Raises
    ------
    StaleProduct
        A bag made otherwise is there and ``overwrite`` is false.
    NoModality
        Nobody says whether it is CT, MR or PET.
    NoUptake
        A PET without uptake values.
    BadResolution, BadGeometry, NoTissue, UnreadableFile, MissingFile
        The scan cannot be encoded.
    """
    options = options or ScanOptions()
    volume = open_volume(item.path, series=options.series, resample=options.resample)
    modality = modality_of(volume, options.modality)
    channels = options.channels(modality)
    encoder, size_px = options.load(channels)
    key = _key(volume, modality, channels, encoder, options)
    # What comes from `x.nii.gz` is called x, as ingest calls it.
    id_ = item.path.stem.removesuffix(".nii") if item.id == item.path.stem else item.id
    path = out / f"{id_}{SUFFIX}"
    what = "blocks" if options.is_cubes else "slices"
    if is_done(path, kind=KIND, key=key, overwrite=overwrite):
        about = require_commit(path, KIND).about
        return Skipped(Encoded(path, about["instances"], about["features"], what=what))
    seen = look_at(volume, _grid(volume, size_px, options), modality, options)
    batches = (
        encoder.encode(np.stack([window.apply(blocks) for window in seen.windows], axis=1))
        for blocks in cut_blocks(seen.lattice, seen.grid)
    )
    bag = _bag(id_, volume, seen, encoder, np.concatenate(list(batches)))
    if item.origin is not None:
        bag = replace(bag, source=item.origin)
    write_bag(path, bag, key=key, overwrite=overwrite, half=options.half)
    return Encoded(path, len(bag), encoder.dim, what=what)


@dataclass(frozen=True)
class SeenScan:
    """A scan as its encoder is shown it.

    Attributes
    ----------
    grid
        Only the blocks with body enough.
    lattice
        float32 [z, y, x]: samples, in HU, SUV or the scan's own unit; of MR without bias.
    windows
        One a channel.
    foreground
        float32 [n]: fraction of each block that is body.
    """

    modality: Modality
    grid: BlockGrid
    lattice: NDArray[np.float32]
    windows: tuple[Window, ...]
    foreground: NDArray[np.float32]


def look_at(volume: Volume, grid: BlockGrid, modality: Modality, options: ScanOptions) -> SeenScan:
    """Sample a scan, tell its body from air, and find the windows of its channels.

    Raises
    ------
    NoTissue
        There is no body, or no block has enough of it.
    NoUptake
        A PET without uptake values.
    """
    if modality == "PT" and not options.robust:
        volume = _uptake(volume)
    lattice = read_lattice(volume, grid)
    foreground = find_foreground(lattice, *body_window(lattice, modality), where=volume.path)
    fraction = foreground_fraction(grid, foreground)
    keep = fraction >= options.least_foreground
    if not keep.any():
        raise NoTissue(
            f"no block has {options.least_foreground:.0%} body",
            where=volume.path,
            remedy="Ask for less with --min-tissue, or for smaller blocks",
        )
    channels = options.channels(modality)
    if modality == "MR" and options.bias:
        lattice = without_bias(lattice, foreground, grid.sample_mm)
    if modality == "CT":
        windows = tuple(window_of(name) for name in channels)
    elif modality == "PT" and not options.robust:
        windows = (Window(channels[0], 0.0, MOST_SUV),)
    else:
        windows = (robust_window(lattice, foreground, name=channels[0], where=volume.path),)
    return SeenScan(modality, grid.select(keep), lattice, windows, fraction[keep])


def _key(
    volume: Volume,
    modality: Modality,
    channels: tuple[str, ...],
    encoder: BlockEncoder,
    options: ScanOptions,
) -> str:
    parameters = asdict(options)
    del parameters["device"]
    if not options.half:
        del parameters["half"]
    parameters |= {"encoder": f"{encoder.name}@{encoder.version}", "modality": modality}
    parameters |= {"spacing_mm": options.samples_mm, "windows": channels}
    parameters |= {"min_foreground": options.least_foreground}
    return product_key(
        kind=KIND, of="scan", pipeline=PIPELINE_VERSION, scan=scan_identity(volume), **parameters
    )


def _grid(volume: Volume, size_px: tuple[int, int, int], options: ScanOptions) -> BlockGrid:
    if options.is_cubes:
        return BlockGrid.over(
            volume,
            spacing_mm=options.samples_mm,
            block_mm=options.block_mm,
            stride_px=options.stride_px,
            edge=options.edge or "keep",
        )
    return BlockGrid.slices(
        volume,
        tile_px=size_px[1],
        spacing_mm=options.samples_mm,
        depth=size_px[0],
        stride_px=options.stride_px,
        edge=options.edge or "drop",
    )


def _uptake(volume: Volume) -> Volume:
    try:
        return to_suv(volume)
    except NoUptake as error:
        raise NoUptake(
            error.what,
            where=error.where,
            remedy=f"{error.remedy}; or pass --robust to scale by percentiles of the body",
        ) from error


def _bag(
    id_: str, volume: Volume, seen: SeenScan, encoder: BlockEncoder, features: NDArray[np.float32]
) -> Bag:
    grid = seen.grid
    _, height, width = grid.footprint_vox
    _, mm_y, mm_x = volume.spacing_mm
    channels = ",".join(window.name for window in seen.windows)
    return Bag(
        id=id_,
        features=features,
        coords_px=np.rint(grid.corner_vox[:, 1:]).astype(np.int64),
        footprint_px=(height, width),
        slide_px=grid.scan_vox[1:],
        mpp=grid.spacing_mm[1] * UM_PER_MM,
        slide_mpp=(mm_y * UM_PER_MM, mm_x * UM_PER_MM),
        tile_px=grid.block_px[1],
        encoder=f"{encoder.name}@{encoder.version}+{seen.modality}:{channels}",
        feature_names=encoder.feature_names,
        quality={"foreground": seen.foreground},
        source=str(volume.path),
        scan=ScanPlaces(grid.corner_vox, grid.footprint_vox, grid.scan_vox, grid.affine),
    )
