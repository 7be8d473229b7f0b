"""Sliding windows against NumPy, and states that were planted found again."""

from __future__ import annotations

import csv

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import adjusted_rand_score
from typer.testing import CliRunner

from microtome.cli.app import app
from microtome.graphs.dynamic import assign_states, find_states, sliding_pearson
from microtome.storage.connectomes import read_connectomes
from microtome.storage.errors import BadSeries

BLOCK = 120


def switching(seed: int, order: list[int]) -> np.ndarray:
    """A series whose first, or last, four of eight regions go together, in blocks."""
    rng = np.random.default_rng(seed)
    parts = []
    for state in order:
        shared = np.zeros(8)
        shared[4 * state : 4 * state + 4] = 1.2
        parts.append(rng.standard_normal((BLOCK, 8)) + rng.standard_normal((BLOCK, 1)) * shared)
    return np.concatenate(parts)


def test_a_window_is_the_correlation_of_its_part():
    series = np.random.default_rng(0).standard_normal((50, 4))
    found = sliding_pearson(series, window=20, step=5)
    assert found.shape == (7, 4, 4)
    np.testing.assert_allclose(found[3], np.corrcoef(series[15:35].T), atol=1e-12)
    whole = sliding_pearson(series, window=50)
    np.testing.assert_allclose(whole[0], np.corrcoef(series.T), atol=1e-12)


def test_a_soft_window_is_pandas_weighted_correlation():
    series = np.random.default_rng(0).standard_normal((30, 3))
    found = sliding_pearson(series, window=30, taper=3.0)[0]
    from scipy.ndimage import gaussian_filter1d

    weights = gaussian_filter1d(np.ones(30), 3.0, mode="constant")
    covariance = np.cov(series.T, aweights=weights)
    d = np.sqrt(np.diag(covariance))
    np.testing.assert_allclose(found, covariance / np.outer(d, d), atol=1e-12)


def test_planted_states_are_found_and_when_each_subject_is_in_them():
    orders = [[0, 1, 0], [1, 0, 0], [0, 0, 1]]
    windows = [
        sliding_pearson(switching(seed, order), window=40, step=40)
        for seed, order in enumerate(orders)
    ]
    states = find_states(windows, 2)
    truth = [np.repeat(order, BLOCK // 40) for order in orders]
    assert adjusted_rand_score(np.concatenate(truth), np.concatenate(states.labels)) == 1
    # State 0 is the more frequent one: the first four regions.
    assert states.networks[0, 0, 1] > 0.45
    assert abs(states.networks[0, 5, 6]) < 0.2
    assert states.networks[1, 5, 6] > 0.45
    np.testing.assert_allclose(states.fractions, [[2 / 3, 1 / 3]] * 3)
    np.testing.assert_allclose(states.dwell, [[3, 3], [6, 3], [6, 3]])
    assert states.transitions[0].tolist() == [[4, 1], [1, 2]]
    # Another person is assigned to states that were found without them.
    new = assign_states(
        [sliding_pearson(switching(9, [1, 1]), window=40, step=40)], states.networks
    )
    assert new.labels[0].tolist() == [1] * 6
    assert np.isnan(new.dwell[0, 0])


def test_windows_that_cannot_be_are_refused():
    series = np.random.default_rng(0).standard_normal((30, 3))
    with pytest.raises(BadSeries, match="windows of 5 points"):
        sliding_pearson(series, window=5)
    with pytest.raises(BadSeries, match="do not fit 30 time points"):
        sliding_pearson(series, window=31)
    series[:15, 1] = 2.0
    with pytest.raises(BadSeries, match="region 2 does not vary"):
        sliding_pearson(series, window=10)
    with pytest.raises(BadSeries, match="do not make 2 states"):
        find_states([np.zeros((1, 3, 3))], 2)


def test_states_of_files_in_one_command(tmp_path):
    for seed, order in enumerate(([0, 1, 0], [1, 0, 0])):
        pd.DataFrame(switching(seed, order)).to_csv(tmp_path / f"sub-{seed}.csv", index=False)
    command = ["connectome", "states", *map(str, sorted(tmp_path.glob("*.csv")))]
    command += ["--window", "40", "--step", "40", "--states", "2", "-o", str(tmp_path / "two")]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    cohort = read_connectomes(tmp_path / "two.connectomes.zarr")
    assert cohort.subjects == ("state-1", "state-2")
    assert cohort.adjacency[0, 0, 1] > 0.45
    with (tmp_path / "two.states.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["fraction_1"]) for row in rows] == pytest.approx([2 / 3, 2 / 3])
    assert [float(row["changes"]) for row in rows] == [2, 1]
