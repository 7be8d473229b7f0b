"""Ingest of many slides and scans: which, and one at a time."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..engine.extras import Extras
from ..engine.ingest import Ingested, Progress, ingest_slide, ingest_volume
from ..engine.profiles import Profile
from ..engine.schedule import Pool, Skipped
from ..engine.slides import Mpp
from ..engine.staging import unless_known
from ..engine.verify import (
    Verified,
    repair_slide,
    repair_volume,
    verify_slide,
    verify_view,
    verify_volume,
)
from ..engine.volumes import is_scan, list_series
from ..storage.codecs import ChunkCodec
from ..storage.commit import product_key, read_commit
from ..storage.errors import MicrotomeError, NoJpegTiles
from ..storage.objects import url_of
from ..storage.stored_slides import KIND as SLIDE
from ..storage.stored_slides import SUFFIX
from ..storage.virtual import KIND as VIEW
from .slide_list import SlideItem

ALL = "all"
"""In place of one series: every series of a DICOM folder, each for itself."""


@dataclass(frozen=True)
class IngestItem:
    """A slide, or a series of a scan.

    Attributes
    ----------
    id
        Names the product.
    path
        File or folder.
    mpp
        Of a slide: as the user gives it.
    series
        Of a DICOM folder: its number or UID; None where there is but one.
    """

    id: str
    path: Path
    mpp: Mpp | None = None
    series: str | None = None


@dataclass(frozen=True)
class IngestOptions:
    """What, besides the file, decides what is made.

    Attributes
    ----------
    profile
        How a slide's pixels are kept.
    resample
        Bring a scan's tilted, uneven or incomplete slices onto a regular grid.
    verify
        Look at every shard afterwards, compare with the source, and mend what is damaged.
    overwrite
        Replace products that were made otherwise.
    codec
        Of the profile ``compatible``, in place of Zstandard.
    extras
        What to keep of a slide beside its pixels.
    """

    profile: Profile = "auto"
    resample: bool = False
    verify: bool = False
    overwrite: bool = False
    codec: ChunkCodec | None = None
    extras: Extras = field(default_factory=Extras)


def ingest_items(files: Iterable[SlideItem], series: str | None = None) -> list[IngestItem]:
    """What to ingest; with ``series="all"``, an item for each series of a DICOM folder."""
    return [item for file in files for item in _items_of(file, series)]


def _items_of(file: SlideItem, series: str | None) -> Iterator[IngestItem]:
    whole = IngestItem(file.id, file.path, file.mpp, series)
    if series != ALL:
        yield whole
        return
    try:
        found = list_series(file.path) if file.path.is_dir() and is_scan(file.path) else ()
    except MicrotomeError:
        # What is wrong with it is said when it is its turn.
        found = ()
    if len(found) < 2:
        yield replace(whole, series=None)
        return
    numbers = Counter(info.number for info in found)
    for info in found:
        is_unique = info.number and numbers[info.number] == 1
        name = f"{file.id}.{info.number if is_unique else info.uid}"
        yield replace(whole, id=name, series=info.uid)


def ingest_item(
    item: IngestItem,
    *,
    out: Path,
    options: IngestOptions,
    pool: Pool | None = None,
    on_progress: Progress | None = None,
) -> Ingested | Skipped[Ingested]:
    """Ingest one item to ``<out>/<id>.ome.zarr``, and verify it where that is asked for.

    One that lies in an object store is fetched first, unless its image is known to be of it.

    Raises
    ------
    BadProduct
        What was found damaged is still so after it was made again.
    NoJpegTiles
        A view is asked for of a scan.
    MicrotomeError
        As :func:`~microtome.engine.ingest.ingest_slide` and ``ingest_volume``.
    """
    # As :func:`~microtome.engine.ingest.ingest_volume` names it.
    image = out / f"{item.id.removesuffix('.nii')}{SUFFIX}"

    def work(path: Path) -> Ingested | Skipped[Ingested]:
        here = replace(item, path=path)
        return _ingest_here(here, out=out, options=options, pool=pool, on_progress=on_progress)

    request = "" if url_of(item.path) is None else _request(item, options)
    return unless_known(item.path, image, request, known=lambda: _known(image), work=work)


def _request(item: IngestItem, options: IngestOptions) -> str:
    """Key over all that decides an image, besides the slide or scan itself."""
    if options.profile == "virtual":
        raise NoJpegTiles(
            "a view needs its slide to stay where it is, and this one is fetched",
            where=item.path,
            remedy="Ingest it without --profile virtual",
        )
    codec = None if options.codec is None else options.codec.metadata()
    return product_key(
        profile=options.profile,
        resample=options.resample,
        codec=codec,
        extras=options.extras.key(),
        series=item.series,
        mpp=item.mpp,
    )


def _known(image: Path) -> Ingested | None:
    record = read_commit(image)
    if record is None:
        return None
    size = record.about.get("size_px") or record.about["shape"]
    return Ingested(image, record.kind, math.prod(size))


def _ingest_here(
    item: IngestItem,
    *,
    out: Path,
    options: IngestOptions,
    pool: Pool | None,
    on_progress: Progress | None,
) -> Ingested | Skipped[Ingested]:
    if item.path.exists() and is_scan(item.path):
        if options.profile == "virtual":
            raise NoJpegTiles(
                "no view can be made of a scan: it has no tiles",
                where=item.path,
                remedy="Ingest it without --profile virtual",
            )
        made = ingest_volume(
            item.path,
            out,
            name=item.id.removesuffix(".nii"),
            series=item.series,
            resample=options.resample,
            on_progress=on_progress,
            overwrite=options.overwrite,
        )
    else:
        made = ingest_slide(
            item.path,
            out,
            name=item.id,
            mpp=item.mpp,
            profile=options.profile,
            codec=options.codec,
            extras=options.extras,
            pool=pool,
            on_progress=on_progress,
            overwrite=options.overwrite,
        )
    return _verified(item, made, options, pool, on_progress) if options.verify else made


def _verified(
    item: IngestItem,
    made: Ingested | Skipped[Ingested],
    options: IngestOptions,
    pool: Pool | None,
    on_progress: Progress | None,
) -> Ingested | Skipped[Ingested]:
    image = made.value if isinstance(made, Skipped) else made
    found, mended = _look(item, image, options, on_progress), 0
    if image.kind == VIEW:
        # It was made anew already if a single byte of it was not what it should be.
        found.require_whole()
    while found.damaged:
        if image.kind == SLIDE:
            repair_slide(found, item.path, mpp=item.mpp, pool=pool)
        else:
            repair_volume(found, item.path, series=item.series, resample=options.resample)
        mended += len(found.damaged)
        # A coarser level can only be judged when the one below it is whole again.
        again = _look(item, image, options, on_progress)
        if set(again.damaged) & set(found.damaged):
            again.require_whole()
        found = again
    seen = replace(image, compared=found.compared, mended=mended)
    return seen if mended or not isinstance(made, Skipped) else Skipped(seen)


def _look(
    item: IngestItem, image: Ingested, options: IngestOptions, on_progress: Progress | None
) -> Verified:
    if image.kind == SLIDE:
        return verify_slide(image.path, item.path, mpp=item.mpp, on_progress=on_progress)
    if image.kind == VIEW:
        return verify_view(image.path, item.path, mpp=item.mpp)
    return verify_volume(
        image.path,
        item.path,
        series=item.series,
        resample=options.resample,
        on_progress=on_progress,
    )
