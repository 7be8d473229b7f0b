"""Labels, values and survival: losses and figures by their definitions, learnt by every model."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from sklearn.metrics import (
    average_precision_score,
    f1_score,
    mean_absolute_error,
    r2_score,
    roc_auc_score,
)

from microtome.storage.errors import CohortError, LabelError
from microtome.tasks import evaluation
from microtome.tasks.cohort import Cohort, cohort_from_table
from microtome.tasks.concordance import c_index
from microtome.tasks.evaluation import balanced_folds
from microtome.tasks.mil.compare import compare
from microtome.tasks.mil.controls import bag_sizes, cox_coefficients, predict_from
from microtome.tasks.mil.crossval import cross_validate
from microtome.tasks.mil.figures import headline, measured
from microtome.tasks.mil.heads import cox_losses, losses_of
from microtome.tasks.mil.names import MODELS
from microtome.tasks.mil.targets import Target, read_target
from microtome.tasks.mil.train import TrainOptions, new_model

QUICK = TrainOptions(epochs=30, members=2, width=16, n_gates=8)

# Therneau & Grambsch (2000), Modeling Survival Data, appendix E.1: six subjects, with the log
# partial likelihood in closed form, r = exp(beta).
TIME = torch.tensor([1.0, 1.0, 6.0, 6.0, 8.0, 9.0], dtype=torch.float64)
EVENT = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0, 1.0], dtype=torch.float64)
X = torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0, 0.0], dtype=torch.float64)


def log_likelihood(beta: float, *, efron: bool) -> float:
    return -float(cox_losses(beta * X, TIME, EVENT, efron=efron).sum())


@pytest.mark.parametrize("beta", [-1.0, 0.0, 0.3, 1.475285, 40.0])
def test_the_partial_likelihood_is_the_books(beta: float) -> None:
    r = math.exp(beta)
    breslow = 2 * beta - math.log(3 * r + 3) - 2 * math.log(r + 3)
    efron = 2 * beta - math.log(3 * r + 3) - math.log((r + 5) / 2) - math.log(r + 3)
    assert log_likelihood(beta, efron=False) == pytest.approx(breslow)
    assert log_likelihood(beta, efron=True) == pytest.approx(efron)


def test_the_maximum_is_the_books() -> None:
    for efron, beta in ((False, 1.475285), (True, 1.676857)):
        best = minimize_scalar(
            lambda b, efron=efron: -log_likelihood(b, efron=efron), bracket=(0, 2), tol=1e-12
        )
        assert best.x == pytest.approx(beta, abs=1e-5)


@given(st.lists(st.tuples(st.integers(1, 6), st.booleans(), st.floats(-3, 3)), min_size=1))
def test_the_partial_likelihood_term_by_term(rows: list[tuple[int, bool, float]]) -> None:
    """Efron's sum over event times, the tied events leaving one by one."""
    time, event, f = (
        torch.tensor(column, dtype=torch.float64) for column in zip(*rows, strict=True)
    )
    expected = 0.0
    for t in sorted({t for t, e, _ in rows if e}):
        risk = sum(math.exp(v) for s, _, v in rows if s >= t)
        dying = [v for s, e, v in rows if e and s == t]
        for k in range(len(dying)):
            left = risk - k / len(dying) * sum(math.exp(v) for v in dying)
            expected += math.log(left)
        expected -= sum(dying)
    found = cox_losses(f, time, event)
    assert float(found.sum()) == pytest.approx(expected, abs=1e-9)
    assert (found[event == 0] == 0).all()


def test_a_batch_without_events_teaches_nothing_and_breaks_nothing() -> None:
    f = torch.randn(3, requires_grad=True)
    cox_losses(f, torch.tensor([1.0, 2.0, 3.0]), torch.zeros(3)).sum().backward()
    assert torch.equal(f.grad, torch.zeros(3))


def by_pairs(time: list[float], event: list[int], risk: list[float]) -> float:
    good = total = 0.0
    for i, j in itertools.permutations(range(len(time)), 2):
        if event[i] and (time[i] < time[j] or (time[i] == time[j] and not event[j])):
            total += 1
            good += 1.0 if risk[i] > risk[j] else 0.5 * (risk[i] == risk[j])
    return good / total if total else math.nan


ROWS = st.lists(st.tuples(st.integers(1, 8), st.integers(0, 1), st.integers(0, 5)), min_size=2)


