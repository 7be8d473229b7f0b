"""``microtome mil``: bags to figures, predictions and a model; new slides to scores."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sample_bags import row_of_tiles
from typer.testing import CliRunner, Result

from microtome.cli.app import app
from microtome.storage.bags import Bag, write_bag
from microtome.storage.errors import (
    BadProduct,
    CohortError,
    LabelError,
    LeakError,
    MicrotomeError,
    MissingFile,
    StaleProduct,
)
from microtome.storage.predictions import read_predictions
from microtome.storage.qupath_check import check_geojson
from microtome.tasks.calibration import platt_targets, temperature
from microtome.tasks.evaluation import auc

TRAIN = ("--folds", 2, "--epochs", 4)


def mil(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["mil", *map(str, arguments)], env={"COLUMNS": "200"})


def bag_of(name: str, label: str, seed: int) -> Bag:
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(20, 4)).astype(np.float32)
    features[:8] += {"normal": 0, "tumour": 4, "other": -4}[label]
    return row_of_tiles(name, features, feature_names=("mean_red", "b", "c", "d"))


def write_study(folder: Path, labels: list[str]) -> None:
    """Two slides a patient, of one label."""
    lines = ["id,patient,label,site"]
    for i, label in enumerate(label for label in labels for _ in range(2)):
        bag = bag_of(f"s{i:02d}", label, i)
        write_bag(folder / "bags" / f"{bag.id}.bag.zarr", bag, key=f"{i}")
        lines.append(f"{bag.id},p{i // 2},{label},north")
    (folder / "cohort.csv").write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of 16 slides of 8 patients."""
    folder = tmp_path_factory.mktemp("study")
    write_study(folder, ["normal", "tumour"] * 4)
    run = train(folder)
    assert run.exit_code == 0, run.output
    (folder / "output.txt").write_text(run.output)
    return folder


def train(folder: Path, *more: object) -> Result:
    given = ("train", folder / "cohort.csv", "--bags", folder / "bags", "--out", folder / "out")
    return mil(*given, *TRAIN, *more)


def test_prints_the_model_beside_its_controls(trained: Path) -> None:
    output = (trained / "output.txt").read_text()
    for row in ("gated attention", "mean pooling", "bag size", "mean colour", "labels shuffled"):
        assert row in output
    assert "16 slides of 8 patients; 2 folds by patient" in output
    assert "scores speak of tumour" in output


def test_predictions_are_of_models_that_never_saw_the_patient(trained: Path) -> None:
    predictions = read_predictions(trained / "out" / "predictions")
    folds = json.loads((trained / "out" / "splits.json").read_text())["folds"]

    assert len(predictions) == 16
    fold_of_patient: dict[str, int] = {}
    for prediction in predictions:
        assert prediction.id in folds[prediction.fold]
        assert fold_of_patient.setdefault(prediction.patient, prediction.fold) == prediction.fold
        assert prediction.source == f"{prediction.id}.svs"
    figures = json.loads((trained / "out" / "metrics.json").read_text())["figures"]
    found = auc([p.label == "tumour" for p in predictions], [p.probability for p in predictions])
    assert figures["abmil"]["auc"]["value"] == pytest.approx(found, abs=1e-6)
    assert figures["abmil"]["auc"]["n"] == 16


def test_the_card_says_what_the_model_is(trained: Path) -> None:
    card = json.loads((trained / "out" / "model" / "card.json").read_text())
    metrics = json.loads((trained / "out" / "metrics.json").read_text())
    assert card["classes"] == ["normal", "tumour"]
    assert card["needs"]["encoder"] == "stain-texture@1"
    assert card["training"]["patients"] == 8
    assert card["training"]["splits_sha256"] == metrics["splits"]
    assert card["metrics"] == metrics["figures"]["abmil"]


def test_a_second_run_makes_nothing_and_says_the_same(trained: Path) -> None:
    before = (trained / "out" / "model" / "commit.json").stat().st_mtime_ns
    again = train(trained)
    assert again.exit_code == 0
    assert "gated attention" in again.output
    assert (trained / "out" / "model" / "commit.json").stat().st_mtime_ns == before


def refused(run: Result) -> MicrotomeError:
    assert isinstance(run.exception, MicrotomeError), run.exception
    return run.exception


def test_other_options_do_not_replace_a_study(trained: Path) -> None:
    assert isinstance(refused(train(trained, "--model", "max")), StaleProduct)
    other_folds = refused(train(trained, "--seed", 5))
    assert isinstance(other_folds, StaleProduct)
    assert "splits.json" in str(other_folds)


