"""Folds of sites, and slides whose names say what they are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from microtome.storage.errors import CohortError, LeakError
from microtome.tasks.cohort import Case, Cohort, heed_telling_names
from microtome.tasks.mil.targets import Target, read_target
from microtome.tasks.splits import draw_splits, read_splits, write_splits


def cohort(n: int = 40, sites: int = 5) -> tuple[Cohort, Target]:
    cases = tuple(
        Case(f"s{i}", f"p{i // 2}", site=f"site {i // 2 % sites}", label="ab"[i // 10 % 2])
        for i in range(n)
    )
    table = Cohort(cases)
    return table, read_target(table, "classes")


@pytest.mark.parametrize(("by", "n_folds", "found"), [("site", 3, 3), ("each-site", 3, 5)])
def test_a_site_is_on_one_side(by: str, n_folds: int, found: int, tmp_path) -> None:
    table, target = cohort()
    splits = draw_splits(table, n_folds, target=target, by=by)
    folds = splits.rows(table)
    sites = np.array([case.site for case in table.cases])
    assert len(folds) == found
    assert sorted(np.concatenate([fold.test for fold in folds])) == list(range(40))
    for fold in folds:
        assert not set(sites[fold.train]) & set(sites[fold.test])
        assert not set(table.patients[fold.train]) & set(table.patients[fold.test])
        assert by == "site" or len(set(sites[fold.test])) == 1
    write_splits(tmp_path / "splits.json", splits)
    assert read_splits(tmp_path / "splits.json", table) == splits


def test_what_cannot_be_split_by_site_is_refused() -> None:
    table, target = cohort()
    first, *others = table.cases
    nowhere = replace(table, cases=(replace(first, site=None), *others))
    with pytest.raises(CohortError, match="1 slides have no site: s0"):
        draw_splits(nowhere, 3, target=target, by="site")
    moved = replace(table, cases=(replace(first, site="elsewhere"), *others))
    with pytest.raises(LeakError, match="1 patients have slides of several sites: p0"):
        draw_splits(moved, 3, target=target, by="each-site")
    with pytest.raises(CohortError, match="5 sites are too few for 6 folds"):
        draw_splits(table, 6, target=target, by="site")
    alone = cohort(sites=1)
    with pytest.raises(CohortError, match="1 sites are too few for 2 folds"):
        draw_splits(alone[0], 2, target=alone[1], by="each-site")


def named(*pairs: tuple[str, str]) -> Cohort:
    return Cohort(tuple(Case(name, name, label=label) for name, label in pairs))


@pytest.mark.parametrize(
    "pairs",
    [
        [("tumor_001", "tumor"), ("normal_001", "normal")],
        [("TUMOR001", "tumor"), ("case 7", "normal"), ("tumor-2", "tumor")],
    ],
)
def test_names_that_give_the_label_away_are_refused(pairs: list[tuple[str, str]]) -> None:
    with pytest.raises(LeakError, match="names of slides give their labels away"):
        heed_telling_names(named(*pairs))
    allowed = heed_telling_names(named(*pairs), allowed=True)
    assert allowed.cases == named(*pairs).cases
    assert "give their labels away" in allowed.notes[-1]


@pytest.mark.parametrize(
    "pairs",
    [
        [("s1", "tumor"), ("s2", "normal")],
        [("tumor_1", "tumor"), ("s2", "tumor"), ("s3", "normal")],
        [("1-17", "1"), ("18", "1"), ("19", "0")],
    ],
)
def test_names_that_do_not_are_not(pairs: list[tuple[str, str]]) -> None:
    assert heed_telling_names(named(*pairs)) == named(*pairs)
