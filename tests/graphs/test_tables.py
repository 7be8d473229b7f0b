"""Series and tables are read as they are meant; what cannot be told is asked, never guessed."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.io

from microtome.graphs.tables import (
    read_centroids,
    read_freesurfer,
    read_names,
    read_region_table,
    read_series,
)
from microtome.storage.errors import CohortError, MissingFile, UnreadableFile

SERIES = np.round(np.random.default_rng(0).standard_normal((12, 3)), 6)


def as_text(separator: str, header: str = "") -> str:
    rows = "\n".join(separator.join(str(v) for v in row) for row in SERIES)
    return f"{header}\n{rows}\n" if header else f"{rows}\n"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", as_text(",")),
        ("a.csv", as_text(",", "one,two,three")),
        ("a.tsv", as_text("\t", "one\ttwo\tthree")),
        ("a.txt", as_text(" ")),
        ("a.1D", as_text(" ", "# made by a tool")),
    ],
)
def test_text_is_read_with_and_without_a_header(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    np.testing.assert_array_equal(read_series(tmp_path / name), SERIES)


def test_arrays_are_read_and_turned_when_told(tmp_path):
    np.save(tmp_path / "a.npy", SERIES)
    np.save(tmp_path / "b.npy", SERIES.T)
    np.testing.assert_array_equal(read_series(tmp_path / "a.npy"), SERIES)
    np.testing.assert_array_equal(read_series(tmp_path / "b.npy", rows="regions"), SERIES)
    with pytest.raises(CohortError, match="3 time points of 12 regions or the reverse"):
        read_series(tmp_path / "b.npy")
    assert read_series(tmp_path / "b.npy", rows="time").shape == (3, 12)


def test_the_variable_of_a_mat_file_is_named_where_there_are_several(tmp_path):
    path = tmp_path / "a.mat"
    scipy.io.savemat(path, {"tc": SERIES, "tr": 2.0})
    np.testing.assert_array_equal(read_series(path), SERIES)
    scipy.io.savemat(path, {"tc": SERIES, "other": SERIES + 1})
    with pytest.raises(CohortError, match="--key"):
        read_series(path)
    np.testing.assert_array_equal(read_series(path, key="tc"), SERIES)
    with pytest.raises(CohortError, match="no variable 'sc'"):
        read_series(path, key="sc")


def test_real_series_have_the_stated_shape(shared_data):
    folder = shared_data / "brain" / "sc_bold"
    found = read_series(folder / "hcp_101309_TC_rsfMRI_REST1_LR.mat", rows="regions")
    assert found.shape == (1200, 94)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", b""),
        ("a.csv", b"x,y\n1,2\n3\n"),
        ("a.npy", b"no array"),
        ("a.mat", b""),
        ("a.mat", b"no matlab file, whatever it is called " * 10),
        ("a.csv", b"\xff\xfe\x00"),
    ],
)
def test_what_is_no_matrix_is_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UnreadableFile, match=name):
        read_series(tmp_path / name)


def test_a_damaged_mat_file_is_refused(tmp_path, shared_data):
    whole = (shared_data / "brain" / "sc_bold" / "gw_NAP_001_BOLD_rsfMRI.mat").read_bytes()
    path = tmp_path / "cut.mat"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UnreadableFile):
        read_series(path)


def test_objects_in_an_array_file_are_never_run(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{"a": 1}], object), allow_pickle=True)
    with pytest.raises(UnreadableFile):
        read_series(tmp_path / "a.npy")


TABLE = "id,age,left,right\ns1,20,1.5,2\ns2,30,2.5,1\n"


def test_regions_of_a_table_are_all_columns_or_those_named(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(TABLE)
    assert read_region_table(path).regions == ("age", "left", "right")
    found = read_region_table(path, regions=["right", "left"])
    assert found.subjects == ("s1", "s2")
    assert found.values.tolist() == [[2, 1.5], [1, 2.5]]


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (TABLE, {"regions": ["left", "top"]}, "missing: top"),
        (TABLE, {"subject_column": "name"}, "no column 'name'"),
        (TABLE.replace("s2", "s1"), {}, "twice in column 'id'"),
        (TABLE.replace("2.5", "thick"), {}, "not numbers: left"),
        (TABLE.replace("2.5", ""), {}, "row 2, column left"),
    ],
)
def test_a_table_that_cannot_be_used_says_why(tmp_path, text, options, message):
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(CohortError, match=message):
        read_region_table(path, **options)


def freesurfer(folder, *, sides=("lh", "rh"), subjects=("s1", "s2")):
    for side in sides:
        for measure in ("thickness", "area"):
            columns = [f"{side}_{r}_{measure}" for r in ("cuneus", "insula", "MeanThickness")]
            rows = [f"{s}\t{i}.5\t{i}.25\t9" for i, s in enumerate(subjects)]
            header = "\t".join([f"{side}.aparc.{measure}", *columns, "eTIV"])
            text = "\n".join([header, *(f"{row}\t1" for row in rows)]) + "\n"
            (folder / f"{side}_{measure}.tsv").write_text(text)


def test_freesurfers_tables_are_joined_by_subject_and_without_summaries(tmp_path):
    freesurfer(tmp_path)
    rh = tmp_path / "rh_area.tsv"
    header, one, two = rh.read_text().splitlines()
    rh.write_text("\n".join([header, two, one]) + "\n")
    found = read_freesurfer(tmp_path)
    assert set(found) == {"area", "thickness"}
    assert found["area"].regions == ("lh_cuneus", "lh_insula", "rh_cuneus", "rh_insula")
    assert found["area"].subjects == ("s1", "s2")
    assert found["area"].values.tolist() == [[0.5, 0.25, 0.5, 0.25], [1.5, 1.25, 1.5, 1.25]]


def test_freesurfer_tables_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(CohortError, match="no table of FreeSurfer"):
        read_freesurfer(tmp_path)
    freesurfer(tmp_path, sides=("lh",))
    with pytest.raises(CohortError, match="one hemisphere only"):
        read_freesurfer(tmp_path)
    freesurfer(tmp_path, sides=("rh",), subjects=("s1", "s3"))
    with pytest.raises(CohortError, match="s2, s3"):
        read_freesurfer(tmp_path)


def test_names_and_centroids_are_read(shared_data, tmp_path):
    folder = shared_data / "brain" / "nspn"
    names, centroids = (
        read_names(folder / "500.names.txt"),
        read_centroids(folder / "500.centroids.txt"),
    )
    assert len(names) == len(centroids) == 308
    assert names[0] == "lh_bankssts_part1"
    assert centroids[0].tolist() == [-56.403550, -40.152663, 1.708876]
    (tmp_path / "c.txt").write_text("1 2\n")
    with pytest.raises(UnreadableFile, match="3 columns"):
        read_centroids(tmp_path / "c.txt")
    with pytest.raises(MissingFile):
        read_names(tmp_path / "none.txt")
