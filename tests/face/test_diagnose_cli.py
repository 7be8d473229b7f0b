"""``microtome connectome diagnose``, as a user calls it."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from calling import call as call_command

from microtome.graphs.functional import functional_connectome
from microtome.graphs.simulate import simulate_cohort
from microtome.storage.commit import read_commit
from microtome.storage.connectomes import ConnectomeCohort, read_connectomes, write_connectomes
from microtome.storage.errors import CohortError, LabelError, LeakError, StaleProduct
from microtome.tasks.diagnosis.examples import examples_of
from microtome.tasks.diagnosis.phenotypes import Columns, read_phenotypes
from microtome.tasks.diagnosis.steps import FittedPipeline
from microtome.tasks.diagnosis.store import read_model
from microtome.tasks.evaluation import auc


@pytest.fixture(scope="module")
def simulated():
    return simulate_cohort(40, 24, 200, 0.35, seed=2)


@pytest.fixture(scope="module")
def study(tmp_path_factory, simulated):
    """A cohort on disk and a table in another order, with one stranger."""
    folder = tmp_path_factory.mktemp("study")
    networks = [
        functional_connectome(series, simulated.regions, subject=name, fisher=True)
        for series, name in zip(simulated.series, simulated.ids, strict=True)
    ]
    write_connectomes(folder / "rest.connectomes.zarr", ConnectomeCohort.of(networks), key="0" * 64)
    with (folder / "people.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["session", "person", "diagnosis", "scanner", "half"])
        rows = zip(
            simulated.ids, simulated.subjects, simulated.labels, simulated.sites, strict=True
        )
        for i, (session, person, label, site) in enumerate(reversed(list(rows))):
            writer.writerow([session, person, ("CN", "AD")[label], site, i % 2])
        writer.writerow(["stranger", "stranger", "MCI", "", ""])
    return folder


def call(study, out, *options, code=0):
    cohort, table = study / "rest.connectomes.zarr", study / "people.csv"
    arguments = ["diagnose", cohort, "-t", table, "--subject", "session", "-o", out, *options]
    return call_command("connectome", *arguments, code=code)


OPTIONS = ("--label", "diagnosis", "--positive", "AD", "--group", "person", "--site", "scanner",
           "--models", "gcn,linear,site", "--folds", "3", "--shuffles", "2",
           "--graph-shuffles", "1")  # fmt: skip


@pytest.fixture(scope="module")
def done(study):
    return call(study, study / "ad", *OPTIONS)


def test_figures_are_those_of_the_predictions(study, simulated, done) -> None:
    out = study / "ad"
    assert read_commit(out).kind == "diagnosis"
    results = json.loads((out / "results.json").read_text())
    assert [model["model"] for model in results["models"]] == ["gcn", "linear", "site"]
    assert results["rows"] == len(simulated)
    assert results["people"] == 40
    assert results["positive"] == {"class": "AD", "rows": int(simulated.labels.sum())}
    with (out / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["subject"] for row in rows] == list(simulated.ids)
    assert [row["label"] == "AD" for row in rows] == (simulated.labels == 1).tolist()
    folds_of_person = {}
    for row in rows:
        folds_of_person.setdefault(row["group"], set()).add(row["gcn_fold"])
    assert {len(folds) for folds in folds_of_person.values()} == {1}
    for model in results["models"]:
        scores = [float(row[f"{model['model']}_probability"]) for row in rows]
        assert model["auc"]["value"] == pytest.approx(auc(simulated.labels, scores))
        assert f"{model['auc']['value']:.3f} [" in done
    gcn, linear, site = (model["auc"] for model in results["models"])
    assert min(gcn["low"], linear["low"]) > 0.7
    assert site["value"] < 0.7
    assert "AD (" in done
    assert "gcn on shuffled labels 1" in (study / "ad.ledger.jsonl").read_text()


def test_the_kept_model_reads_and_names_its_regions(study, simulated, done) -> None:
    for name in ("gcn", "linear"):
        model, card = read_model(study / "ad" / "models" / name)
        assert card["regions"] == list(simulated.regions)
        assert card["classes"] == ["CN", "AD"]
        cohort = read_connectomes(study / "rest.connectomes.zarr")
        columns = Columns("diagnosis", "session", "person")
        people = read_phenotypes(study / "people.csv", cohort.subjects, columns, positive="AD")
        assert auc(people.labels, model.predict_proba(examples_of(cohort, people))) > 0.9
        with (study / "ad" / f"edges-{name}.csv").open(newline="") as file:
            first = next(csv.DictReader(file))
        where = [simulated.regions.index(first[end]) for end in "ab"]
        assert simulated.planted[where[0], where[1]]
        assert (study / "ad" / f"edges-{name}.png").stat().st_size > 10_000


def test_a_second_run_is_skipped_and_another_is_refused(study, done) -> None:
    made = read_commit(study / "ad").made
    assert "skipped" in call(study, study / "ad", *OPTIONS, "--backend", "dense")
    assert read_commit(study / "ad").made == made
    with pytest.raises(StaleProduct):
        call(study, study / "ad", *OPTIONS, "--seed", "1")


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        (["--label", "nosuch"], CohortError, "no column 'nosuch'"),
        (["--label", "half", "--classes", "0,7"], LabelError, "'7'"),
        (["--label", "diagnosis", "--split-by", "half", "--group", "person"], LeakError, "sub-"),
        (["--label", "diagnosis", "--folds", "30"], LabelError, "too few for 30 folds"),
        (["--label", "diagnosis", "--models", "oracle"], CohortError, "'oracle'"),
    ],
)
def test_what_cannot_be_evaluated_is_refused_before_work_begins(
    study, tmp_path, options, error, words
) -> None:
    with pytest.raises(error, match=words):
        call(study, tmp_path / "out", *options)
    assert not list(tmp_path.iterdir())


def test_held_out_sites_are_each_a_fold(study, tmp_path, simulated) -> None:
    call(
        study, tmp_path / "by-site", "--label", "diagnosis", "--site", "scanner",
        "--split-by", "scanner", "--models", "linear", "--shuffles", "0",
    )  # fmt: skip
    with (tmp_path / "by-site" / "predictions.csv").open(newline="") as file:
        pairs = {(row["site"], row["linear_fold"]) for row in csv.DictReader(file)}
    assert len(pairs) == len(np.unique(simulated.sites)) == 2


@pytest.fixture(scope="module")
def second_layer(study, simulated):
    """A layer that says nothing, which a sixth of the sessions lack."""
    rng = np.random.default_rng(0)
    networks = [
        functional_connectome(rng.normal(size=(60, 24)), simulated.regions, subject=name)
        for name in simulated.ids[: len(simulated.ids) * 5 // 6]
    ]
    path = study / "idle.connectomes.zarr"
    write_connectomes(path, ConnectomeCohort.of(networks), key="1" * 64)
    return path


def test_layers_are_diagnosed_together_and_each_is_taken_away(
    study, second_layer, simulated, tmp_path
) -> None:
    said = call(
        study, tmp_path / "both", "--label", "diagnosis", "--group", "person", "--site", "scanner",
        "--layer", second_layer, "--models", "multiplex,linear", "--folds", "3",
        "--inner-folds", "2", "--shuffles", "0", "--graph-shuffles", "0",
    )  # fmt: skip
    results = json.loads((tmp_path / "both" / "results.json").read_text())
    assert results["rows"] == len(simulated)
    assert results["layers"] == {"rest": len(simulated), "idle": len(simulated) * 5 // 6}
    for model in results["models"]:
        rest, idle = model["layers"]
        assert rest["without"]["value"] < 0.7 < rest["whole"]["value"]
        assert abs(idle["without"]["value"] - idle["whole"]["value"]) < 0.15
        assert model["explanation"]["deletion_gap"] > 0
        for layer in ("rest", "idle"):
            assert (tmp_path / "both" / f"edges-{model['model']}-{layer}.csv").is_file()
    assert "multiplex, rest: AUC with all layers" in said
    report = (tmp_path / "both" / "report.html").read_text()
    assert "Which layers are used?" in report
    assert "Can the explanations be relied upon?" in report


def test_a_held_out_site_cannot_be_harmonised_unless_it_is_left(study, tmp_path) -> None:
    options = ("--label", "diagnosis", "--site", "scanner", "--split-by", "scanner",
               "--models", "linear", "--shuffles", "0", "--harmonise")  # fmt: skip
    with pytest.raises(CohortError, match="--harmonise leave"):
        call(study, tmp_path / "out", *options, "refuse")
    call(study, tmp_path / "out", *options, "leave")
    model, _ = read_model(tmp_path / "out" / "models" / "linear")
    assert isinstance(model, FittedPipeline)
