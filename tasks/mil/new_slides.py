"""A kept model and slides it has never seen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...storage.bags import KIND as BAG
from ...storage.bags import read_bag
from ...storage.commit import is_done, product_key, require_commit
from ...storage.predictions import KIND, SlidePrediction, write_predictions
from .store import MilModel


def predict_file(
    path: Path, model: MilModel, *, device: str = "cpu", calibrated: bool = False
) -> SlidePrediction:
    """Read a bag and predict its slide; raises as the two do."""
    return model.predict(read_bag(path), device=device, calibrated=calibrated)


def write_new_predictions(
    out: Path,
    model: MilModel,
    bags: Sequence[Path],
    predictions: Sequence[SlidePrediction],
    *,
    calibrated: bool = False,
    overwrite: bool = False,
) -> None:
    """Keep predictions of the bags at ``bags``, which give the product its key.

    Raises
    ------
    StaleProduct
        Predictions of other bags or of another model are there and ``overwrite`` is false.
    """
    key = _key(model, bags, calibrated=calibrated)
    about: dict[str, Any] = {
        "what": "new slides",
        "model": model.key,
        "classes": model.card.classes,
    }
    if calibrated:
        about["temperature"] = model.require_temperature()
    write_predictions(out, predictions, key=key, about=about, overwrite=overwrite)


def are_predicted(
    out: Path,
    model: MilModel,
    bags: Sequence[Path],
    *,
    calibrated: bool = False,
    overwrite: bool = False,
) -> bool:
    """Whether ``out`` has what a model says of these bags; raises as the writing of it would."""
    key = _key(model, bags, calibrated=calibrated)
    return is_done(out, kind=KIND, key=key, overwrite=overwrite)


def _key(model: MilModel, bags: Sequence[Path], *, calibrated: bool = False) -> str:
    return product_key(
        kind="mil-predictions",
        model=model.key,
        bags=sorted(require_commit(path, BAG).key for path in bags),
        **({"calibrated": True} if calibrated else {}),
    )
