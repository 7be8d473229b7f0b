"""Every model of a diagnosis: against scikit-learn, against planted truth, and kept on disk."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sample_examples import examples_from, noise
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from microtome.graphs.simulate import simulate_cohort
from microtome.storage.errors import CohortError
from microtome.tasks.diagnosis.evaluate import Plan, Trial, run_trial
from microtome.tasks.diagnosis.examples import Examples
from microtome.tasks.diagnosis.families import NAMES, Known, families
from microtome.tasks.diagnosis.models import CovariateModel, LinearModel
from microtome.tasks.diagnosis.phenotypes import Columns, read_phenotypes
from microtome.tasks.diagnosis.store import read_model, write_model
from microtome.tasks.evaluation import auc

CONTROLS = ("covariates", "site")
OF_ONE_LAYER = [name for name in NAMES if name != "multiplex"]


@pytest.fixture(scope="module")
def examples() -> Examples:
    rows = examples_from(simulate_cohort(160, 24, 200, 0.3, seed=1))
    ages = np.random.default_rng(0).uniform(40, 80, len(rows))
    return replace(rows, covariates=ages[:, None])


@pytest.mark.parametrize("kind", ["svm", "elastic-net"])
def test_linear_machines_are_scikit_learns(examples: Examples, kind: str) -> None:
    train, test = examples.take(np.arange(60)), examples.take(np.arange(60, len(examples)))
    machines = {
        "svm": SVC(C=1e-2, kernel="linear", class_weight="balanced"),
        "elastic-net": LogisticRegression(
            C=0.1, l1_ratio=0.5, solver="saga", class_weight="balanced", max_iter=5000, tol=1e-6
        ),
    }
    pipeline = make_pipeline(StandardScaler(), machines[kind]).fit(train.edges, train.labels)
    ours = LinearModel(machines[kind].C, kind).fit(train)
    # Descent stops at its tolerance; support vectors are exact.
    tolerance = {"svm": 1e-8, "elastic-net": 0.02}[kind]
    expected = pipeline.decision_function(test.edges)
    np.testing.assert_allclose(ours.decision(test), expected, atol=tolerance)
    if kind == "elastic-net":
        assert 0.5 < (ours.weights == 0).mean() < 1


@pytest.mark.parametrize("name", [name for name in OF_ONE_LAYER if name not in CONTROLS])
def test_each_model_finds_a_difference_that_was_planted(examples: Examples, name: str) -> None:
    """Fitted on half of the people, asked about the other half."""
    people = np.unique(examples.groups)
    is_train = np.isin(examples.groups, people[::2])
    train, test = (examples.take(np.flatnonzero(side)) for side in (is_train, ~is_train))
    (family,) = families([name], backend="dense")
    fitted = family.candidates[-1].fit(train, seed=0)
    assert auc(test.labels, fitted.predict_proba(test)) > 0.8


@pytest.mark.parametrize("name", OF_ONE_LAYER)
def test_each_model_is_kept_and_says_the_same(
    tmp_path: Path, examples: Examples, name: str
) -> None:
    (family,) = families([name], backend="dense")
    fitted = family.candidates[0].fit(examples, seed=0)
    write_model(tmp_path, fitted, {})
    back, _ = read_model(tmp_path)
    np.testing.assert_array_equal(back.predict_proba(examples), fitted.predict_proba(examples))


def test_covariates_that_tell_the_diagnosis_are_found_and_others_are_not() -> None:
    rows, ages = noise(n_people=60), np.random.default_rng(0).normal(60, 8, 60)
    telling = replace(rows, covariates=(ages + 20 * rows.labels)[:, None])
    idle = replace(rows, covariates=ages[:, None])
    plan = Plan(families(["covariates"]))
    assert run_trial(Trial("covariates"), telling, plan).auc > 0.9
    assert run_trial(Trial("covariates"), idle, plan).auc < 0.65
    expected = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced"))
    expected.fit(telling.covariates, telling.labels)
    np.testing.assert_allclose(
        CovariateModel().fit(telling).predict_proba(telling),
        expected.predict_proba(telling.covariates)[:, 1],
        rtol=1e-6,
    )


def test_covariates_are_read_from_the_table_as_numbers_or_words(tmp_path: Path) -> None:
    subjects = ("a", "b", "c", "d")
    table = tmp_path / "people.csv"
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("subject", "dx", "age", "sex"))
        writer.writerows(zip(subjects, "1212", (61, 72.5, 55, 80), "FMFM", strict=True))
    read = read_phenotypes(table, subjects, Columns("dx", covariates=("age", "sex")))
    np.testing.assert_array_equal(read.covariates, [[61, 0], [72.5, 1], [55, 0], [80, 1]])
    table.write_text(table.read_text().replace("72.5", "inf"))
    with pytest.raises(CohortError, match="not a finite number"):
        read_phenotypes(table, subjects, Columns("dx", covariates=("age",)))
    table.write_text(table.read_text().replace("inf", ""))
    with pytest.raises(CohortError, match="b has no age"):
        read_phenotypes(table, subjects, Columns("dx", covariates=("age",)))
    with pytest.raises(CohortError, match="--covariates"):
        families(["covariates"], known=Known(columns=("site",)))
