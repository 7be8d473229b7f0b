"""Stages of one slide: ingest, tissue, encode."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ...engine.extras import Extras
from ...engine.ingest import Ingested
from ...engine.schedule import Skipped
from ...engine.tissue import SUFFIX as MASK
from ...engine.tissue import TissueMade, make_tissue, slide_image
from ...storage.codecs import codec_named
from ...storage.errors import PlanError
from ..encode import Encoded, EncodeOptions, share_cores
from ..encode_scan import encode_item
from ..ingest_run import IngestItem, IngestOptions, ingest_item
from ..scan_options import ScanOptions
from ..slide_list import SlideItem
from ..tile_reader import default_readers
from .parts import EncodePart, IngestPart, TissuePart
from .task import Made, Task, told


def _slide(task: Task) -> SlideItem:
    assert task.slide is not None
    return task.slide


def ingest(task: Task) -> Made | Skipped[Made]:
    """``<out>/slides/<id>.ome.zarr``."""
    slide, part = _slide(task), task.plan.ingest or IngestPart()
    options = IngestOptions(
        profile=part.profile,
        resample=part.resample,
        verify=part.verify,
        overwrite=task.overwrite,
        codec=None if part.codec is None else codec_named(part.codec, part.level, part.quality),
        extras=Extras(part.associated, part.properties, part.patient_data),
    )
    item = IngestItem(slide.id, slide.path, slide.mpp, part.series)

    def tell(made: Ingested) -> Made:
        kept = f", {made.kept} shards kept" if made.kept else ""
        return Made(made.path, f"{made.pixels / 1e6:.1f} MPix{kept}")

    return told(ingest_item(item, out=task.plan.out / "slides", options=options), tell)


def check_ingest(part: IngestPart) -> None:
    """Refuse options of ingest that do not go together.

    Raises
    ------
    PlanError
    """
    if part.codec is not None and part.profile != "compatible":
        raise PlanError("ingest: codec goes with profile 'compatible'")
    try:
        if part.codec is not None:
            codec_named(part.codec, part.level, part.quality)
        Extras(part.associated, part.properties, part.patient_data)
    except ValueError as error:
        raise PlanError(f"ingest: {error}") from error


def tissue(task: Task) -> Made | Skipped[Made]:
    """``<out>/tissue/<id>.tissue.zarr``, and a label in the slide's OME-Zarr where it has one."""
    slide, part = _slide(task), task.plan.tissue or TissuePart()
    ingested = task.plan.ingest
    labelled = part.label and (ingested is None or ingested.profile not in ("ngff04", "virtual"))
    images = task.plan.out / "slides" if ingested is not None else None
    made = make_tissue(
        slide.path,
        task.plan.out / "tissue" / f"{slide.id}{MASK}",
        mpp=part.mpp,
        method=part.method,
        artefacts=part.artefacts,
        slide_mpp=slide.mpp,
        into=slide_image(slide.path, slide.id, images) if labelled else None,
        overwrite=task.overwrite,
    )

    def tell(found: TissueMade) -> Made:
        return Made(found.path, f"{found.fraction:.1%} tissue", found.warning)

    return told(made, tell)


def encode(task: Task) -> Made | Skipped[Made]:
    """``<out>/bags/<id>.bag.zarr``."""
    part = task.plan.encode or EncodePart()
    masks = part.masks
    if masks is None and task.plan.tissue is not None:
        masks = task.plan.out / "tissue"
    options = slide_options(part, masks=masks, jobs=task.jobs)
    if task.is_sparing:
        options = with_half_the_memory(options)
    made = encode_item(
        _slide(task),
        out=task.plan.out / "bags",
        slides=options,
        scans=scan_options(part),
        overwrite=task.overwrite,
    )

    def tell(bag: Encoded) -> Made:
        return Made(bag.path, f"{bag.tiles:,} {bag.what} x {bag.dim}", bag.warning)

    return told(made, tell)


def with_half_the_memory(options: EncodeOptions) -> EncodeOptions:
    """The same bag by half as many reading threads, which hold what is in flight."""
    return replace(options, readers=max(1, (options.readers or default_readers()) // 2))


def slide_options(part: EncodePart, *, masks: Path | None, jobs: int) -> EncodeOptions:
    """How slides are encoded, each of several jobs on its share of the cores."""
    options = EncodeOptions(
        mpp=part.mpp,
        tile_px=part.tile_px,
        stride_px=part.stride_px,
        min_tissue=0.5 if part.min_tissue is None else part.min_tissue,
        max_corrupt=part.max_corrupt,
        precision=part.precision,
        half=part.half,
        device=part.device,
        masks=masks,
        stain=part.stain,
        edge=part.edge or "drop",
        readers=part.readers,
        is_compiled=part.is_compiled,
        views=part.views,
        **_named(part),
    )
    return share_cores(options, jobs)


def scan_options(part: EncodePart) -> ScanOptions:
    """How scans are encoded."""
    return ScanOptions(
        block_mm=part.block_mm,
        spacing_mm=part.spacing_mm,
        tile_px=part.tile_px,
        stride_px=part.stride_px,
        depth=part.slices,
        windows=part.window,
        modality=part.modality,
        robust=part.robust,
        bias=part.bias,
        min_foreground=part.min_tissue,
        edge=part.edge,
        series=part.series,
        resample=part.resample,
        precision=part.precision,
        half=part.half,
        device=part.device,
        **_named(part),
    )


def _named(part: EncodePart) -> dict[str, str]:
    return {} if part.encoder is None else {"encoder": part.encoder}
