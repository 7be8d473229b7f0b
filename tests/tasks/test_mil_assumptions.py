"""Raff & Holt's tests: which models keep to MIL's assumptions is as the documentation says."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from microtome.tasks.mil.assumptions import PROBLEMS, check, draw_bags
from microtome.tasks.mil.names import MODELS


@cache
def script() -> ModuleType:
    path = Path(__file__).parents[2] / "scripts" / "mil_table.py"
    spec = importlib.util.spec_from_file_location("mil_table", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def recorded() -> dict[str, dict[str, str]]:
    return script().recorded(script().PAGE.read_text(encoding="utf-8"))


def is_shortcut(bag: np.ndarray) -> np.ndarray:
    return bag.mean(1) < -5


def concepts(bag: np.ndarray) -> list[np.ndarray]:
    return [np.abs(bag - mean).max(1) < 0.7 for mean in (2, 3)]


def unlike_background(bag: np.ndarray) -> float:
    """Of the background, a mean of 16 values above 0.7 and a deviation above 1.7 are rare."""
    rest = bag[~is_shortcut(bag)]
    return float(np.maximum(rest.mean(1) / 0.7, rest.std(1) / 1.7).max())


RULES: dict[str, tuple[Callable, Callable, float]] = {
    "standard": (unlike_background, lambda bag: -is_shortcut(bag).any().astype(int), 0.97),
    "threshold": (
        lambda bag: int(all(found.any() for found in concepts(bag))),
        lambda bag: -is_shortcut(bag).any().astype(int),
        1.0,
    ),
    "false frequency": (
        lambda bag: int(all(found.any() for found in concepts(bag))),
        lambda bag: int(sum(found.sum() for found in concepts(bag))),
        1.0,
    ),
}


@pytest.mark.parametrize("problem", PROBLEMS)
def test_the_rule_holds_in_both_and_the_shortcut_turns(problem: str) -> None:
    rule, shortcut, least = RULES[problem]
    for flipped in (False, True):
        bags, labels = draw_bags(problem, 200, flipped=flipped, seed=1)
        assert roc_auc_score(labels, [rule(bag) for bag in bags]) >= least
        assert roc_auc_score(labels, [shortcut(bag) for bag in bags]) == (0 if flipped else 1)
        assert np.bincount(labels).tolist() == [100, 100]
    again, _ = draw_bags(problem, 200, flipped=True, seed=1)
    assert all(np.array_equal(a, b) for a, b in zip(again, bags, strict=True))


@pytest.mark.parametrize("name", MODELS)
def test_the_standard_assumption_is_kept_as_documented(name: str) -> None:
    found = check(script().options(name, 0), "standard", n_bags=60)
    assert found.like_training > 0.8
    assert script().word([found]) == recorded()[name]["standard"]


@pytest.mark.parametrize(
    ("name", "problem"),
    [("prototype", "threshold"), ("max", "false frequency"), ("mean", "false frequency")],
)
def test_the_other_assumptions_are_kept_as_documented(name: str, problem: str) -> None:
    found = check(script().options(name, 0), problem, n_bags=100)
    assert script().word([found]) == recorded()[name][problem]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_table_is_current() -> None:
    """In its words; the last digits of an AUC may differ between machines."""
    page = recorded()
    assert list(page) == list(MODELS)
    found = script().verdicts()
    now = {m: {p: script().word(of[p]) for p in PROBLEMS} for m, of in found.items()}
    sure = [(m, p) for m in MODELS for p in PROBLEMS if page[m][p] != "unsure"]
    assert {key: now[key[0]][key[1]] for key in sure} == {k: page[k[0]][k[1]] for k in sure}