def test_folds_can_be_reused(trained: Path, tmp_path: Path) -> None:
    splits = trained / "out" / "splits.json"
    out = ("--out", tmp_path, "--model", "mean", "--splits", splits, "--positive", "normal")
    run = mil("train", trained / "cohort.csv", "--bags", trained / "bags", *TRAIN, *out)
    assert run.exit_code == 0, run.output
    mine, theirs = (
        json.loads((p / "metrics.json").read_text()) for p in (tmp_path, trained / "out")
    )
    assert mine["splits"] == theirs["splits"]
    assert mine["classes"] == ["tumour", "normal"]
    assert set(mine["figures"]) == {"mean", "bag_size", "mean_colour", "shuffled"}
    assert read_predictions(tmp_path / "predictions")[0].target == "normal"


def test_new_slides_are_predicted(trained: Path, tmp_path: Path) -> None:
    for name, label in (("new-1", "tumour"), ("new-2", "normal")):
        write_bag(tmp_path / "bags" / f"{name}.bag.zarr", bag_of(name, label, 99), key=name)
    model = trained / "out" / "model"
    run = mil("predict", model, tmp_path / "bags", "--out", tmp_path / "found")
    assert run.exit_code == 0, run.output
    tumour, normal = read_predictions(tmp_path / "found")
    assert (tumour.id, tumour.fold, tumour.label) == ("new-1", None, None)
    assert tumour.probability > normal.probability
    with (tmp_path / "found" / "predictions.csv").open(newline="") as file:
        assert [row["id"] for row in csv.DictReader(file)] == ["new-1", "new-2"]
    again = mil("predict", model, tmp_path / "bags", "--out", tmp_path / "found")
    assert again.exit_code == 0, again.output


def test_calibrated_probabilities_are_those_after_the_cards_temperature(
    trained: Path, tmp_path: Path
) -> None:
    write_bag(tmp_path / "bags" / "new-1.bag.zarr", bag_of("new-1", "tumour", 99), key="1")
    model = trained / "out" / "model"
    said = []
    for more in ((), ("--calibrated",)):
        out = tmp_path / f"found{len(more)}"
        run = mil("predict", model, tmp_path / "bags", "--out", out, *more)
        assert run.exit_code == 0, run.output
        said.append(read_predictions(out)[0])
    t = json.loads((model / "card.json").read_text())["temperature"]
    raw, calibrated = (np.log(p.probability / (1 - p.probability)) for p in said)
    assert calibrated == pytest.approx(raw / t, rel=1e-3)
    assert said[1].probabilities.sum() == pytest.approx(1, abs=1e-6)
    np.testing.assert_array_equal(said[0].score, said[1].score)
    held_out = read_predictions(trained / "out" / "predictions")
    p = np.array([found.probability for found in held_out])
    truth = np.array([found.label == "tumour" for found in held_out])
    assert t == pytest.approx(temperature(platt_targets(truth), p), rel=1e-4)


