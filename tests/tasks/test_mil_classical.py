"""Classical bags, used in place: accuracy as published, with columns that hold no labels.

Published: MI-Net (Wang et al. 2018), 10-fold cross-validation five times, as quoted by Waqas et
al., Neural Comput. & Applic. (2024), table 2. The interval allowed is a binomial one at the
published accuracy, for the number of bags.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scipy.io import loadmat, savemat
from sklearn.metrics import roc_auc_score

from microtome.storage.errors import InputError, LeakError, MissingFile
from microtome.tasks.evaluation import grouped_folds
from microtome.tasks.mil.classical import COLUMNS, read_classical, refuse_instance_labels
from microtome.tasks.mil.crossval import cross_validate
from microtome.tasks.mil.names import MODELS
from microtome.tasks.mil.train import TrainOptions

PUBLISHED = {"musk1": 0.887, "musk2": 0.859, "fox": 0.622, "tiger": 0.830, "elephant": 0.862}


@pytest.fixture
def folds_at_once(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    return importlib.import_module("mil_folds")


@pytest.mark.parametrize("name", COLUMNS)
def test_no_column_is_a_label(shared_data: Path, name: str) -> None:
    bags, labels = read_classical(shared_data / "mil" / name)
    instances = np.concatenate(bags)
    of_bag = np.repeat(labels, [len(bag) for bag in bags])
    single = [roc_auc_score(of_bag, column) for column in instances.T]
    assert max(*single, *(1 - value for value in single)) < 0.8


def with_a_column(folder: Path, out: Path, column: np.ndarray, *, instead: bool) -> Path:
    """A copy of a set with one more column, or with one put in place of the first."""
    target = out / folder.name
    target.mkdir()
    for name in ("Bag2", "BagI"):
        (target / f"{name}.mat").write_bytes((folder / f"{name}.mat").read_bytes())
    features = loadmat(folder / "X.mat")["X"]
    rest = features[:, 1:] if instead else features
    savemat(target / "X.mat", {"X": np.column_stack([column, rest])})
    return target


@pytest.mark.parametrize("name", ["fox", "tiger", "elephant"])
def test_the_column_of_instance_labels_is_refused_by_name(
    shared_data: Path, tmp_path: Path, name: str
) -> None:
    """The circulating copies: 231 columns for 230."""
    folder = shared_data / "mil" / name
    bags, labels = read_classical(folder)
    said = np.repeat(labels, [len(bag) for bag in bags])
    copy = with_a_column(folder, tmp_path, said, instead=False)
    with pytest.raises(LeakError, match=f"231 columns where {name.upper()} has 230.*labels of the"):
        read_classical(copy)


def test_instance_labels_are_found_whatever_the_width(shared_data: Path, tmp_path: Path) -> None:
    """Also where only one instance of a positive bag is labelled, as MIL has it."""
    folder = shared_data / "mil" / "musk1"
    bags, labels = read_classical(folder)
    first = np.concatenate([[1, *[0] * (len(bag) - 1)] for bag in bags])
    said = np.repeat(labels, [len(bag) for bag in bags]) * first * 7 - 3
    copy = with_a_column(folder, tmp_path, said, instead=True)
    with pytest.raises(LeakError, match="column 1 holds the labels of the instances"):
        read_classical(copy)
    said[np.argmax(said)] = -3
    refuse_instance_labels(
        np.split(said[:, None].astype(np.float32), np.cumsum([len(b) for b in bags])[:-1]),
        labels,
        "one label wrong",
    )


def test_what_is_no_set_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no classical set"):
        read_classical(tmp_path)
    with pytest.raises(MissingFile):
        read_classical(tmp_path / "fox")


@pytest.mark.parametrize(
    "name", ["musk1", *(pytest.param(n, marks=pytest.mark.slow) for n in list(COLUMNS)[1:])]
)
def test_gated_attention_is_as_good_as_published(shared_data: Path, name: str) -> None:
    bags, labels = read_classical(shared_data / "mil" / name)
    each = np.arange(len(labels))
    found = cross_validate(bags, labels, each, grouped_folds(labels, each, 5), TrainOptions())
    accuracy = np.mean(found.probabilities.argmax(1) == labels)
    p = PUBLISHED[name]
    assert abs(accuracy - p) <= 1.96 * np.sqrt(p * (1 - p) / len(labels))


@pytest.mark.parametrize("name", [name for name in MODELS if name != "graph"])
def test_the_folds_of_the_benchmark_learn_nothing_from_what_they_test(
    folds_at_once: ModuleType, name: str
) -> None:
    """Labels and features of a fold's test bags may change: what it says of others may not."""
    rng = np.random.default_rng(0)
    bags = [rng.normal(size=(int(n), 5)).astype(np.float32) for n in rng.integers(1, 7, 16)]
    labels = np.arange(16) % 2
    folds = grouped_folds(labels, np.arange(16), 5)
    options = TrainOptions(model=name, batch_bags=5, width=8, n_gates=4)
    grid = {"rates": (3e-3, 3e-2), "passes": (1, 2)}

    def said(bags: list[np.ndarray], labels: np.ndarray) -> tuple[np.ndarray, list[object]]:
        return folds_at_once.out_of_fold(bags, labels, folds, options, **grid)

    plain, chosen = said(bags, labels)
    hidden = folds[0].test
    changed = labels.copy()
    changed[hidden] = 1 - labels[hidden]
    relabelled, again = said(bags, changed)
    # Not the same digits: the other folds choose other settings, and stand elsewhere in the stack.
    np.testing.assert_allclose(relabelled[hidden], plain[hidden], atol=1e-4)
    assert again[0] == chosen[0]
    assert np.abs(relabelled[folds[1].test] - plain[folds[1].test]).max() > 1e-3
    alone = list(bags)
    alone[hidden[0]] = 5 * bags[hidden[0]]
    moved, _ = said(alone, labels)
    np.testing.assert_allclose(moved[hidden[1:]], plain[hidden[1:]], atol=1e-4)


def test_settings_are_judged_by_what_a_network_did_not_see(folds_at_once: ModuleType) -> None:
    fold = np.repeat(np.arange(10), 3)
    block = fold // 2
    unseen = np.stack([(block == g) | (block == (g + 1) % 5) for g in range(5)])
    for k in range(10):
        fair = folds_at_once.judges(unseen, fold == k)
        assert not fair[:, fold == k].any()
        judged = np.flatnonzero(fair.any(1))
        assert len(judged) == 2
        assert unseen[judged][:, fold == k].all()
        assert not (fair & ~unseen).any()
        assert set(block[fair.any(0)]) == {(k // 2 + d) % 5 for d in (-1, 0, 1)}
