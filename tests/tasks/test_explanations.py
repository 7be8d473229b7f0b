"""Explanations find what was planted, speak of their model, and say so where they do not."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from sample_examples import examples_from, noise

from microtome.graphs.simulate import SimulatedCohort, simulate_cohort
from microtome.tasks.diagnosis.evaluate import Plan, Trial, fold_models, run_trial
from microtome.tasks.diagnosis.examples import Examples
from microtome.tasks.diagnosis.explain import edge_importance, node_importance, top_edges
from microtome.tasks.diagnosis.explanations import explain
from microtome.tasks.diagnosis.faithfulness import FRACTIONS, deletion_curves, rank_agreement
from microtome.tasks.diagnosis.families import BLIND, NAMES, families
from microtome.tasks.diagnosis.graph_model import GraphModel
from microtome.tasks.diagnosis.models import Family, FittedLinear, LinearModel

UNEXPLAINED = (*BLIND, "population", "population-alone", "multiplex")


@pytest.fixture(scope="module")
def simulated() -> SimulatedCohort:
    return simulate_cohort(100, 24, 200, 0.35, seed=5)


@pytest.fixture(scope="module")
def examples(simulated: SimulatedCohort) -> Examples:
    return examples_from(simulated)


def precision(importance: np.ndarray, planted: np.ndarray) -> float:
    k = int(planted.sum()) // 2
    return float(np.mean([planted[e.i, e.j] for e in top_edges(importance, k)]))


@pytest.mark.parametrize("name", [name for name in NAMES if name not in UNEXPLAINED])
def test_the_planted_subgraph_is_found(examples, simulated, name) -> None:
    (family,) = families([name], backend="dense")
    importance = edge_importance(family.candidates[-1].fit(examples, seed=0), examples)
    assert precision(importance, simulated.planted) > 0.8
    regions = np.argsort(-node_importance(importance))[: len(simulated.planted_regions)]
    assert np.isin(regions, simulated.planted_regions).mean() > 0.7


def test_important_edges_of_a_linear_machine_are_those_that_change_it() -> None:
    """With equal spreads and uncorrelated edges the order is known: that of the weights."""
    rows = noise(200, 10, seed=1)
    weights = np.linspace(0, 1, 45) ** 4
    fitted = FittedLinear(np.zeros(45), np.ones(45), weights, 0.0, LinearModel(1.0))
    train, test = rows.take(np.arange(100)), rows.take(np.arange(100, 200))
    i, j = np.triu_indices(10, 1)
    importance = np.zeros((10, 10))
    importance[i, j] = importance[j, i] = weights
    curves = deletion_curves(fitted, train, test, importance)
    edges = test.edges - train.edges.mean(0)
    for at, fraction in enumerate(FRACTIONS):
        kept = np.arange(45) < 45 - max(1, round(fraction * 45))
        whole, without, alone = (edges @ (weights * m) for m in (1, kept, ~kept))
        assert curves.deletion[at] == pytest.approx(np.corrcoef(whole, without)[0, 1])
        assert curves.insertion[at] == pytest.approx(np.corrcoef(whole, alone)[0, 1])
    assert curves.deletion_gap > 0.2
    assert curves.insertion_gap > 0.2
    wrong = deletion_curves(fitted, train, test, -importance)
    assert wrong.deletion_gap < 0
    assert wrong.insertion_gap < 0


def test_ranks_agree_with_themselves_and_not_with_chance() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.random((2, 40, 40))
    assert rank_agreement([a, a**3]) == pytest.approx(1)
    assert rank_agreement([a, -a]) == pytest.approx(-1)
    assert abs(rank_agreement([a, b])) < 0.15


def test_the_models_of_the_folds_are_those_that_were_scored(examples) -> None:
    family = Family("gcn", (GraphModel(0.1, epochs=4, backend="dense"),
                            GraphModel(0.2, epochs=4, backend="dense")))  # fmt: skip
    plan = Plan((family,), n_folds=3)
    end = run_trial(Trial("gcn"), examples, plan)
    for one in fold_models(end, examples, plan):
        again = one.fitted.predict_proba(examples.take(one.fold.test))
        np.testing.assert_array_equal(again, end.scores[one.fold.test])
    with pytest.raises(ValueError, match="shuffled"):
        fold_models(replace(end, trial=Trial("gcn", 1)), examples, plan)


def test_an_explanation_is_faithful_and_stable_where_there_is_a_signal(examples) -> None:
    found = {}
    for name, model in (("linear", LinearModel(1e-2)), ("gcn", GraphModel(0.2, backend="dense"))):
        plan = Plan((Family(name, (model,)),), n_folds=3)
        end = run_trial(Trial(name), examples, plan)
        folds = fold_models(end, examples, plan)
        found[name] = explain(model, model.fit(examples, seed=0), examples, folds, 0)
    for one in found.values():
        assert one.curves.deletion_gap > 0.02
        assert one.curves.insertion_gap > 0.1
    assert found["linear"].seeds == pytest.approx(1)
    assert 0.3 < found["gcn"].seeds < 1
    assert all(np.isfinite(list(one.as_json()["deletion"])).all() for one in found.values())


@dataclass(frozen=True)
class Blind:
    """A model that looks at nothing."""

    def fit(self, train, *, seed=0):
        return self

    def predict_proba(self, examples):
        return np.full(len(examples), 0.5)

    def describe(self):
        return {}


def test_a_model_that_sees_no_edge_has_no_explanation(examples) -> None:
    assert explain(Blind(), Blind(), examples, [], 0) is None
