"""Predictions: what a model says of each slide, and of every tile of it."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arrays import get_array, put_array
from .commit import new_product, require_commit, write_text
from .errors import BadProduct, MissingFile

KIND = "predictions"
TABLE = "predictions.csv"
SCORES = "scores.zarr"


@dataclass(frozen=True)
class SlidePrediction:
    """One slide as a model sees it.

    Attributes
    ----------
    id
        Identity of the slide in its cohort.
    probability
        Probability of ``target``; of a ``kind`` that has none, the value or the log hazard.
    classes
        Names of the c classes, in the order of ``probabilities``; of labels, or of the value.
    probabilities
        float32 [c]; those of classes sum to 1.
    target
        The class that ``probability`` and ``score`` speak of: the second of two classes, the
        predicted one where there are more, the most probable label.
    label
        The true class where it is known; labels joined by ``;``, the value, or the time, with a
        ``+`` where there was no event.
    fold
        Number of the fold whose model, which never saw this slide's patient, made the prediction;
        None for a slide that was in no fold.
    coords_px
        int64 [n, 2]: (y, x) of each tile's top left corner, in level-0 pixels of the whole image.
    footprint_px
        (y, x) extent of a tile in level-0 pixels.
    slide_px
        (height, width) of level 0.
    bounds_px
        (y, x, height, width) of the scanned area where the slide states one, else None.
    slide_mpp
        (y, x) micrometres per level-0 pixel.
    score
        float32 [n], 0 … 1: each tile's own evidence for ``target``, comparable over slides. With
        two classes 0.5 says nothing and 0 speaks for the other. No calibrated probability.
    attention
        float32 [n]: the weight of each tile in the slide's representation; sums to 1. Says where
        the model looked, not what it saw there.
    source
        Path of the slide as it was given.
    encoder
        ``name@version`` of the encoder whose features were used.
    model
        Key of the model.
    patient
        The patient where one is known.
    kind
        What is predicted: ``classes`` that exclude each other, ``labels`` that do not, the value
        of a ``regression``, or ``survival``, a log hazard relative to the training slides' mean.
    interval
        (low, high): lowest and highest ``probability`` among the model's members, which were
        trained alike but for chance; None of a single member. No confidence interval.
    """

    id: str
    probability: float
    classes: tuple[str, ...]
    probabilities: NDArray[np.float32]
    target: str
    label: str | None
    fold: int | None
    coords_px: NDArray[np.int64]
    footprint_px: tuple[float, float]
    slide_px: tuple[int, int]
    bounds_px: tuple[int, int, int, int] | None
    slide_mpp: tuple[float, float]
    score: NDArray[np.float32]
    attention: NDArray[np.float32]
    source: str
    encoder: str
    model: str
    patient: str | None = None
    kind: str = "classes"
    interval: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        n = len(self.coords_px)
        shapes_fit = (
            self.coords_px.shape == (n, 2)
            and self.score.shape == self.attention.shape == (n,)
            and self.probabilities.shape == (len(self.classes),)
            and self.target in self.classes
        )
        if not shapes_fit:
            raise ValueError(f"prediction {self.id}: tiles, scores and classes do not fit together")

    def __len__(self) -> int:
        return len(self.coords_px)

    @property
    def predicted(self) -> str:
        """The most probable class, the labels above one half, or the number, in words."""
        if self.kind == "labels":
            said = zip(self.classes, self.probabilities, strict=True)
            return ";".join(name for name, p in said if p > 0.5)
        if self.kind != "classes":
            return f"{self.probability:.4g}"
        return self.classes[int(np.argmax(self.probabilities))]


_ARRAYS = ("probabilities", "coords_px", "score", "attention")
_SCALARS = tuple(field.name for field in fields(SlidePrediction) if field.name not in _ARRAYS)
_TUPLES = ("classes", "footprint_px", "slide_px", "bounds_px", "slide_mpp", "interval")


def write_predictions(
    path: Path,
    predictions: Sequence[SlidePrediction],
    *,
    key: str,
    about: Mapping[str, Any],
    tables: Mapping[str, str] = MappingProxyType({}),
    overwrite: bool = False,
) -> None:
    """Keep predictions as a folder: ``predictions.csv`` to read, ``scores.zarr`` with the tiles.

    ``scores.zarr`` is a Zarr v3 group with one group a slide, named by its id.

    Parameters
    ----------
    tables
        What else is kept beside them, as text, by file name.

    Raises
    ------
    StaleProduct
        Predictions made with another key are there and ``overwrite`` is false.
    """
    import zarr

    about = {**about, "slides": len(predictions)}
    with new_product(path, kind=KIND, key=key, about=about, overwrite=overwrite) as folder:
        for name, text in {TABLE: _table(predictions), **tables}.items():
            write_text(folder / name, text)
        root = zarr.open_group(folder / SCORES, mode="w", zarr_format=3)
        for prediction in predictions:
            facts = {name: getattr(prediction, name) for name in _SCALARS}
            group = root.create_group(prediction.id, attributes={"microtome": facts})
            for name in _ARRAYS:
                data = np.asarray(getattr(prediction, name))
                put_array(group, name, data, tuple(max(1, n) for n in data.shape))


def _table(predictions: Sequence[SlidePrediction]) -> str:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    classes = predictions[0].classes if predictions else ()
    kind = predictions[0].kind if predictions else "classes"
    what = {"regression": "value", "survival": "log_hazard"}.get(kind, "probability")
    head = ["id", "patient", "fold", "label", "predicted", "target", what]
    table.writerow(head + [f"{what}_{name}" for name in classes] + ["tiles", "source"])
    for p in predictions:
        row = [p.id, p.patient, p.fold, p.label, p.predicted, p.target, f"{p.probability:.6g}"]
        table.writerow(row + [f"{value:.6g}" for value in p.probabilities] + [len(p), p.source])
    return text.getvalue()


def read_predictions(path: str | Path) -> list[SlidePrediction]:
    """Read predictions that :func:`write_predictions` kept, in order of id.

    Raises
    ------
    MissingFile, BadProduct
        Nothing is there; or it is unfinished, damaged or not predictions.
    """
    import zarr

    path = Path(path)
    require_commit(path, KIND)
    try:
        root: Any = zarr.open_group(path / SCORES, mode="r")
        return [_read(root[name]) for name in sorted(root.group_keys())]
    except (KeyError, TypeError, ValueError, RuntimeError, OSError) as error:
        raise _damaged(path, error) from error


def read_prediction(path: Path, id_: str) -> SlidePrediction:
    """Read what predictions say of one slide; raises as :func:`read_predictions`.

    MissingFile also where they say nothing of it.
    """
    import zarr

    require_commit(path, KIND)
    try:
        root: Any = zarr.open_group(path / SCORES, mode="r")
        if id_ not in root:
            raise MissingFile(f"{id_} was not predicted", where=path, remedy="Predict it too")
        return _read(root[id_])
    except (KeyError, TypeError, ValueError, RuntimeError, OSError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> BadProduct:
    return BadProduct(f"the predictions are damaged ({error})", where=path, remedy="Predict again")


def _read(group: Any) -> SlidePrediction:
    kept = {"kind": "classes", "interval": None} | group.attrs["microtome"]
    facts: dict[str, Any] = {name: kept[name] for name in _SCALARS}
    for name in _TUPLES:
        facts[name] = None if facts[name] is None else tuple(facts[name])
    arrays: dict[str, Any] = {name: get_array(group, name) for name in _ARRAYS}
    return SlidePrediction(**facts, **arrays)
