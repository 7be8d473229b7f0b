"""Permutations and subjects on the workers of a Dask cluster: the same figures to the last bit."""

from __future__ import annotations

import csv
from functools import partial

import numpy as np
import pytest
from calling import call as call_command
from distributed import LocalCluster

from microtome.engine.schedule import open_pool
from microtome.graphs import statistics
from microtome.graphs.design import Design
from microtome.graphs.enhancement import threshold_free_statistic
from microtome.graphs.matrices import edges_of
from microtome.graphs.statistics import family_wise_p, network_based_statistic
from microtome.storage.connectomes import ConnectomeCohort, write_connectomes

call = partial(call_command, "connectome")
N_SUBJECTS, N_REGIONS = 18, 14


@pytest.fixture(scope="module")
def networks() -> np.ndarray:
    rng = np.random.default_rng(3)
    made = rng.standard_normal((N_SUBJECTS, N_REGIONS, N_REGIONS))
    made[::2, :4, :4] += 1.5
    return (made + made.transpose(0, 2, 1)) / 2


@pytest.fixture(scope="module")
def address():
    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
    ) as cluster:
        yield cluster.scheduler_address


def test_permutations_give_the_same_wherever_they_run(networks, address, monkeypatch):
    # Many batches, of which the last is shorter.
    monkeypatch.setattr(statistics, "_BATCH_ELEMENTS", 20_000)
    design = Design.between(np.arange(N_SUBJECTS) % 2)
    options = {"n_permutations": 217, "seed": 4}
    with open_pool(cluster=address) as pool:
        assert pool.jobs == 2
        for size in ("extent", "intensity"):
            alone, apart = (
                network_based_statistic(
                    networks, design, threshold=2.0, size=size, pool=where, **options
                )
                for where in (None, pool)
            )
            np.testing.assert_array_equal(alone.null, apart.null)
            assert len(alone.null) == 217
            assert [c.p for c in alone.components] == [c.p for c in apart.components]
        alone, apart = (
            threshold_free_statistic(networks, design, pool=where, **options)
            for where in (None, pool)
        )
        np.testing.assert_array_equal(alone.null, apart.null)
        np.testing.assert_array_equal(alone.p, apart.p)
        one, other = (
            family_wise_p(edges_of(networks), design, pool=where, **options)
            for where in (None, pool)
        )
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_commands_write_the_same_files(networks, address, tmp_path):
    names = tuple(f"s{i}" for i in range(N_SUBJECTS))
    regions = tuple(f"r{i}" for i in range(N_REGIONS))
    cohort = ConnectomeCohort(np.abs(networks), names, regions, "w", "MR")
    path, table = tmp_path / "c.connectomes.zarr", tmp_path / "people.csv"
    write_connectomes(path, cohort, key="k", about={})
    with table.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["subject", "dx"])
        rows.writerows((name, "ab"[i % 2]) for i, name in enumerate(names))
    where = ("--cluster", address)
    asked = (path, "-t", table, "--group", "dx", "--permutations", 100, "--threshold", 1.5)
    call("compare", *asked, "-o", tmp_path / "one")
    call("compare", *asked, *where, "-o", tmp_path / "other")
    for file in ("results.json", "edges.csv", "components.csv"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "other" / file).read_bytes()
    call("metrics", path, "--keep", "all", "-o", tmp_path / "one.csv")
    call("metrics", path, "--keep", "all", *where, "-o", tmp_path / "other.csv")
    assert (tmp_path / "one.csv").read_bytes() == (tmp_path / "other.csv").read_bytes()
