"""Runs of a plan as a user starts them, to be disturbed; and what they leave."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from microtome.tasks.run.history import entries, read_history

PLAN = 'cohort = "{cohort}"\nout = "out"\n[run]\n{limits}\n[ingest]\n[tissue]\n[encode]\n'
STAGES = ("ingest", "tissue", "encode")
# Equal runs give equal bytes, the commit records' times included.
ENVIRONMENT = os.environ | {"SOURCE_DATE_EPOCH": "0", "OMP_NUM_THREADS": "1"}
PATIENCE_S = 120


def written(folder: Path, cohort: Path, limits: str = "", further: str = "") -> Path:
    """A plan in a folder of its own; ``further`` are tables to add to it."""
    folder.mkdir(exist_ok=True)
    text = PLAN.format(cohort=cohort, limits=limits) + further
    (folder / "plan.toml").write_text(text)
    return folder / "plan.toml"


@contextmanager
def started(plan: Path, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "microtome", "run", *map(str, arguments), str(plan)]
    with subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
        cwd=plan.parent,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def ended(plan: Path, *arguments: object, patience_s: float = PATIENCE_S) -> tuple[int, str]:
    with started(plan, *arguments) as process:
        _, said = process.communicate(timeout=patience_s)
        return process.returncode, said


def products(plan: Path) -> dict[str, bytes]:
    """Every file of every product; what a killed run left beside them would show too."""
    out = plan.parent / "out"
    return {
        str(path.relative_to(out)): path.read_bytes()
        for name in ("slides", "tissue", "bags")
        for path in (out / name).rglob("*")
        if path.is_file()
    }


def states(plan: Path) -> dict[str, str]:
    return {
        f"{stage} {item}": f"{end.state}({end.reason})" if end.reason else end.state
        for (stage, item), end in read_history(plan.parent / "out").items()
    }


def wait_until(happened: Callable[[], bool], patience_s: float = PATIENCE_S) -> None:
    for _ in range(round(patience_s * 20)):
        if happened():
            return
        time.sleep(0.05)
    raise AssertionError("it never happened")


def has_ended(plan: Path, steps: int) -> Callable[[], bool]:
    return lambda: len(list(entries(plan.parent / "out"))) >= steps


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
