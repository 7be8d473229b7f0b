"""Late fusion: stacks beside scikit-learn, useless and missing modalities, what is refused."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from typer.testing import CliRunner

from microtome.cli.app import app
from microtome.graphs.functional import functional_connectome
from microtome.graphs.simulate import simulate_cohort
from microtome.storage.connectomes import ConnectomeCohort, write_connectomes
from microtome.storage.errors import CohortError, InputError, LabelError, LeakError
from microtome.storage.predictions import SlidePrediction, write_predictions
from microtome.tasks.fusion import (
    LEAST,
    Modality,
    fit_stack,
    fuse,
    join,
    log_odds_of,
    one_a_patient,
    sigmoid,
)
from microtome.tasks.fusion_run import Source, read_modality, weigh

CLASSES = ("no", "yes")


def truth(n: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.random.Generator]:
    """Labels and folds of n patients, each fold with as many of both classes."""
    return np.arange(n) % 2, np.arange(n) // 2 % 4, np.random.default_rng(seed)


def modality(name: str, labels: np.ndarray, fold: np.ndarray, strength: float, rng) -> Modality:
    """Log odds that tell the classes apart by ``strength`` deviations, on a scale of its own."""
    z = 2 * (rng.normal(size=len(labels)) + strength * labels) - 1
    patients = tuple(f"p{i:03d}" for i in range(len(labels)))
    return Modality(name, CLASSES, patients, labels, sigmoid(z), fold)


def only(one: Modality, rows: np.ndarray) -> Modality:
    patients = tuple(np.array(one.patients)[rows].tolist())
    values = {name: getattr(one, name)[rows] for name in ("labels", "probabilities", "fold")}
    return replace(one, patients=patients, **values)


def test_a_stack_is_scikit_learns_logistic_regression_where_weights_are_positive() -> None:
    labels, fold, rng = truth(200, 0)
    given = np.stack(
        [
            log_odds_of(modality("a", labels, fold, s, rng).probabilities) * scale
            for s, scale in ((1.0, 1.0), (0.7, 5.0))
        ],
        axis=1,
    )
    theirs = make_pipeline(StandardScaler(), LogisticRegression(C=1, tol=1e-10)).fit(given, labels)
    assert (theirs[1].coef_ > 0).all()
    stack = fit_stack(given, labels)
    np.testing.assert_allclose(stack(given), theirs.predict_proba(given)[:, 1], atol=1e-4)
    # Against what a modality says it is never used: at worst it is left out.
    turned = fit_stack(given * [1, -1], labels)
    assert turned.weights[1] == 0
    np.testing.assert_allclose(turned.weights[0], fit_stack(given[:, :1], labels).weights[0], 1e-4)


def test_two_modalities_are_better_than_one_and_a_useless_one_does_no_harm() -> None:
    """Over 30 cohorts of 120: a mean that noise would not reach, and differences beside theirs."""
    better, useless = [], []
    for seed in range(30):
        labels, fold, rng = truth(120, seed)
        a, b = (modality(name, labels, fold, 1.0, rng) for name in "ab")
        noise = modality("noise", labels, fold, 0.0, rng)
        alone = roc_auc_score(labels, a.probabilities)
        for found, other in ((better, b), (useless, noise)):
            fused = fuse(join([a, other])).probabilities
            found.append(roc_auc_score(labels, fused) - alone)
    # Two independent signals of 1 are one of √2: AUC 0.760 becomes 0.841.
    assert np.mean(better) == pytest.approx(0.841 - 0.760, abs=0.02)
    assert np.mean(useless) > -0.02


def test_labels_of_a_fold_do_not_move_its_probabilities() -> None:
    labels, fold, rng = truth(80, 0)
    a, b = (modality(name, labels, fold, 1.0, rng) for name in "ab")
    here = fold == 2
    turned = np.where(here, 1 - labels, labels)
    plain = fuse(join([a, b])).probabilities
    other = fuse(join([replace(one, labels=turned) for one in (a, b)])).probabilities
    np.testing.assert_array_equal(plain[here], other[here])
    assert not np.allclose(plain[~here], other[~here])


def test_who_lacks_a_modality_is_judged_by_the_others() -> None:
    labels, fold, rng = truth(160, 3)
    a, b = (modality(name, labels, fold, 1.2, rng) for name in "ab")
    rows = np.arange(160)
    a, b = only(a, rows[rows % 8 != 0]), only(b, rows[rows % 8 != 3])
    patients = join([a, b])
    assert len(patients.names) == 160
    assert patients.sets() == [(0, 1), (0,), (1,)]
    fused = fuse(patients)
    assert np.isfinite(fused.probabilities).all()
    assert not fused.averaged.any()
    found = weigh(patients, fused)
    assert found.having == {"a + b": 120, "a": 20, "b": 20}
    assert found.auc["fused"].value == pytest.approx(roc_auc_score(labels, fused.probabilities))
    assert found.auc["fused"].n == 160
    assert found.auc["a"].n == 140
    # Alone, a modality is put on the common scale and keeps its order within a fold.
    for k in range(4):
        mine = (rows % 8 == 3) & (fold == k)
        single = patients.log_odds[mine, 0]
        assert (np.argsort(single) == np.argsort(fused.probabilities[mine])).all()
    # Among those with both, the same as if the others were not there at all.
    both = only(a, np.isin(a.patients, b.patients)), only(b, np.isin(b.patients, a.patients))
    there = np.isin(patients.names, both[0].patients)
    np.testing.assert_allclose(fuse(join(both)).probabilities, fused.probabilities[there])


def test_where_too_few_have_both_log_odds_are_averaged() -> None:
    labels, fold, rng = truth(80, 0)
    a, b = (modality(name, labels, fold, 1.0, rng) for name in "ab")
    few = np.arange(2 * LEAST)
    patients = join([a, only(b, few)])
    fused = fuse(patients)
    assert fused.averaged.tolist() == [i < 2 * LEAST for i in range(80)]
    mean = patients.log_odds[few].mean(1)
    np.testing.assert_allclose(fused.probabilities[few], sigmoid(mean))


def test_folds_may_have_other_numbers_and_must_be_the_same() -> None:
    labels, fold, rng = truth(40, 0)
    a, b = (modality(name, labels, fold, 1.0, rng) for name in "ab")
    renamed = replace(b, fold=(b.fold + 1) % 4 + 7)
    np.testing.assert_array_equal(
        fuse(join([a, renamed])).probabilities, fuse(join([a, b])).probabilities
    )
    moved = b.fold.copy()
    moved[5] = (moved[5] + 1) % 4
    with pytest.raises(LeakError, match=r"folds of b are not those of a: p005"):
        join([a, replace(b, fold=moved)])
    with pytest.raises(LeakError, match="not those of a"):
        join([a, replace(b, fold=np.arange(40))])
    with pytest.raises(LeakError, match="not those of a"):
        join([a, replace(b, fold=np.zeros(40, int))])
    stranger = replace(b, patients=(*b.patients[:-1], "new"), fold=np.append(b.fold[:-1], 9))
    with pytest.raises(CohortError, match="no patient in common"):
        join([a, stranger])


def test_what_does_not_go_together_is_refused() -> None:
    labels, fold, rng = truth(40, 0)
    a, b = (modality(name, labels, fold, 1.0, rng) for name in "ab")
    with pytest.raises(CohortError, match="two modalities"):
        join([a])
    with pytest.raises(CohortError, match="two modalities"):
        join([a, replace(b, name="a")])
    with pytest.raises(CohortError, match="tells yes from no, a no from yes"):
        join([a, replace(b, classes=("yes", "no"))])
    turned = b.labels.copy()
    turned[7] = 1 - turned[7]
    with pytest.raises(LabelError, match="p007"):
        join([a, replace(b, labels=turned)])
    with pytest.raises(InputError, match="NAME=PATH"):
        Source.of("tumour/predictions")
    assert Source.of("brain=dx:gcn") == Source("brain", Path("dx"), "gcn")


def test_slides_of_a_patient_count_as_one() -> None:
    rows = {
        "labels": np.array([1, 0, 1]),
        "probabilities": np.array([0.9, 0.2, 0.5]),
        "fold": np.array([0, 1, 0]),
    }
    found = one_a_patient("slides", CLASSES, ["x", "y", "x"], **rows)
    assert found.patients == ("x", "y")
    np.testing.assert_allclose(found.probabilities, [0.75, 0.2])
    with pytest.raises(LeakError, match="two folds of slides: x"):
        one_a_patient("slides", CLASSES, ["x", "y", "x"], **rows | {"fold": np.array([0, 1, 1])})
    with pytest.raises(LabelError, match="two labels in slides: x"):
        one_a_patient("slides", CLASSES, ["x", "y", "x"], **rows | {"labels": np.array([1, 0, 0])})


def write_slides(path: Path, names: list[str], labels: np.ndarray, fold: list[int]) -> None:
    rng = np.random.default_rng(0)
    found = []
    for name, label, k in zip(names, labels.tolist(), fold, strict=True):
        p = float(sigmoid(np.array(2 * label - 1 + rng.normal())))
        found.append(
            SlidePrediction(
                id=f"slide-{name}",
                probability=p,
                classes=("CN", "AD"),
                probabilities=np.array([1 - p, p], np.float32),
                target="AD",
                label=("CN", "AD")[label],
                fold=k,
                coords_px=np.zeros((1, 2), np.int64),
                footprint_px=(256.0, 256.0),
                slide_px=(256, 256),
                bounds_px=None,
                slide_mpp=(0.5, 0.5),
                score=np.array([p], np.float32),
                attention=np.ones(1, np.float32),
                source="",
                encoder="stain-texture@1",
                model="ab" * 32,
                patient=name,
            )
        )
    about = {"splits": "0" * 64, "classes": ("CN", "AD")}
    write_predictions(path, found, key="0" * 64, about=about)


def test_the_command_fuses_slides_and_a_diagnosis(tmp_path: Path) -> None:
    simulated = simulate_cohort(40, 8, 60, 0.35, seed=2)
    networks = [
        functional_connectome(series, simulated.regions, subject=name, fisher=True)
        for series, name in zip(simulated.series, simulated.ids, strict=True)
    ]
    cohort = tmp_path / "rest.connectomes.zarr"
    write_connectomes(cohort, ConnectomeCohort.of(networks), key="0" * 64)
    fold_of = {person: i // 2 % 2 for i, person in enumerate(dict.fromkeys(simulated.subjects))}
    rows = zip(simulated.ids, simulated.subjects, simulated.labels, strict=True)
    lines = [f"{i},{p},{('CN', 'AD')[y]},{fold_of[p]}" for i, p, y in rows]
    table = tmp_path / "people.csv"
    table.write_text("\n".join(["session,person,diagnosis,fold", *lines]) + "\n")
    label_of = dict(zip(simulated.subjects, simulated.labels, strict=True))
    names = list(fold_of)[4:]
    labels = np.array([label_of[name] for name in names])
    write_slides(tmp_path / "slides", names, labels, [fold_of[name] for name in names])

    def call(*arguments: object) -> str:
        ended = CliRunner().invoke(app, [*map(str, arguments)], env={"COLUMNS": "200"})
        assert ended.exit_code == 0, (ended.output, ended.exception)
        return ended.output

    columns = ("--subject", "session", "--label", "diagnosis", "--positive", "CN")
    split = ("--group", "person", "--split-by", "fold", "--shuffles", 0)
    models = ("--models", "linear,no-graph", "--graph-shuffles", 0)
    diagnose = ("connectome", "diagnose", cohort, "-t", table, *split, *models)
    call(*diagnose, *columns[:-1], "AD", "-o", tmp_path / "dx")
    fuse_both = ("fuse", f"slides={tmp_path}/slides", f"brain={tmp_path}/dx:linear")
    printed = call(*fuse_both, "--out", tmp_path / "out")
    assert "40 patients (slides + brain: 36; brain: 4); probabilities of AD" in printed
    assert "skipped" in call(*fuse_both, "--out", tmp_path / "out")
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    with (tmp_path / "out" / "predictions.csv").open(newline="") as file:
        kept = list(csv.DictReader(file))
    scores = [float(row["probability"]) for row in kept]
    truths = [row["label"] == "AD" for row in kept]
    assert found["auc"]["fused"]["value"] == pytest.approx(roc_auc_score(truths, scores))
    assert [row["patient"] for row in kept if not row["slides"]] == sorted(
        set(fold_of) - set(names)
    )
    stacks = json.loads((tmp_path / "out" / "stacks.json").read_text())
    assert {tuple(one["modalities"]): one["fitted_on"] for one in stacks} == {
        ("slides", "brain"): 36,
        ("brain",): 40,
    }
    with pytest.raises(InputError, match=r"which model\? There are linear, no-graph"):
        read_modality(Source("brain", tmp_path / "dx"))
