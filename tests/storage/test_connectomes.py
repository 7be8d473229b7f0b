"""A cohort of connectomes comes back as it was kept, and what is no network is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
import zarr

from microtome.storage.commit import read_commit
from microtome.storage.connectomes import (
    Connectome,
    ConnectomeCohort,
    open_adjacency,
    read_connectomes,
    write_connectomes,
)
from microtome.storage.errors import (
    BadConnectome,
    BadProduct,
    MissingFile,
    StaleProduct,
)

REGIONS = ("left µ", "right, b", "c")


def symmetric(seed: int, n: int = 3) -> np.ndarray:
    matrix = np.random.default_rng(seed).standard_normal((n, n))
    return matrix + matrix.T


def cohort(**changes) -> ConnectomeCohort:
    given = {
        "adjacency": np.stack([symmetric(0), symmetric(1)]),
        "subjects": ("s1", "s2"),
        "regions": REGIONS,
        "measure": "pearson",
        "modality": "fMRI",
        "centroids_mm": np.arange(9.0).reshape(3, 3),
    }
    return ConnectomeCohort(**{**given, **changes})


def test_a_cohort_comes_back_as_it_was_kept(tmp_path):
    path = tmp_path / "a.connectomes.zarr"
    kept = cohort()
    write_connectomes(path, kept, key="k", about={"method": "pearson"})
    back = read_connectomes(path)
    np.testing.assert_array_equal(back.adjacency, kept.adjacency)
    np.testing.assert_array_equal(back.centroids_mm, kept.centroids_mm)
    assert (back.subjects, back.regions) == (kept.subjects, kept.regions)
    assert (back.measure, back.modality, back.directed) == ("pearson", "fMRI", False)
    assert read_commit(path).about == {
        "method": "pearson",
        "measure": "pearson",
        "modality": "fMRI",
        "n_subjects": 2,
        "n_regions": 3,
    }


def test_the_store_is_plain_zarr_v3_that_others_can_read(tmp_path):
    path = tmp_path / "a.connectomes.zarr"
    write_connectomes(path, cohort(), key="k")
    assert json.loads((path / "zarr.json").read_text())["zarr_format"] == 3
    array = zarr.open_array(path / "adjacency", mode="r")
    assert array.dtype == np.float64
    np.testing.assert_array_equal(array[1], cohort().adjacency[1])


def test_other_parameters_never_replace_a_cohort_silently(tmp_path):
    path = tmp_path / "a.connectomes.zarr"
    write_connectomes(path, cohort(), key="k")
    with pytest.raises(StaleProduct):
        write_connectomes(path, cohort(measure="partial"), key="other")
    assert read_connectomes(path).measure == "pearson"
    write_connectomes(path, cohort(measure="partial"), key="other", overwrite=True)
    assert read_connectomes(path).measure == "partial"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"adjacency": np.zeros((2, 3, 4))}, "does not fit"),
        ({"adjacency": np.zeros((3, 3, 3))}, "does not hold 2 subjects"),
        ({"subjects": ("s1", "s1")}, "subject names occur twice: s1"),
        ({"regions": ("a", "b", "a")}, "region names occur twice: a"),
        ({"centroids_mm": np.zeros((2, 3))}, "centroids"),
        ({"adjacency": np.stack([symmetric(0), np.triu(symmetric(1))])}, "s2: .*not symmetric"),
        ({"adjacency": np.stack([symmetric(0), symmetric(1) * np.nan])}, "s2: .*finite"),
    ],
)
def test_what_is_no_network_is_refused_by_name(changes, message):
    with pytest.raises(BadConnectome, match=message):
        cohort(**changes)


def test_an_infinite_diagonal_is_no_edge_and_a_directed_network_may_be_asymmetric():
    adjacency = np.stack([symmetric(0), symmetric(1)])
    adjacency[:, [0, 1, 2], [0, 1, 2]] = np.inf
    assert len(cohort(adjacency=adjacency)) == 2
    assert cohort(adjacency=np.arange(18.0).reshape(2, 3, 3), directed=True).directed


def test_one_of_a_cohort_and_back():
    whole = cohort()
    again = ConnectomeCohort.of([whole[0], whole[1]])
    np.testing.assert_array_equal(again.adjacency, whole.adjacency)
    assert again.subjects == whole.subjects
    with pytest.raises(BadConnectome, match="s9: regions, measure or modality differ"):
        ConnectomeCohort.of([whole[0], Connectome(symmetric(2), REGIONS, "partial", "fMRI", "s9")])
    with pytest.raises(BadConnectome):
        ConnectomeCohort.of([])


def test_a_damaged_or_missing_cohort_is_a_named_error(tmp_path):
    path = tmp_path / "a.connectomes.zarr"
    with pytest.raises(MissingFile):
        read_connectomes(path)
    write_connectomes(path, cohort(), key="k")
    (path / "adjacency" / "zarr.json").unlink()
    with pytest.raises(BadProduct, match="damaged"):
        read_connectomes(path)


@pytest.mark.parametrize("what", ["lost", "changed"])
def test_a_chunk_that_is_lost_or_changed_is_noticed(tmp_path, what):
    path = tmp_path / "a.connectomes.zarr"
    write_connectomes(path, cohort(adjacency=np.zeros((2, 3, 3))), key="k")
    chunk = path / "adjacency" / "c" / "0" / "0" / "0"
    if what == "lost":
        chunk.unlink()
    else:
        chunk.write_bytes(chunk.read_bytes()[:-1] + b"x")
    with pytest.raises(BadProduct, match="damaged"):
        read_connectomes(path)


def test_dask_reads_networks_when_they_are_computed(tmp_path):
    path = tmp_path / "a.connectomes.zarr"
    write_connectomes(path, cohort(), key="k")
    lazy = open_adjacency(path)
    assert lazy.shape == cohort().adjacency.shape
    np.testing.assert_array_equal(lazy[1].compute(), cohort().adjacency[1])
    np.testing.assert_allclose(lazy.mean(axis=0).compute(), cohort().adjacency.mean(axis=0))