@given(ROWS)
def test_concordance_is_its_definition(rows: list[tuple[int, int, int]]) -> None:
    time, event, risk = map(list, zip(*rows, strict=True))
    np.testing.assert_equal(c_index(time, event, risk), by_pairs(time, event, risk))


def test_concordance_without_censoring_is_the_area_under_the_curve_of_every_cut() -> None:
    """One half is chance; order is 1; and two times make it an AUC (Harrell et al. 1996)."""
    rng = np.random.default_rng(0)
    risk, label = rng.normal(size=60), np.arange(60) % 2
    early = np.where(label, 1.0, 2.0)
    assert c_index(early, np.ones(60), risk) == pytest.approx(roc_auc_score(label, risk))
    assert c_index(-risk, np.ones(60), risk) == 1
    assert c_index(risk, np.ones(60), risk) == 0
    assert math.isnan(c_index(risk, np.zeros(60), risk))


def test_risks_of_two_models_are_not_compared() -> None:
    time, fold = np.array([1.0, 2.0, 1.0, 2.0]), np.array([0, 0, 1, 1])
    risk = np.array([1.0, 0.0, 101.0, 100.0])
    assert c_index(time, np.ones(4), risk, fold) == 1
    assert c_index(time, np.ones(4), risk) < 1


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 9)), min_size=3, max_size=40))
def test_precision_and_f1_are_scikit_learns(rows: list[tuple[int, int]]) -> None:
    labels, scores = (np.array(column) for column in zip(*rows, strict=True))
    if labels.any():
        found = evaluation.average_precision(labels, scores)
        assert found == pytest.approx(average_precision_score(labels, scores))
    expected = f1_score(labels, scores / 9 > 0.5, zero_division=0)
    assert evaluation.f1_score(labels, scores / 9) == pytest.approx(expected)


def test_f1_of_classes_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    labels, said = rng.integers(0, 3, 50), rng.dirichlet(np.ones(3), 50)
    expected = f1_score(labels, said.argmax(1), average="macro")
    assert evaluation.f1_score(labels, said) == pytest.approx(expected)


def test_losses_of_labels_leave_out_what_nobody_knows() -> None:
    logits = torch.tensor([[2.0, -1.0], [0.5, 3.0], [0.0, 0.0]])
    truth = torch.tensor([[1.0, torch.nan], [0.0, 1.0], [torch.nan, torch.nan]])
    log = math.log1p
    first, second = log(math.exp(-2)), (log(math.exp(0.5)) + log(math.exp(-3))) / 2
    found = losses_of("labels", logits.requires_grad_(), truth)
    np.testing.assert_allclose(found.detach(), [first, second, 0], rtol=1e-6)
    found.sum().backward()
    assert torch.isfinite(logits.grad).all()


# Cohorts of which the truth is known: some tiles make the value, the labels, the hazard.


def simulated(kind: str, n: int = 72) -> tuple[list[np.ndarray], Target, np.ndarray]:
    rng = np.random.default_rng(3)
    share = rng.uniform(0, 0.8, (n, 2)) * (rng.random((n, 2)) < 0.6)
    bags = []
    for a, b in share:
        bag = rng.normal(size=(40, 6)).astype(np.float32)
        bag[: int(20 * a), 0] += 5
        bag[20 : 20 + int(20 * b), 1] += 5
        bags.append(bag)
    patients = np.arange(n) // 2
    if kind == "labels":
        truth = (share > 0.1).astype(float)
        truth[::9, 1] = np.nan
        return bags, Target("labels", ("a", "b"), truth), patients
    if kind == "regression":
        return bags, Target("regression", ("ki67",), 300 + 100 * share[:, 0]), patients
    time = rng.exponential(np.exp(-5 * share[:, 0])) + 1e-3
    end = rng.exponential(2, n)
    outcome = np.stack([np.minimum(time, end), time <= end], axis=1)
    return bags, Target("survival", ("months",), outcome), patients


@pytest.mark.parametrize("kind", ["labels", "regression", "survival"])
@pytest.mark.parametrize("name", MODELS)
def test_gradients_of_every_model_and_target_are_finite(name: str, kind: str) -> None:
    bags, target, _ = simulated(kind, 6)
    torch.manual_seed(0)
    model = new_model(replace(QUICK, model=name), 6, len(target.names), target.kind).train()
    sizes = [1, 40, 3, 40, 2, 40]
    x = torch.cat([torch.from_numpy(bag[:n]) for bag, n in zip(bags, sizes, strict=True)])
    losses = model.losses(x, sizes, torch.from_numpy(target.truth).float())
    assert losses.shape == (6,)
    losses.sum().backward()
    for label, weight in model.named_parameters():
        untaught = kind != "labels" and label.startswith("cluster") and name.startswith("clam")
        assert (weight.grad is None) == untaught, label
        assert untaught or torch.isfinite(weight.grad).all()
    output = model.eval()(x, sizes)
    assert output.logits.shape == (6, len(target.names))
    assert output.evidence.shape == (sum(sizes), len(target.names))
    assert float(output.evidence.detach().abs().sum()) > 0


