"""Jobs of a batch system do the work; a stand-in for its two commands starts them right here."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cloudpickle
import psutil
import pytest
from batch_system import stand_in

from microtome.engine.jobqueue import BATCH_SYSTEMS, JobProfile, open_job_pool, submit_coordinator
from microtome.engine.schedule import run_items
from microtome.storage.errors import MissingDependency, NoCluster

cloudpickle.register_pickle_by_value(sys.modules[__name__])

LOCAL = JobProfile(cores=1, memory="1GB", jobs=2, interface="lo", tls=False)


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the stand-in keeps its jobs."""
    for name, value in stand_in(tmp_path, os.environ["PATH"]).items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "jobs"


def where(item: tuple[int, str]) -> tuple[str, int]:
    """Its job and process; the first two wait for each other, and the fourth dies once."""
    n, folder = item
    came = [Path(folder) / f"came-{i}" for i in range(2)]
    if n < 2:
        came[n].touch()
        wait_until(lambda: all(place.exists() for place in came))
    killed = Path(folder) / "killed"
    if n == 3 and not killed.exists():
        killed.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return os.environ["SLURM_JOB_ID"], os.getpid()


def wait_until(happened: Callable[[], bool]) -> None:
    for _ in range(1200):
        if happened():
            return
        time.sleep(0.05)
    raise AssertionError("it never happened")


@pytest.mark.slow
def test_jobs_are_submitted_as_there_is_work_and_gone_at_the_end(jobs: Path) -> None:
    items = [(n, str(jobs)) for n in range(12)]
    with open_job_pool("slurm", LOCAL) as pool:
        assert pool.jobs == 2
        assert list(jobs.glob("*.sh")) == []
        outcomes = run_items(items, where, pool=pool)
    assert {outcome.state for outcome in outcomes} == {"done"}
    ran_in = {outcome.value[0] for outcome in outcomes if outcome.value is not None}
    assert ran_in <= {path.stem for path in jobs.glob("*.sh")}
    assert len(ran_in) == 2
    workers = [outcome.value[1] for outcome in outcomes if outcome.value is not None]
    wait_until(lambda: not any(map(psutil.pid_exists, workers)))


@pytest.mark.parametrize("system", BATCH_SYSTEMS)
def test_the_coordinator_is_submitted_with_what_the_profile_asks_for(
    jobs: Path, system: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = jobs.parent / "commands"
    name = {"slurm": "sbatch", "pbs": "qsub", "sge": "qsub", "lsf": "bsub"}[system]
    (commands / name).write_text(
        '#!/bin/bash\ncat "${@: -1}" > "$JOBS/seen" || cat > "$JOBS/seen"\n'
    )
    (commands / name).chmod(0o755)
    profile = JobProfile(
        walltime="08:00:00", queue="long", directives=("--mark",), prologue=("module load x",)
    )
    submit_coordinator(system, profile, ["run", "a plan.toml", "--cluster", system], jobs / "run")
    seen = (jobs / "seen").read_text()
    last = f"exec {sys.executable} -m microtome run 'a plan.toml' --cluster {system}"
    assert seen.splitlines()[-2:] == ["module load x", last]
    for asked in ("long", "--mark", "08:00"):
        assert asked in seen
    (commands / name).write_text("#!/bin/bash\necho no such queue >&2\nexit 1\n")
    with pytest.raises(NoCluster, match="no such queue"):
        submit_coordinator(system, profile, ["run"], jobs / "run")


def test_without_the_means_to_encrypt_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("microtome.engine.jobqueue.find_spec", lambda name: None)
    with (
        pytest.raises(MissingDependency, match="tls = false"),
        open_job_pool("slurm", JobProfile()),
    ):
        pass
