"""Classical bags, used in place: accuracy as published, with columns that hold no labels.

Published: MI-Net (Wang et al. 2018), 10-fold cross-validation five times, as quoted by Waqas et
al., Neural Comput. & Applic. (2024), table 2. The interval allowed is a binomial one at the
published accuracy, for the number of bags.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.io import loadmat
from sklearn.metrics import roc_auc_score

from microtome.tasks.evaluation import grouped_folds
from microtome.tasks.mil.crossval import cross_validate
from microtome.tasks.mil.train import TrainOptions

PUBLISHED = {"musk1": 0.887, "musk2": 0.859, "fox": 0.622, "tiger": 0.830, "elephant": 0.862}
COLUMNS = {"musk1": 166, "musk2": 166, "fox": 230, "tiger": 230, "elephant": 230}

Bags = tuple[list[np.ndarray], np.ndarray]


def classical(folder: Path, name: str) -> Bags:
    """Bags [n_i, d] and labels [b]; refuses the circulating copies with a column of labels."""
    features = loadmat(folder / name / "X.mat")["X"]
    bag = loadmat(folder / name / "Bag2.mat")["Bag2"].ravel()
    labels = loadmat(folder / name / "BagI.mat")["bagI"].ravel().astype(np.int64)
    assert features.shape[1] == COLUMNS[name], "an extra column holds the labels of the instances"
    return [features[bag == k + 1].astype(np.float32) for k in range(len(labels))], labels


@pytest.mark.parametrize("name", COLUMNS)
def test_no_column_is_a_label(shared_data: Path, name: str) -> None:
    bags, labels = classical(shared_data / "mil", name)
    instances = np.concatenate(bags)
    of_bag = np.repeat(labels, [len(bag) for bag in bags])
    single = [roc_auc_score(of_bag, column) for column in instances.T]
    assert max(*single, *(1 - value for value in single)) < 0.8


@pytest.mark.parametrize(
    "name", ["musk1", *(pytest.param(n, marks=pytest.mark.slow) for n in list(COLUMNS)[1:])]
)
def test_gated_attention_is_as_good_as_published(shared_data: Path, name: str) -> None:
    bags, labels = classical(shared_data / "mil", name)
    each = np.arange(len(labels))
    found = cross_validate(bags, labels, each, grouped_folds(labels, each, 5), TrainOptions())
    accuracy = np.mean(found.probabilities.argmax(1) == labels)
    p = PUBLISHED[name]
    assert abs(accuracy - p) <= 1.96 * np.sqrt(p * (1 - p) / len(labels))
