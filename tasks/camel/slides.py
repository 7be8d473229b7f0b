"""What is made of one slide with a segmenter, and how it is compared with the truth."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from ...engine.schedule import Skipped
from ...engine.tissue import SUFFIX as TISSUE_SUFFIX
from ...engine.tissue import annotations_of
from ...storage.commit import require_commit, writable, write_text
from ...storage.errors import MissingFile, StaleProduct
from ...storage.maps import SUFFIX, MapFrame, StoredMap, open_map
from ...storage.qupath import MANY_OBJECTS
from ...storage.qupath_check import read_metadata
from ..heatmap import coarsened_note
from ..slide_list import SlideItem
from .bridge import read_regions
from .evaluate import Agreement, DrawnTruth, EvaluateOptions, Truth, evaluate_map, read_painted
from .polygons import PolygonOptions, export_polygons, export_tiles, shown_frame
from .predict import WindowOptions, predict_slide
from .segmenter import KIND, Segmenter, load_segmenter

_PICTURES = (".png", ".tif", ".tiff")


@dataclass(frozen=True)
class Segmented:
    """What was made of one slide.

    Attributes
    ----------
    polygons, tiles
        Objects in the GeoJSON files; None where tiles were not asked for.
    warning
        What the ledger says of them.
    """

    map: Path
    geojson: Path
    polygons: int
    tiles: int | None
    warning: str = ""


def segment_slide(
    item: SlideItem,
    segmenter: Segmenter,
    out: Path,
    *,
    windows: WindowOptions,
    polygons: PolygonOptions,
    tile_um: float | None = 64.0,
    tissue: Path | None = None,
    crop: bool = True,
    overwrite: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> Segmented | Skipped[Segmented]:
    """Write a slide's map, its polygons and its tiles.

    These are ``<id>.probability.ome.zarr``, ``<id>.geojson.gz`` and ``<id>.tiles.geojson.gz``.

    Parameters
    ----------
    tile_um
        Side of the tiles in micrometres; None makes none.
    tissue
        Folder of ``<id>.tissue.zarr``.
    crop
        False for slides that were imported into QuPath with ``--no-crop``.

    Raises
    ------
    As :func:`~.predict.predict_slide`, and StaleProduct where polygons of another map are there.
    """
    mask = None if tissue is None else tissue / f"{item.id}{TISSUE_SUFFIX}"
    path, geojson = out / f"{item.id}{SUFFIX}", out / f"{item.id}.geojson.gz"
    mapped = predict_slide(
        segmenter,
        item.path,
        path,
        options=windows,
        slide_mpp=item.mpp,
        tissue=mask,
        on_progress=on_progress,
        overwrite=overwrite,
    )
    stored = open_map(path)
    _refuse_other(geojson, stored, overwrite=overwrite)
    drawn = export_polygons(stored, geojson, polygons, slide=item.id, crop=crop)
    tiles, warning = None, ""
    if tile_um is not None:
        place = out / f"{item.id}.tiles.geojson.gz"
        export = export_tiles(stored, place, slide=item.id, tile_um=tile_um, crop=crop)
        tiles, warning = export.objects, coarsened_note(export)
    if drawn.objects > MANY_OBJECTS:
        warning = "QuPath needs minutes and over 4 GB of heap to open so many objects"
    made = Segmented(path, geojson, drawn.objects, tiles, warning)
    return Skipped(made) if isinstance(mapped, Skipped) else made


def segment_with(
    item: SlideItem, model: Path, out: Path, **how: Any
) -> Segmented | Skipped[Segmented]:
    """:func:`segment_slide` with a segmenter that each process loads once, from its folder."""
    return segment_slide(item, _loaded(model, require_commit(model, KIND).key), out, **how)


@lru_cache(maxsize=1)
def _loaded(model: Path, key: str) -> Segmenter:
    return load_segmenter(model)


def _refuse_other(geojson: Path, stored: StoredMap, *, overwrite: bool) -> None:
    """Polygons of this map are made again, with whatever threshold; others stay."""
    if overwrite or not geojson.exists():
        return
    if read_metadata(geojson).get("map") != stored.commit.key:
        raise StaleProduct(
            "polygons that are not of this map are in the way",
            where=geojson,
            remedy="Choose another --out, or pass --overwrite to replace them",
        )


def maps_in(places: list[Path]) -> list[Path]:
    """Maps that were named, and those in folders that were.

    Raises
    ------
    MissingFile
        There are none.
    """
    found: list[Path] = []
    for place in places:
        inside = [place] if place.name.endswith(SUFFIX) else sorted(place.glob(f"*{SUFFIX}"))
        if not inside:
            raise MissingFile(
                "no probability map here", where=place, remedy="Run microtome camel predict first"
            )
        found += inside
    return found


def map_id(path: Path) -> str:
    """The slide that a map is of."""
    return path.name.removesuffix(SUFFIX)


def compare_map(
    path: Path,
    truth: Path,
    options: EvaluateOptions,
    *,
    classes: Mapping[str, str] | None = None,
    crop: bool = True,
) -> Agreement:
    """Compare a map with the truth of its slide.

    Parameters
    ----------
    truth
        A GeoJSON or a mask (PNG, TIFF) of the whole slide; or a folder with one of the slide's id.
    classes
        See :func:`~.bridge.read_regions`.
    crop
        False for slides that were imported into QuPath with ``--no-crop``.

    Raises
    ------
    MissingFile, UnreadableFile, BadGeometry, LabelError
        What is wrong with the map or the truth.
    """
    stored = open_map(path)
    known = _truth(truth, map_id(path), stored.frame, classes, crop)
    return evaluate_map(map_id(path), stored, known, options)


def _truth(
    place: Path, id_: str, frame: MapFrame, classes: Mapping[str, str] | None, crop: bool
) -> Truth:
    pictures = [place] if place.is_file() else [place / f"{id_}{end}" for end in _PICTURES]
    for picture in pictures:
        if picture.suffix.lower() in _PICTURES and picture.is_file():
            return read_painted(picture, frame)
    shown = shown_frame(frame, crop=crop)
    regions = read_regions(annotations_of(place, id_), shown, classes=classes)
    return DrawnTruth(regions.positive)


def write_figures(
    path: Path, slides: Sequence[Agreement], together: Agreement, options: EvaluateOptions
) -> None:
    """Write figures as JSON; what is no number, for want of anything to divide by, is null."""

    def number(value: float) -> float | None:
        return round(value, 6) if math.isfinite(value) else None

    def figures(of: Agreement) -> dict[str, dict[str, float | None]]:
        return {
            name: {"value": number(f.value), "low": number(f.low), "high": number(f.high), "n": f.n}
            for name, f in of.figures.items()
        }

    document = {
        "options": asdict(options),
        "slides": {agreement.id: figures(agreement) for agreement in slides},
        "all slides": figures(together),
    }
    with writable(path):
        write_text(path, json.dumps(document, indent=1, allow_nan=False) + "\n")
