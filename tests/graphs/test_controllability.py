"""Controllability equals the Gramian that SciPy solves for, and follows the regions."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import solve_discrete_lyapunov

from microtome.graphs import controllability


@pytest.fixture(scope="module")
def tracts(shared_data) -> np.ndarray:
    return np.load(shared_data / "brain" / "bct" / "sample_group_dsi.npy")[:60, :60, 0]


def stable(weights: np.ndarray) -> np.ndarray:
    weights = weights * (1 - np.eye(len(weights)))
    return weights / (1 + np.linalg.svd(weights, compute_uv=False)[0])


def test_the_average_is_the_trace_of_the_gramian(tracts):
    found, a = controllability.average_controllability(tracts), stable(tracts)
    for region in (0, 7, 33):
        drive = np.zeros((60, 1))
        drive[region] = 1
        gramian = solve_discrete_lyapunov(a, drive @ drive.T)
        assert found[region] == pytest.approx(np.trace(gramian))
    assert found.min() >= 1


def test_the_modal_is_gus_sum_over_modes(tracts):
    found, a = controllability.modal_controllability(tracts), stable(tracts)
    values, vectors = np.linalg.eig(a)
    expected = [((1 - values**2) * vectors[i] ** 2).sum() for i in range(60)]
    np.testing.assert_allclose(found, expected, rtol=1e-8)
    # Gu et al. (2015): regions that are good at one are bad at the other.
    average = controllability.average_controllability(tracts)
    assert np.corrcoef(np.argsort(np.argsort([average, found]), axis=1))[0, 1] < -0.9


def test_two_regions_and_none():
    w = np.array([[0, 1.0], [1, 0]])
    # A has eigenvalues 1/2 and -1/2.
    np.testing.assert_allclose(controllability.average_controllability(w), 4 / 3)
    np.testing.assert_allclose(controllability.modal_controllability(w), 3 / 4)
    assert (controllability.average_controllability(np.zeros((3, 3))) == 1).all()