def test_an_explanation_finds_the_tiles_that_make_a_slide_a_tumour(
    trained: Path, tmp_path: Path
) -> None:
    for name in ("new-1", "new-2", "new-3"):
        bag = bag_of(name, "tumour", int(name[-1]) + 40)
        write_bag(tmp_path / "bags" / f"{name}.bag.zarr", bag, key=name)
    run = mil("explain", trained / "out" / "model", tmp_path / "bags", "--out", tmp_path / "why")
    assert run.exit_code == 0, run.output
    assert "believe the ranking by" in run.output
    with (tmp_path / "why" / "new-1.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    relevance = [float(row["leave-one-out"]) for row in rows]
    assert auc([int(n < 8) for n in range(20)], relevance) > 0.9
    assert check_geojson(tmp_path / "why" / "new-1.geojson.gz") == []
    with (tmp_path / "why" / "faithfulness.csv").open(newline="") as file:
        curves = [row for row in csv.DictReader(file) if row["id"] == "new-1"]
    assert {row["method"] for row in curves} == {
        "attention", "score", "leave-one-out", "integrated gradients", "random",
    }  # fmt: skip
    whole = {row["deletion"] for row in curves if float(row["share"]) == 0}
    assert len(whole) == 1


def test_bags_of_another_encoder_are_rejected_and_the_rest_goes_on(
    trained: Path, tmp_path: Path
) -> None:
    good, strange = bag_of("good", "tumour", 1), replace(bag_of("strange", "normal", 2), mpp=1.0)
    for bag in (good, strange):
        write_bag(tmp_path / f"{bag.id}.bag.zarr", bag, key=bag.id)
    run = mil("predict", trained / "out" / "model", tmp_path, "--out", tmp_path / "found")
    assert run.exit_code == 3
    assert "1.0 µm/px in place of 0.5" in " ".join(run.output.split())
    assert [p.id for p in read_predictions(tmp_path / "found")] == ["good"]


def test_three_classes_have_one_figure(tmp_path: Path) -> None:
    write_study(tmp_path, ["normal", "tumour", "other"] * 4)
    run = train(tmp_path)
    assert run.exit_code == 0, run.output
    assert "AUC of each class against the rest" in run.output
    predictions = read_predictions(tmp_path / "out" / "predictions")
    assert {p.classes for p in predictions} == {("normal", "other", "tumour")}
    assert all(p.target == p.predicted for p in predictions)


def rewritten(trained: Path, folder: Path, old: str, new: str) -> Path:
    (folder / "bags").symlink_to(trained / "bags")
    text = (trained / "cohort.csv").read_text()
    assert old in text
    (folder / "cohort.csv").write_text(text.replace(old, new))
    return folder


@pytest.mark.parametrize(
    ("change", "error", "complaint"),
    [
        (("tumour", "normal"), LabelError, "every slide has the label 'normal'"),
        (("s03,p1,tumour", "s03,p1,"), LabelError, "1 slides have no label: s03"),
        (("s03,", "s99,"), MissingFile, "1 of 16 slides have no bag: s99"),
        ((",label,", ",diagnosis,"), CohortError, "columns are missing: label"),
        (("s03,p1", "s02,p1"), CohortError, "row 5, column id: 's02' is in row 4"),
    ],
)
def test_wrong_cohorts_are_refused_by_name(
    trained: Path,
    tmp_path: Path,
    change: tuple[str, str],
    error: type[MicrotomeError],
    complaint: str,
) -> None:
    folder = rewritten(trained, tmp_path, *change)
    caught = refused(train(folder))
    assert type(caught) is error
    assert complaint in str(caught)
    assert not (folder / "out").exists()


def test_a_positive_class_that_nobody_has_is_refused(trained: Path, tmp_path: Path) -> None:
    caught = refused(train(rewritten(trained, tmp_path, "site", "site"), "--positive", "cancer"))
    assert "no slide has the label 'cancer'; there are normal, tumour" in str(caught)


def test_too_few_patients_for_the_folds(trained: Path, tmp_path: Path) -> None:
    folder = rewritten(trained, tmp_path, "site", "site")
    assert "class normal has 4 patients, too few for 5 folds" in str(
        refused(train(folder, "--folds", 5))
    )


def test_a_patient_in_two_folds_is_refused(trained: Path, tmp_path: Path) -> None:
    ids = [f"s{i:02d}" for i in range(16)]
    (tmp_path / "torn.json").write_text(json.dumps({"folds": [ids[::2], ids[1::2]]}))
    folder = rewritten(trained, tmp_path, "site", "site")
    caught = refused(train(folder, "--splits", tmp_path / "torn.json"))
    assert type(caught) is LeakError
    assert "p0, p1" in str(caught)


def test_bags_that_cannot_be_learnt_from_together(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained / "bags", tmp_path / "bags")
    shutil.copy(trained / "cohort.csv", tmp_path)
    path = tmp_path / "bags" / "s05.bag.zarr"
    bag = bag_of("s05", "tumour", 5)

    def complaint(changed: Bag) -> MicrotomeError:
        write_bag(path, changed, key=str(hash(changed.features.tobytes())), overwrite=True)
        return refused(train(tmp_path))

    twin = complaint(replace(bag, features=bag_of("s00", "normal", 0).features))
    assert type(twin) is CohortError
    assert "s00 and s05 are the same slide" in str(twin)
    holes = bag.features.copy()
    holes[3, 1] = np.nan
    hollow = complaint(replace(bag, features=holes))
    assert type(hollow) is BadProduct
    assert "feature b is not finite" in str(hollow)
    assert "s05.bag.zarr" in str(hollow)
    other = complaint(replace(bag, encoder="other@1"))
    assert "other@1 in place of stain-texture@1" in str(other)
    empty = replace(bag, features=bag.features[:0], coords_px=bag.coords_px[:0])
    assert "no tiles" in str(complaint(empty))


def test_an_error_is_one_line_and_wrong_use(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "microtome",
        "mil",
        "train",
        "none.csv",
        "-b",
        ".",
        "-o",
        "out",
    ]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert "none.csv: no such cohort table" in run.stderr
    assert "Traceback" not in run.stderr


def test_names_as_camelyons_are_learnt_from_if_the_user_says_so(tmp_path: Path) -> None:
    lines = ["id,patient,label"]
    for i in range(8):
        label = ("normal", "tumour")[i % 2]
        bag = replace(bag_of(f"{label}_{i:03d}", label, i), source="slide.tif")
        write_bag(tmp_path / "bags" / f"{bag.id}.bag.zarr", bag, key=f"{i}")
        lines.append(f"{bag.id},{bag.id},{label}")
    (tmp_path / "cohort.csv").write_text("\n".join(lines) + "\n")
    refused = train(tmp_path, "--model", "mean")
    assert isinstance(refused.exception, LeakError)
    assert "--allow-telling-names" in str(refused.exception)
    run = train(tmp_path, "--model", "mean", "--allow-telling-names")
    assert run.exit_code == 0, run.output
    said = "names of 8 slides give their labels away"
    assert said in run.output
    card = json.loads((tmp_path / "out" / "model" / "card.json").read_text())
    assert any(said in limit and "allowed" in limit for limit in card["limits"])
