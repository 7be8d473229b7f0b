"""Controls: what can be had without looking at the tissue, under the same folds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..evaluation import Fold
from .train import Features

COLOUR_PREFIX = "mean_"
"""Encoders give the mean colour of a tile in features that begin so."""


def bag_sizes(bags: Sequence[Features]) -> NDArray[np.float64]:
    """How much tissue there is: the logarithm of the number of instances, float [b, 1]."""
    return np.log([[len(bag)] for bag in bags])


def mean_colours(
    bags: Sequence[Features], feature_names: Sequence[str]
) -> NDArray[np.float64] | None:
    """The mean colour of the tissue, float [b, k]; None where no feature states a colour."""
    columns = [i for i, name in enumerate(feature_names) if name.startswith(COLOUR_PREFIX)]
    if not columns:
        return None
    return np.stack([bag[:, columns].mean(axis=0, dtype=np.float64) for bag in bags])


def predict_from(
    values: NDArray[np.float64], labels: NDArray[np.int64], folds: Sequence[Fold]
) -> NDArray[np.float64]:
    """Out-of-fold probabilities [b, c] of a logistic regression on a few values a bag [b, k].

    Values are standardised on the training part, classes weighted to count the same.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    probabilities = np.empty((len(labels), len(np.unique(labels))))
    for fold in folds:
        model = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced"))
        model.fit(values[fold.train], labels[fold.train])
        probabilities[fold.test] = model.predict_proba(values[fold.test])
    return probabilities
