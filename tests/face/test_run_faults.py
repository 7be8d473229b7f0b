"""Whatever dies, hangs or is stopped on the way: the next run ends with the very same bytes."""

from __future__ import annotations

import fcntl
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from batch_system import stand_in
from plan_runs import (
    ENVIRONMENT,
    PATIENCE_S,
    STAGES,
    ended,
    has_ended,
    is_alive,
    products,
    started,
    states,
    wait_until,
    written,
)

from microtome.engine.synthetic import write_cohort
from microtome.tasks.run.history import entries, quarantine_path, read_history

pytestmark = pytest.mark.slow
CLUSTER = '[cluster]\nmemory = "1GB"\njobs = 2\ninterface = "lo"\n'


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slides")
    return write_cohort(folder, n_slides=4, side_px=(800, 900), large_px=None, seed=1)


@pytest.fixture(scope="module")
def undisturbed(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    plan = written(tmp_path_factory.mktemp("undisturbed"), cohort)
    code, said = ended(plan)
    assert code == 0, said
    return products(plan)


@contextmanager
def stalled(path: Path) -> Iterator[None]:
    """Whoever opens the file meanwhile waits: a lease, which the kernel asks us to give up."""
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)
    descriptor = os.open(path, os.O_RDWR)
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    except OSError as error:
        pytest.skip(f"no lease is given here ({error})")
    try:
        yield
    finally:
        os.close(descriptor)
        signal.signal(signal.SIGIO, before)


def slide(cohort: Path, n: int) -> Path:
    return cohort.parent / f"slides/slide-0{n}.tiff"


def of_others(n: int) -> set[str]:
    return {f"{stage} slide-0{i}" for stage in STAGES for i in range(1, 5) if i != n}


