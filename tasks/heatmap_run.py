"""Heatmaps of many slides: which, from what, one at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..storage.bags import SUFFIX, find_bags, read_bag
from ..storage.commit import require_commit
from ..storage.errors import CohortError, MissingFile
from ..storage.predictions import KIND, SlidePrediction, read_predictions
from .heatmap import HeatmapProducts, draw_heatmap


@dataclass(frozen=True)
class HeatmapItem:
    """A slide to draw; small enough to travel.

    Attributes
    ----------
    bag
        Its quality columns go to QuPath too.
    """

    id: str
    prediction: SlidePrediction
    bag: Path | None = None


def heatmap_items(source: Path, bags: Sequence[Path]) -> list[HeatmapItem]:
    """What to draw.

    Parameters
    ----------
    source
        Predictions, of which ``bags`` choose some.
    bags
        Bags, and folders of bags.

    Raises
    ------
    MissingFile
        ``source`` or a bag is not there, or a folder has no bag.
    CohortError
        Two bags of one id, or bags that were not predicted.
    """
    chosen = _bags_by_id(bags)
    require_commit(source, KIND)
    predictions = {p.id: p for p in read_predictions(source)}
    lost = [id_ for id_ in chosen if id_ not in predictions]
    if lost:
        raise CohortError(
            f"not predicted: {', '.join(lost[:5])}",
            where=source,
            remedy="Predict them first",
        )
    return [HeatmapItem(id_, predictions[id_], chosen.get(id_)) for id_ in chosen or predictions]


def _bags_by_id(paths: Sequence[Path]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for id_, path in (pair for place in paths for pair in _bags_at(place)):
        if id_ in found:
            raise CohortError(f"two bags of {id_!r}", where=f"{found[id_]}, {path}")
        found[id_] = path
    return found


def _bags_at(path: Path) -> Iterator[tuple[str, Path]]:
    if path.name.endswith(SUFFIX):
        yield path.name.removesuffix(SUFFIX), path
        return
    inside = find_bags(path)
    if not inside:
        raise MissingFile(
            "no bag, nor a folder of bags", where=path, remedy="Make one with microtome encode"
        )
    yield from inside.items()


def draw_item(
    item: HeatmapItem, out: Path, **options: Any
) -> tuple[SlidePrediction, HeatmapProducts]:
    """Draw one slide; options as :func:`draw_heatmap`."""
    bag = None if item.bag is None else read_bag(item.bag)
    same = bag is not None and np.array_equal(bag.coords_px, item.prediction.coords_px)
    quality = bag.quality if bag is not None and same else None
    return item.prediction, draw_heatmap(item.prediction, out, quality=quality, **options)
