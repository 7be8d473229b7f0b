"""``microtome mil train --task``: labels, a value and survival from a table to a kept model."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from sample_bags import row_of_tiles
from typer.testing import CliRunner, Result

from microtome.cli.app import app
from microtome.storage.bags import write_bag
from microtome.storage.errors import CohortError, LabelError, StaleProduct
from microtome.storage.predictions import read_predictions


def mil(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["mil", *map(str, arguments)], env={"COLUMNS": "200"})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty slides of ten patients; the share of odd tiles makes every outcome."""
    folder = tmp_path_factory.mktemp("tasks")
    rng = np.random.default_rng(0)
    lines = ["id,patient,site,found,ki67,months,died"]
    for i in range(20):
        odd = int(rng.integers(0, 15))
        features = rng.normal(size=(20, 4)).astype(np.float32)
        features[:odd] += 4
        bag = row_of_tiles(f"s{i:02d}", features)
        write_bag(folder / "bags" / f"{bag.id}.bag.zarr", bag, key=str(i))
        found = ";".join(["odd"] * (odd > 6) + ["even"] * (i % 4 == 0))
        lines.append(f"{bag.id},p{i},north,{found},{odd / 20},{30 - odd},{int(i % 5 > 0)}")
    (folder / "cohort.csv").write_text("\n".join(lines) + "\n")
    return folder


def train(folder: Path, out: str, *task: object) -> Result:
    given = ("train", folder / "cohort.csv", "--bags", folder / "bags", "--out", folder / out)
    return mil(*given, "--folds", 2, "--epochs", 2, "--model", "mean", *task)


@pytest.mark.parametrize(
    ("task", "column", "said"),
    [
        (("labels", "--label", "found"), "probability", "AUPRC"),
        (("regression", "--label", "ki67"), "value", "R²"),
        (("survival", "--time", "months", "--event", "died"), "log_hazard", "c-index"),
    ],
)
def test_every_task_from_table_to_new_slides(
    folder: Path, task: tuple[str, ...], column: str, said: str
) -> None:
    run = train(folder, task[0], "--task", *task)
    assert run.exit_code == 0, run.output
    assert said in run.output
    kept = json.loads((folder / task[0] / "metrics.json").read_text())
    assert kept["kind"] == task[0]
    assert all(f["low"] <= f["value"] <= f["high"] for f in kept["figures"]["mean"].values())
    predicted = mil(
        "predict", folder / task[0] / "model", folder / "bags", "--out", folder / f"new-{task[0]}"
    )
    assert predicted.exit_code == 0, predicted.output
    assert {p.kind for p in read_predictions(folder / f"new-{task[0]}")} == {task[0]}
    with (folder / task[0] / "predictions" / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {column, "label"} <= set(rows[0])
    table = (folder / "cohort.csv").read_text()
    if task[0] == "regression":
        assert f",{rows[3]['label']}," in table.splitlines()[4]
    assert train(folder, task[0], "--task", *task).output.count("skipped") == 1


@pytest.mark.parametrize(
    "options",
    [
        ("--task", "survival", "--time", "months"),
        ("--time", "months", "--event", "died"),
        ("--task", "survival", "--time", "months", "--event", "died", "--label", "ki67"),
        ("--task", "regression", "--label", "ki67", "--label", "months"),
    ],
)
def test_options_of_another_task_are_refused(folder: Path, options: tuple[str, ...]) -> None:
    assert train(folder, "wrong", *options).exit_code == 2
    assert not (folder / "wrong").exists()


def test_classes_may_stand_in_another_column(folder: Path) -> None:
    run = train(folder, "classes", "--label", "died", "--positive", "1")
    assert run.exit_code == 0, run.output
    assert "Classes 0, 1; scores speak of 1." in run.output


def test_two_models_under_the_same_folds_are_compared(folder: Path) -> None:
    for out, model in (("one", "mean"), ("two", "max")):
        splits = () if out == "one" else ("--splits", folder / "one" / "splits.json")
        run = train(folder, out, "--label", "died", "--model", model, *splits)
        assert run.exit_code == 0, run.output
    run = mil("compare", folder / "one" / "predictions", folder / "two" / "predictions")
    assert run.exit_code == 0, run.output
    kept = [json.loads((folder / out / "metrics.json").read_text()) for out in ("one", "two")]
    values = [k["figures"][k["model"]]["auc"]["value"] for k in kept]
    assert f"difference {values[0] - values[1]:.3f} [" in run.output
    assert "by DeLong's test" in run.output
    assert kept[0]["splits"][:12] in run.output
    plot = folder / "reliability.png"
    given = ("--sensitivity", 0.8, "--plot", plot)
    worth = mil("evaluate", folder / "one" / "predictions", *given)
    assert worth.exit_code == 0, worth.output
    for word in ("temperature", "isotonic", "share found", "specificity", "right in"):
        assert word in worth.output
    assert "on which its members stopped" in worth.output
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert f"{kept[0]['figures']['mean']['brier_score']['value']:.3f}" in worth.output


def test_models_under_other_folds_are_not_compared(folder: Path) -> None:
    for out, seed in (("here", 0), ("there", 7)):
        assert train(folder, out, "--label", "died", "--seed", seed).exit_code == 0
    run = mil("compare", folder / "here" / "predictions", folder / "there" / "predictions")
    assert isinstance(run.exception, CohortError)
    assert "different folds" in str(run.exception)


def test_a_way_is_chosen_in_inner_folds_that_the_split_file_keeps(folder: Path) -> None:
    task = ("--task", "regression", "--label", "ki67")
    ways = ("--candidate", "mean,learning_rate=0.03", "--inner-folds", 2)
    run = train(folder, "chosen", *task, *ways)
    assert run.exit_code == 0, run.output
    kept = json.loads((folder / "chosen" / "metrics.json").read_text())
    splits = json.loads((folder / "chosen" / "splits.json").read_text())
    assert (kept["model"], kept["inner"], kept["splits"]) == ("chosen", 2, splits["hash"])
    assert len(kept["chosen"]) == 2 + 1
    assert set(kept["chosen"]) <= {"mean", "mean,learning_rate=0.03"}
    assert f"kept: {kept['chosen'][-1]}." in run.output
    for fold, parts in zip(splits["folds"], splits["inner"], strict=True):
        assert sorted(name for part in parts for name in part) == sorted(
            {f"s{i:02d}" for i in range(20)} - set(fold)
        )
    card = json.loads((folder / "chosen" / "model" / "card.json").read_text())
    rate = 0.03 if "0.03" in kept["chosen"][-1] else 3e-3
    assert card["options"]["learning_rate"] == rate
    other = train(folder, "chosen", *task, *ways[:2], "--inner-folds", 3)
    assert isinstance(other.exception, StaleProduct)
    assert "2 inner folds, not 3" in str(other.exception)
    worth = mil("evaluate", folder / "chosen" / "predictions")
    assert isinstance(worth.exception, LabelError)
