"""The SLURM of this machine that ``scripts/slurm.sh`` starts; a test without it is skipped."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

CONFIGURATION = Path("/run/microtome-slurm/slurm.conf")


def slurm_environment() -> dict[str, str]:
    """What its commands need to find it."""
    if shutil.which("sinfo") is None or not CONFIGURATION.is_file():
        pytest.skip("no SLURM runs here; as root: sh scripts/slurm.sh")
    said = command("sinfo", "-h", "-o", "%T")
    if not said:
        pytest.skip("the SLURM of this machine does not answer; as root: sh scripts/slurm.sh")
    return {"SLURM_CONF": str(CONFIGURATION)}


def command(*words: str) -> str:
    """What one of its commands answers; nothing where it fails."""
    ended = subprocess.run(
        words,
        env=os.environ | {"SLURM_CONF": str(CONFIGURATION)},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    return ended.stdout.strip() if ended.returncode == 0 else ""


def jobs(state: str = "") -> list[str]:
    """Numbers of the jobs that it has, or has in a state, those of an array each for itself."""
    asked = ["-t", state] if state else []
    return command("squeue", "-h", "-r", *asked, "-o", "%A").split()


def processes_of(job: str) -> list[psutil.Process]:
    """The processes of a job in which work is done, and that which watches over it."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            words = " ".join(process.cmdline())
            is_work = "dask_worker" in words or "spawn_main" in words
            if is_work and process.environ().get("SLURM_JOB_ID") == job:
                found.append(process)
    return found


def worker_of(job: str) -> psutil.Process | None:
    """The process of a job in which work is done, once it has found its scheduler."""
    processes = processes_of(job)
    with suppress(psutil.NoSuchProcess, psutil.AccessDenied, StopIteration):
        watcher = next(p for p in processes if "dask_worker" in " ".join(p.cmdline()))
        said = re.search(r"tls://[^: ]+:(\d+)", " ".join(watcher.cmdline()))
        assert said is not None
        for process in watcher.children():
            peers = {c.raddr.port for c in process.net_connections("tcp") if c.raddr}
            if int(said[1]) in peers:
                return process
    return None
