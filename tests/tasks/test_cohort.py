"""A cohort is refused by row and column, and a patient is never on both sides of a split."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from microtome.storage.errors import CohortError, LabelError, LeakError, MissingFile
from microtome.tasks.cohort import Case, Cohort, cohort_from_table, read_cohort
from microtome.tasks.splits import Splits, make_splits, read_splits, write_splits

GOOD = """id,path,patient,site,label,mpp
s1,slides/a.svs,p1,north,tumour,
s2,slides/b.svs,p1,north,normal,0.25
s3,/data/c.svs,p2,,normal,
"""


def write(folder: Path, text: str, name: str = "cohort.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_reads_a_table(tmp_path: Path) -> None:
    cohort = read_cohort(write(tmp_path, GOOD))

    assert cohort.cases[1] == Case(
        "s2", "p1", tmp_path / "slides/b.svs", site="north", label="normal", mpp=0.25
    )
    assert cohort.cases[2].path == Path("/data/c.svs")
    assert cohort.cases[2].site is None
    assert cohort.classes() == ("normal", "tumour")
    assert cohort.classes(positive="normal") == ("tumour", "normal")
    assert cohort.labels(cohort.classes()).tolist() == [1, 0, 0]


def test_says_that_a_patient_has_slides_of_two_labels(tmp_path: Path) -> None:
    (note,) = read_cohort(write(tmp_path, GOOD)).notes
    assert "p1" in note
    assert "different labels" in note


def test_values_stay_text(tmp_path: Path) -> None:
    """Neither a label NA nor an id with a leading zero is anybody's missing value or number."""
    cohort = read_cohort(write(tmp_path, "id,patient,path,label\n007,p1,a.svs,NA\n8,p2,b.svs,1\n"))
    assert cohort.ids == ("007", "8")
    assert cohort.classes() == ("1", "NA")


def test_reads_what_a_spreadsheet_saves(tmp_path: Path) -> None:
    path = tmp_path / "cohort.csv"
    path.write_bytes(GOOD.replace("\n", "\r\n").encode("utf-8-sig"))
    assert read_cohort(path).ids == ("s1", "s2", "s3")
    assert read_cohort(write(tmp_path, GOOD.replace(",", "\t"), "cohort.tsv")).ids[0] == "s1"


def test_whole_numbers_of_a_data_frame_stay_whole() -> None:
    table = pd.DataFrame({"id": [1, 2], "patient": [10, 11], "label": [1.0, np.nan]})
    cohort = cohort_from_table(table, needs=())
    assert cohort.ids == ("1", "2")
    assert [case.label for case in cohort.cases] == ["1", None]
    assert cohort.cases[0].path is None


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("id,path\ns1,a.svs\n", "columns are missing: patient"),
        ("id;path;patient\ns1;a.svs;p1\n", "columns are missing"),
        ("id,path,patient\n", "no rows"),
        ("", "cannot be read"),
        ("id,path,patient\ns1,a.svs,p1\ns1,b.svs,p2\n", "row 3, column id: 's1' is in row 2"),
        ("id,path,patient\ns1,a.svs,p1\ns2,b.svs, \n", "row 3, column patient: empty"),
        ("id,path,patient\ns1,a.svs,p1\n,b.svs,p2\n", "row 3, column id: empty"),
        ("id,path,patient\ns1,a.svs,p1\ns2,./x/../a.svs,p2\n", "row 3, column path: .*row 2"),
        ("id,path,patient\na/b,a.svs,p1\n", "row 2, column id: .*cannot name a file"),
        ("id,path,patient,mpp\ns1,a.svs,p1,fine\n", "row 2, column mpp: 'fine' is no number"),
        ("id,path,patient,mpp\ns1,a.svs,p1,-1\n", "row 2, column mpp: -1 cannot be"),
        ("id,path,patient,mpp\ns1,a.svs,p1,nan\n", "row 2, column mpp"),
        ("id,path,patient\ns1,a.svs,p1\n\ns2,b.svs,p2\n", "row 3, column id: empty"),
    ],
)
def test_refuses_by_row_and_column(tmp_path: Path, text: str, complaint: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(CohortError, match=complaint) as caught:
        read_cohort(path)
    assert str(path) in str(caught.value)


def test_refuses_a_table_in_another_encoding(tmp_path: Path) -> None:
    path = tmp_path / "cohort.csv"
    path.write_bytes(b"id,path,patient\ns1,a.svs,M\xfcller\n")
    with pytest.raises(CohortError, match="UTF-8"):
        read_cohort(path)


def test_refuses_one_class_in_two_spellings(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match="row 4, column label: 'Normal' is spelt 'normal'"):
        read_cohort(write(tmp_path, GOOD.replace("p2,,normal", "p2,,Normal")))


def test_a_missing_table_is_missing(tmp_path: Path) -> None:
    with pytest.raises(MissingFile):
        read_cohort(tmp_path / "none.csv")


def test_a_column_that_the_task_needs_is_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path, "id,patient\ns1,p1\n")
    assert read_cohort(path, needs=()).ids == ("s1",)
    with pytest.raises(CohortError, match="missing: label"):
        read_cohort(path, needs=("label",))


