"""Dense overlays as images of their own: pyramids that cover exactly what a viewer shows.

QuPath imports no raster heatmap, but it shows two images side by side and moves them together;
for that the second has to cover the same, cropped region and say its pixel size. Every tile is
drawn when it is written: what is held is a block, however large the slide.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..storage.codecs import Blosc
from ..storage.commit import new_file, new_product, product_key, writable, write_bytes
from ..storage.ngff04 import CHUNK_PX
from ..storage.pyramid import KIND, Pyramid, write_cell, write_pyramid_metadata
from .layers import Layer, SlideLayer, Swatch
from .overlay import Image, as_png, lay_over, with_colour_bar, with_key
from .zoom import Box, Place

Format = Literal["ome-tiff", "ome-zarr", "ome-zarr04", "png"]
SUFFIXES: dict[str, str] = {
    "ome-tiff": ".overlay.ome.tif",
    "ome-zarr": ".overlay.ome.zarr",
    "ome-zarr04": ".overlay04.ome.zarr",
    "png": ".overlay.png",
}
_TILE_PX = 512
_SMALLEST_PX = 512
_PNG_PX = 8192
_JPEG_QUALITY = 90
_WHITE = 255


@dataclass(frozen=True)
class OverlayImage:
    """A layer over a slide, as an image.

    Attributes
    ----------
    slide
        None draws the layer on white.
    box_px
        (y, x, height, width) of what is shown, in level-0 pixels.
    side_px
        Wanted side of a pixel in level-0 pixels; what comes out covers the box exactly.
    mpp
        (y, x) micrometres per level-0 pixel, or None where unknown.
    opacity
        0 … 1, of the layer over the slide.
    """

    layer: Layer
    slide: SlideLayer | None
    box_px: tuple[int, int, int, int]
    side_px: float
    mpp: tuple[float, float] | None
    opacity: float = 0.6

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) in its own pixels."""
        height, width = (max(1, round(side / self.side_px)) for side in self.box_px[2:])
        return height, width

    @property
    def pixel_px(self) -> tuple[float, float]:
        """(y, x) extent of a pixel in level-0 pixels."""
        return self.box_px[2] / self.shape[0], self.box_px[3] / self.shape[1]

    @property
    def pixel_um(self) -> tuple[float, float] | None:
        """(y, x) extent of a pixel in micrometres."""
        if self.mpp is None:
            return None
        return self.pixel_px[0] * self.mpp[0], self.pixel_px[1] * self.mpp[1]

    @property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        """(height, width) of every level, halved (rounding up) until a tile holds it."""
        sizes = [self.shape]
        while max(sizes[-1]) > _SMALLEST_PX:
            sizes.append((-(-sizes[-1][0] // 2), -(-sizes[-1][1] // 2)))
        return tuple(sizes)

    def read(self, level: int, y: int, x: int, height: int, width: int) -> NDArray[np.uint8]:
        """Draw a rectangle of a level, uint8 [height, width, 3]."""
        tall, wide = (side * 2**level for side in self.pixel_px)
        box = Box(self.box_px[0] + y * tall, self.box_px[1] + x * wide, height * tall, width * wide)
        place = Place(box, (height, width), max(tall, wide))
        if self.slide is None:
            below = np.full((height, width, 3), _WHITE, np.uint8)
        else:
            below = self.slide.draw(place)
        return lay_over(below, self.layer.draw(place), self.opacity)


def write_overlay(image: OverlayImage, folder: Path, name: str, kind: Format) -> Path:
    """Write an overlay, and ``<name>.legend.png`` beside what cannot hold a legend.

    Parameters
    ----------
    kind
        ``ome-tiff``: pyramidal, tiled, JPEG, with pixel size. ``ome-zarr``: 0.5, sharded.
        ``ome-zarr04``: 0.4 in Zarr v2, for QuPath 0.6 and later. ``png``: one picture with its
        legend, at most 8192 px on the longer side.

    Returns
    -------
    Path
        Of the image.

    Raises
    ------
    StaleProduct
        Another OME-Zarr is in the way.
    UnwritableOutput
        The file system refuses.
    """
    path = folder / f"{name}{SUFFIXES[kind]}"
    with writable(path):
        folder.mkdir(parents=True, exist_ok=True)
        if kind == "png":
            _write_png(image, path)
            return path
        legend = with_legend(np.full((1, 1, 3), _WHITE, np.uint8), image.layer)
        write_bytes(folder / f"{name}.legend.png", as_png(legend))
        if kind == "ome-tiff":
            write_ome_tiff(image, path, name)
        else:
            write_ome_zarr(image, path, name, old=kind == "ome-zarr04")
    return path


def write_ome_tiff(image: OverlayImage, path: Path, name: str) -> None:
    """Write a pyramidal OME-TIFF whose levels are SubIFDs, as Bio-Formats and QuPath read it."""
    import tifffile

    options: dict[str, Any] = {
        "dtype": np.uint8,
        "photometric": "rgb",
        "tile": (_TILE_PX, _TILE_PX),
        "compression": "jpeg",
        "compressionargs": {"level": _JPEG_QUALITY},
    }
    metadata: dict[str, Any] = {"axes": "YXS", "Name": name}
    if image.pixel_um is not None:
        y, x = image.pixel_um
        metadata |= {
            "PhysicalSizeX": x, "PhysicalSizeXUnit": "µm",
            "PhysicalSizeY": y, "PhysicalSizeYUnit": "µm",
        }  # fmt: skip
    with new_file(path) as file, tifffile.TiffWriter(file, bigtiff=True, ome=True) as out:
        for level, (height, width) in enumerate(image.shapes):
            own: dict[str, Any] = {"subfiletype": 1, "metadata": None}
            if level == 0:
                own = {"subifds": len(image.shapes) - 1, "metadata": metadata}
            out.write(_tiles(image, level), shape=(height, width, 3), **options, **own)


def _tiles(image: OverlayImage, level: int) -> Iterator[NDArray[np.uint8]]:
    height, width = image.shapes[level]
    for y in range(0, height, _TILE_PX):
        for x in range(0, width, _TILE_PX):
            part = image.read(level, y, x, min(_TILE_PX, height - y), min(_TILE_PX, width - x))
            missing = [(0, _TILE_PX - side) for side in part.shape[:2]]
            yield np.pad(part, (*missing, (0, 0)), mode="edge")


def write_ome_zarr(image: OverlayImage, path: Path, name: str, *, old: bool) -> None:
    """Write an OME-Zarr 0.5, or 0.4 where ``old``; what is there is replaced."""
    height, width = image.shape
    plan = Pyramid(height, width)
    if old:
        plan = Pyramid(
            height, width, chunk_px=CHUNK_PX, shard_px=CHUNK_PX, profile="ngff04", codec=Blosc()
        )

    def source(y: int, x: int, tall: int, wide: int) -> NDArray[np.uint8]:
        return image.read(0, y, x, tall, wide)

    about = {"id": name, "size_px": [height, width], "levels": len(plan.arrays),
             "mpp": image.pixel_um, "profile": plan.profile}  # fmt: skip
    what = {"layer": image.layer.name, "box_px": image.box_px, "opacity": image.opacity}
    key = product_key(kind=KIND, overlay=name, shape=[height, width], profile=plan.profile, **what)
    with new_product(path, kind=KIND, key=key, about=about, overwrite=True) as folder:
        for stage in range(plan.stages):
            for cell in plan.cells(stage):
                write_cell(plan, cell, folder, source)
        write_pyramid_metadata(plan, folder, name=name, mpp=image.pixel_um, about=what)


def _write_png(image: OverlayImage, path: Path) -> None:
    level = max(0, math.ceil(math.log2(max(image.shape) / _PNG_PX)))
    drawn = image.read(level, 0, 0, *image.shapes[level])
    write_bytes(path, as_png(with_legend(drawn, image.layer)))


def with_legend(drawn: Image, layer: Layer) -> Image:
    """Put what a layer's colours stand for to the right of an image; nothing where none do."""
    if not layer.legend:
        return drawn
    if is_scale(layer.legend):
        table = np.array([swatch.colour for swatch in layer.legend], np.uint8)
        low, high = (float(layer.legend[place].name) for place in (0, -1))
        return with_colour_bar(drawn, table, layer.name, low=low, high=high)
    colours = [swatch.colour for swatch in layer.legend]
    return with_key(drawn, colours, [swatch.name for swatch in layer.legend], layer.name)


def is_scale(legend: Sequence[Swatch]) -> bool:
    """Whether a legend's names are numbers, so that its colours are steps of a scale."""
    return len(legend) > 1 and all(_is_number(swatch.name) for swatch in legend)


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