@pytest.mark.parametrize(
    ("kind", "name", "least"),
    [
        ("labels", "max", 0.85),
        ("labels", "prototype", 0.8),
        ("regression", "abmil", 0.6),
        ("regression", "mean", 0.6),
        ("survival", "abmil", 0.7),
        ("survival", "dsmil", 0.65),
    ],
)
def test_what_is_there_is_learnt(kind: str, name: str, least: float) -> None:
    bags, target, patients = simulated(kind)
    folds = target.folds(patients, 3, seed=0)
    batch, epochs = (12, 30) if kind == "survival" else (4, 15 if kind == "labels" else 30)
    options = replace(QUICK, model=name, batch_bags=batch, epochs=epochs)
    found = cross_validate(bags, target, patients, folds, options)
    assert headline(target, found.probabilities, found.fold) > least


@pytest.mark.parametrize("kind", ["labels", "regression", "survival"])
def test_figures_stand_beside_their_controls(kind: str) -> None:
    bags, target, patients = simulated(kind)
    folds = target.folds(patients, 2, seed=0)
    found = compare(bags, target, patients, folds, replace(QUICK, epochs=6, model="mean"))
    name = {"labels": "auc", "regression": "r2", "survival": "c_index"}[kind]
    assert set(found.figures) == {"mean", "bag_size", "shuffled"}
    own, size = found.figures["mean"][name], found.figures["bag_size"][name]
    assert own.low <= own.value <= own.high
    assert own.value > size.value
    assert found.permutation_p < 0.05
    for figure in found.figures["mean"].values():
        assert 64 <= figure.n <= 72


def test_figures_of_values_and_labels_are_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    value, said, each = rng.normal(size=30), rng.normal(size=(30, 1)), np.arange(30)
    found = measured(Target("regression", ("v",), value), said, each)
    assert found["mae"].value == pytest.approx(mean_absolute_error(value, said[:, 0]))
    assert found["r2"].value == pytest.approx(r2_score(value, said[:, 0]))

    truth, p = rng.integers(0, 2, (30, 2)).astype(float), rng.random((30, 2))
    truth[:5, 1] = np.nan
    found = measured(Target("labels", ("a", "b"), truth), p, each)
    a = roc_auc_score(truth[:, 0], p[:, 0])
    b = roc_auc_score(truth[5:, 1], p[5:, 1])
    assert found["auc a"].value == pytest.approx(a)
    assert found["auc b"].value == pytest.approx(b)
    assert found["auc"].value == pytest.approx((a + b) / 2)
    assert (found["auc a"].n, found["auc b"].n) == (30, 25)


def test_the_interval_of_concordance_is_over_patients() -> None:
    """Each row twice, as slides of one patient, moves neither the figure nor its interval."""
    rng = np.random.default_rng(0)
    truth = np.stack([rng.exponential(size=30), np.ones(30)], axis=1)
    risk = -truth[:, :1] + rng.normal(size=(30, 1))
    once = measured(Target("survival", ("t",), truth), risk, np.arange(30))["c_index"]
    twice = measured(
        Target("survival", ("t",), truth.repeat(2, 0)), risk.repeat(2, 0), np.arange(30).repeat(2)
    )["c_index"]
    assert (once.value, once.low, once.high) == pytest.approx((twice.value, twice.low, twice.high))


def test_a_linear_cox_model_finds_the_books_coefficient() -> None:
    """Of a value in small units the penalty of half the square of its coefficient vanishes."""
    small = 1000
    truth = np.stack([TIME.numpy(), EVENT.numpy()], axis=1)
    scaled = cox_coefficients(X.numpy()[:, None] * small, truth)[0] * small
    assert scaled == pytest.approx(1.676857, abs=1e-3)


