"""Slides to bags: tissue, tiles, quality and features, one slide at a time or a whole cohort."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..engine.grid import TileGrid, overlaps, tissue_fraction
from ..engine.quality import tile_quality
from ..engine.schedule import Outcome, Skipped, run_items
from ..engine.slides import Bounds, Slide, open_slide
from ..engine.slides.salvage import Salvaged
from ..engine.stain import Normaliser, make_normaliser, stain_statistics
from ..engine.tissue import TissueMask, find_tissue, read_tissue, require_fit
from ..storage.arrays import PagedRows
from ..storage.bags import KIND, SUFFIX, Bag, write_bag
from ..storage.commit import is_done, require_commit
from ..storage.errors import BadGeometry, NoTissue
from ..storage.ledger import Ledger
from .encode_options import EncodeOptions, bag_key
from .encoders import DEFAULT, Encoder, Tiles, load_encoder
from .encoders.base import ThreadedEncoder
from .freed_memory import give_back
from .slide_list import SlideItem
from .tile_reader import (
    STRIP_PX,
    Columns,
    Prepare,
    TileReader,
    default_readers,
    share_of_tiles,
    too_corrupt,
)
from .tile_views import view_folder, viewed

__all__ = [
    "EncodeOptions",
    "Encoded",
    "SlideItem",
    "encode",
    "encode_cohort",
    "encode_slide",
    "share_cores",
    "tissue_tiles",
]

_FEATURES = "features"


@dataclass(frozen=True)
class Encoded:
    """A bag that was made, or was there; of tiles, or of a scan's blocks or slices."""

    path: Path
    tiles: int
    dim: int
    corrupt_tiles: int = 0
    what: str = "tiles"

    @property
    def warning(self) -> str:
        """What the ledger says of a bag that is not whole."""
        if not self.corrupt_tiles:
            return ""
        lost = share_of_tiles(self.corrupt_tiles, self.tiles + self.corrupt_tiles)
        return f"{lost} cannot be decoded and are left out"


def encode(
    slide: Slide,
    grid: TileGrid,
    encoder: Encoder | str = DEFAULT,
    *,
    id: str | None = None,  # noqa: A002 - the bag's own word
    quality: Mapping[str, NDArray[np.float32]] | None = None,
    max_corrupt: float = 0.02,
    normaliser: Normaliser | None = None,
    readers: int | None = None,
    scratch: Path | None = None,
    view: int = 0,
) -> Bag:
    """Encode the tiles of a grid.

    Threads read ahead, a bounded number of batches, while this one encodes. Rows are in grid
    order and depend on the pixels alone, however many threads or processes there are: a batch is
    always the same tiles of one slide, and never holds those of another.

    Parameters
    ----------
    slide
        An opened slide.
    grid
        Tiles of the encoder's size at its mpp; usually only those on tissue.
    encoder
        An encoder or its name.
    id
        Identity of the slide; the file's stem by default.
    quality
        Further columns, float32 [n] each, that are known of the tiles already.
    max_corrupt
        Tiles that cannot be decoded are left out and counted; where they are more than this
        fraction of all, the slide is refused.
    normaliser
        Of the slide's stains; quality is measured on the tiles as they were scanned.
    readers
        Threads that decode tiles and measure their quality; by default one for each core, up to 8.
    scratch
        Folder for a nameless file that holds the features, which may be more than memory does.
    view
        Encode this view of the tiles (:func:`~microtome.tasks.tile_views.altered`) in place of the
        tiles. Quality is that of the tiles, and the encoder adapts to the slide as it is.

    Returns
    -------
    Bag
        With the quality columns of :func:`~microtome.engine.quality.tile_quality` and those given.

    Raises
    ------
    BadGeometry
        The grid is empty, or its tiles are not those that the encoder takes.
    CorruptTiles
        Too many tiles cannot be decoded, or not one can.

    Examples
    --------
    >>> with open_slide("case-17.svs") as slide:  # doctest: +SKIP
    ...     grid = TileGrid.over(slide.info, tile_px=256, mpp=0.5)
    ...     bag = encode(slide, grid, "stain-texture")
    """
    if isinstance(encoder, str):
        encoder = load_encoder(encoder)
    _check_fit(slide, grid, encoder)
    reader = TileReader(
        slide,
        grid,
        int(max_corrupt * len(grid)),
        sample_tiles=encoder.sample_tiles,
        readers=readers or default_readers(),
        strip_px=STRIP_PX,
    )
    look = _as_scanned if normaliser is None else normaliser.apply
    fitted = encoder.for_slide(look(reader.sample()))
    paged = PagedRows(len(grid), encoder.dim, scratch)
    columns: dict[str, NDArray[np.float32]] = {}
    is_read = np.zeros(len(grid), np.bool_)
    for batch in reader.batches(_preparation(viewed(look, view), fitted)):
        is_read[batch.indices] = True
        found = dict(batch.columns)
        encoded = found.pop(_FEATURES, None)
        paged.put(batch.indices, fitted.encode(batch.tiles) if encoded is None else encoded)
        for name, values in found.items():
            columns.setdefault(name, np.empty(len(grid), np.float32))[batch.indices] = values
    columns |= quality or {}
    info = slide.info
    assert info.mpp is not None
    return Bag(
        id=info.path.stem if id is None else id,
        features=paged.rows if is_read.all() else paged.rows[is_read],
        coords_px=grid.coords_px[is_read],
        footprint_px=grid.footprint_px,
        slide_px=(info.height_px, info.width_px),
        bounds_px=None if info.bounds is None else _box(info.bounds),
        mpp=grid.mpp,
        slide_mpp=info.mpp,
        tile_px=grid.tile_px,
        encoder=f"{encoder.name}@{encoder.version}" + (f"+{normaliser.name}" if normaliser else ""),
        feature_names=encoder.feature_names,
        quality={name: column[is_read] for name, column in columns.items()},
        source=str(info.path),
        corrupt_tiles=int((~is_read).sum()),
        view=view,
    )


