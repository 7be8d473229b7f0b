"""fMRIPrep's tables as nilearn understands them, and series cleaned of what they tell."""

from __future__ import annotations

import shutil
from importlib.resources import files

import nibabel
import numpy as np
import pandas as pd
import pytest
from nilearn.interfaces.fmriprep import load_confounds
from typer.testing import CliRunner

from microtome.cli.app import app
from microtome.graphs.confounds import (
    Cleaning,
    chosen_columns,
    clean_series,
    kept_points,
    read_confounds,
    table_beside,
)
from microtome.storage.connectomes import read_connectomes
from microtome.storage.errors import BadSeries, CohortError, MissingFile, UnreadableFile

BOLD = "sub-1_task-rest_space-MNI152NLin2009cAsym_desc-preproc_bold.nii.gz"
TABLE = "sub-1_task-rest_desc-confounds_timeseries.tsv"


@pytest.fixture
def derivatives(tmp_path):
    """A scan of 30 points beside the table of fMRIPrep that nilearn tests itself with."""
    data = files("nilearn.interfaces.fmriprep") / "data"
    for ending in ("tsv", "json"):
        source = data / f"test-v21_desc-confounds_timeseries.{ending}"
        shutil.copy(str(source), tmp_path / TABLE.replace("tsv", ending))
    rng = np.random.default_rng(0)
    image = nibabel.Nifti1Image(rng.standard_normal((4, 4, 4, 30)) + 100, np.eye(4))
    image.header.set_zooms((1, 1, 1, 2.0))
    image.header.set_xyzt_units("mm", "sec")
    nibabel.save(image, tmp_path / BOLD)
    return tmp_path


@pytest.mark.parametrize(
    ("ours", "strategy", "options"),
    [
        (("motion-24",), ("motion",), {"motion": "full"}),
        (("motion-6", "wm-csf"), ("motion", "wm_csf"), {"motion": "basic"}),
        (("cosine", "global"), ("high_pass", "global_signal"), {}),
    ],
)
def test_words_stand_for_the_columns_that_nilearn_takes(derivatives, ours, strategy, options):
    theirs, _ = load_confounds(str(derivatives / BOLD), strategy, demean=False, **options)
    table = read_confounds(derivatives / TABLE)
    names = chosen_columns(list(table), ours)
    assert sorted(names) == sorted(theirs.columns)


@pytest.mark.parametrize(("fd", "dvars", "segment"), [(1.6, 2.9, 5), (3.0, 4.0, 3), (9, 9, 5)])
def test_the_points_that_are_scrubbed_are_those_that_nilearn_scrubs(
    derivatives, fd, dvars, segment
):
    _, theirs = load_confounds(
        str(derivatives / BOLD), ("scrub",), scrub=segment, fd_threshold=fd,
        std_dvars_threshold=dvars,
    )  # fmt: skip
    table = read_confounds(derivatives / TABLE)
    kept = kept_points(table, Cleaning(max_fd_mm=fd, max_dvars=dvars, min_segment=segment))
    expected = np.arange(30) if theirs is None else theirs
    # Steady state is another matter; nilearn leaves it out whenever it scrubs.
    steady = [i for i in range(30) if not any(table[n][i] for n in table if "non_steady" in n)]
    np.testing.assert_array_equal(
        np.intersect1d(np.flatnonzero(kept), steady), np.intersect1d(expected, steady)
    )


def test_what_confounds_explain_is_gone(derivatives):
    table = read_confounds(derivatives / TABLE)
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((30, 4))
    series = 50 + noise + 20 * table["trans_x"][:, None] + 3 * table["csf"][:, None]
    cleaning = Cleaning(derivatives / TABLE, ("motion-6", "wm-csf"))
    found = clean_series(series, cleaning, path=derivatives / BOLD)
    design = np.column_stack([np.ones(30)] + [table[n] for n in (
        "trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z", "csf", "white_matter",
    )])  # fmt: skip
    expected = series - design @ np.linalg.lstsq(design, series, rcond=None)[0]
    np.testing.assert_allclose(found, expected + series.mean(axis=0), atol=1e-8)


