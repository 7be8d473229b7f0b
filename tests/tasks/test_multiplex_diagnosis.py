"""Several connectomes a person: the layer that carries the signal is used, whoever lacks one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sample_examples import cohort_of

from microtome.graphs.simulate_layers import simulate_layers
from microtome.storage.errors import BadConnectome, CohortError
from microtome.tasks.diagnosis.evaluate import Plan, Trial, fold_models, run_trial
from microtome.tasks.diagnosis.examples import Examples, examples_of
from microtome.tasks.diagnosis.explain import edge_importance, top_edges
from microtome.tasks.diagnosis.explanations import LayerUse, hidden, layer_use
from microtome.tasks.diagnosis.families import Known, families
from microtome.tasks.diagnosis.models import Family
from microtome.tasks.diagnosis.multiplex_model import MultiplexModel
from microtome.tasks.diagnosis.phenotypes import Phenotypes
from microtome.tasks.diagnosis.store import read_model, write_model

SIGNAL, SITE = 0, 1


@pytest.fixture(scope="module")
def layers():
    return simulate_layers((0.35, 0.0), 100, 20, 150, seed=1)


@pytest.fixture(scope="module")
def examples(layers) -> Examples:
    """A third of the people lack one of the two layers."""
    first = layers[0]
    cohorts = [replace(cohort_of(layer), modality=m) for layer, m in zip(layers, "AB", strict=True)]
    people = Phenotypes(first.ids, first.labels, ("0", "1"), first.subjects, first.sites)
    rows = examples_of(cohorts[0], people, cohorts[1])
    adjacency = rows.adjacency.copy()
    adjacency[0::6, SIGNAL] = np.nan
    adjacency[3::6, SITE] = np.nan
    return replace(rows, adjacency=adjacency)


def used(rows: Examples, family: Family) -> list[LayerUse]:
    plan = Plan((family,), n_folds=3)
    end = run_trial(Trial(family.name), rows, plan)
    return layer_use(end, rows, fold_models(end, rows, plan), ["signal", "site"], 0)


def test_layers_are_of_the_same_people_and_nothing_else(layers) -> None:
    first, second = layers
    assert (first.labels == second.labels).all()
    assert first.sites == second.sites
    own = [cohort_of(layer).adjacency[:, 0, 1:].mean(1) for layer in layers]
    within = [(values - values.mean())[first.labels == 0] for values in own]
    assert abs(np.corrcoef(*within)[0, 1]) < 0.35
    scanners = [layer.series.mean((1, 2)) for layer in layers]
    for means in scanners:
        of_sites = [means[np.array(first.sites) == site] for site in ("site-1", "site-2")]
        assert min(np.ptp(values) for values in of_sites) < abs(
            of_sites[0].mean() - of_sites[1].mean()
        )


def test_the_layer_with_the_signal_is_used_and_that_of_the_site_is_not(examples) -> None:
    signal, site = used(examples, Family("multiplex", (MultiplexModel(0.2),)))
    assert signal.whole.low > 0.75
    assert signal.alone.low > 0.75
    assert signal.without.low < 0.5 < signal.without.high
    assert abs(site.without.value - site.whole.value) < 0.05
    assert site.alone.low < 0.5 < site.alone.high
    assert signal.share + site.share == pytest.approx(1)
    assert signal.share > site.share


def test_linear_models_read_all_layers_side_by_side(examples) -> None:
    (family,) = families(["linear"], known=Known(n_layers=2))
    signal, site = used(examples, replace(family, candidates=family.candidates[2:3]))
    assert signal.whole.low > 0.75
    assert signal.without.low < 0.5 < signal.without.high
    assert abs(site.without.value - site.whole.value) < 0.07
    assert signal.share is None


def test_whoever_lacks_a_layer_is_judged_by_the_others(examples) -> None:
    fitted = MultiplexModel(0.2).fit(examples, seed=0)
    lacking = np.flatnonzero(~examples.present[:, SITE])
    rows = examples.take(lacking)
    said = fitted.predict_proba(rows)
    assert np.isfinite(said).all()
    assert ((said > 0.5) == rows.labels).mean() > 0.8
    np.testing.assert_array_equal(fitted.shares(rows)[:, SITE], 0)
    np.testing.assert_allclose(fitted.predict_proba(hidden(rows, np.array([False, True]))), said)
    # Another's layer plays no part in what is said of a person.
    np.testing.assert_allclose(
        fitted.predict_proba(rows.take(np.array([2])))[0], said[2], atol=1e-6
    )


def test_the_planted_subgraph_is_found_in_its_layer(examples, layers) -> None:
    importance = edge_importance(MultiplexModel(0.2).fit(examples, seed=0), examples)
    assert importance.shape == (2, 20, 20)
    planted = layers[0].planted
    k = int(planted.sum()) // 2
    assert np.mean([planted[e.i, e.j] for e in top_edges(importance[SIGNAL], k)]) > 0.8


def test_a_multiplex_model_is_kept_and_knows_its_layers(tmp_path, examples) -> None:
    fitted = MultiplexModel(0.1, epochs=3).fit(examples, seed=0)
    write_model(tmp_path, fitted, {})
    back, _ = read_model(tmp_path)
    np.testing.assert_array_equal(back.predict_proba(examples), fitted.predict_proba(examples))
    with pytest.raises(BadConnectome, match="do not fit"):
        back.predict_proba(replace(examples, adjacency=examples.adjacency[:, :1]))


def test_models_and_layers_that_do_not_go_together_are_refused(layers) -> None:
    with pytest.raises(CohortError, match="one connectome a person"):
        families(["gcn"], known=Known(n_layers=2))
    with pytest.raises(CohortError, match="several layers"):
        families(["multiplex"])
    first = layers[0]
    people = Phenotypes(first.ids, first.labels, ("0", "1"), first.subjects)
    other = cohort_of(simulate_layers((0.0,), 100, 12, 50)[0])
    with pytest.raises(BadConnectome, match="not over the same regions"):
        examples_of(cohort_of(first), people, other)
