"""Slides and scans into OME-Zarr: resumable, many processes at once, bounded memory."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from ..storage.archive import Archive
from ..storage.associated import associated_series
from ..storage.codecs import ChunkCodec
from ..storage.commit import file_identity, new_product, product_key, product_state
from ..storage.ngff04 import Series
from ..storage.pyramid import CellRecord, Pyramid, write_pyramid_metadata
from ..storage.scans import KIND as SCAN
from ..storage.scans import ScanHeader, scan_array, write_scan_metadata, write_scan_shards
from ..storage.stored_slides import KIND as SLIDE
from ..storage.stored_slides import SUFFIX, write_slide_metadata
from ..storage.virtual import KIND as VIEW
from ..storage.virtual import holds, write_view
from .extras import Extras
from .profiles import (
    Lender,
    Plan,
    Profile,
    choose_plan,
    keep_images,
    make_part,
    plan_key,
    plan_parts,
)
from .schedule import Outcome, Pool, Skipped, open_pool, run_items
from .slides import Mpp, SlideInfo, open_slide
from .virtual import plan_view
from .volumes import Volume, open_volume

Progress = Callable[[int, int], None]
"""Told of (pixels or voxels done, in all)."""


@dataclass(frozen=True)
class Ingested:
    """What was made of one slide or scan.

    Attributes
    ----------
    path
        The ``.ome.zarr``.
    kind
        ``slide image``, ``slide view`` or ``scan image``.
    pixels
        Pixels of level 0, or voxels.
    written, kept
        Shards made now, and shards found whole from an interrupted run.
    seconds
        Wall time of this run.
    compared
        Pixels or voxels that were verified beside the source's.
    mended
        Shards that were found damaged then, and made again.
    """

    path: Path
    kind: str
    pixels: int
    written: int = 0
    kept: int = 0
    seconds: float = 0.0
    compared: int = 0
    mended: int = 0


def product_id(path: Path) -> str:
    """Identity that a file or folder gives its products: its name without suffixes."""
    name = path.absolute().name
    if path.is_dir():
        return name.removesuffix(SUFFIX)
    return Path(name.removesuffix(".gz")).stem.removesuffix(".ome")


def ingest_slide(
    path: str | Path,
    out: str | Path,
    *,
    name: str | None = None,
    mpp: Mpp | None = None,
    profile: Profile = "auto",
    codec: ChunkCodec | None = None,
    extras: Extras | None = None,
    jobs: int = 1,
    pool: Pool | None = None,
    on_progress: Progress | None = None,
    overwrite: bool = False,
) -> Ingested | Skipped[Ingested]:
    """Write a slide as an OME-Zarr 0.5 pyramid.

    Level 0 holds the slide's own pixels. Where the file's JPEG tiles are kept, so are all its
    levels (:mod:`~microtome.storage.archive`); otherwise each further level is the mean of 2 × 2
    pixels of the one below, rounded, down to a single chunk (:mod:`~microtome.storage.pyramid`).
    A run that was interrupted, however it ended, is resumed by running it again: whole shards are
    kept, and the result is the same byte for byte.

    Parameters
    ----------
    path
        The slide.
    out
        Folder; the product is ``<out>/<name>.ome.zarr``.
    name
        The file's name without suffix by default.
    mpp
        µm per level-0 pixel, where the file states none or a wrong one. A slide without is kept
        too: its metadata then have no unit.
    profile
        How pixels are kept: ``archive`` (the file's own JPEG tiles, as they are), ``compatible``
        (Zstandard), or ``auto``: the first where the file has such tiles, else the second. Which it
        was, and why, is in the product's commit record. ``ngff04``: OME-Zarr 0.4, without loss, for
        QuPath and other tools that read no newer one (:mod:`~microtome.storage.ngff04`).
        ``virtual`` keeps none: it is a view of the file's own JPEG tiles
        (:mod:`~microtome.storage.virtual`), which must stay.
    codec
        Of ``compatible``: another than Zstandard
        (:func:`~microtome.storage.codecs.codec_named`). One that changes the pixels is named in the
        product, under ``lossy``.
    extras
        What to keep beside the pixels: by default neither pictures nor properties.
    jobs, pool
        As in :func:`~microtome.engine.schedule.run_items`.
    on_progress
        Told of (level-0 pixels done, in all).
    overwrite
        Replace an image that was made from another slide or otherwise.

    Returns
    -------
    Ingested
        In :class:`~microtome.engine.schedule.Skipped` where it was there already.

    Raises
    ------
    MissingFile, EmptyFile, TruncatedFile, UnreadableFile
        What is wrong with the slide.
    NoJpegTiles
        The slide has no tiles that ``archive`` could keep, or ``virtual`` show.
    StaleProduct, OutputBusy, UnwritableOutput, WorkerDied
        What is wrong with the output or the machine; running again resumes.
    """
    start, path = time.perf_counter(), Path(path)
    name = name or product_id(path)
    product = Path(out) / f"{name}{SUFFIX}"
    extras = extras or Extras()
    if profile == "virtual":
        if codec is not None or extras != Extras():
            raise ValueError("the profile 'virtual' encodes nothing and keeps nothing")
        return _ingest_view(path, product, name, mpp, overwrite=overwrite)
    lender = Lender(path, mpp)
    with lender:
        info = lender.slide.info
        plan, why = choose_plan(lender.slide, profile, codec)
        provenance = extras.about(lender.slide)
    identity = file_identity(path)
    key = product_key(
        kind=SLIDE,
        input=identity,
        reader=info.backend,
        mpp=info.mpp,
        **plan_key(plan),
        **extras.key(),
    )
    made = Ingested(product, SLIDE, info.height_px * info.width_px)
    if product_state(product, key) == "done":
        return Skipped(made)
    about = {
        "id": name,
        "source": path.name,
        "size_px": [info.height_px, info.width_px],
        "levels": len(plan.arrays),
        "mpp": info.mpp,
        "profile": "archive" if isinstance(plan, Archive) else plan.profile,
    }
    if profile == "auto":
        about["profile_because"] = why
    provenance |= _slide_provenance(info, identity)
    if isinstance(plan, Pyramid) and plan.codec.loss:
        about["lossy"] = provenance["lossy"] = plan.codec.loss
    records: list[CellRecord] = []

    def note(outcome: Outcome[CellRecord]) -> None:
        assert outcome.value is not None
        records.append(outcome.value)
        if on_progress is not None and outcome.value.stage == 0 and outcome.value.pixels:
            on_progress(sum(r.pixels for r in records if r.stage == 0), made.pixels)

    with (
        new_product(
            product, kind=SLIDE, key=key, about=about, overwrite=overwrite, resume=True
        ) as folder,
        open_pool(jobs) if pool is None else nullcontext(pool) as active,
        lender,
    ):
        work = partial(make_part, plan=plan, lender=lender, product=product, folder=folder)
        for stage in range(plan.stages):
            # The first error ends the slide: half an image is none.
            parts = plan_parts(plan, stage, active.jobs)
            run_items(parts, work, pool=active, on_done=note, debug=True)
        images = extras.images(lender.slide) if extras.associated else {}
        if images:
            provenance["associated"] = keep_images(plan, folder, images)
        _write_metadata(plan, folder, name, info, provenance, further=associated_series(images))
    return Ingested(
        product,
        SLIDE,
        made.pixels,
        written=sum(r.written for r in records),
        kept=sum(r.kept for r in records),
        seconds=time.perf_counter() - start,
    )


def _ingest_view(
    path: Path, product: Path, name: str, mpp: Mpp | None, *, overwrite: bool
) -> Ingested | Skipped[Ingested]:
    start = time.perf_counter()
    with open_slide(path, mpp=mpp) as slide:
        info = slide.info
        provenance = _slide_provenance(info, file_identity(path))
        if mpp is not None:
            provenance["mpp_override"] = {"source": info.mpp_source, "mpp": info.mpp}
        view = plan_view(slide, product, name=name, provenance=provenance)
    made = Ingested(product, VIEW, info.height_px * info.width_px)
    # One of a file that has moved since has the same key, but other files.
    if product_state(product, view.key) == "done" and holds(product, view.files):
        return Skipped(made)
    with new_product(
        product, kind=VIEW, key=view.key, about=view.about, overwrite=overwrite
    ) as folder:
        write_view(folder, view.files)
    return replace(made, seconds=time.perf_counter() - start)


def _write_metadata(
    plan: Plan,
    folder: Path,
    name: str,
    info: SlideInfo,
    provenance: dict[str, Any],
    *,
    further: Sequence[Series],
) -> None:
    if isinstance(plan, Archive):
        write_slide_metadata(
            folder,
            plan.arrays,
            plan.downsamples,
            name=name,
            mpp=info.mpp,
            about=provenance | {"levels": plan.about()},
            method=None,
        )
    else:
        write_pyramid_metadata(
            plan, folder, name=name, mpp=info.mpp, about=provenance, further=further
        )


def _slide_provenance(info: SlideInfo, identity: str) -> dict[str, Any]:
    """What OME-Zarr has no word for; vendors' free text, which may name a patient, stays out."""
    return {
        "source": info.path.name,
        "identity": identity,
        "reader": info.backend,
        "vendor": info.vendor,
        "mpp_source": info.mpp_source,
        "objective_power": info.objective_power,
        "bounds_px": None if info.bounds is None else asdict(info.bounds),
        "notes": list(info.notes),
    }


def ingest_volume(
    path: str | Path,
    out: str | Path,
    *,
    name: str | None = None,
    series: str | None = None,
    resample: bool = False,
    on_progress: Progress | None = None,
    overwrite: bool = False,
) -> Ingested | Skipped[Ingested]:
    """Write a scan as OME-Zarr 0.5, axes [t,] z, y, x, in the type that its file holds.

    The rescale, the full affine, the frame times and a NIfTI file's header are kept beside the
    voxels; :func:`~microtome.engine.volumes.export_nifti` gives them back without loss.

    Parameters
    ----------
    path
        A NIfTI file, a DICOM file, or a folder with a DICOM series.
    out
        Folder; the product is ``<out>/<name>.ome.zarr``.
    name
        The file's or folder's name by default.
    series
        Which series of a DICOM folder.
    resample
        Bring tilted, uneven or incomplete slices onto a regular grid
        (:func:`~microtome.engine.volumes.open_volume`).
    on_progress
        Told of (voxels done, in all).
    overwrite
        Replace an image that was made from another scan or otherwise.

    Raises
    ------
    MissingFile, EmptyFile, TruncatedFile, UnreadableFile, BadGeometry
        What is wrong with the scan.
    StaleProduct, OutputBusy, UnwritableOutput
        What is wrong with the output; running again resumes.
    """
    start, path = time.perf_counter(), Path(path)
    volume = open_volume(path, series=series, resample=resample)
    array = scan_array(volume.shape, volume.stored.dtype)
    name = name or product_id(path)
    product = Path(out) / f"{name}{SUFFIX}"
    identity = scan_identity(volume)
    asked = {"resample": True} if resample else {}
    key = product_key(kind=SCAN, input=identity, array=array.metadata(), **asked)
    voxels = math.prod(volume.shape)
    if product_state(product, key) == "done":
        return Skipped(Ingested(product, SCAN, voxels))
    about = {
        "id": name,
        "source": path.name,
        "shape": list(volume.shape),
        "dtype": array.dtype.name,
        "spacing_mm": list(volume.spacing_mm),
        "modality": volume.modality,
    }
    with new_product(
        product, kind=SCAN, key=key, about=about, overwrite=overwrite, resume=True
    ) as folder:
        read = volume.stored.read_box
        written, kept = write_scan_shards(array, folder / "0", read, on_progress)
        provenance = {"source": path.name, "identity": identity, "reader": volume.backend}
        write_scan_metadata(array, folder, name, _header_of(volume), provenance)
    seconds = time.perf_counter() - start
    return Ingested(product, SCAN, voxels, written, kept, seconds)


def scan_identity(volume: Volume) -> str:
    """Identify a scan by the content of its files."""
    return product_key(files=sorted(file_identity(file) for file in volume.files))


def _header_of(volume: Volume) -> ScanHeader:
    return ScanHeader(
        affine=volume.affine,
        slope=volume.slope,
        intercept=volume.intercept,
        modality=volume.modality,
        unit=volume.unit,
        time_s=volume.time_s,
        nifti_header=volume.header,
        properties=volume.properties,
        notes=volume.notes,
    )
