"""What is chosen, calibrated and seen in training: within each fold, never on its test slides."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from microtome.storage.errors import CohortError, InputError, LabelError, LeakError, MicrotomeError
from microtome.tasks.calibration import by_isotonic, by_temperature, operating_point
from microtome.tasks.cohort import Case, Cohort
from microtome.tasks.evaluation import Fold, grouped_folds
from microtome.tasks.mil.candidates import in_words, read_candidate
from microtome.tasks.mil.choose import Nested
from microtome.tasks.mil.crossval import CrossValidation, cross_validate
from microtome.tasks.mil.targets import Target, read_target
from microtome.tasks.mil.train import TrainOptions, fit_members
from microtome.tasks.mil.usable import Binary
from microtome.tasks.splits import make_splits, nested, read_splits, write_splits

QUICK = TrainOptions(epochs=3, members=2, width=12, n_gates=6)
HOPELESS = replace(QUICK, epochs=1, learning_rate=1e-9)
N = 36


@cache
def cohort() -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Bags, labels and patients; two slides a patient, a third of the tiles tell."""
    rng = np.random.default_rng(0)
    patients, bags = np.arange(N) // 2, []
    labels = patients % 2
    for label in labels:
        bag = rng.normal(size=(rng.integers(6, 14), 6))
        bag[: len(bag) // 3, 0] += 1.5 * label
        bags.append(bag.astype(np.float32))
    return bags, labels, patients


def folds() -> list[Fold]:
    _, labels, patients = cohort()
    return grouped_folds(labels, patients, 3)


def inner() -> tuple[tuple[Fold, ...], ...]:
    """Of each fold's training rows, by the numbers of all."""
    _, labels, patients = cohort()
    found = []
    for fold in folds():
        parts = grouped_folds(labels[fold.train], patients[fold.train], 2, seed=5)
        found.append(tuple(Fold(fold.train[p.train], fold.train[p.test]) for p in parts))
    return tuple(found)


def validated(how: TrainOptions | Nested, labels: np.ndarray | None = None) -> CrossValidation:
    bags, own, patients = cohort()
    return cross_validate(bags, own if labels is None else labels, patients, folds(), how)


def binary(found: CrossValidation, labels: np.ndarray) -> Binary:
    target = Target("classes", ("no", "yes"), labels)
    second = found.probabilities[:, 1].astype(np.float64)
    return Binary(target, second, found.fold, cohort()[2], dict(enumerate(found.inner)))


def threshold(labels: np.ndarray, scores: np.ndarray):
    least = operating_point(labels, scores, 0.9)
    return lambda p: (p >= least).astype(float)


@pytest.mark.parametrize("how", ["validation", "inner folds"])
def test_labels_of_a_test_part_move_no_calibrated_probability_of_it(how: str) -> None:
    """Nor a threshold: all the way from the bags, models and calibration fitted anew."""
    labels = cohort()[1]
    way = QUICK if how == "validation" else Nested((QUICK, HOPELESS), inner())
    other = labels.copy()
    other[folds()[0].test] = 1 - other[folds()[0].test]
    one, two = binary(validated(way), labels), binary(validated(way, other), other)
    here = one.fold == 0
    np.testing.assert_array_equal(one.probabilities[here], two.probabilities[here])
    for fit in (by_temperature, by_isotonic, threshold):
        np.testing.assert_array_equal(one.changed(fit)[here], two.changed(fit)[here])
    assert not np.array_equal(
        one.changed(by_temperature)[~here], two.changed(by_temperature)[~here]
    )


def test_within_a_fold_every_training_slide_is_spoken_of_once_by_who_did_not_learn_from_it() -> (
    None
):
    bags, labels, patients = cohort()
    for fold, part in zip(folds(), validated(QUICK).inner, strict=True):
        assert sorted(part.rows) == sorted(fold.train)
        members = fit_members(
            [bags[i] for i in fold.train], labels[fold.train], patients[fold.train], QUICK
        )
        rows = np.arange(len(fold.train))
        for member in members:
            learnt = np.setdiff1d(rows, member.validated)
            held = patients[fold.train][member.validated]
            assert not set(patients[fold.train][learnt]) & set(held)


def test_inner_folds_are_a_cross_validation_of_the_training_rows() -> None:
    bags, labels, patients = cohort()
    found = validated(Nested((QUICK,), inner()))
    for fold, parts, said in zip(folds(), inner(), found.inner, strict=True):
        place = {row: i for i, row in enumerate(fold.train.tolist())}
        own = [Fold(*(np.array([place[i] for i in s]) for s in (p.train, p.test))) for p in parts]
        alone = cross_validate(
            [bags[i] for i in fold.train], labels[fold.train], patients[fold.train], own, QUICK
        )
        order = [place[i] for i in said.rows.tolist()]
        np.testing.assert_array_equal(said.outputs, alone.probabilities[order].astype(float))


def test_each_fold_takes_the_way_that_is_best_in_its_inner_folds() -> None:
    labels, ways = cohort()[1], (HOPELESS, QUICK)
    found = validated(Nested(ways, inner()))
    alone, plain = [validated(Nested((way,), inner())) for way in ways], list(map(validated, ways))
    assert set(found.chosen) == {0, 1}
    for k, which in enumerate(found.chosen):
        parts = [way.inner[k] for way in alone]
        figures = [roc_auc_score(labels[part.rows], part.outputs[:, 1]) for part in parts]
        assert which == int(np.argmax(figures))
        np.testing.assert_array_equal(found.inner[k].outputs, parts[which].outputs)
        here = found.fold == k
        np.testing.assert_array_equal(found.probabilities[here], plain[which].probabilities[here])
    assert validated(Nested((QUICK, QUICK), inner())).chosen == (0, 0, 0)


def test_views_of_slides_that_are_tested_are_never_seen() -> None:
    """Nor do those that stop a member say when: their views may be anything."""
    bags, labels, patients = cohort()
    parts = folds()
    like = [bag + np.float32(0.1) for bag in bags]
    broken = list(like)
    for i in parts[0].test:
        broken[i] = np.full_like(bags[i], np.nan)

    def said(views: list[list[np.ndarray]]) -> CrossValidation:
        return cross_validate(bags, labels, patients, parts, QUICK, views=views)

    plain, seen, unseen = said([]), said([like]), said([broken])
    here = plain.fold == 0
    np.testing.assert_array_equal(seen.probabilities[here], unseen.probabilities[here])
    assert not np.array_equal(seen.probabilities, plain.probabilities)
    assert not np.array_equal(seen.probabilities[~here], unseen.probabilities[~here])


def table() -> Cohort:
    return Cohort(tuple(Case(f"s{i}", f"p{i // 2}", label="ab"[i // 2 % 2]) for i in range(N)))


def test_inner_folds_come_back_with_the_file_and_are_part_of_its_name(tmp_path: Path) -> None:
    cohort = table()
    target = read_target(cohort, "classes")
    plain = make_splits(cohort, 3)
    splits = nested(plain, cohort, 2, target=target)
    assert splits.hash != plain.hash
    assert splits.hash != nested(plain, cohort, 2, target=target, seed=1).hash
    write_splits(tmp_path / "splits.json", splits)
    assert read_splits(tmp_path / "splits.json", cohort) == splits
    for fold, parts in zip(splits.rows(cohort), splits.inner_rows(cohort), strict=True):
        tested = np.concatenate([part.test for part in parts])
        assert sorted(tested) == sorted(fold.train)
        for part in parts:
            assert sorted([*part.train, *part.test]) == sorted(fold.train)
            assert not set(cohort.patients[part.train]) & set(cohort.patients[part.test])


def test_inner_folds_that_were_altered_or_tear_a_patient_are_refused(tmp_path: Path) -> None:
    cohort, path = table(), tmp_path / "splits.json"
    write_splits(
        path, nested(make_splits(cohort, 3), cohort, 2, target=read_target(cohort, "classes"))
    )
    kept = json.loads(path.read_text())

    def refused(change, *, hashed: bool = False) -> MicrotomeError:
        record = json.loads(json.dumps(kept))
        change(record["inner"])
        if not hashed:
            del record["hash"]
        path.write_text(json.dumps(record))
        with pytest.raises(MicrotomeError) as caught:
            read_splits(path, cohort)
        return caught.value

    def swap(inner) -> None:
        inner[0][0][0], inner[0][1][0] = inner[0][1][0], inner[0][0][0]

    def test_slide_in(inner) -> None:
        inner[0][0].append(kept["folds"][0][0])

    assert "altered" in str(refused(swap, hashed=True))
    assert isinstance(refused(swap), LeakError)
    assert "not in the cohort" in str(refused(test_slide_in))
    assert "in no fold" in str(refused(lambda inner: inner[1][0].pop()))
    assert isinstance(refused(lambda inner: inner.pop()), CohortError)


def test_a_way_is_said_as_it_is_read() -> None:
    way = read_candidate("max, learning_rate=0.001,members=2", TrainOptions(epochs=7))
    assert way == TrainOptions(model="max", learning_rate=1e-3, members=2, epochs=7)
    assert in_words(way, TrainOptions(epochs=7)) == "max,members=2,learning_rate=0.001"
    for wrong in ("none", "max,sped=3", "max,epochs=many", "max,seed=2", "max,device=cuda"):
        with pytest.raises(InputError, match="--candidate"):
            read_candidate(wrong, TrainOptions())


def test_inner_folds_that_leave_too_little_to_learn_are_refused_before_anything_is_learnt() -> None:
    """Three patients of a class: of two inner folds one leaves a single one of them."""
    cohort = Cohort(tuple(Case(f"s{i}", f"p{i}", label="ab"[i % 2]) for i in range(9)))
    target = read_target(cohort, "classes")
    with pytest.raises(LabelError, match="fewer than two patients"):
        nested(make_splits(cohort, 2), cohort, 2, target=target)
