"""Which slides are compared with which, and what is refused rather than guessed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from microtome.storage.errors import CohortError
from microtome.storage.predictions import SlidePrediction, write_predictions
from microtome.tasks.cohort import read_cohort
from microtome.tasks.followup import compare_pair, follow_ups, read_visited


def prediction_of(id_: str, **facts) -> SlidePrediction:
    known = {"patient": None, "model": "m", "target": "b", "slide_px": (100, 200),
             "slide_mpp": (1.0, 1.0)}  # fmt: skip
    y, x = np.divmod(np.arange(8), 4)
    return SlidePrediction(
        id=id_, probability=0.5, classes=("a", "b"), probabilities=np.array([0.5, 0.5], np.float32),
        label=None, fold=None, coords_px=np.stack([y, x], 1) * 50, footprint_px=(50, 50),
        bounds_px=None, score=np.zeros(8, np.float32), attention=np.full(8, 1 / 8, np.float32),
        source="", encoder="e@1", **{**known, **facts},
    )  # fmt: skip


def paired(tmp_path, rows: str, *predictions: SlidePrediction, order: str = "date"):
    table = tmp_path / "visits.csv"
    table.write_text(f"id,patient,{order}\n{rows}")
    cohort = read_cohort(table, needs=(), extra=(order,))
    return follow_ups({p.id: p for p in predictions}, cohort, order)


A, B, C, D = (prediction_of(name) for name in "abcd")


def test_each_slide_of_a_patient_is_compared_with_the_next_in_time(tmp_path):
    rows = "c,p,2026-03-01\na,p,2025-12-31\nb,p,2026-01-30\nd,q,2020-01-01"
    pairs, alone = paired(tmp_path, rows, A, B, C, D)
    found = [(x.patient, x.before.prediction.id, x.after.prediction.id, x.days) for x in pairs]
    assert found == [("p", "a", "b", 30), ("p", "b", "c", 30)]
    assert alone == ["q"]


def test_a_column_of_numbers_orders_as_numbers(tmp_path):
    pairs, _ = paired(tmp_path, "a,p,10\nb,p,9", A, B, order="visit")
    assert [(x.before.prediction.id, x.days) for x in pairs] == [("b", None)]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("a,p,03/04/2026\nb,p,2026-05-01", "row 2, column date: '03/04/2026' is neither a date"),
        ("a,p,\nb,p,2026-05-01", "row 2, column date: '' is neither"),
        ("a,p,nan\nb,p,1", "'nan' is neither"),
        ("a,p,2026-05-01T10:00:00+02:00\nb,p,2026-05-02", "is neither a date nor a number"),
        ("a,p,2026-05-01\nb,p,3", "dates and numbers"),
        ("a,p,2026-05-01\nb,p,2026-05-01", "p has two slides of 2026-05-01: a and b"),
        ("a,p,2026-05-01\ne,p,2026-05-02", "not predicted: e"),
    ],
)
def test_an_order_that_is_not_said_is_not_guessed(tmp_path, rows, words):
    with pytest.raises(CohortError, match=words):
        paired(tmp_path, rows, A, B)


def test_a_table_without_the_order_is_refused(tmp_path):
    (tmp_path / "t.csv").write_text("id,patient\na,p")
    with pytest.raises(CohortError, match="columns are missing: date"):
        read_cohort(tmp_path / "t.csv", needs=(), extra=("date",))


def test_another_patient_s_slide_is_refused(tmp_path):
    other = prediction_of("b", patient="somebody")
    with pytest.raises(CohortError, match="b is p's, but was predicted as somebody's"):
        paired(tmp_path, "a,p,1\nb,p,2", A, other)


@pytest.mark.parametrize(("fact", "words"), [("model", "different models"), ("target", "classes")])
def test_what_two_models_say_is_not_compared(tmp_path, fact, words):
    pairs, _ = paired(tmp_path, "a,p,1\nb,p,2", A, replace(B, **{fact: "a"}))
    with pytest.raises(CohortError, match=words):
        compare_pair(pairs[0])


def test_pictures_have_one_scale_and_one_size(tmp_path):
    """The second slide has half the pixels a side at twice the size: the same place, as large."""
    fine = prediction_of("b", slide_px=(400, 800), slide_mpp=(0.5, 0.5))
    pairs, _ = paired(tmp_path, "a,p,1\nb,p,2", A, fine)
    found = compare_pair(pairs[0])
    # 100 x 200 µm and 200 x 400 µm, at the coarser slide's 1 µm.
    assert [layers.size_px for layers in found.layers] == [(200, 400), (200, 400)]
    assert len(found.notes) == 2


def test_a_slide_in_two_runs_is_refused(tmp_path):
    for name in ("one", "two"):
        write_predictions(tmp_path / name, [A], key=name, about={})
    with pytest.raises(CohortError, match="a was predicted twice"):
        read_visited([tmp_path / "one", tmp_path / "two"])