def test_controls_see_the_size_of_bags_whatever_is_learnt() -> None:
    rng = np.random.default_rng(0)
    n = np.arange(10, 50)
    bags = [rng.normal(size=(k, 3)).astype(np.float32) for k in n]
    size = np.log(n)
    folds = balanced_folds(np.zeros(40), np.arange(40), 4)
    value = Target("regression", ("v",), size)
    alive = Target("survival", ("t",), np.stack([1 / size, np.ones(40)], axis=1))
    for target in (value, alive):
        said = predict_from(bag_sizes(bags), target, folds)
        fold = np.concatenate([np.full(len(f.test), k) for k, f in enumerate(folds)])
        order = np.argsort(np.concatenate([f.test for f in folds]))
        assert headline(target, said, fold[order]) > 0.95


# Reading what is to be learnt.


def cohort(extra: tuple[str, ...], **columns: list[object]) -> Cohort:
    n = len(next(iter(columns.values())))
    table = {"id": [f"s{i}" for i in range(n)], "patient": [f"p{i}" for i in range(n)]}
    return cohort_from_table(pd.DataFrame({**table, **columns}), needs=(), extra=extra)


def test_label_sets_and_columns_say_the_same() -> None:
    sets = read_target(cohort(("m",), m=["a;b", "", "b", "a"]), "labels", ["m"])
    columns = cohort(("a", "b"), a=["1", "0", "no", "yes"], b=[1, 0, 1, 0])
    each = read_target(columns, "labels", ["a", "b"])
    assert sets.names == each.names == ("a", "b")
    np.testing.assert_array_equal(sets.truth, each.truth)
    assert [sets.words(i) for i in range(4)] == ["a;b", "", "b", "a"]


def test_an_unknown_label_stays_unknown() -> None:
    found = read_target(cohort(("a", "b"), a=["1", "", "0"], b=["0", "1", "NA"]), "labels", "ab")
    np.testing.assert_array_equal(found.truth, [[1, 0], [np.nan, 1], [0, np.nan]])


def test_survival_is_time_and_event() -> None:
    found = read_target(cohort(("t", "e"), t=["3", "2.5"], e=["1", "0"]), "survival", ["t", "e"])
    np.testing.assert_array_equal(found.truth, [[3, 1], [2.5, 0]])
    assert [found.words(i) for i in range(2)] == ["3", "2.5+"]


@pytest.mark.parametrize(
    ("kind", "columns", "complaint"),
    [
        ("regression", {"v": ["1", "x", ""]}, r"column v: row 3 \(s1\), row 4 \(s2\): no number"),
        ("regression", {"v": ["1", "inf"]}, "no number"),
        ("regression", {"v": ["2", "2"]}, "every slide has the value 2"),
        ("labels", {"a": ["1", "2"], "b": ["0", "1"]}, r"column a: row 3 \(s1\): neither 0 nor 1"),
        ("labels", {"a": ["1", "1"], "b": ["0", "1"]}, "every slide, or none, has the label a"),
        ("labels", {"a": ["", ""]}, "no slide has a label"),
        ("survival", {"t": ["0", "2"], "e": ["1", "0"]}, "no time above 0"),
        ("survival", {"t": ["1", "2"], "e": ["", "0"]}, r"row 2 \(s0\)"),
        ("survival", {"t": ["1", "2"], "e": ["0", "0"]}, "nobody had an event"),
    ],
)
def test_what_cannot_be_learnt_is_refused(
    kind: str, columns: dict[str, list[object]], complaint: str
) -> None:
    with pytest.raises(LabelError, match=complaint):
        read_target(cohort(tuple(columns), **columns), kind, tuple(columns))


def test_a_patient_dies_once() -> None:
    table = cohort(("t", "e"), patient=["p", "p"], t=["1", "2"], e=["1", "1"])
    with pytest.raises(CohortError, match="slides of patient p have different times"):
        read_target(table, "survival", ["t", "e"])


def test_folds_are_balanced_by_what_is_learnt() -> None:
    for kind in ("labels", "regression", "survival"):
        _, target, patients = simulated(kind)
        folds = target.folds(patients, 3, seed=0)
        assert sorted(np.concatenate([f.test for f in folds])) == list(range(72))
        strata = target.strata()
        for fold in folds:
            assert not set(patients[fold.train]) & set(patients[fold.test])
            share = [np.mean(strata[fold.test] == k) - np.mean(strata == k) for k in set(strata)]
            assert np.abs(share).max() < 0.15


def test_rare_strata_are_balanced_together() -> None:
    strata = np.array([0] * 10 + [1, 2])
    folds = balanced_folds(strata, np.arange(12), 4)
    assert len(folds) == 4
    with pytest.raises(LabelError, match="3 patients are too few for 4 folds"):
        balanced_folds(np.zeros(3), np.arange(3), 4)
