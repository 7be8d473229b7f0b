"""What models say of the slides that their own fold trains on, without having learnt from them."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ...storage.errors import BadProduct

TABLE = "inner.csv"
InnerKind = Literal["validation", "inner folds"]
"""Who says it: each member of the fold's predictor of the slides that told it when to stop, or
whole predictors, fitted on the other inner folds, of slides that played no part in theirs."""


@dataclass(frozen=True)
class Inner:
    """What is said within one fold: what calibration and thresholds of the fold are made from.

    Attributes
    ----------
    rows
        int [m]: slides that the fold trains on, by their number in the cohort.
    outputs
        float [m, c]: probabilities, or what else is said of them.
    """

    rows: NDArray[np.int64]
    outputs: NDArray[np.float64]


def inner_table(inner: Sequence[Inner], ids: Sequence[str], classes: Sequence[str]) -> str:
    """As CSV: ``fold,id`` and a column for each class."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["fold", "id", *classes])
    for fold, part in enumerate(inner):
        for row, outputs in zip(part.rows.tolist(), part.outputs.tolist(), strict=True):
            table.writerow([fold, ids[row], *(f"{value:.9g}" for value in outputs)])
    return text.getvalue()


def read_inner(path: Path, ids: Sequence[str], n_classes: int) -> Mapping[int, Inner]:
    """Read the table beside predictions, by fold; nothing where there is none.

    Raises
    ------
    BadProduct
        The table is damaged, or speaks of other slides.
    """
    if not (path / TABLE).is_file():
        return {}
    row_of = {name: row for row, name in enumerate(ids)}
    found: dict[int, list[tuple[int, list[float]]]] = {}
    try:
        with (path / TABLE).open(newline="", encoding="utf-8") as file:
            for fold, name, *values in list(csv.reader(file))[1:]:
                outputs = [float(value) for value in values]
                if len(outputs) != n_classes:
                    raise ValueError(f"{len(outputs)} classes")
                found.setdefault(int(fold), []).append((row_of[name], outputs))
    except (OSError, ValueError, KeyError) as error:
        raise BadProduct(
            f"{TABLE} is damaged ({error})", where=path, remedy="Train again"
        ) from error
    return {
        fold: Inner(np.array([row for row, _ in part]), np.array([said for _, said in part]))
        for fold, part in found.items()
    }
