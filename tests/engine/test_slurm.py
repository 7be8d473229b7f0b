"""A real SLURM starts workers as there is work, and has none left afterwards."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import cloudpickle
import pytest
from distributed import Client, Security
from plan_runs import wait_until
from slurm_cluster import command, jobs, slurm_environment

from microtome.engine.jobqueue import JobProfile, open_job_pool
from microtome.engine.schedule import run_items

cloudpickle.register_pickle_by_value(sys.modules[__name__])

PROFILE = JobProfile(cores=1, memory="500MB", walltime="00:05:00", jobs=2, interface="lo")


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in slurm_environment().items():
        monkeypatch.setenv(name, value)
    # Environments of an editable install: the checkout that is tested, and no other.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(p for p in sys.path if p))
    monkeypatch.chdir(tmp_path)


def where(item: tuple[int, Path]) -> str:
    """The job that works on an item; each of the first two waits for the other to have begun."""
    number, folder = item
    (folder / f"came-{number}").touch()
    if number < 2:
        wait_until((folder / f"came-{1 - number}").exists)
    return os.environ["SLURM_JOB_ID"]


def test_jobs_come_with_the_work_take_no_stranger_and_go(slurm: None, tmp_path: Path) -> None:
    before = set(jobs())
    with open_job_pool("slurm", PROFILE) as pool:
        assert set(jobs()) == before
        outcomes = run_items([(n, tmp_path) for n in range(6)], where, pool=pool)
        assert {outcome.state for outcome in outcomes} == {"done"}
        ran_in = {outcome.value for outcome in outcomes}
        assert len(ran_in) == 2
        assert ran_in <= set(jobs()) - before
        script = command("scontrol", "write", "batch_script", ran_in.pop() or "", "-")
        (address,) = re.findall(r"tls://\S+", script)
        for stranger in (address, address.replace("tls://", "tcp://")):
            with pytest.raises((OSError, TypeError)):
                Client(stranger, security=Security(), timeout=3)
    wait_until(lambda: set(jobs()) <= before)
    assert not list(tmp_path.glob(".microtome-jobs-*"))