def test_told_to_stop_it_finishes_the_step_and_begins_no_other(
    cohort: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    plan = written(tmp_path, cohort, "grace_s = 60")
    with started(plan) as process:
        wait_until(has_ended(plan, 2))
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 143, said
    assert "run the same command again to go on" in said
    assert set(states(plan).values()) == {"done"}
    assert len(states(plan)) < 12
    assert undisturbed.items() >= products(plan).items()
    assert ended(plan)[0] == 0
    assert products(plan) == undisturbed


@pytest.mark.parametrize("jobs", [1, 2])
def test_told_to_stop_it_hands_back_what_takes_longer_than_the_grace(
    cohort: Path, undisturbed: dict[str, bytes], tmp_path: Path, jobs: int
) -> None:
    plan = written(tmp_path, cohort, "grace_s = 0.5")
    with stalled(slide(cohort, 2)):
        with started(plan, "--jobs", jobs) as process:
            wait_until(has_ended(plan, 3 if jobs == 1 else 9))
            process.send_signal(signal.SIGTERM)
            _, said = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 143, said
        assert "handed back" in said
    ended_before = of_others(2) if jobs == 2 else {f"{stage} slide-01" for stage in STAGES}
    assert states(plan) == dict.fromkeys(ended_before, "done")
    assert undisturbed.items() >= products(plan).items()
    assert ended(plan)[0] == 0
    assert products(plan) == undisturbed


def test_of_two_on_one_output_the_second_is_refused_but_parts_share_it(
    cohort: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    plan = written(tmp_path, cohort)
    with stalled(slide(cohort, 1)), started(plan) as first:
        wait_until(lambda: bool(list((tmp_path / "out/run").glob(".part*.lock"))))
        code, said = ended(plan)
        assert (code, said.count("output_busy")) == (2, 1)
        assert f"process {first.pid}" in said
    with started(plan, "--shard", "1/2") as one, started(plan, "--shard", "2/2") as other:
        for process in (one, other):
            _, said = process.communicate(timeout=PATIENCE_S)
            assert process.returncode == 0, said
    done = [e for e in entries(tmp_path / "out") if e.state == "done"]
    assert len(done) == len({(e.stage, e.item) for e in done}) == 12
    assert products(plan) == undisturbed


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_coordinator_that_is_killed_costs_what_was_in_flight(
    cohort: Path, undisturbed: dict[str, bytes], tmp_path: Path, jobs: int
) -> None:
    plan = written(tmp_path, cohort)
    workers: list[psutil.Process] = []
    for steps in (2, 5, 8):
        with started(plan, "--jobs", jobs) as process:
            wait_until(has_ended(plan, steps))
            workers += psutil.Process(process.pid).children(recursive=True)
            process.kill()
    wait_until(lambda: not any(map(is_alive, workers)))
    code, said = ended(plan, "--jobs", jobs)
    assert code == 0, said
    assert products(plan) == undisturbed
    told = list(entries(tmp_path / "out"))
    # A step that was made, and killed before it was told, is told as skipped.
    assert sum(entry.state == "done" for entry in told) <= 12
    assert {entry.state for entry in told} == {"done", "skipped"}
    assert len(list((tmp_path / "out/run").glob("*.jsonl"))) == 4


def test_a_read_that_hangs_is_given_up_and_left_alone_until_told(
    cohort: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    plan = written(tmp_path, cohort, "timeout_s = 10")
    with stalled(slide(cohort, 2)):
        code, said = ended(plan)
        assert code == 3, said
        assert states(plan) == dict.fromkeys(of_others(2), "done") | {
            "ingest slide-02": "failed(timeout)"
        }
    log = quarantine_path(tmp_path / "out", "ingest", "slide-02").read_text()
    assert log.count("failed(timeout)") == 2
    assert ended(plan)[0] == 3
    assert states(plan)["ingest slide-02"] == "failed(quarantined)"
    assert set(states(plan)) == {*of_others(2), "ingest slide-02"}
    assert ended(plan, "retry")[0] == 0
    assert products(plan) == undisturbed


def test_workers_that_are_killed_cost_the_item_that_they_die_with(
    cohort: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    plan = written(tmp_path, cohort)
    with stalled(slide(cohort, 3)):
        with started(plan, "--jobs", 2) as process:
            wait_until(has_ended(plan, 9))
            while process.poll() is None:
                for worker in psutil.Process(process.pid).children(recursive=True):
                    if "spawn_main" in " ".join(worker.cmdline()):
                        worker.kill()
                # Long enough for a new worker to have begun; the run's end is waited for.
                time.sleep(4)
            assert process.returncode == 3, process.stderr and process.stderr.read()
        assert states(plan) == dict.fromkeys(of_others(3), "done") | {
            "ingest slide-03": "failed(worker_died)"
        }
    log = quarantine_path(tmp_path / "out", "ingest", "slide-03").read_text()
    assert log.count("failed(worker_died)") == 2
    assert ended(plan)[0] == 3
    assert states(plan)["ingest slide-03"] == "failed(quarantined)"
    assert ended(plan, "retry", "--jobs", 2)[0] == 0
    assert products(plan) == undisturbed


def test_jobs_of_a_batch_system_are_killed_and_their_coordinator_too(
    cohort: Path,
    undisturbed: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in stand_in(tmp_path, os.environ["PATH"]).items():
        monkeypatch.setitem(ENVIRONMENT, name, value)
    plan = written(tmp_path, cohort, further=CLUSTER)
    with started(plan, "--cluster", "slurm") as process:
        for steps in (2, 4):
            wait_until(has_ended(plan, steps))
            job = sorted((tmp_path / "jobs").glob("*.pid"), key=lambda p: p.stat().st_mtime)[-1]
            os.killpg(int(job.read_text()), signal.SIGKILL)
        wait_until(has_ended(plan, 7))
        process.kill()
    code, said = ended(plan, "--cluster", "slurm")
    assert code == 0, said
    assert products(plan) == undisturbed
    assert not [e for e in read_history(tmp_path / "out").values() if e.state == "failed"]
    # Nothing is left behind that a batch system would go on to count.
    jobs = [int(file.read_text()) for file in (tmp_path / "jobs").glob("*.pid")]
    assert len(jobs) >= 3
    wait_until(lambda: not any(psutil.pid_exists(job) for job in jobs))


def test_a_detached_run_outlives_whoever_started_it(
    cohort: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    plan = written(tmp_path, cohort)
    with started(plan, "--detach", "--log", "json") as process:
        _, said = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0, said
        # As a session that ends does to all that is left in it.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    log = tmp_path / "out/run/detached.log"
    wait_until(lambda: "run: 12 done" in log.read_text())
    assert products(plan) == undisturbed
