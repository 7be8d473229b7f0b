"""``microtome connectome`` on real files, as a user calls it."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
from calling import call as call_command
from PIL import Image

from microtome.graphs.simulate import simulate_cohort
from microtome.storage.commit import read_commit
from microtome.storage.connectomes import read_connectomes
from microtome.storage.errors import CohortError, StaleProduct

MEASURES = ("density", "clustering_weighted", "global_efficiency_weighted", "modularity_weighted")


call = partial(call_command, "connectome")


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    """Four subjects as .npy, one too short."""
    folder = tmp_path_factory.mktemp("series")
    cohort = simulate_cohort(4, 12, 60, seed=0, repeated=0.0)
    for name, values in zip(cohort.ids, cohort.series, strict=True):
        np.save(folder / f"{name}.npy", values)
    np.save(folder / "sub-x_short.npy", cohort.series[0][:5])
    (folder / "names.txt").write_text("\n".join(cohort.regions))
    np.savetxt(folder / "centroids.txt", cohort.centroids_mm)
    return folder


def table_rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def ledger(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_series_become_a_cohort_and_a_bad_one_costs_only_itself(series, tmp_path):
    files = sorted(series.glob("sub*.npy"))
    options = ["--regions", series / "names.txt", "--centroids", series / "centroids.txt"]
    shown = call(
        "build", *files, *options, "--fisher", "--rows", "time", "-o", tmp_path / "rest", code=3
    )
    assert "done sub-001_ses-1" in shown
    assert "rejected(bad_series) sub-x_short" in shown
    cohort = read_connectomes(tmp_path / "rest.connectomes.zarr")
    assert cohort.subjects == tuple(f"sub-00{i}_ses-1" for i in range(1, 5))
    assert (cohort.measure, cohort.regions[0]) == ("fisher-z-pearson", "L-001")
    expected = np.arctanh(np.corrcoef(np.load(files[2]).T)[0, 1])
    assert cohort.adjacency[2, 0, 1] == pytest.approx(expected)
    assert cohort.centroids_mm.shape == (12, 3)
    states = {e["item"]: e["state"] for e in ledger(tmp_path / "rest.ledger.jsonl")}
    assert states["sub-x_short"] == "rejected"
    assert list(states.values()).count("done") == 4


def test_a_second_run_skips_and_other_options_are_noticed(series, tmp_path):
    files = sorted(series.glob("*ses-1.npy"))
    out = tmp_path / "rest"
    call("build", *files, "-o", out)
    made = read_commit(tmp_path / "rest.connectomes.zarr").made
    assert "skipped sub-001_ses-1" in call("build", *files, "-o", out)
    assert read_commit(tmp_path / "rest.connectomes.zarr").made == made
    with pytest.raises(StaleProduct):
        call("build", *files, "--method", "partial", "-o", out)
    assert read_connectomes(tmp_path / "rest.connectomes.zarr").measure == "pearson"
    call("build", *files, "--method", "partial", "--overwrite", "-o", out)
    assert read_connectomes(tmp_path / "rest.connectomes.zarr").measure == "partial"


@pytest.mark.slow
def test_two_processes_build_what_one_does(series, tmp_path):
    files = sorted(series.glob("*ses-1.npy"))
    call("build", *files, "-o", tmp_path / "one")
    call("build", *files, "--jobs", 2, "-o", tmp_path / "two")
    one, two = (read_connectomes(tmp_path / f"{n}.connectomes.zarr") for n in ("one", "two"))
    np.testing.assert_array_equal(one.adjacency, two.adjacency)
    assert one.subjects == two.subjects


def test_what_fishers_transform_is_not_for_is_said_before_anything_is_read(series, tmp_path):
    files = sorted(series.glob("*ses-1.npy"))
    for method in ("covariance", "mutual-information", "jsse"):
        call("build", *files, "--method", method, "--fisher", "-o", tmp_path / "x", code=2)
    assert not list(tmp_path.iterdir())


def test_two_files_of_one_name_are_refused(series, tmp_path):
    copy = tmp_path / "sub-001_ses-1.npy"
    copy.write_bytes((series / copy.name).read_bytes())
    with pytest.raises(CohortError, match="inputs of the same name: sub-001_ses-1"):
        call("build", copy, series / copy.name, "-o", tmp_path / "x")


def test_real_series_of_four_people(shared_data, tmp_path):
    files = sorted((shared_data / "brain" / "sc_bold").glob("hcp_*_TC_*.mat"))
    call("build", *files, "--key", "tc", "--rows", "regions", "-o", tmp_path / "hcp")
    assert read_connectomes(tmp_path / "hcp.connectomes.zarr").adjacency.shape == (4, 94, 94)
    table, nodal = tmp_path / "hcp.csv", tmp_path / "nodal.csv"
    call(
        "metrics",
        tmp_path / "hcp.connectomes.zarr",
        "--density",
        0.15,
        "-o",
        table,
        "--nodal",
        nodal,
    )
    rows = table_rows(table)
    assert [row["subject"] for row in rows] == [f.stem for f in files]
    for row in rows:
        assert float(row["density"]) == pytest.approx(0.15, abs=1e-3)
        assert all(0 < float(row[measure]) < 1 for measure in MEASURES)
    per_region = table_rows(nodal)
    assert len(per_region) == 4 * 94
    degrees = [float(row["degree"]) for row in per_region[:94]]
    assert np.mean(degrees) == pytest.approx(float(rows[0]["mean_degree"]))


def test_a_pet_scan_with_an_atlas_on_another_grid(shared_data, tmp_path):
    brain = shared_data / "brain"
    command = [
        "build", brain / "nifti" / "spm_PET.nii.gz", "--method", "jsse",
        "--atlas", brain / "atlas" / "labels_Neuromorphometrics.nii.gz", "-o", tmp_path / "pet",
    ]  # fmt: skip
    assert "bad_geometry" in call(*command, code=3)
    assert not (tmp_path / "pet.connectomes.zarr").exists()
    assert "Right vessel" in call(*command, "--resample", code=3).replace("\n", " ")
    call(*command, "--resample", "--leave-out", "Right vessel", "--leave-out", "Left vessel")
    cohort = read_connectomes(tmp_path / "pet.connectomes.zarr")
    assert (cohort.modality, len(cohort.regions), cohort.subjects) == ("PET", 134, ("spm_PET",))
    about = read_commit(tmp_path / "pet.connectomes.zarr").about
    # The names beside the atlas decide what is built, and so are on record.
    assert "labels_Neuromorphometrics.xml" in about["files"]
    picture = tmp_path / "pet.png"
    call("draw", tmp_path / "pet.connectomes.zarr", "-o", picture)
    with Image.open(picture) as image:
        assert image.width > 800
        assert np.asarray(image.convert("RGB")).std() > 10


def test_a_group_table_and_its_spanning_tree(shared_data, tmp_path):
    nspn = shared_data / "brain" / "nspn"
    call(
        "build", nspn / "PARC_500aparc_thickness_behavmerge.csv", "--method", "group-covariance",
        "--subject-column", "nspn_id", "--regions", nspn / "500.names.txt",
        "--centroids", nspn / "500.centroids.txt", "-o", tmp_path / "nspn",
    )  # fmt: skip
    call("metrics", tmp_path / "nspn.connectomes.zarr", "--keep", "tree", "--density", 0.1,
         "-o", tmp_path / "nspn.csv")  # fmt: skip
    (row,) = table_rows(tmp_path / "nspn.csv")
    assert row["subject"] == "group"
    assert float(row["clustering_binary"]) == pytest.approx(0.44501, rel=0.03)
    assert float(row["path_length_binary"]) == pytest.approx(2.39854, rel=0.03)
    assert float(row["n_components"]) == 1


def test_a_folder_of_freesurfer_tables(shared_data, tmp_path):
    call("build", shared_data / "brain" / "abide_smri", "--method", "msn", "-o", tmp_path / "abide")
    cohort = read_connectomes(tmp_path / "abide.connectomes.zarr")
    assert cohort.adjacency.shape == (789, 68, 68)
    assert cohort.subjects[0] == "Caltech_0051456"
    assert (cohort.measure, cohort.modality) == ("msn", "sMRI")


def test_a_density_that_a_network_cannot_reach_rejects_that_network(tmp_path, series):
    files = sorted(series.glob("*ses-1.npy"))
    call("build", *files, "--method", "partial", "-o", tmp_path / "p")
    shown = call("metrics", tmp_path / "p.connectomes.zarr", "--density", 0.95,
                 "-o", tmp_path / "p.csv", code=3)  # fmt: skip
    assert "rejected(bad_connectome)" in shown
    assert not (tmp_path / "p.csv").exists()


def test_the_exit_codes_and_words_of_the_real_program(tmp_path, series):
    def run(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "microtome", "connectome", *map(str, arguments)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    wrong = run("metrics", series, "-o", tmp_path / "x.csv")
    assert wrong.returncode == 3
    assert "not a finished connectome cohort" in wrong.stderr
    assert "Traceback" not in wrong.stderr
    missing = run("build", tmp_path / "none.npy", "-o", tmp_path / "x")
    assert missing.returncode == 2


@pytest.mark.parametrize(
    ("scan", "method", "expected"),
    [
        ("spm_single_subj_T1.nii.gz", "jsd", ("sMRI", 134)),
        ("nibabel_functional.nii", "pearson", ("fMRI", 30)),
        ("spm_PET.nii.gz", "klse", ("PET", 134)),
    ],
)
def test_scans_of_three_kinds_become_networks_in_one_command(
    scan, method, expected, shared_data, tmp_path
):
    brain = shared_data / "brain"
    atlas = ["--atlas", brain / "atlas" / "labels_Neuromorphometrics.nii.gz", "--resample"]
    out = tmp_path / "one"
    shown = call(
        "build", brain / "nifti" / scan, "--method", method, *atlas, "--drop-lost", "-o", out
    )
    cohort = read_connectomes(tmp_path / "one.connectomes.zarr")
    assert (cohort.modality, len(cohort.regions)) == expected
    assert np.isfinite(cohort.adjacency).all()
    assert np.abs(cohort.adjacency).max() > 0.2
    lost = read_commit(tmp_path / "one.connectomes.zarr").about["lost"]
    assert len(lost) == 136 - len(cohort.regions)
    assert {"Right vessel", "Left vessel"} <= set(lost)
    shown = " ".join(shown.split())
    assert f"without {len(lost)} regions beyond the scan: " in shown
    assert all(name in shown for name in lost)


@pytest.mark.slow
def test_a_scan_becomes_a_network_and_a_report_in_one_command(shared_data, tmp_path):
    brain = shared_data / "brain"
    page = tmp_path / "rest.html"
    call(
        "build", brain / "nifti" / "nibabel_functional.nii", "--resample", "--drop-lost",
        "--atlas", brain / "atlas" / "labels_Neuromorphometrics.nii.gz",
        "-o", tmp_path / "rest", "--report", page,
    )  # fmt: skip
    assert "1 networks of 30 regions, fMRI pearson" in page.read_text()
