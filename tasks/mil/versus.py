"""Two studies of one cohort: which model is better, and is that more than chance?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...storage.commit import require_commit
from ...storage.errors import BadProduct, CohortError
from ...storage.predictions import KIND, SlidePrediction, read_predictions
from ..evaluation import Estimate
from ..paired import delong, paired_difference
from .figures import HEADLINE, measured, statistics
from .inner import Inner, InnerKind, read_inner
from .names import KINDS
from .targets import Target
from .usable import Binary


@dataclass(frozen=True)
class Said:
    """Predictions of a cohort, by id: truth, outputs [n, c], patients [n] and folds [n].

    Attributes
    ----------
    splits
        SHA-256 of the folds.
    inner
        By fold, what was said of the slides that it trains on; empty where that is not kept.
    inner_kind
        Who said it.
    """

    ids: tuple[str, ...]
    target: Target
    outputs: NDArray[np.float64]
    patients: NDArray[np.str_]
    fold: NDArray[np.int64]
    splits: str
    inner: Mapping[int, Inner] = field(default_factory=dict)
    inner_kind: InnerKind = "validation"

    @property
    def binary(self) -> Binary:
        """What a model of two classes is judged by.

        Raises
        ------
        LabelError, BadProduct
            There are not two classes; or what was said within the folds is not kept.
        """
        second = self.outputs[:, -1]
        return Binary(self.target, second, self.fold, self.patients, self.inner)


@dataclass(frozen=True)
class Versus:
    """Two models under the same folds.

    Attributes
    ----------
    metric
        The headline figure that is compared.
    first, second, difference
        Each with its interval over patients; the difference is first minus second.
    p
        Of no difference, by paired bootstrap over patients.
    delong_p
        By DeLong's test; None where it does not apply: not two classes, or patients with several
        slides.
    """

    metric: str
    first: Estimate
    second: Estimate
    difference: Estimate
    p: float
    delong_p: float | None
    splits: str


def read_said(path: Path) -> Said:
    """Read out-of-fold predictions with their truth.

    Raises
    ------
    MissingFile, BadProduct
        As :func:`~microtome.storage.predictions.read_predictions`; or slides without truth or
        fold, or of labels, of which the table does not keep which were unknown.
    """
    found = read_predictions(path)
    if not found or any(p.label is None or p.fold is None for p in found):
        raise BadProduct(
            "these are no out-of-fold predictions with known truth",
            where=path,
            remedy="Take OUT/predictions of microtome mil train",
        )
    ids, about = tuple(p.id for p in found), require_commit(path, KIND).about
    return Said(
        ids=ids,
        target=_truth(found, path),
        outputs=np.stack([p.probabilities for p in found]).astype(np.float64),
        patients=np.array([p.patient or p.id for p in found]),
        fold=np.array([p.fold for p in found]),
        splits=str(about.get("splits", "")),
        inner=read_inner(path, ids, len(found[0].classes)),
        inner_kind=about.get("inner", "validation"),
    )


def _truth(found: Sequence[SlidePrediction], path: Path) -> Target:
    names, words = found[0].classes, [str(p.label) for p in found]
    kind = next((known for known in KINDS if known == found[0].kind), None)
    if kind is None or kind == "labels":
        raise BadProduct(f"predictions of {found[0].kind} cannot be compared yet", where=path)
    truth: Any
    if kind == "classes":
        truth = np.array([names.index(word) for word in words])
    elif kind == "regression":
        truth = np.array([float(word) for word in words])
    else:
        truth = np.array([[float(word.rstrip("+")), not word.endswith("+")] for word in words])
    return Target(kind, names, truth)


def compare_said(first: Said, second: Said) -> Versus:
    """Compare two models on the same slides.

    Raises
    ------
    CohortError
        Slides, truth or folds differ: what is compared would be something else than the models.
    """
    differs = {
        "slides": first.ids != second.ids,
        "classes": first.target.names != second.target.names,
        "labels": not np.array_equal(first.target.truth, second.target.truth),
        "folds": first.splits != second.splits or not np.array_equal(first.fold, second.fold),
    }
    for what, does in differs.items():
        if does:
            raise CohortError(
                f"the two have different {what}",
                remedy="Train both on one table, the second with --splits of the first",
            )
    target, patients, fold = first.target, first.patients, first.fold
    metric = HEADLINE[target.kind]
    ours, theirs = (statistics(target, said.outputs, fold)[metric] for said in (first, second))
    own = [
        measured(target, said.outputs, patients, fold, brief=True)[metric]
        for said in (first, second)
    ]
    difference, p = paired_difference(ours, theirs, patients)
    apart = len(np.unique(patients)) == len(patients)
    binary = target.kind == "classes" and len(target.names) == 2
    by_delong = None
    if binary and apart:
        by_delong = delong(target.truth, first.outputs[:, 1], second.outputs[:, 1]).p()
    return Versus(metric, own[0], own[1], difference, p, by_delong, first.splits)
