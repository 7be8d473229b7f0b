"""Sparse non-negative factorisation: against planted stains and scikit-learn's solver."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.decomposition import DictionaryLearning, sparse_encode

from microtome.engine.slides import open_slide
from microtome.engine.stain import REFERENCE, estimate_stains_vahadane, optical_density
from microtome.engine.stain.vahadane import factorise, sparse_amounts

SPARSITY = 0.1
FAMILIES = {
    "purple": ((0.65, 0.70, 0.29), (0.07, 0.99, 0.11)),
    "blue": ((0.82, 0.50, 0.28), (0.10, 0.92, 0.38)),
}


def unit(vectors) -> np.ndarray:
    v = np.asarray(vectors, float)
    return v / np.linalg.norm(v, axis=-1, keepdims=True)


@pytest.fixture(scope="module")
def densities(shared_data) -> np.ndarray:
    """Real skin: optical density (natural logarithm) of some stained pixels, [n, 3]."""
    with open_slide(shared_data / "slides/aperio/CMU-1-Small-Region.svs") as slide:
        pixels = slide.read(0, 1500, 700, 512, 512)[::11, ::11]
    density = optical_density(pixels).reshape(-1, 3).astype(float) * np.log(10)
    return density[np.linalg.norm(density, axis=1) > 0.35]


def lasso(densities: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return sparse_encode(densities, rows, algorithm="lasso_cd", alpha=SPARSITY, positive=True)


def test_amounts_are_those_of_scikit_learns_lasso(densities):
    theirs = lasso(densities, REFERENCE.vectors)
    ours = sparse_amounts(densities, REFERENCE.vectors, SPARSITY)
    np.testing.assert_allclose(ours, theirs, atol=2e-3)
    assert (ours == 0).any(axis=0).all()


def test_no_solver_of_scikit_learn_finds_a_better_factorisation(densities):
    """Both start at the same vectors; what counts is the objective that they end with."""

    def objective(rows: np.ndarray) -> float:
        amounts = sparse_encode(
            densities, rows, algorithm="lasso_cd", alpha=SPARSITY, positive=True
        )
        return 0.5 * ((densities - amounts @ rows) ** 2).sum() + SPARSITY * amounts.sum()

    start = lasso(densities, REFERENCE.vectors)
    learner = DictionaryLearning(
        2, alpha=SPARSITY, fit_algorithm="cd", positive_code=True, positive_dict=True,
        dict_init=REFERENCE.vectors, code_init=start, max_iter=60, tol=1e-7, random_state=0,
    )  # fmt: skip
    theirs = learner.fit(densities).components_
    ours = factorise(densities, REFERENCE.vectors, SPARSITY)
    assert objective(ours) <= objective(theirs) * (1 + 1e-5)
    assert objective(ours) < 0.99 * objective(REFERENCE.vectors)
    cosines = (unit(ours) * unit(theirs)).sum(axis=1)
    assert np.degrees(np.arccos(np.clip(cosines, -1, 1))).max() < 2


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_planted_stains_are_found(family):
    rng = np.random.default_rng(0)
    nuclei = rng.random((256, 256)) < 0.1
    haematoxylin = np.where(nuclei, rng.gamma(20, 0.6 / 20, (256, 256)), 0.02)
    eosin = rng.gamma(8, 0.4 / 8, (256, 256)) * np.where(nuclei, 0.2, 1)
    planted = unit(FAMILIES[family])
    light = 255 * 10.0 ** -(np.stack([haematoxylin, eosin], axis=-1) @ planted)
    found = estimate_stains_vahadane(np.rint(light).clip(0, 255).astype(np.uint8))
    assert found.source == "estimated"
    assert np.degrees(np.arccos((found.vectors * planted).sum(axis=1))).max() < 6


def test_stains_of_real_skin_are_stains(shared_data):
    with open_slide(shared_data / "slides/aperio/CMU-1-Small-Region.svs") as slide:
        found = estimate_stains_vahadane(slide.read(0, 1200, 400, 1024, 1024))
    assert found.source == "estimated"
    assert (found.vectors >= 0).all()
    np.testing.assert_allclose(np.linalg.norm(found.vectors, axis=1), 1)
