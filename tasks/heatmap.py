"""What a model says of each tile: as tiles for QuPath and as a picture over the slide."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..engine.slides.base import Slide
from ..engine.tissue import TissueMask
from ..storage.annotation_store import write_annotation_store
from ..storage.commit import writable, write_bytes
from ..storage.errors import InputError, MissingFile, StaleProduct
from ..storage.predictions import SlidePrediction
from ..storage.qupath import (
    MANY_OBJECTS,
    Annotation,
    Export,
    Frame,
    PathClass,
    Tiles,
    write_tiles,
)
from ..storage.qupath_check import read_metadata
from .extent import area_facts, find_mask
from .overlay import Image, as_png, colour_table, colourise, with_colour_bar
from .picture import MAX_PX, OPACITY, Canvas, Layers, blend, canvas_for, layers, smaller
from .rasters import Outline, Tiled, rasterise
from .top_tiles import TilePicture, tile_pictures, top_regions


def rank(values: NDArray[Any]) -> NDArray[np.float32]:
    """Rank of each value among all, 0 (lowest) to 1 (highest); ties share their mean.

    Returns
    -------
    float32 [n]
        NaN where the value is not finite; 0.5 where it is the only one.
    """
    from scipy.stats import rankdata

    ranks = np.full(len(values), np.nan, np.float32)
    known = np.isfinite(values)
    n = int(known.sum())
    if n == 1:
        ranks[known] = 0.5
    elif n > 1:
        ranks[known] = (rankdata(values[known]) - 1) / (n - 1)
    return ranks


def measurements(
    prediction: SlidePrediction, quality: Mapping[str, NDArray[np.float32]] | None = None
) -> dict[str, NDArray[np.float32]]:
    """Columns [n] that QuPath is given of each tile, by name.

    ``score`` and ``attention`` as the model gave them, each with its rank among the slide's tiles:
    QuPath's measurement maps span a column's range, in which raw attention is hard to read.
    Quality columns follow under their own names.
    """
    return {
        "score": prediction.score,
        "score rank": rank(prediction.score),
        "attention": prediction.attention,
        "attention rank": rank(prediction.attention),
        **(quality or {}),
    }


def export_qupath(
    tiles: Tiled,
    path: str | Path,
    *,
    columns: Mapping[str, NDArray[Any]] | None = None,
    classes: tuple[PathClass, ...] = (),
    class_index: NDArray[np.int64] | None = None,
    kind: str = "score",
    crop: bool = True,
    about: Mapping[str, str | int | float] | None = None,
    regions: Sequence[Annotation] = (),
) -> Export:
    """Write a slide's tiles for QuPath; see :func:`~microtome.storage.qupath.write_tiles`.

    Parameters
    ----------
    tiles
        A prediction, or a bag with ``columns``.
    path
        Ends in ``.geojson.gz`` or ``.geojson``. QuPath's scripts find it most easily when it is
        named as the slide is.
    columns
        Measurements [n] by name; those of :func:`measurements` by default for a prediction.
    classes, class_index
        Class of each tile, int [n], -1 for none.
    kind
        What the tiles are of; tiles of another kind get other ids.
    crop
        False for slides that were imported into QuPath with ``--no-crop``.
    regions
        Annotations to go into the same file.
    """
    facts: dict[str, str | int | float] = {"encoder": tiles.encoder}
    if tiles.source:
        facts["slide_file"] = Path(tiles.source).name
    if isinstance(tiles, SlidePrediction):
        columns = measurements(tiles) if columns is None else columns
        facts |= {"model": tiles.model, "target": tiles.target, "probability": tiles.probability}
    return write_tiles(
        Path(path),
        Tiles(tiles.coords_px, tiles.footprint_px, columns or {}, classes, class_index),
        Frame(tiles.slide_px, tiles.bounds_px, crop),
        slide=tiles.id,
        kind=kind,
        about={**facts, **(about or {})},
        regions=regions,
    )


@dataclass(frozen=True)
class HeatmapProducts:
    """What was made of one slide.

    Attributes
    ----------
    overlay
        PNG of the colours over the slide; None where the slide is not at hand.
    objects
        Tiles in the GeoJSON, beside which the top regions are annotations.
    layers
        For a report.
    notes
        What was left out and why, and what QuPath's user should know.
    detail
        The layers in more pixels, for a report of this slide alone, where asked for.
    tiles
        Those with the highest and the lowest scores; none where the slide is not at hand.
    facts
        Further figures by name, in words.
    """

    id: str
    geojson: Path
    overlay: Path | None
    objects: int
    layers: Layers
    notes: tuple[str, ...] = ()
    detail: Layers | None = None
    tiles: tuple[TilePicture, ...] = ()
    facts: Mapping[str, str] = field(default_factory=dict)


def make_heatmap(
    prediction: SlidePrediction,
    out: Path,
    *,
    slide: Slide | None = None,
    truth: Sequence[Outline] = (),
    quality: Mapping[str, NDArray[np.float32]] | None = None,
    mask: TissueMask | None = None,
    crop: bool = True,
    max_px: int = MAX_PX,
    detail_px: int | None = None,
    store: bool = False,
    opacity: float = OPACITY,
    about: Mapping[str, str] | None = None,
) -> HeatmapProducts:
    """Write ``<id>.geojson.gz`` for QuPath and, with the slide at hand, ``<id>.heatmap.png``.

    Colours span scores of 0 to 1 whatever the slide holds, so that two slides compare.

    Parameters
    ----------
    slide
        The opened slide; without it the picture is left out.
    truth
        Outlines to draw into the picture.
    quality
        Further columns [n] for QuPath.
    mask
        The slide's tissue, which its area is then measured by.
    crop
        False keeps the whole of level 0 where a slide states bounds, as QuPath's ``--no-crop``.
    max_px
        Longer side of level 0 in the pictures.
    detail_px
        Of :attr:`HeatmapProducts.detail`, see there; None, or a slide that is not at hand, makes
        none.
    store
        Whether to write ``<id>.db`` too, for tiatoolbox and its viewer.
    about
        Further facts for the GeoJSON's metadata.
    """
    columns = measurements(prediction, quality)
    path = out / f"{prediction.id}.geojson.gz"
    top = top_regions(prediction)
    export = export_qupath(prediction, path, columns=columns, crop=crop, about=about, regions=top)
    detailed = detail_px is not None and slide is not None
    if store:
        tiles = Tiles(prediction.coords_px, prediction.footprint_px, columns)
        write_annotation_store(out / f"{prediction.id}.db", tiles=tiles, annotations=top)
    most = max(max_px, detail_px or 0) if detailed else max_px
    finest, table = canvas_for(prediction, slide, crop=crop, max_px=most), colour_table()
    canvas = smaller(finest, max_px)
    colours = _colours(prediction, canvas, table)
    picture = blend(canvas, colours, truth, opacity=opacity)
    overlay = None
    if picture is not None:
        overlay = out / f"{prediction.id}.heatmap.png"
        save_picture(overlay, with_colour_bar(picture, table, f"score for {prediction.target}"))
    return HeatmapProducts(
        id=prediction.id,
        geojson=path,
        overlay=overlay,
        objects=export.objects,
        layers=layers(canvas, colours, truth),
        notes=tuple(notes(export, canvas)),
        detail=layers(finest, _colours(prediction, finest, table), truth) if detailed else None,
        tiles=() if slide is None else tile_pictures(prediction, slide),
        facts=area_facts(prediction, quality or {}, mask),
    )


def _colours(prediction: SlidePrediction, canvas: Canvas, table: Image) -> Image:
    dense = rasterise(prediction, prediction.score, canvas.downsample, canvas.shape)
    return colourise(dense, table)


def save_picture(path: Path, image: Image) -> None:
    """Write an image as PNG, whole or not at all."""
    with writable(path):
        write_bytes(path, as_png(image))


def coarsened_note(export: Export) -> str:
    """What to say of an export whose tiles were too many; nothing where they were not."""
    if export.coarsened == 1:
        return ""
    side = export.coarsened
    return (
        f"over {MANY_OBJECTS:,} tiles, for which QuPath needs minutes and over 4 GB of heap: "
        f"{side} x {side} of them were made one, with their mean"
    )


def notes(export: Export, canvas: Canvas) -> Iterator[str]:
    """What the user should know of an export and its pictures."""
    if canvas.lost_fraction:
        yield f"{canvas.lost_fraction:.2%} of the slide cannot be decoded: white in the pictures"
    if export.outside:
        yield f"{export.outside} tiles lie outside the image as QuPath shows it and were left out"
    if coarsened := coarsened_note(export):
        yield coarsened


def draw_heatmap(
    prediction: SlidePrediction,
    out: Path,
    *,
    overlay: bool = True,
    masks: Path | None = None,
    overwrite: bool = False,
    **options: Any,
) -> HeatmapProducts:
    """As :func:`make_heatmap`, with the slide opened from where it was encoded.

    Where the slide is gone or cannot be read the GeoJSON is still written, and a note says that
    the overlay was left out.

    Parameters
    ----------
    overlay
        False leaves the slide alone.
    masks
        Folder of tissue masks; without it the one in the slide's own OME-Zarr is taken, if any.
    overwrite
        Replace a heatmap of another model.

    Raises
    ------
    StaleProduct
        A heatmap of another model is there and ``overwrite`` is false.
    MissingFile, BadProduct, BadGeometry
        ``masks`` has none of this slide, or a mask is damaged or that of another slide.
    """
    if not overwrite:
        _refuse_other(out / f"{prediction.id}.geojson.gz", prediction)
    mask = find_mask(prediction, masks)
    with ExitStack() as opened:
        slide, missing = None, ""
        if overlay:
            try:
                slide = opened.enter_context(open_source(prediction))
            except InputError as error:
                missing = f"{error.what}, so the overlay was left out; the GeoJSON is complete"
        made = make_heatmap(prediction, out, slide=slide, mask=mask, **options)
    return replace(made, notes=(missing, *made.notes) if missing else made.notes)


@contextmanager
def open_source(prediction: SlidePrediction) -> Iterator[Slide]:
    """Open the slide where it was encoded; fetched first, where that is in an object store.

    Raises
    ------
    InputError
        It is not said, not there any more, or cannot be read.
    """
    from ..engine.slides import open_slide
    from ..engine.staging import at_hand

    if not prediction.source:
        raise MissingFile("the bag does not say which file it was made from")
    with at_hand(Path(prediction.source)) as path, open_slide(path) as slide:
        yield slide


def _refuse_other(path: Path, prediction: SlidePrediction) -> None:
    if not path.exists():
        return
    about = read_metadata(path)
    if (about.get("slide"), about.get("model")) != (prediction.id, prediction.model):
        raise StaleProduct(
            "a heatmap of another model is here",
            where=path,
            remedy="Choose another --out, or pass --overwrite to replace it",
        )
