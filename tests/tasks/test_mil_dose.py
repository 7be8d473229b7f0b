"""The bags of the dose benchmark hold what it says, and its ceiling is one."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from microtome.tasks.evaluation import auc, grouped_folds


@pytest.fixture
def dose_curve(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    return importlib.import_module("mil_dose")


def slides(module: ModuleType, apart: float) -> list[object]:
    rng = np.random.default_rng(0)
    return [
        module.Pool(
            rng.normal(size=(60, 3)).astype(np.float32),
            (rng.normal(size=(20, 3)) + np.array([apart, 0, 0])).astype(np.float32),
        )
        for _ in range(12)
    ]


@pytest.mark.parametrize(("dose", "tiles"), [(0.0, 0), (0.001, 1), (0.2, 200)])
def test_a_bag_holds_as_many_tumour_tiles_as_said(
    dose_curve: ModuleType, dose: float, tiles: int
) -> None:
    pools = slides(dose_curve, apart=0)
    bags = dose_curve.draw(pools, dose, turn=0)
    assert [len(bag) for bag in bags] == [1000] * 24
    for i, pool in enumerate(pools):
        sick = {row.tobytes() for row in pool.tumour}
        held = [sum(row.tobytes() in sick for row in bag) for bag in bags[2 * i : 2 * i + 2]]
        assert held == [0, tiles]


@pytest.mark.parametrize(("apart", "low", "high"), [(0, 0.2, 0.8), (3, 0.95, 1.0)])
def test_the_ceiling_knows_what_can_be_known(
    dose_curve: ModuleType, apart: float, low: float, high: float
) -> None:
    pools = slides(dose_curve, apart)
    bags = dose_curve.draw(pools, 0.03, turn=1)
    labels, patients = np.arange(24) % 2, np.arange(24) // 2
    folds = grouped_folds(labels, patients, 3)
    assert low <= auc(labels, dose_curve.ceiling(pools, bags, folds, 0.03)) <= high
    assert auc(labels, dose_curve.ceiling(pools, bags, folds, 0.0)) == 0.5
