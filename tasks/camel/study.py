"""From labelled images to a segmenter: enrich the labels, paint them, learn pixels from them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...engine.schedule import Skipped
from ...engine.slides import open_slide
from ...engine.tissue.exchange import tissue_frame
from ...storage.commit import claim, is_done, product_key, writable
from ...storage.errors import LabelError
from ...storage.qupath import PathClass, Tiles, write_tiles
from .bridge import LabelledImages
from .enrich import Enriched, EnrichSettings, Squares, enrich
from .gather import SlideImages, read_images
from .polygons import COLOUR
from .segmentation import MACHINE, SegmentSettings, train_segmenter
from .segmenter import KIND, record, save_segmenter

MODEL, LABELS = "model", "labels"
VERSION = 2
"""Goes up with every change that alters what is made of the same images."""

_MACHINE = (*MACHINE, "precision")

OnProgress = Callable[[str, float], None]
"""Told of the stage, and the share of it that is done."""


@dataclass(frozen=True)
class CamelTrained:
    """A segmenter that was trained, or was there.

    Attributes
    ----------
    path
        Of the model.
    images, positive
        So many were learnt from, and so many of them are positive.
    """

    path: Path
    images: int
    positive: int


def train_camel(
    slides: Sequence[SlideImages],
    out: Path,
    *,
    enrichment: EnrichSettings,
    segmentation: SegmentSettings,
    on_progress: OnProgress | None = None,
    overwrite: bool = False,
) -> CamelTrained | Skipped[CamelTrained]:
    """Train on labelled images, and keep the segmenter at ``out/model``.

    ``out/labels/<id>.geojson.gz`` shows in QuPath what each instance was taken for. A run that
    was killed goes on where it was: what is finished waits in ``out/.work-…``.

    Parameters
    ----------
    on_progress
        Told of the stage (``read``, ``enrich``, ``segment``) and how much of it is done, 0 … 1.

    Raises
    ------
    LabelError
        No images, or of one label only.
    BadGeometry, BadModel
        Settings that do not fit together.
    StaleProduct
        A segmenter made otherwise is there and ``overwrite`` is false.
    """
    labels = np.concatenate([np.empty(0, bool), *(slide.images.labels for slide in slides)])
    if labels.all() or not labels.any():
        raise LabelError(
            f"{len(labels)} images, {int(labels.sum())} of them positive, cannot be learnt from",
            remedy="Images with and without lesion are needed",
        )
    tell = on_progress or (lambda stage, share: None)
    key = product_key(
        kind=KIND,
        version=VERSION,
        slides=sorted(slide.facts() for slide in slides),
        side_px=slides[0].images.grid.tile_px,
        enrichment=record(enrichment, _MACHINE),
        segmentation=record(segmentation, _MACHINE),
    )
    model, work = out / MODEL, out / f".work-{key[:12]}"
    made = CamelTrained(model, len(labels), int(labels.sum()))
    if is_done(model, kind=KIND, key=key, overwrite=overwrite):
        return Skipped(made)
    with writable(work / "images.npy"), claim(work):
        work.mkdir(parents=True, exist_ok=True)
        images = read_images(
            slides, work / "images.npy", on_progress=lambda done, n: tell("read", done / n)
        )
        enriched = enrich(
            images,
            enrichment,
            on_progress=lambda network, share: tell("enrich", share),
            folder=work / "enrich",
        )
        segmenter = train_segmenter(
            images.pixels,
            enriched.squares.labels,
            segmentation,
            # The paper paints labels as they are.
            weights=None if enrichment.mode == "faithful" else certainty(enriched.squares),
            on_progress=lambda done, n: tell("segment", done / n),
            folder=work / "segment",
        )
        _write_labels(slides, enriched, out / LABELS, segmentation.classes)
        training = {
            **segmenter.card.training,
            "slides": len(slides),
            "images": len(labels),
            "positive images": int(labels.sum()),
            "enrichment": enrichment.mode,
            "instances along a side": enrichment.grid,
            "squares along a side": enriched.squares.labels.shape[1],
            "positive instances": int(enriched.labels.sum()),
            **_found(enriched),
        }
        card = segmenter.card.model_copy(update={"training": training})
        save_segmenter(model, replace(segmenter, card=card, key=key), overwrite=overwrite)
        shutil.rmtree(work)
    return made


def _found(enriched: Enriched) -> dict[str, float | str]:
    """What robust mode found and chose, for the card."""
    said: dict[str, float | str] = {}
    for entry in enriched.history:
        if entry.get("chosen"):
            said["labelled by"] = str(entry["candidate"])
        if isinstance(share := entry.get("positive_share"), float):
            said["estimated share of positive instances"] = round(share, 4)
    return said


def certainty(squares: Squares) -> NDArray[np.float32]:
    """Weight of each label: one that is as likely wrong as right counts next to nothing."""
    return np.clip(2 * squares.confidence - 1, 0.02, 1).astype(np.float32)


def _write_labels(
    slides: Sequence[SlideImages], enriched: Enriched, folder: Path, classes: tuple[str, str]
) -> None:
    start = 0
    for slide in slides:
        part = slice(start, start + len(slide.images))
        start = part.stop
        own = Enriched(enriched.labels[part], enriched.confidence[part])
        with open_slide(slide.item.path, mpp=slide.item.mpp) as opened:
            frame = tissue_frame(opened.info)
        write_tiles(
            folder / f"{slide.item.id}.geojson.gz",
            instance_tiles(slide.images, own, classes),
            frame,
            slide=slide.item.id,
            kind="camel labels",
        )


def instance_tiles(images: LabelledImages, enriched: Enriched, classes: tuple[str, str]) -> Tiles:
    """Instances of a slide's images as tiles for QuPath, with their class and its probability."""
    n, grid, _ = enriched.labels.shape
    footprint = (images.grid.footprint_px[0] / grid, images.grid.footprint_px[1] / grid)
    row, column = np.mgrid[:grid, :grid]
    offset = np.stack([row, column], axis=-1).reshape(1, -1, 2) * np.array(footprint)
    coords = np.rint(images.grid.coords_px[:, None] + offset).astype(np.int64).reshape(-1, 2)
    return Tiles(
        coords,
        footprint,
        {f"probability of {classes[1]}": enriched.probability.reshape(n * grid * grid)},
        (PathClass(classes[0], (120, 160, 120)), PathClass(classes[1], COLOUR)),
        enriched.labels.reshape(n * grid * grid).astype(np.int64),
    )
