"""Heatmaps of many slides: which, from what, one at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..engine.schedule import Skipped
from ..storage.bag_records import bags_in
from ..storage.bags import KIND as BAG
from ..storage.bags import SUFFIX, Bag, read_bag
from ..storage.commit import begin, product_key, read_commit, require_commit
from ..storage.errors import CohortError, InputError, MissingFile
from ..storage.predictions import KIND, SlidePrediction, read_predictions
from ..storage.qupath_check import read_metadata
from .evaluation import some
from .heatmap import HeatmapProducts, draw_heatmap


@dataclass(frozen=True)
class HeatmapItem:
    """A slide to draw, from a prediction or from a bag and a model; small enough to travel.

    Attributes
    ----------
    bag
        Its quality columns go to QuPath too.
    """

    id: str
    prediction: SlidePrediction | None = None
    bag: Path | None = None
    model: Path | None = None


def heatmap_items(source: Path, bags: Sequence[Path]) -> list[HeatmapItem]:
    """What to draw.

    Parameters
    ----------
    source
        Predictions, of which ``bags`` choose some; or a model, which is applied to ``bags``.
    bags
        Bags, and folders of bags.

    Raises
    ------
    MissingFile
        ``source`` or a bag is not there, or a folder has no bag.
    CohortError
        Two bags of one id, bags that were not predicted, or a model without bags.
    BadProduct, BadModel
        ``source`` is neither, or damaged.
    """
    if not source.exists():
        raise MissingFile("no such model or predictions", where=source, remedy="Check the path")
    chosen = _by_id(bags)
    record = read_commit(source)
    if record is not None and record.kind == KIND:
        return _predicted(source, chosen)
    from .mil.store import load_model

    load_model(source)
    if not chosen:
        raise CohortError(
            "no bags to apply it to", where=source, remedy="Name bags after the model"
        )
    return [HeatmapItem(id_, bag=path, model=source) for id_, path in chosen.items()]


def _by_id(places: Sequence[Path]) -> dict[str, Path]:
    if not places:
        return {}

    return {path.name.removesuffix(SUFFIX): path for path in bags_in(places)}


def _predicted(source: Path, chosen: dict[str, Path]) -> list[HeatmapItem]:
    predictions = {p.id: p for p in read_predictions(source)}
    lost = [id_ for id_ in chosen if id_ not in predictions]
    if lost:
        raise CohortError(
            f"not predicted: {some(lost)}",
            where=source,
            remedy="Name the model in place of the predictions",
        )
    return [HeatmapItem(id_, predictions[id_], chosen.get(id_)) for id_ in chosen or predictions]


def draw_item(
    item: HeatmapItem, out: Path, **options: Any
) -> tuple[SlidePrediction, HeatmapProducts]:
    """Predict where that is still to be done, and draw; options as :func:`draw_heatmap`."""
    bag = None if item.bag is None else read_bag(item.bag)
    if bag is not None and bag.scan is not None:
        raise InputError(
            "the bag is that of a scan: it has no tiles on a slide",
            where=item.bag,
            remedy="Map it with microtome heatmap scan",
        )
    prediction = item.prediction or predict(item, bag)
    same = bag is not None and np.array_equal(bag.coords_px, prediction.coords_px)
    quality = bag.quality if bag is not None and same else None
    return prediction, draw_heatmap(prediction, out, quality=quality, **options)


def draw_once(
    item: HeatmapItem,
    out: Path,
    *,
    crop: bool = True,
    overlay: bool = True,
    store: bool = False,
    overwrite: bool = False,
) -> HeatmapProducts | Skipped[Path]:
    """As :func:`draw_item`; nothing is done where the same heatmap is there already.

    Its key lies in the GeoJSON's metadata. An item without a model, but with a prediction.
    """
    assert item.prediction is not None
    key = product_key(
        kind="heatmap",
        model=item.prediction.model,
        bag=None if item.bag is None else require_commit(item.bag, BAG).key,
        crop=crop,
        overlay=overlay,
        store=store,
    )
    geojson, picture = out / f"{item.id}.geojson.gz", out / f"{item.id}.heatmap.png"
    has_picture = picture.is_file() or not overlay
    if has_picture and geojson.is_file() and read_metadata(geojson).get("key") == key:
        return Skipped(geojson)
    begin(geojson)
    # The picture comes last: with it there, and the key in the GeoJSON, both are of one drawing.
    picture.unlink(missing_ok=True)
    _, made = draw_item(
        item,
        out,
        crop=crop,
        overlay=overlay,
        store=store,
        overwrite=overwrite,
        about={"key": key},
    )
    return made


def predict(item: HeatmapItem, bag: Bag | None) -> SlidePrediction:
    """Apply an item's model to its bag."""
    from .mil.store import load_model

    if bag is None or item.model is None:
        raise ValueError(f"{item.id}: neither a prediction, nor a bag and a model")
    return load_model(item.model).predict(bag)
