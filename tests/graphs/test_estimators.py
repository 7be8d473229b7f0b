"""Connectomes in scikit-learn's pipelines: its own checks, and folds written out by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import (
    check_get_params_invariance,
    check_no_attributes_set_in_init,
    check_parameters_default_constructible,
    check_set_params,
    estimator_checks_generator,
)

from microtome.graphs.estimators import (
    DensityThreshold,
    EdgeVectoriser,
    Harmoniser,
    TangentEmbedding,
)
from microtome.graphs.harmonise import fit_combat
from microtome.graphs.matrices import edges_of
from microtome.graphs.tangent import TangentSpace
from microtome.graphs.threshold import proportional
from microtome.storage.errors import BadConnectome, CohortError

FOLDS = StratifiedKFold(4, shuffle=True, random_state=0)
CHECKED = [DensityThreshold(by="magnitude"), Harmoniser(site=None)]
NOT_APPLICABLE = {
    ("DensityThreshold", "check_estimators_dtypes"): "has people without any edge, who are refused",
}


@pytest.mark.parametrize(
    ("estimator", "check"),
    [
        (one, check)
        for one in CHECKED
        for _, check in estimator_checks_generator(one)
        if (type(one).__name__, check.func.__name__) not in NOT_APPLICABLE
    ],
    ids=lambda x: getattr(getattr(x, "func", x), "__name__", type(x).__name__),
)
def test_scikit_learn_s_own_checks_pass(estimator, check):
    check(clone(estimator))


@pytest.mark.parametrize("estimator", [EdgeVectoriser(), TangentEmbedding(), Harmoniser()])
def test_what_takes_three_dimensions_or_a_site_keeps_the_interface(estimator):
    """The other checks of scikit-learn pass 2-D noise, which has neither networks nor sites."""
    name = type(estimator).__name__
    for check in (check_no_attributes_set_in_init, check_parameters_default_constructible,
                  check_get_params_invariance, check_set_params):  # fmt: skip
        check(name, estimator)
    with pytest.raises(NotFittedError):
        estimator.transform(np.ones((3, 4, 4)))


@pytest.fixture(scope="module")
def people():
    """Series of 40 people of two groups, whose networks differ in one edge."""
    rng = np.random.default_rng(0)
    label = np.arange(40) % 2
    series = []
    for group in label:
        one = rng.standard_normal((60 + 5 * group, 6))
        one[:, 1] += (0.4 + 1.2 * group) * one[:, 0]
        series.append(one)
    return series, label


@pytest.fixture(scope="module")
def networks(people):
    return np.stack([np.corrcoef(one.T) for one in people[0]])


def test_edges_are_rows_of_pairs_and_come_back(networks):
    vectoriser = EdgeVectoriser().fit(networks)
    edges = vectoriser.transform(networks)
    np.testing.assert_allclose(edges, edges_of(networks))
    np.testing.assert_allclose(vectoriser.inverse_transform(edges), networks * (1 - np.eye(6)))
    names = vectoriser.get_feature_names_out()
    assert len(names) == edges.shape[1]
    a, b = map(int, names[7].split("-"))
    np.testing.assert_allclose(edges[:, 7], networks[:, a, b])
    for wrong in (networks[:, :5, :5], networks[0], np.tril(networks)):
        with pytest.raises(BadConnectome):
            vectoriser.transform(wrong)


def test_a_threshold_keeps_what_it_keeps_of_a_network(networks):
    edges = edges_of(networks)
    found = DensityThreshold(0.2, by="magnitude").fit_transform(edges)
    expected = edges_of([proportional(one, 0.2, by="magnitude") for one in networks])
    np.testing.assert_allclose(found, expected)
    ones = DensityThreshold(0.2, by="magnitude", is_binary=True).fit_transform(edges)
    np.testing.assert_array_equal(ones, expected != 0)
    with pytest.raises(BadConnectome, match="density"):
        DensityThreshold(1.5).fit_transform(edges)


def test_a_density_is_chosen_within_the_training_folds(networks, people):
    pipeline = make_pipeline(
        EdgeVectoriser(), DensityThreshold(by="magnitude"), LogisticRegression()
    )
    search = GridSearchCV(pipeline, {"densitythreshold__density": [0.1, 0.5]}, cv=FOLDS)
    search.fit(networks, people[1])
    assert search.best_params_["densitythreshold__density"] in (0.1, 0.5)
    assert search.best_score_ > 0.8


def test_the_tangent_s_reference_is_of_training_people_only(people):
    series, label = people
    pipeline = make_pipeline(TangentEmbedding(), LogisticRegression())
    found = cross_val_score(pipeline, series, label, cv=FOLDS)
    expected = []
    lower = np.tril_indices(6)
    weight = np.where(lower[0] == lower[1], 1.0, np.sqrt(2))
    for train, test in FOLDS.split(label, label):
        space = TangentSpace.fit([series[i] for i in train])
        one, other = (space.transform([series[i] for i in part]) for part in (train, test))
        model = LogisticRegression().fit(one[:, *lower] * weight, label[train])
        expected.append(model.score(other[:, *lower] * weight, label[test]))
    assert found.tolist() == pytest.approx(expected)
    assert found.mean() > 0.8


def test_distances_of_tangents_are_those_of_their_matrices(people):
    series = people[0]
    embedding = TangentEmbedding().fit(series)
    vectors, matrices = embedding.transform(series), embedding.space_.transform(series)
    for i, j in ((0, 1), (3, 20)):
        norm = np.linalg.norm(matrices[i] - matrices[j])
        assert np.linalg.norm(vectors[i] - vectors[j]) == pytest.approx(norm)


@pytest.fixture(scope="module")
def scanned():
    """60 people of three scanners: age and disease have an effect, and so has the scanner."""
    rng = np.random.default_rng(1)
    site = np.tile(["north", "south", "west"], 20)
    age, label = rng.normal(50, 10, 60), rng.integers(0, 2, 60)
    offset = pd.Series(site).map({"north": 0.0, "south": 6.0, "west": -5.0}).to_numpy()
    values = rng.standard_normal((60, 8)) + 0.05 * age[:, None] + offset[:, None]
    values[:, 2] += 1.5 * label
    table = pd.DataFrame(values, columns=[f"region-{i}" for i in range(8)])
    return table.assign(site=site, age=age), label


def test_a_harmonisation_learns_from_training_folds_only(scanned):
    table, label = scanned
    regions = [name for name in table if name.startswith("region")]
    pipeline = make_pipeline(Harmoniser("site", ["age"]), StandardScaler(), LogisticRegression())
    found = cross_val_score(pipeline, table, label, cv=FOLDS)
    expected = []
    for train, test in FOLDS.split(label, label):
        one, other = table.iloc[train], table.iloc[test]
        combat = fit_combat(one[regions], list(one["site"]), one[["age"]])
        values = combat.transform(one[regions], list(one["site"]), one[["age"]])
        scale = StandardScaler().fit(values)
        model = LogisticRegression().fit(scale.transform(values), label[train])
        held = combat.transform(other[regions], list(other["site"]), other[["age"]])
        expected.append(model.score(scale.transform(held), label[test]))
    assert found.tolist() == pytest.approx(expected)
    # The scanners hid it.
    bare = make_pipeline(StandardScaler(), LogisticRegression())
    assert found.mean() > cross_val_score(bare, table[regions], label, cv=FOLDS).mean() - 0.05


def test_columns_may_be_numbers_and_are_left_out_of_the_result(scanned):
    table, _ = scanned
    named = Harmoniser("site", ["age"]).fit(table)
    names = named.get_feature_names_out().tolist()
    assert names == [f"region-{i}" for i in range(8)]
    code = table["site"].astype("category").cat.codes
    array = np.column_stack([table[names], code, table["age"]])
    counted = Harmoniser(-2, [-1]).fit(array)
    np.testing.assert_allclose(counted.transform(array), named.transform(table))


def test_a_site_or_a_column_that_is_not_known_is_refused(scanned):
    table, _ = scanned
    known = table[table["site"] != "west"]
    with pytest.raises(CohortError, match="west"):
        Harmoniser("site", ["age"]).fit(known).transform(table)
    left = Harmoniser("site", ["age"], unseen="leave").fit(known).transform(table)
    west = (table["site"] == "west").to_numpy()
    np.testing.assert_array_equal(left[west], table[west].iloc[:, :8])
    with pytest.raises(ValueError, match="no column 'scanner'"):
        Harmoniser("scanner").fit(table)
    with pytest.raises(ValueError, match="no column 10"):
        Harmoniser(10).fit(table)
