"""A study that is killed goes on from the members that it had fitted, to the same bytes."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sample_bags import row_of_tiles

from microtome.storage.bags import write_bag
from microtome.tasks.cohort import read_cohort
from microtome.tasks.mil import train
from microtome.tasks.mil.study import run_study
from microtome.tasks.mil.train import TrainOptions

QUICK = {"epochs": 3, "members": 2, "width": 8, "n_gates": 4}
KILLED_AFTER = 5

_DIES = f"""
import os, signal, sys
from pathlib import Path
from microtome.tasks.cohort import read_cohort
from microtome.tasks.mil import train
from microtome.tasks.mil.study import run_study

fitted, descend = [], train._descend
def counted(*given):
    if len(fitted) == {KILLED_AFTER}:
        os.kill(os.getpid(), signal.SIGKILL)
    fitted.append(descend(*given))
train._descend = counted
folder = Path(sys.argv[1])
cohort = read_cohort(folder / "cohort.csv", needs=("label",))
options = train.TrainOptions(**{QUICK})
run_study(cohort, folder / "bags", folder / "killed", options=options, n_folds=2)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A cohort of twelve slides, and their bags."""
    rng, lines = np.random.default_rng(0), ["id,patient,label"]
    for i in range(12):
        features = rng.normal(i % 2, 1, (8, 3)).astype(np.float32)
        bag = row_of_tiles(f"s{i:02d}", features, feature_names=("mean_red", "b", "c"))
        write_bag(tmp_path / "bags" / f"{bag.id}.bag.zarr", bag, key=f"{i}")
        lines.append(f"{bag.id},p{i},{'ab'[i % 2]}")
    (tmp_path / "cohort.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_after_a_kill_the_rest_is_fitted_and_the_study_is_the_same(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    killed = subprocess.run([sys.executable, "-c", _DIES, str(folder)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not (folder / "killed" / "model").exists()
    assert len(list((folder / "killed").glob(".model.*/fitted/*.safetensors"))) == KILLED_AFTER

    descend, fitted = train._descend, []

    def counted(model, *given) -> None:
        descend(model, *given)
        fitted.append(model)

    monkeypatch.setattr(train, "_descend", counted)
    cohort = read_cohort(folder / "cohort.csv", needs=("label",))
    counts = []
    for out in ("killed", "straight"):
        fitted.clear()
        options = TrainOptions(**QUICK)
        _, made = run_study(cohort, folder / "bags", folder / out, options=options, n_folds=2)
        assert made
        counts.append(len(fitted))
    # Two members of two folds for model, baseline and shuffled labels; two of the kept model.
    assert counts == [14 - KILLED_AFTER, 14]
    assert tree(folder / "killed") == tree(folder / "straight")
    assert {p.name for p in (folder / "killed" / "model").iterdir()} == {
        "card.json", "commit.json", "members.safetensors",
    }  # fmt: skip


def test_a_damaged_member_is_fitted_again(folder: Path) -> None:
    from microtome.tasks.mil.kept_members import KeptMembers

    kept = KeptMembers(folder / "fitted").at("fold-0")
    model = train.new_model(TrainOptions(**QUICK), 3, 2)
    kept.save(0, model)
    other = train.new_model(TrainOptions(**QUICK), 3, 2)
    assert kept.load(0, other)
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        np.testing.assert_array_equal(one.detach(), two.detach())
    (path,) = (folder / "fitted").iterdir()
    path.write_bytes(path.read_bytes()[:-40])
    assert not kept.load(0, other)
    assert not kept.load(1, other)
    assert not KeptMembers().load(0, other)