def test_scrubbed_points_are_left_out_before_the_regression(derivatives, tmp_path):
    frame = pd.DataFrame({"csf": np.arange(40.0) % 7, "framewise_displacement": 0.1})
    frame.loc[[20, 24], "framewise_displacement"] = 2.0
    path = tmp_path / "x_desc-confounds_timeseries.tsv"
    frame.to_csv(path, sep="\t", index=False)
    series = np.random.default_rng(0).standard_normal((40, 3)) + 5
    series[20:25] += 1e4
    found = clean_series(series, Cleaning(path, ("csf",), max_fd_mm=0.5))
    kept = np.r_[0:20, 25:40]
    assert found.shape == (35, 3)
    design = np.column_stack([np.ones(35), frame["csf"].to_numpy()[kept]])
    left = series[kept] - design @ np.linalg.lstsq(design, series[kept], rcond=None)[0]
    np.testing.assert_allclose(found, left + series[kept].mean(axis=0), atol=1e-8)


def test_a_filter_keeps_the_band_and_the_mean():
    t = np.arange(400) * 2.0
    slow, fast = np.sin(2 * np.pi * 0.02 * t), np.sin(2 * np.pi * 0.2 * t)
    series = np.column_stack([slow + fast + 7, fast - slow + 3])
    found = clean_series(series, Cleaning(low_pass_hz=0.1, tr_s=2.0))
    np.testing.assert_allclose(found[50:350, 0], slow[50:350] + 7, atol=0.05)
    np.testing.assert_allclose(found.mean(axis=0), [7, 3], atol=0.01)
    with pytest.raises(BadSeries, match="--tr-s"):
        clean_series(series, Cleaning(low_pass_hz=0.1))


def test_the_table_of_a_scan_is_found_by_its_name(derivatives):
    assert table_beside(derivatives / BOLD, derivatives).name == TABLE
    with pytest.raises(CohortError, match="0 tables of confounds are there for sub-2"):
        table_beside(derivatives / BOLD.replace("sub-1", "sub-2"), derivatives)
    shutil.copy(derivatives / TABLE, derivatives / TABLE.replace("timeseries", "regressors"))
    with pytest.raises(CohortError, match="2 tables"):
        table_beside(derivatives / BOLD, derivatives)


def test_tables_that_do_not_fit_are_refused(derivatives, tmp_path):
    cleaning = Cleaning(derivatives / TABLE, ("motion-6",))
    with pytest.raises(BadSeries, match="30 rows of confounds for 20 time points"):
        clean_series(np.ones((20, 2)), cleaning)
    with pytest.raises(CohortError, match="no column pupil"):
        clean_series(np.ones((30, 2)), Cleaning(derivatives / TABLE, ("pupil",)))
    with pytest.raises(BadSeries, match="no time point is left"):
        clean_series(np.ones((30, 2)), Cleaning(derivatives / TABLE, max_fd_mm=0.0))
    with pytest.raises(CohortError, match="--confounds"):
        clean_series(np.ones((30, 2)), Cleaning(columns=("csf",)))
    with pytest.raises(MissingFile):
        read_confounds(tmp_path / "none.tsv")
    (tmp_path / "text.tsv").write_text("a\tb\nx\ty\n")
    with pytest.raises(UnreadableFile, match="no table of numbers"):
        read_confounds(tmp_path / "text.tsv")


def test_a_preprocessed_scan_is_cleaned_in_one_command(derivatives):
    labels = np.zeros((4, 4, 4), np.int16)
    labels[:2], labels[2:] = 1, 2
    nibabel.save(nibabel.Nifti1Image(labels, np.eye(4)), derivatives / "atlas.nii.gz")
    command = ["connectome", "build", str(derivatives / BOLD), "--atlas"]
    command += [str(derivatives / "atlas.nii.gz"), "--confounds", str(derivatives)]
    command += ["--confound", "motion-6", "--high-pass-hz", "0.01", "-o", str(derivatives / "one")]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    network = read_connectomes(derivatives / "one.connectomes.zarr")[0]
    data = nibabel.load(derivatives / BOLD).get_fdata()
    series = np.stack([data[labels == k].mean(axis=0) for k in (1, 2)], axis=1)
    from nilearn.signal import clean

    confounds, _ = load_confounds(str(derivatives / BOLD), ("motion",), motion="basic")
    theirs = clean(
        series, confounds=confounds, detrend=False, standardize=None, high_pass=0.01, t_r=2.0
    )
    assert network.adjacency[0, 1] == pytest.approx(np.corrcoef(theirs.T)[0, 1], abs=1e-6)
    scrubbed = [*command[:-1], str(derivatives / "two"), "--max-fd-mm"]
    assert "time points cannot be cleaned so" in CliRunner().invoke(app, [*scrubbed, "1.6"]).output
    few = [part for part in [*scrubbed, "1.3"] if part not in ("--high-pass-hz", "0.01")]
    few += ["--min-timepoints", "20"]
    assert "time points are too few, 20 are needed" in CliRunner().invoke(app, few).output
