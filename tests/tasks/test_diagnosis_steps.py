"""Harmonisation and tangent space are learnt within folds; done on all rows they would be seen."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from sample_examples import cohort_of, examples_from, noise
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from microtome.graphs.harmonise import fit_combat
from microtome.graphs.simulate import simulate_cohort
from microtome.graphs.tangent import TangentSpace
from microtome.storage.errors import CohortError
from microtome.tasks.diagnosis.evaluate import Plan, Trial, held_out_scores, run_trial
from microtome.tasks.diagnosis.examples import Examples
from microtome.tasks.diagnosis.families import Known, families
from microtome.tasks.diagnosis.models import Family, LinearModel
from microtome.tasks.diagnosis.steps import Harmonise, Pipeline, Tangent, fit_each
from microtome.tasks.diagnosis.store import read_model, write_model
from microtome.tasks.evaluation import Fold, auc

N_COHORTS = 8


def confounded(seed: int, n_people: int = 80) -> Examples:
    """Connectomes of two scanners that say nothing of labels but where they are from."""
    rows, rng = noise(n_people, 12, seed=seed), np.random.default_rng(1000 + seed)
    at_first = np.arange(n_people) < n_people // 2
    labels = (rng.random(n_people) < np.where(at_first, 0.8, 0.2)).astype(np.int64)
    shift = rng.normal(0, 1.5, rows.edges.shape[1])
    rows = rows.with_edges(rows.edges + at_first[:, None] * shift)
    return replace(rows, labels=labels, sites=np.where(at_first, "a", "b"))


def spoilt(rows: Examples, *, keep_diagnosis: bool) -> Examples:
    """What must not be done: one harmonisation of all rows before they are split."""
    kept = rows.labels[:, None].astype(float) if keep_diagnosis else None
    sites = rows.sites.tolist()
    return rows.with_edges(fit_combat(rows.edges, sites, kept).transform(rows.edges, sites, kept))


def aucs(kind: str) -> np.ndarray:
    within = kind == "within folds"
    linear = LinearModel(1e-2)
    plan = Plan((Family("linear", (Pipeline(Harmonise(), linear) if within else linear,)),), 4)
    found = []
    for seed in range(N_COHORTS):
        rows = confounded(seed)
        if kind.startswith("on all"):
            rows = spoilt(rows, keep_diagnosis=kind.endswith("diagnosis"))
        found.append(run_trial(Trial("linear"), rows, plan).auc)
    return np.array(found)


def error_of_mean(found: np.ndarray) -> float:
    return float(found.std(ddof=1) / np.sqrt(len(found)))


def test_nothing_exceeds_chance_when_sites_are_taken_out_within_folds() -> None:
    """The canary: labels that only the site tells. Left in, or taken out wrongly, it is seen."""
    within, left = aucs("within folds"), aucs("left in")
    assert abs(within.mean() - 0.5) < 3 * error_of_mean(within)
    assert left.mean() - 0.5 > 3 * error_of_mean(left)
    kept = aucs("on all rows, keeping the diagnosis")
    assert kept.mean() - 0.5 > 3 * error_of_mean(kept)
    # Where a site's training rows lie above its mean, those held out lie below: worse than chance.
    before = aucs("on all rows")
    assert 0.5 - before.mean() > 3 * error_of_mean(before)


def test_a_fold_is_harmonised_as_its_training_rows_say() -> None:
    rows = confounded(0)
    fold = Fold(np.arange(0, 80, 2), np.arange(1, 80, 2))
    train, test = rows.take(fold.train), rows.take(fold.test)
    combat = fit_combat(train.edges, train.sites.tolist())
    scaler = StandardScaler()
    machine = make_pipeline(
        scaler, LogisticRegression(C=1e-2, class_weight="balanced", max_iter=2000)
    )
    machine.fit(combat.transform(train.edges, train.sites.tolist()), train.labels)
    expected = machine.predict_proba(combat.transform(test.edges, test.sites.tolist()))[:, 1]
    found = held_out_scores(Pipeline(Harmonise(), LinearModel(1e-2)), rows, fold, 0)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_what_models_begin_with_alike_is_fitted_once_and_nothing_else_changes() -> None:
    rows, shown = confounded(3), []

    @dataclass(frozen=True)
    class Counted(Harmonise):
        def fit(self, train):
            shown.append(len(train))
            return super().fit(train)

    models = [Pipeline(Counted(), LinearModel(c)) for c in (1e-3, 1e-2)] + [LinearModel(1e-2)]
    together = fit_each(models, rows, 0)
    assert shown == [80]
    for model, fitted in zip(models, together, strict=True):
        expected = model.fit(rows).predict_proba(rows)
        np.testing.assert_array_equal(fitted.predict_proba(rows), expected)


def test_covariates_keep_their_effect_and_flat_edges_their_value() -> None:
    rows = confounded(1)
    ages = np.random.default_rng(0).normal(60, 8, 80)[:, None]
    edges = rows.edges.copy()
    edges[:, 5] = 0.25
    rows = replace(rows.with_edges(edges), covariates=ages)
    combat = fit_combat(np.delete(edges, 5, 1), rows.sites.tolist(), ages)
    expected = combat.transform(np.delete(edges, 5, 1), rows.sites.tolist(), ages)
    found = Harmonise().fit(rows).transform(rows).edges
    np.testing.assert_allclose(np.delete(found, 5, 1), expected)
    assert (found[:, 5] == 0.25).all()


def test_sites_that_training_does_not_know_are_refused_or_left_as_asked() -> None:
    rows = confounded(2)
    rows = replace(rows, sites=np.where(np.arange(80) == 79, "c", rows.sites))
    train, test = rows.take(np.arange(70)), rows.take(np.arange(70, 80))
    with pytest.raises(CohortError, match="not fitted on: c"):
        Harmonise().fit(train).transform(test)
    left = Harmonise("leave").fit(train).transform(test).edges
    np.testing.assert_array_equal(left[-1], test.edges[-1])
    assert not np.allclose(left[0], test.edges[0])
    with pytest.raises(CohortError, match="single person: c"):
        Harmonise().fit(rows)
    alone = Harmonise("leave").fit(rows).transform(rows).edges
    np.testing.assert_array_equal(alone[-1], rows.edges[-1])
    with pytest.raises(CohortError, match="--site"):
        families(["linear"], known=Known(columns=()), harmonise="leave")


def test_tangents_are_those_of_the_training_rows_reference() -> None:
    rows = examples_from(simulate_cohort(30, 10, 200, 0.3, seed=3))
    train, test = rows.take(np.arange(20)), rows.take(np.arange(20, len(rows)))
    step = Tangent(fisher=True)
    fitted = step.fit(train)
    correlations = np.tanh(rows.adjacency) + np.eye(10)
    shrunk = 0.9 * correlations + 0.1 * np.eye(10)
    space = TangentSpace.of_covariances(shrunk[:20])
    i, j = np.triu_indices(10, 1)
    np.testing.assert_allclose(fitted.transform(test).edges, space.tangents(shrunk[20:])[:, i, j])
    np.testing.assert_allclose(fitted.transform(train).edges.mean(0), 0, atol=1e-5)
    with pytest.raises(CohortError, match="'jsse'"):
        families(["tangent"], known=Known(measure="jsse"))


def test_models_behind_steps_are_kept_and_say_the_same(tmp_path) -> None:
    simulated = simulate_cohort(40, 12, 150, 0.35, seed=4)
    rows = examples_from(simulated)
    assert cohort_of(simulated).measure == "fisher-z-pearson"
    (family,) = families(["tangent"], harmonise="leave")
    fitted = family.candidates[1].fit(rows)
    write_model(tmp_path, fitted, {})
    back, card = read_model(tmp_path)
    np.testing.assert_array_equal(back.predict_proba(rows), fitted.predict_proba(rows))
    assert [step["kind"] for step in card["steps"]] == ["harmonise", "tangent"]
    assert auc(rows.labels, back.predict_proba(rows)) > 0.9
