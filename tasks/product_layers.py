"""Products as layers over a slide."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..engine.slides.base import SlideInfo
from ..engine.tissue import LABELS, read_tissue, require_fit
from ..storage.annotations import ReadAnnotation, read_annotations
from ..storage.errors import BadGeometry
from ..storage.maps import STEPS, encode, open_map
from ..storage.polygons import fill
from ..storage.predictions import SlidePrediction
from ..storage.qupath import Frame
from .layers import Layer, MapLayer, RasterLayer, Rgba, Swatch
from .overlay import colour_table
from .rasters import FINEST_PX, on_own_grid


def probability_palette() -> Rgba:
    """uint8 [256, 4]: colours of kept probabilities; code 0, unknown, is transparent."""
    table = colour_table()
    share = np.clip((np.arange(256) - 1) / STEPS, 0, 1)
    colours = table[np.rint(share * (len(table) - 1)).astype(np.intp)]
    alpha = np.where(np.arange(256) == 0, 0, 255).astype(np.uint8)
    return np.column_stack([colours, alpha])


def probability_legend() -> tuple[Swatch, ...]:
    """From 0 to 1 in nine steps."""
    palette = probability_palette()
    places = [(step / 8, palette[1 + round(STEPS * step / 8), :3].tolist()) for step in range(9)]
    return tuple(Swatch(f"{value:.2g}", (r, g, b)) for value, (r, g, b) in places)


def of_prediction(prediction: SlidePrediction, info: SlideInfo) -> Layer:
    """The scores of tiles, averaged where they overlap.

    Raises
    ------
    BadGeometry
        The slide is not of the size that the tiles were made from.
    """
    _require_size(prediction.slide_px, info, prediction.id)
    if not len(prediction):
        raise BadGeometry("the prediction has no tiles", where=prediction.id)
    dense = on_own_grid(prediction, prediction.score)
    return RasterLayer(
        f"score for {prediction.target}",
        encode(dense.values),
        probability_palette(),
        dense.pixel_px,
        dense.origin_px,
        legend=probability_legend(),
    )


def of_map(path: Path, info: SlideInfo) -> Layer:
    """A probability map as CAMEL made it; raises as `of_prediction`, and BadProduct."""
    stored = open_map(path)
    _require_size(stored.frame.slide_px, info, str(path))
    name = "probability by CAMEL"
    return MapLayer(name, stored, probability_palette(), probability_legend())


def of_tissue(path: Path, info: SlideInfo) -> Layer:
    """A tissue mask, with its artefacts; raises as `of_prediction`, and BadProduct."""
    mask = read_tissue(path)
    require_fit(mask, (info.height_px, info.width_px), where=path)
    found = {label: LABELS[label] for label in LABELS if (mask.labels == label).any()}
    legend = [Swatch(style.name, style.colour) for style in found.values()]
    palette = _palette({label: style.colour for label, style in found.items()})
    return RasterLayer("tissue", mask.labels, palette, mask.downsample, legend=legend)


def of_clusters(path: Path, info: SlideInfo) -> Layer:
    """The clusters of tiles, as they were written for QuPath; raises as `of_prediction`."""
    size = (info.height_px, info.width_px)
    found = read_annotations(path, frame=Frame(size)).annotations
    names = sorted({a.path_class.name for a in found if a.path_class is not None})
    if not names:
        raise BadGeometry("no tile has a cluster", where=path)
    number = {name: index for index, name in enumerate(names, start=1)}
    colours = {
        a.path_class.name: a.path_class.color or (128, 128, 128)
        for a in found
        if a.path_class is not None
    }
    codes, pixel = _painted(found, number, size)
    palette = _palette({number[name]: colours[name] for name in names})
    legend = [Swatch(name, colours[name]) for name in names]
    return RasterLayer("clusters", codes, palette, pixel, legend=legend)


def _painted(
    found: Sequence[ReadAnnotation], number: dict[str, int], size: tuple[int, int]
) -> tuple[NDArray[np.uint8], tuple[float, float]]:
    scale = max(1.0, max(size) / FINEST_PX)
    shape_ = (max(1, round(size[0] / scale)), max(1, round(size[1] / scale)))
    pixel = (size[0] / shape_[0], size[1] / shape_[1])
    codes = np.zeros(shape_, np.uint8)
    for annotation in found:
        if annotation.path_class is not None:
            fill(codes, annotation.geometry, pixel, number[annotation.path_class.name])
    return codes, pixel


def _palette(colours: dict[int, tuple[int, int, int]]) -> Rgba:
    palette = np.zeros((256, 4), np.uint8)
    for code, colour in colours.items():
        palette[code] = (*colour, 255)
    return palette


def _require_size(size: Any, info: SlideInfo, where: str) -> None:
    if tuple(size) != (info.height_px, info.width_px):
        raise BadGeometry(
            f"made for a slide of {size[0]} x {size[1]} px, this one has "
            f"{info.height_px} x {info.width_px} px",
            where=where,
            remedy="Name the slide that it was made of",
        )
