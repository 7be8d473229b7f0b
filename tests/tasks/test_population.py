"""A graph of people: nothing of those who are asked about is in what was learnt."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sample_examples import examples_from, noise

from microtome.graphs.simulate import simulate_cohort
from microtome.storage.errors import CohortError
from microtome.tasks.diagnosis.evaluate import Plan, Trial, held_out_scores, run_trial
from microtome.tasks.diagnosis.examples import Examples
from microtome.tasks.diagnosis.models import Family
from microtome.tasks.diagnosis.population import PopulationModel
from microtome.tasks.evaluation import Fold

QUICK = PopulationModel(epochs=20)


@pytest.fixture(scope="module")
def examples() -> Examples:
    rows = examples_from(simulate_cohort(60, 16, 150, 0.35, seed=1))
    ages = np.random.default_rng(0).uniform(40, 80, len(rows))
    return replace(rows, covariates=ages[:, None])


def test_whom_one_is_asked_about_with_changes_nothing(examples) -> None:
    train, test = examples.take(np.arange(50)), examples.take(np.arange(50, len(examples)))
    fitted = QUICK.fit(train, seed=0)
    together = fitted.predict_proba(test)
    alone = [fitted.predict_proba(test.take(np.array([i])))[0] for i in range(len(test))]
    np.testing.assert_allclose(alone, together, atol=1e-6)
    other = test.with_edges(np.random.default_rng(1).normal(size=test.edges.shape))
    np.testing.assert_array_equal(QUICK.fit(train, seed=0).edges, fitted.edges)
    assert not np.allclose(fitted.predict_proba(other), together)
    fold = Fold(np.arange(50), np.arange(50, len(examples)))
    if not set(train.groups) & set(test.groups):
        np.testing.assert_array_equal(held_out_scores(QUICK, examples, fold, 0), together)


def test_people_are_joined_by_site_and_age_and_like_features() -> None:
    rows = noise(40, 10, seed=2, sessions=2)
    sites = np.where(np.arange(80) // 2 % 2 == 0, "a", "b")
    rows = replace(rows, sites=sites)
    edges = QUICK.fit(rows, seed=0).edges
    np.testing.assert_allclose(edges.sum(1), 1)
    assert (edges[sites[:, None] != sites[None]] == 0).all()
    assert (edges[rows.groups[:, None] == rows.groups[None]] == 0).all()
    # Other sessions of one person are alike, so they have nearly the same neighbours.
    np.testing.assert_allclose(edges[0, 4:], edges[1, 4:], atol=0.02)
    aged = replace(rows, sites=None, covariates=np.repeat(np.arange(40.0), 2)[:, None])
    near = QUICK.fit(aged, seed=0).edges[40]
    assert near[[38, 39, 42, 43]].min() > 2 * near[[0, 1, 78, 79]].max()
    unseen = replace(rows, sites=np.full(80, "c"))
    fitted = QUICK.fit(rows, seed=0)
    assert np.isfinite(fitted.predict_proba(unseen)).all()
    with pytest.raises(CohortError, match="--site or --covariates"):
        QUICK.fit(replace(rows, sites=None))


def test_labels_without_meaning_score_chance() -> None:
    plan = Plan((Family("population", (QUICK,)),), n_folds=4)
    found = []
    for seed in range(8):
        rows = noise(40, 10, seed=seed, sessions=2)
        sites = np.where(np.arange(80) // 4 % 2 == 0, "a", "b")
        found.append(run_trial(Trial("population", 1), replace(rows, sites=sites), plan).auc)
    assert abs(np.mean(found) - 0.5) < 3 * np.std(found, ddof=1) / np.sqrt(8)


def test_neighbours_help_where_they_tell_what_is_normal_at_a_site() -> None:
    """A label that is a deviation from the site's own mean: alone, nobody knows that mean."""
    rows, rng = noise(160, 8, seed=3), np.random.default_rng(3)
    home = rng.integers(0, 8, 160)
    level = rng.normal(0, 6, 8)
    edges = rows.edges
    edges[:, 0] = level[home] + rng.normal(size=160)
    labels = (edges[:, 0] > level[home]).astype(np.int64)
    rows = replace(rows.with_edges(edges), labels=labels, sites=np.array([f"s{h}" for h in home]))
    plan = Plan(
        tuple(Family(name, (PopulationModel(joined),))
              for name, joined in (("joined", True), ("alone", False))),
        n_folds=4,
    )  # fmt: skip
    joined, alone = (run_trial(Trial(name), rows, plan).auc for name in ("joined", "alone"))
    assert joined > alone