def cohort_of(*rows: tuple[str, str, str | None]) -> Cohort:
    return Cohort(tuple(Case(name, patient, label=label) for name, patient, label in rows))


def test_labels_that_cannot_be_learnt_from() -> None:
    with pytest.raises(LabelError, match="1 slides have no label: s2"):
        cohort_of(("s1", "p1", "a"), ("s2", "p2", None)).classes()
    with pytest.raises(LabelError, match="every slide has the label 'a'"):
        cohort_of(("s1", "p1", "a"), ("s2", "p2", "a")).classes()
    with pytest.raises(LabelError, match="no slide has the label 'c'"):
        cohort_of(("s1", "p1", "a"), ("s2", "p2", "b")).classes(positive="c")


TWENTY = cohort_of(*((f"s{i}", f"p{i // 2}", "ab"[i // 2 % 2]) for i in range(20)))


def test_splits_come_back_and_keep_patients_together(tmp_path: Path) -> None:
    splits = make_splits(TWENTY, 5, seed=3)
    write_splits(tmp_path / "new" / "splits.json", splits)

    back = read_splits(tmp_path / "new" / "splits.json", TWENTY)

    assert back == splits
    assert back.hash == splits.hash
    tested = np.concatenate([fold.test for fold in back.rows(TWENTY)])
    assert sorted(tested.tolist()) == list(range(20))
    for fold in back.rows(TWENTY):
        assert not set(TWENTY.patients[fold.train]) & set(TWENTY.patients[fold.test])
        assert set(fold.train) | set(fold.test) == set(range(20))


def test_the_hash_names_the_folds_and_nothing_else() -> None:
    assert Splits((("a", "b"), ("c",))).hash == Splits((("b", "a"), ("c",)), seed=1).hash
    assert Splits((("a", "b"), ("c",))).hash != Splits((("a",), ("b", "c"))).hash


def alter(path: Path, **changes: object) -> Path:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return path


def test_altered_folds_are_noticed(tmp_path: Path) -> None:
    path = tmp_path / "splits.json"
    splits = make_splits(TWENTY, 2)
    write_splits(path, splits)
    swapped = [list(splits.folds[1]), list(splits.folds[0])]
    alter(path, folds=swapped)
    with pytest.raises(CohortError, match="altered"):
        read_splits(path, TWENTY)


@pytest.mark.parametrize(
    ("folds", "error", "complaint"),
    [
        ([["s0", "s1"], ["s2"]], CohortError, "1 slides are in no fold: s3"),
        ([["s0", "s1"], ["s2", "s3", "s9"]], CohortError, "not in the cohort: s9"),
        ([["s0", "s1", "s2"], ["s2", "s3"]], CohortError, "in two folds: s2"),
        ([["s0", "s1", "s2", "s3"]], CohortError, "at least two folds"),
        ([["s0", "s2"], ["s1", "s3"]], LeakError, "2 patients are in more than one fold: p0, p1"),
        ("everything", CohortError, "in two folds: e"),
        (3, CohortError, "not a split file"),
    ],
)
def test_refuses_folds_that_do_not_fit(
    tmp_path: Path, folds: object, error: type[CohortError], complaint: str
) -> None:
    cohort = cohort_of(("s0", "p0", "a"), ("s1", "p0", "a"), ("s2", "p1", "b"), ("s3", "p1", "b"))
    path = tmp_path / "splits.json"
    path.write_text(json.dumps({"folds": folds}))
    with pytest.raises(error, match=complaint):
        read_splits(path, cohort)
