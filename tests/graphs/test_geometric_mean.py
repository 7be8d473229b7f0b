"""The geometric mean of covariances: what it must be, and what nilearn finds."""

from __future__ import annotations

import numpy as np
import pytest
from nilearn.connectome.connectivity_matrices import _geometric_mean
from scipy.linalg import expm, logm, sqrtm

from microtome.graphs.tangent import TangentSpace, geometric_mean
from microtome.storage.errors import BadConnectome


def covariances(n: int, r: int = 6, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    raw = rng.standard_normal((n, r, 3 * r)) * rng.uniform(0.3, 3, (n, r, 1))
    return raw @ raw.swapaxes(1, 2) / (3 * r)


def test_tangents_at_the_mean_add_up_to_nothing_as_in_nilearn() -> None:
    several = covariances(12)
    mean = geometric_mean(several)
    np.testing.assert_allclose(TangentSpace(mean).tangents(several).mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(
        mean, _geometric_mean(list(several), tol=1e-10, max_iter=100), rtol=1e-4
    )


def test_the_mean_of_two_is_half_way_and_moves_with_the_frame() -> None:
    a, b = covariances(2, seed=1)
    root = sqrtm(a).real
    back = np.linalg.inv(root)
    half = root @ expm(logm(back @ b @ back).real / 2) @ root
    np.testing.assert_allclose(geometric_mean([a, b]), half, rtol=1e-4, atol=1e-5)
    frame = np.random.default_rng(2).standard_normal((6, 6))
    moved = geometric_mean([frame @ a @ frame.T, frame @ b @ frame.T])
    np.testing.assert_allclose(moved, frame @ half @ frame.T, rtol=1e-3, atol=1e-5)


def test_a_matrix_without_a_logarithm_is_refused() -> None:
    flat = np.ones((3, 3))
    with pytest.raises(BadConnectome, match="not positive definite"):
        TangentSpace.of_covariances([np.eye(3), flat - 1e-6 * np.eye(3)])
