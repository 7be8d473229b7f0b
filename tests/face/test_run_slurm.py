"""A plan on a real SLURM: whatever is killed on the way, the rerun ends with the same bytes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from plan_runs import (
    ENVIRONMENT,
    STAGES,
    ended,
    has_ended,
    products,
    started,
    states,
    wait_until,
    written,
)
from slurm_cluster import command, jobs, processes_of, slurm_environment, worker_of

from microtome.engine.synthetic import write_cohort
from microtome.storage.ledger import Entry
from microtome.tasks.run.history import entries

SLIDES, FEW = 40, 4
ENCODE = "min_tissue = 0.1\n"
CLUSTER = '[cluster]\nmemory = "1GB"\nwalltime = "00:30:00"\njobs = 2\ninterface = "lo"\n'
PAGE = Path(__file__).parents[2] / "docs/how-to/run-on-a-cluster.md"
PATIENCE_S = 600
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.fixture(autouse=True)
def slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands as a user of the cluster has them."""
    found = slurm_environment()
    found["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    for name, value in found.items():
        monkeypatch.setitem(ENVIRONMENT, name, value)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slides")
    return write_cohort(folder, n_slides=SLIDES, side_px=(700, 900), large_px=None, seed=1)


@pytest.fixture(scope="module")
def few(cohort: Path) -> Path:
    """A cohort of the first slides alone."""
    lines = cohort.read_text().splitlines()[: FEW + 1]
    (cohort.parent / "few.csv").write_text("\n".join(lines) + "\n")
    return cohort.parent / "few.csv"


@pytest.fixture(scope="module")
def undisturbed(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What a run in one process, that nobody disturbs, makes of the cohort."""
    plan = written(tmp_path_factory.mktemp("undisturbed"), cohort, further=ENCODE)
    code, said = ended(plan, patience_s=PATIENCE_S)
    assert code == 0, said
    return products(plan)


def of_few(made: dict[str, bytes]) -> dict[str, bytes]:
    first = tuple(f"slide-{n:02d}." for n in range(1, FEW + 1))
    return {name: data for name, data in made.items() if name.split("/")[1].startswith(first)}


def kill_in_the_midst(plan: Path, job: str, *, whole: bool) -> None:
    """Kill the worker of a job, or all of its processes, for certain in the midst of a step.

    A worker that is stopped ends no step: once the other has ended some, this one has one.
    """
    processes, worker = processes_of(job), worker_of(job)
    assert worker is not None
    worker.send_signal(signal.SIGSTOP)
    wait_until(has_ended(plan, len(list(entries(plan.parent / "out"))) + 4), PATIENCE_S)
    for process in processes if whole else [worker]:
        process.kill()


def both_work() -> bool:
    return len(jobs("R")) == 2 and all(worker_of(job) for job in jobs("R"))


def test_two_workers_and_the_coordinator_are_killed(
    cohort: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    plan = written(tmp_path, cohort, further=ENCODE + CLUSTER)
    with started(plan, "--cluster", "slurm") as process:
        wait_until(has_ended(plan, 6), PATIENCE_S)
        for whole in (False, True):
            wait_until(both_work, PATIENCE_S)
            kill_in_the_midst(plan, jobs("R")[0], whole=whole)
        wait_until(has_ended(plan, 60), PATIENCE_S)
        process.kill()
    # Nothing is left that the cluster would go on to count.
    wait_until(lambda: not jobs())
    first = list(entries(tmp_path / "out"))
    assert undisturbed.items() >= products(plan).items()
    code, said = ended(plan, "--cluster", "slurm", patience_s=PATIENCE_S)
    assert code == 0, said
    assert products(plan) == undisturbed
    second = list(entries(tmp_path / "out"))[len(first) :]
    check_story(first, second)
    wait_until(lambda: not jobs())


def check_story(first: list[Entry], second: list[Entry]) -> None:
    """What the ledgers tell: two steps lost their worker, and no step was made twice."""
    steps = {(stage, f"slide-{n:02d}") for stage in STAGES for n in range(1, SLIDES + 1)}
    lost = [(e.stage, e.item) for e in first if e.state == "failed"]
    assert [e.reason for e in first if e.state == "failed"] == ["worker_died"] * 2
    assert {e.state for e in second} == {"done", "skipped"}
    assert {(e.stage, e.item) for e in second} == steps
    done = [(e.stage, e.item) for e in (*first, *second) if e.state == "done"]
    assert len(done) == len(set(done))
    # Made, and killed before it was told: those of the coordinator's two in flight.
    assert len(steps - set(done)) <= 2
    assert set(lost) <= {(e.stage, e.item) for e in second}


def test_the_coordinator_is_a_job_too(
    few: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    plan = written(tmp_path, few, further=ENCODE + CLUSTER)
    code, said = ended(plan, "--cluster", "slurm", "--detach")
    assert code == 0, said
    (job,) = re.findall(r"Submitted batch job (\d+)", said)
    wait_until(lambda: not jobs(), PATIENCE_S)
    assert products(plan) == of_few(undisturbed)
    log = (tmp_path / "out/run" / f"microtome-{job}.err").read_text()
    assert f"run: {3 * FEW} done" in log


def test_the_array_of_the_documentation(
    few: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    plan = written(tmp_path, few, further=ENCODE)
    (script,) = re.findall(r"^```bash\n(.*?)^```", PAGE.read_text(), re.M | re.S)
    (tmp_path / "array.sh").write_text(script)
    small = ["--array=1-2", "--cpus-per-task=1", "--mem=1G"]
    array = submitted(tmp_path, *small, "array.sh")
    after = f"--dependency=afterany:{array}"
    submitted(tmp_path, after, "--mem=1G", "--wrap", "microtome run plan.toml --log json")
    wait_until(lambda: not jobs(), PATIENCE_S)
    assert products(plan) == of_few(undisturbed)
    told = list(entries(tmp_path / "out"))
    assert [e.state for e in told] == ["done"] * 3 * FEW + ["skipped"] * 3 * FEW
    assert len(list((tmp_path / "out/run").glob("*.jsonl"))) == 3


def test_a_task_of_an_array_is_requeued_and_goes_on(
    few: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    plan = written(tmp_path, few, limits="grace_s = 60", further=ENCODE)
    (script,) = re.findall(r"^```bash\n(.*?)^```", PAGE.read_text(), re.M | re.S)
    (tmp_path / "array.sh").write_text(script)
    job = submitted(tmp_path, "--array=1-1", "--cpus-per-task=1", "--mem=1G", "array.sh")
    wait_until(has_ended(plan, 2))
    # As a cluster does that wants its node back: the signal, and then the queue again.
    command("scancel", "--batch", "--signal=TERM", f"{job}_1")
    log = tmp_path / f"slurm-{job}_1.out"
    wait_until(lambda: "told to stop" in log.read_text())
    wait_until(lambda: not jobs("R"))
    assert set(states(plan).values()) == {"done"}
    assert undisturbed.items() >= products(plan).items()
    submitted(tmp_path, "--array=1-1", "--cpus-per-task=1", "--mem=1G", "array.sh")
    wait_until(lambda: not jobs(), PATIENCE_S)
    assert products(plan) == of_few(undisturbed)


def submitted(folder: Path, *words: str) -> str:
    made = subprocess.run(
        ["sbatch", "--parsable", *words],
        cwd=folder,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=True,
    )
    return made.stdout.strip()
