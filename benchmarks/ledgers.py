"""Long benchmarks in pieces: what is done is kept, and a run that is broken off goes on."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Protocol

from microtome.storage.commit import write_text

Result = dict[str, Any]
"""What a job found; ``seconds`` are of the processor."""
Kept = dict[str, Result]


class Job(Protocol):
    """A piece of work; equal keys mean equal results."""

    @property
    def key(self) -> str: ...


def read_ledger(path: Path) -> Kept:
    """Read results by key; none where there is no ledger yet."""
    kept: Kept = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return kept


def conduct(
    jobs: Sequence[Job],
    work: Callable[[Any], Result],
    kept: Kept,
    ledger: Path,
    *,
    processes: int,
) -> None:
    """Do what is not in ``kept`` yet, and keep it there and in the ledger."""
    todo = {job.key: job for job in jobs if job.key not in kept}
    print(f"{len(jobs) - len(todo)} of {len(jobs)} pieces are done", flush=True)
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        running = {pool.submit(work, job): key for key, job in todo.items()}
        for number, done in enumerate(as_completed(running), 1):
            key = running[done]
            kept[key] = done.result()
            write_text(ledger, json.dumps(kept, indent=0))
            seconds = kept[key]["seconds"]
            print(f"{number}/{len(todo)} {key} {seconds:.1f} s", flush=True)
