"""What there is to look at: slides, and the products that lie over them, found by their content."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from ..engine.slides import open_slide
from ..engine.slides.base import Slide, SlideInfo
from ..engine.tissue import KIND as TISSUE
from ..engine.tissue import SUFFIX as TISSUE_SUFFIX
from ..storage import maps, predictions, stored_slides, virtual
from ..storage.commit import read_commit
from ..storage.errors import BadProduct, InputError, MissingFile
from ..storage.qupath import Frame
from ..tasks import product_layers as overlays
from ..tasks.layers import Layer, SlideLayer
from ..tasks.slide_list import slide_id
from ..tasks.zoom import DeepZoom

SLIDE_SUFFIXES = (
    ".svs", ".tif", ".tiff", ".ndpi", ".vms", ".mrxs", ".scn", ".bif", ".svslide", ".qptiff",
)  # fmt: skip
"""Of files that are looked at in a folder; a file that is named itself may have any."""

CLUSTERS = (".clusters.geojson.gz", ".clusters.geojson")

OVERLAY = ".overlay"
"""In the names of images that are themselves results."""

Make = Callable[[SlideInfo], Layer]


@dataclass(frozen=True)
class Shown:
    """A slide, not yet opened, and what lies over it.

    Attributes
    ----------
    id
        Of the slide.
    path
        The slide.
    overlays
        Makes a layer each, once the slide is known.
    probability, target, label
        As it was predicted; None and empty where it was not.
    """

    id: str
    path: Path
    overlays: tuple[Make, ...] = ()
    probability: float | None = None
    target: str = ""
    label: str = ""


@dataclass(frozen=True)
class Opened:
    """A slide that is being looked at.

    Attributes
    ----------
    layers
        The slide first.
    notes
        Which overlays could not be shown, and why.
    """

    shown: Shown
    info: SlideInfo
    zoom: DeepZoom
    layers: tuple[Layer, ...]
    notes: tuple[str, ...] = ()

    def close(self) -> None:
        """Release the slide's file."""
        for layer in self.layers:
            if isinstance(layer, SlideLayer):
                layer.slide.close()


@dataclass(frozen=True)
class Library:
    """All that is to be looked at, the most suspicious first; and what was found and is not."""

    shown: tuple[Shown, ...]
    notes: tuple[str, ...] = ()


@dataclass
class _Found:
    slides: dict[str, Path] = field(default_factory=dict)
    overlays: dict[str, list[Make]] = field(default_factory=dict)
    predicted: dict[str, predictions.SlidePrediction] = field(default_factory=dict)

    def add_slide(self, path: Path) -> None:
        # An OME-Zarr of ours is read where it is looked at, whatever its source was.
        id_ = slide_id(path)
        if id_ not in self.slides or path.name.endswith(stored_slides.SUFFIX):
            self.slides[id_] = path

    def add_overlay(self, id_: str, make: Make) -> None:
        self.overlays.setdefault(id_, []).append(make)


def open_library(places: Sequence[Path]) -> Library:
    """Find slides and products in files and folders, folders within folders included.

    Raises
    ------
    MissingFile
        A place is not there, or nothing in it is a slide.
    """
    found = _Found()
    for place in places:
        if not place.exists():
            raise MissingFile("no such file or folder", where=place, remedy="Check the path")
        _look_at(place, found, named=True)
    for id_, prediction in found.predicted.items():
        if id_ not in found.slides and prediction.source and Path(prediction.source).exists():
            found.slides[id_] = Path(prediction.source)
    if not found.slides:
        raise MissingFile(
            "no slide here to look at",
            where=", ".join(map(str, places)),
            remedy="Name slides, OME-Zarr folders of microtome ingest, or folders of them",
        )
    lost = sorted({*found.overlays, *found.predicted} - set(found.slides))
    notes = [f"no slide for what was found of {id_}; name its folder too" for id_ in lost]
    shown = [_shown(id_, path, found) for id_, path in found.slides.items()]
    return Library(tuple(_by_suspicion(shown)), tuple(notes))


def _by_suspicion(shown: list[Shown]) -> list[Shown]:
    def key(one: Shown) -> tuple[bool, float, str]:
        return one.probability is None, -(one.probability or 0.0), one.id

    return sorted(shown, key=key)


def _shown(id_: str, path: Path, found: _Found) -> Shown:
    made = Shown(id_, path, tuple(found.overlays.get(id_, ())))
    prediction = found.predicted.get(id_)
    if prediction is None:
        return made
    return replace(
        made,
        overlays=(partial(overlays.of_prediction, prediction), *made.overlays),
        probability=prediction.probability,
        target=prediction.target,
        label=prediction.label or "",
    )


def _look_at(place: Path, found: _Found, *, named: bool) -> None:
    if place.is_file():
        _look_at_file(place, found, named=named)
        return
    try:
        record = read_commit(place)
    except BadProduct:
        return
    kind = None if record is None else record.kind
    match kind:
        case stored_slides.KIND | virtual.KIND if named or OVERLAY not in place.name:
            found.add_slide(place)
            if (place / "labels" / "tissue").is_dir():
                found.add_overlay(slide_id(place), partial(overlays.of_tissue, place))
        case predictions.KIND:
            found.predicted |= {p.id: p for p in predictions.read_predictions(place)}
        case maps.KIND:
            id_ = place.name.removesuffix(maps.SUFFIX)
            found.add_overlay(id_, partial(overlays.of_map, place))
        case _ if kind == TISSUE:
            id_ = place.name.removesuffix(TISSUE_SUFFIX)
            found.add_overlay(id_, partial(overlays.of_tissue, place))
        case None if any((place / mark).is_file() for mark in ("zarr.json", ".zattrs")):
            if named:
                found.add_slide(place)
        case None:
            for inside in _inside(place):
                _look_at(inside, found, named=False)


def _look_at_file(place: Path, found: _Found, *, named: bool) -> None:
    for suffix in CLUSTERS:
        if place.name.endswith(suffix):
            id_ = place.name.removesuffix(suffix)
            found.add_overlay(id_, partial(overlays.of_clusters, place))
            return
    if named or (place.suffix.lower() in SLIDE_SUFFIXES and OVERLAY not in place.name):
        found.add_slide(place)


def _inside(folder: Path) -> Iterator[Path]:
    for inside in sorted(folder.iterdir()):
        # A linked folder may lead round in a circle.
        if not inside.name.startswith(".") and (inside.is_file() or not inside.is_symlink()):
            yield inside


def open_shown(shown: Shown, *, crop: bool = True) -> Opened:
    """Open a slide and lay its overlays over it; one that does not fit is named in the notes.

    Raises
    ------
    InputError
        The slide cannot be opened.
    """
    slide: Slide = open_slide(shown.path)
    info = slide.info
    bounds = info.bounds
    box = None if bounds is None else (bounds.y_px, bounds.x_px, bounds.height_px, bounds.width_px)
    frame = Frame((info.height_px, info.width_px), box, crop)
    layers: list[Layer] = [SlideLayer(slide)]
    notes = []
    for make in shown.overlays:
        try:
            layers.append(make(info))
        except InputError as error:
            notes.append(str(error))
    return Opened(shown, info, DeepZoom(frame.box_px), tuple(layers), tuple(notes))
