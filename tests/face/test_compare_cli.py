"""``microtome connectome compare`` finds what was planted, and says what it cannot compare."""

from __future__ import annotations

import csv
import json
from functools import partial

import numpy as np
import pytest
from calling import call as call_command

from microtome.graphs.simulate import simulate_cohort
from microtome.storage.connectomes import ConnectomeCohort, write_connectomes
from microtome.storage.errors import StaleProduct

call = partial(call_command, "connectome")


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Thirty people, some with two sessions; the table has an age and lacks nobody."""
    folder = tmp_path_factory.mktemp("study")
    made = simulate_cohort(30, 24, 80, seed=1, effect=0.3)
    networks = np.stack([np.arctanh(np.corrcoef(x.T) - np.eye(24)) for x in made.series])
    cohort = ConnectomeCohort(
        networks, made.ids, made.regions, "fisher-z", "fMRI", made.centroids_mm
    )
    write_connectomes(folder / "rest.connectomes.zarr", cohort, key="k", about={})
    names = ("patient", "control")
    with (folder / "people.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["subject", "person", "dx", "site", "age"])
        for i, name in enumerate(made.ids):
            label = names[1 - made.labels[i]]
            age = 20 + int(made.subjects[i][-2:])
            rows.writerow([name, made.subjects[i], label, made.sites[i], age])
    return folder, made


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def options(folder, *more):
    table = ["-t", folder / "people.csv", "--group", "dx", "--person", "person"]
    return [folder / "rest.connectomes.zarr", *table, *more]


def test_planted_edges_are_found_with_covariates_and_kept_as_a_product(study, tmp_path):
    folder, made = study
    asked = options(folder, "--covariates", "age,site", "--blocks", "site", "--permutations", 500)
    shown = call("compare", *asked, "-o", tmp_path / "dx")
    assert "control (15), patient (15)" in shown
    edges = rows_of(tmp_path / "dx" / "edges.csv")
    found = {(e["region_a"], e["region_b"]) for e in edges if float(e["p_corrected"]) <= 0.05}
    i, j = np.nonzero(np.triu(made.planted))
    planted = {(made.regions[a], made.regions[b]) for a, b in zip(i, j, strict=True)}
    assert found == planted
    # Patients' planted edges are stronger, and the table says so: the second group minus the first.
    assert all(float(e["t"]) > 3 for e in edges[: len(planted)])
    assert float(edges[0]["mean_patient"]) > float(edges[0]["mean_control"])
    results = json.loads((tmp_path / "dx" / "results.json").read_text())
    assert results["edges_significant"] == len(planted)
    assert results["degrees_of_freedom"] == 30 - 4
    component = rows_of(tmp_path / "dx" / "components.csv")[0]
    assert int(component["edges"]) == len(planted)
    assert float(component["p"]) < 0.01
    assert (tmp_path / "dx" / "edges.png").read_bytes().startswith(b"\x89PNG")
    entry = json.loads((tmp_path / "dx.ledger.jsonl").read_text())
    assert entry["state"] == "done"
    assert "skipped" in call("compare", *asked, "-o", tmp_path / "dx")
    with pytest.raises(StaleProduct):
        call("compare", *asked, "--seed", 1, "-o", tmp_path / "dx")


@pytest.mark.parametrize("method", ["fdr", "max", "tfnbs"])
def test_single_edges_are_tested_and_the_order_of_groups_is_the_users(study, tmp_path, method):
    folder, made = study
    asked = options(folder, "--method", method, "--permutations", 300)
    call("compare", *asked, "--groups", "patient,control", "-o", tmp_path / "dx")
    edges = rows_of(tmp_path / "dx" / "edges.csv")
    hits = [e for e in edges if float(e["p_corrected"]) <= 0.05]
    assert hits
    assert all(float(e["t"]) < 0 for e in hits)
    for e in hits:
        low, g, high = (float(e[f"hedges_g{end}"]) for end in ("_low", "", "_high"))
        assert low < g < high < 0
    regions = {made.regions[r] for r in made.planted_regions}
    assert sum({e["region_a"], e["region_b"]} <= regions for e in hits) >= 0.8 * len(hits)


def test_what_cannot_be_compared_is_refused_with_a_remedy(study, tmp_path):
    folder, made = study
    cohort, table = folder / "rest.connectomes.zarr", folder / "people.csv"
    plain = [cohort, "-t", table, "--group", "dx"]
    for asked, words in (
        (plain, "--person"),
        (options(folder, "--covariates", "iq"), "no column 'iq'"),
        (options(folder, "--groups", "patient,twin"), "'twin'"),
        (options(folder, "--covariates", "dx"), "cannot be told from the covariates"),
        (options(folder, "--subject", "person"), "several rows"),
    ):
        call("compare", *asked, "-o", tmp_path / "dx", code=3)
        lines = (tmp_path / "dx.ledger.jsonl").read_text().splitlines()
        last = json.loads(lines[-1])
        assert last["state"] == "rejected"
        assert words in last["detail"]
    short = tmp_path / "short.csv"
    short.write_text("".join(table.read_text().splitlines(keepends=True)[:-1]))
    few = [cohort, "-t", short, "--group", "dx", "--person", "person", "--method", "fdr"]
    call("compare", *few, "-o", tmp_path / "dx", code=3)
    call("compare", *few, "--drop-missing", "-o", tmp_path / "dx")
    results = json.loads((tmp_path / "dx" / "results.json").read_text())
    assert results["excluded"] == {made.ids[-1]: "not in the table"}


def test_small_worldness_and_areas_are_columns_of_the_measures(study, tmp_path):
    folder, _ = study
    call(
        "metrics", folder / "rest.connectomes.zarr", "--nulls", 3, "--densities", "0.1:0.2:0.1",
        "-o", tmp_path / "m.csv",
    )  # fmt: skip
    row = rows_of(tmp_path / "m.csv")[0]
    assert float(row["small_world_sigma_binary"]) > 0
    assert float(row["density_area"]) == pytest.approx(0.1 * 0.15, rel=0.03)
