"""Images of a cohort: which of each slide have a label, and their pixels side by side."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...engine.grid import TileGrid, tissue_fraction
from ...engine.slides import Slide, open_slide
from ...engine.slides.base import SlideInfo
from ...engine.tiles import read_tiles
from ...engine.tissue import (
    SUFFIX,
    TissueMask,
    annotations_of,
    find_tissue,
    read_tissue,
    require_fit,
)
from ...engine.tissue.exchange import tissue_frame
from ...storage.commit import file_identity
from ...storage.errors import CohortError, LabelError, NoTissue
from ...storage.predictions import SlidePrediction
from ..slide_list import SlideItem
from .bridge import (
    LabelledImages,
    ScoreBands,
    calibrate_bands,
    image_scores,
    label_by_regions,
    label_by_scores,
    read_regions,
)
from .images import ImageSet

OnProgress = Callable[[int, int], None]


@dataclass(frozen=True)
class ImageOptions:
    """Which images are cut from a slide.

    Attributes
    ----------
    side_px, mpp
        Side of an image in pixels, and micrometres a pixel. The paper's are 1280 and 0.5.
    min_tissue
        Images with a smaller share of tissue are left out.
    tissue
        Folder of ``<id>.tissue.zarr``; tissue is found where none is given.
    at_most
        Images of either label that are taken of a slide, drawn at random; None takes all.
    seed
        Of that.
    """

    side_px: int = 1280
    mpp: float = 0.5
    min_tissue: float = 0.25
    tissue: Path | None = None
    at_most: int | None = None
    seed: int = 0


@dataclass(frozen=True)
class RegionSource:
    """Labels from what a person drew.

    Attributes
    ----------
    place
        A GeoJSON, or a folder with ``<id>.geojson`` of each slide.
    classes
        See :func:`~.bridge.read_regions`.
    crop
        False where slides were imported into QuPath with ``--no-crop``.
    least
        See :func:`~.bridge.label_by_regions`.
    """

    place: Path
    classes: Mapping[str, str] | None = None
    crop: bool = True
    least: float = 0.25

    def label(self, id_: str, info: SlideInfo, grid: TileGrid) -> LabelledImages:
        """Label the images of a slide."""
        path = annotations_of(self.place, id_)
        regions = read_regions(path, tissue_frame(info, crop=self.crop), classes=self.classes)
        return label_by_regions(grid, regions, least=self.least)


@dataclass(frozen=True)
class ScoreSource:
    """Labels from what a MIL model says of tiles.

    Attributes
    ----------
    predictions
        By slide id.
    bands
        See :func:`~.bridge.calibrate_bands`.
    """

    predictions: Mapping[str, SlidePrediction]
    bands: ScoreBands

    def label(self, id_: str, info: SlideInfo, grid: TileGrid) -> LabelledImages:
        """Label the images of a slide."""
        if id_ not in self.predictions:
            raise CohortError(
                "the predictions say nothing of this slide",
                where=id_,
                remedy="Predict it first, or leave it out",
            )
        said = self.predictions[id_]
        scores = image_scores(grid, said, (info.height_px, info.width_px))
        return label_by_scores(grid, scores, self.bands, is_negative=is_negative(said))


Source = RegionSource | ScoreSource


def is_negative(prediction: SlidePrediction) -> bool:
    """Whether a slide is known to have none of what the scores speak of."""
    return prediction.label is not None and prediction.label != prediction.target


def score_source(
    predictions: Sequence[SlidePrediction],
    items: Sequence[SlideItem],
    options: ImageOptions,
    *,
    alpha: float = 0.01,
    beta: float = 0.5,
) -> ScoreSource:
    """Find the bands on the images of the slides that are known to be negative.

    Parameters
    ----------
    predictions
        Of slides by models that were not fitted on them, with their labels, of two classes.
    items
        The slides that images are cut from.
    alpha, beta
        See :func:`~.bridge.calibrate_bands`.

    Raises
    ------
    LabelError
        More than two classes, or too few images of negative slides.
    """
    by_id = {said.id: said for said in predictions}
    if any(len(said.classes) != 2 for said in predictions):
        raise LabelError(
            "scores of more than two classes speak of another class on every slide",
            remedy="Train a model of two classes",
        )
    found = [np.empty(0, np.float32)]
    for item in items:
        if item.id in by_id and is_negative(by_id[item.id]):
            with open_slide(item.path, mpp=item.mpp) as slide:
                size = (slide.info.height_px, slide.info.width_px)
                found.append(image_scores(image_grid(slide.info, options), by_id[item.id], size))
    bands = calibrate_bands(np.concatenate(found), alpha=alpha, beta=beta)
    return ScoreSource(by_id, bands)


def image_grid(info: SlideInfo, options: ImageOptions) -> TileGrid:
    """Images side by side, whole ones only."""
    return TileGrid.over(info, tile_px=options.side_px, mpp=options.mpp)


@dataclass(frozen=True)
class SlideImages:
    """Images of one slide that have a label.

    Attributes
    ----------
    identity
        Of the slide file's content.
    """

    item: SlideItem
    images: LabelledImages
    identity: str

    def facts(self) -> tuple[str, str, str, str]:
        """What a key holds of it."""
        grid, labels = self.images.grid, self.images.labels
        places = hashlib.sha256(grid.coords_px.tobytes() + labels.tobytes()).hexdigest()
        return self.item.id, self.item.group, self.identity, places


def label_slide(item: SlideItem, source: Source, options: ImageOptions) -> SlideImages:
    """Find the images of a slide, on tissue, that have a label.

    Raises
    ------
    NoTissue
        Not one image has enough tissue.
    LabelError
        Not one has a label.
    MissingFile, CohortError, NoResolution, BadResolution, UnreadableFile
        The slide, or what labels it, cannot be used.
    """
    with open_slide(item.path, mpp=item.mpp) as slide:
        grid = image_grid(slide.info, options)
        size_px = (slide.info.height_px, slide.info.width_px)
        mask = _tissue(slide, item.id, options)
        grid = grid.select(tissue_fraction(grid, mask.tissue, size_px) >= options.min_tissue)
        if not len(grid):
            raise NoTissue(
                f"no image of {options.side_px} px has {options.min_tissue:.0%} tissue",
                where=item.path,
                remedy="Ask for less with --min-tissue, or for smaller images with --side-px",
            )
        labelled = source.label(item.id, slide.info, grid)
    if not len(labelled):
        raise LabelError(f"not one image has a label: {labelled}", where=item.path)
    return SlideImages(item, _some(labelled, item.id, options), file_identity(item.path))


def _tissue(slide: Slide, id_: str, options: ImageOptions) -> TissueMask:
    if options.tissue is None:
        return find_tissue(slide)
    path = options.tissue / f"{id_}{SUFFIX}"
    mask = read_tissue(path)
    require_fit(mask, (slide.info.height_px, slide.info.width_px), where=path)
    return mask


def _some(labelled: LabelledImages, id_: str, options: ImageOptions) -> LabelledImages:
    """At most so many of either label, the same whatever other slides there are."""
    if options.at_most is None:
        return labelled
    number = int.from_bytes(hashlib.sha256(id_.encode()).digest()[:8], "big")
    rng = np.random.default_rng([options.seed, number])
    keep = np.zeros(len(labelled), np.bool_)
    for label in (False, True):
        rows = np.flatnonzero(labelled.labels == label)
        keep[rng.permutation(rows)[: options.at_most]] = True
    return labelled.select(keep)


def read_images(
    slides: Sequence[SlideImages], path: Path, *, on_progress: OnProgress | None = None
) -> ImageSet:
    """Read the pixels of all images into a file that stays mapped: memory does not hold them.

    Parameters
    ----------
    path
        ``.npy`` to write; the caller deletes it.
    on_progress
        Told of (images done, in all).

    Raises
    ------
    UnreadableFile
        An image cannot be decoded.
    """
    total = sum(len(slide.images) for slide in slides)
    side = slides[0].images.grid.tile_px
    pixels: NDArray[np.uint8] = np.lib.format.open_memmap(
        path, mode="w+", dtype=np.uint8, shape=(total, side, side, 3)
    )
    done = 0
    for labelled in slides:
        with open_slide(labelled.item.path, mpp=labelled.item.mpp) as slide:
            for indices, tiles in read_tiles(slide, labelled.images.grid, batch=8):
                pixels[done + indices] = tiles
                if on_progress is not None:
                    on_progress(done + int(indices[-1]) + 1, total)
        done += len(labelled.images)
    labels = np.concatenate([slide.images.labels for slide in slides])
    items = [slide.item for slide in slides for _ in range(len(slide.images))]
    return ImageSet(pixels, labels, tuple(i.id for i in items), tuple(i.group for i in items))