def _preparation(look: Callable[[Tiles], Tiles], encoder: Encoder) -> Prepare:
    """What the reading threads do: quality as scanned, the look, and what they can encode."""

    def prepare(tiles: Tiles) -> tuple[Tiles, Columns]:
        columns, looked = tile_quality(tiles), look(tiles)
        if isinstance(encoder, ThreadedEncoder):
            columns[_FEATURES] = encoder.encode(looked)
        return looked, columns

    return prepare


def _as_scanned(tiles: Tiles) -> Tiles:
    return tiles


def _require_tiles(slide: Slide, grid: TileGrid) -> None:
    if not len(grid):
        raise BadGeometry(
            f"not one tile of {grid.tile_px} px at {grid.mpp:.4g} µm/px lies on the slide",
            where=slide.info.path,
            remedy="Ask for smaller tiles with --tile-px",
        )


def _check_fit(slide: Slide, grid: TileGrid, encoder: Encoder) -> None:
    _require_tiles(slide, grid)
    if grid.tile_px != encoder.tile_px or not np.isclose(grid.mpp, encoder.mpp, rtol=1e-3):
        raise BadGeometry(
            f"{encoder.name} takes {encoder.tile_px} px at {encoder.mpp:.4g} µm/px, the grid has "
            f"{grid.tile_px} px at {grid.mpp:.4g} µm/px; tiles are never resized",
            where=slide.info.path,
            remedy="Lay the grid with the encoder's tile_px and mpp",
        )


def _box(bounds: Bounds) -> tuple[int, int, int, int]:
    return bounds.y_px, bounds.x_px, bounds.height_px, bounds.width_px


def encode_slide(
    item: SlideItem,
    *,
    out: Path,
    options: EncodeOptions | None = None,
    overwrite: bool = False,
) -> Encoded | Skipped[Encoded]:
    """Encode one slide file to ``<out>/<id>.bag.zarr``, and its views where there shall be some.

    Nothing is done where the bags are there already, made from the same pixels with the same
    options; each view reads the slide anew.

    Raises
    ------
    StaleProduct
        A bag made otherwise is there and ``overwrite`` is false.
    NoResolution, BadResolution, BadGeometry, NoTissue, CorruptTiles, UnreadableFile, MissingFile
        The slide cannot be encoded.
    """
    options = options or EncodeOptions()
    encoder = options.load()
    lacking = []
    for view in range(options.views + 1):
        path = view_folder(out, view) / f"{item.id}{SUFFIX}"
        key = bag_key(item, options, encoder, view)
        if not is_done(path, kind=KIND, key=key, overwrite=overwrite):
            lacking.append((view, path, key))
    plain = out / f"{item.id}{SUFFIX}"
    if not lacking:
        return Skipped(_encoded(plain))
    give_back()
    with open_slide(item.path, mpp=item.mpp) as slide:
        grid, tissue, normaliser = _prepared(slide, item.id, encoder, options)
        give_back()
        for view, path, key in lacking:
            bag = encode(
                slide,
                grid,
                encoder,
                id=item.id,
                quality={"tissue": tissue},
                max_corrupt=options.max_corrupt,
                normaliser=normaliser,
                readers=options.readers,
                scratch=out,
                view=view,
            )
            if item.origin is not None:
                bag = replace(bag, source=item.origin)
            write_bag(path, bag, key=key, overwrite=overwrite, half=options.half)
    return _encoded(plain)


def _encoded(path: Path) -> Encoded:
    about = require_commit(path, KIND).about
    return Encoded(path, about["instances"], about["features"], about["corrupt_tiles"])


def _prepared(
    slide: Slide, id_: str, encoder: Encoder, options: EncodeOptions
) -> tuple[TileGrid, NDArray[np.float32], Normaliser | None]:
    """The tiles on tissue, how far each lies on it, and the normaliser; the mask is let go."""
    grid, tissue, mask = tissue_tiles(
        slide, id_, tile_px=encoder.tile_px, mpp=encoder.mpp, options=options
    )
    if options.stain is None:
        return grid, tissue, None
    return grid, tissue, make_normaliser(options.stain, stain_statistics(Salvaged(slide), mask))


def tissue_tiles(
    slide: Slide, id_: str, *, tile_px: int, mpp: float, options: EncodeOptions
) -> tuple[TileGrid, NDArray[np.float32], TissueMask]:
    """The tiles that lie on tissue, how far each does (0 … 1), and the tissue.

    Parameters
    ----------
    id_
        Of the slide: names its mask where the user gave masks.
    tile_px, mpp
        Of the tiles.
    options
        Stride, edge, masks, and how much tissue and damage there may be; nothing else of it.

    Raises
    ------
    NoResolution, BadResolution, BadGeometry, NoTissue, CorruptTiles, MissingFile, BadProduct
        The slide has no such tiles, or no such mask.
    """
    info = slide.info
    size_px = (info.height_px, info.width_px)
    grid = TileGrid.over(
        info, tile_px=tile_px, mpp=mpp, stride_px=options.stride_px, edge=options.edge
    )
    _require_tiles(slide, grid)
    given = options.mask_path(id_)
    if given is None:
        mask, lost = _found_tissue(slide, options)
    else:
        mask, lost = read_tissue(given), set()
        require_fit(mask, size_px, where=given)
    fraction = tissue_fraction(grid, mask.tissue, size_px)
    # Whether there was tissue where the overview is lost, nobody knows: those tiles are tried.
    keep = (fraction >= options.min_tissue) | overlaps(grid, lost)
    if not keep.any():
        raise NoTissue(
            f"no tile of {grid.tile_px} px has {options.min_tissue:.0%} tissue",
            where=info.path,
            remedy="Ask for less with --min-tissue, or for smaller tiles with --tile-px",
        )
    return grid.select(keep), fraction[keep], mask


def _found_tissue(slide: Slide, options: EncodeOptions) -> tuple[TissueMask, set[Bounds]]:
    """The tissue that is found, and the parts of the slide that could not be looked at."""
    salvaged = Salvaged(slide)
    try:
        return find_tissue(salvaged), salvaged.lost
    except NoTissue as error:
        if salvaged.lost_fraction > options.max_corrupt:
            share = f"{100 * salvaged.lost_fraction:.3g} % of the slide"
            raise too_corrupt(slide, share) from error
        raise


def share_cores(options: EncodeOptions, jobs: int) -> EncodeOptions:
    """The options for each of several processes: the cores are parted between their readers."""
    return replace(options, readers=options.readers or default_readers(jobs))


def encode_cohort(
    items: Sequence[SlideItem],
    *,
    out: Path,
    options: EncodeOptions | None = None,
    overwrite: bool = False,
    jobs: int = 1,
    ledger: Ledger | None = None,
    on_done: Callable[[Outcome[Encoded]], None] | None = None,
) -> list[Outcome[Encoded]]:
    """Encode many slides; one that cannot be does not stop the rest.

    Returns
    -------
    list of Outcome
        In the order of ``items``: ``done``, ``skipped``, ``rejected`` or ``failed``, with the
        reason.
    """
    shares = share_cores(options or EncodeOptions(), jobs)
    work = partial(encode_slide, out=out, options=shares, overwrite=overwrite)
    return run_items(
        items, work, name=lambda item: item.id, jobs=jobs, ledger=ledger, on_done=on_done
    )
