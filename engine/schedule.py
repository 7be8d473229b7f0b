"""The one way to run work over items: in process, or on a local Dask cluster.

However it runs, an item that cannot be done ends in a named state, and the rest goes on.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import psutil

from ..storage.errors import ItemState, MicrotomeError
from ..storage.ledger import Entry, Ledger

T = TypeVar("T")
R = TypeVar("R")


class Skipped(Generic[R]):
    """Returned by ``work`` in place of a plain value: it was there already, nothing was made."""

    def __init__(self, value: R) -> None:
        self.value = value


@dataclass(frozen=True)
class Outcome(Generic[R]):
    """How one item ended."""

    item: str
    state: ItemState
    value: R | None = None
    error: BaseException | None = field(default=None, repr=False)
    seconds: float = 0.0

    @property
    def reason(self) -> str:
        """Short code: that of a named error, else the exception's class."""
        if self.error is None:
            return ""
        return getattr(self.error, "reason", type(self.error).__name__)

    @property
    def entry(self) -> Entry:
        """The ledger's line for this item."""
        detail = "" if self.error is None else f"{self.error}"
        return Entry(self.item, self.state, self.reason, detail, round(self.seconds, 3))


def run_items(
    items: Sequence[T],
    work: Callable[[T], R | Skipped[R]],
    *,
    name: Callable[[T], str] = str,
    jobs: int = 1,
    ledger: Ledger | None = None,
    on_done: Callable[[Outcome[R]], None] | None = None,
    window: int | None = None,
    debug: bool = False,
) -> list[Outcome[R]]:
    """Apply ``work`` to every item.

    Parameters
    ----------
    items
        What to work on. With ``jobs > 1`` items and results travel between processes: paths and
        small records, never pixels.
    work
        Picklable for ``jobs > 1``. Raises a :class:`MicrotomeError` to reject or fail an item;
        returns :class:`Skipped` when there was nothing to do.
    name
        Identity of an item in the ledger.
    jobs
        1 runs in this process; more, in that many processes of a local Dask cluster.
    ledger, on_done
        Told of each item as it ends.
    window
        How many items are in flight at most; two for each job by default, so that neither memory
        nor the task graph grows with the cohort.
    debug
        Raise the first error instead of recording it.

    Returns
    -------
    list of Outcome
        In the order of ``items``.
    """
    outcomes: dict[int, Outcome[R]] = {}
    pending = iter(enumerate(items))
    with _executor(jobs) as (submit, wait_any):
        running: dict[Future[tuple[R | Skipped[R], float]], int] = {}
        limit = window or 2 * jobs
        while True:
            while len(running) < limit and (following := next(pending, None)) is not None:
                running[submit(partial(_timed, work), following[1])] = following[0]
            if not running:
                break
            for future in wait_any(list(running)):
                index = running.pop(future)
                outcome = _outcome(name(items[index]), future)
                if debug and outcome.error is not None:
                    raise outcome.error
                outcomes[index] = outcome
                if ledger is not None:
                    ledger.record(outcome.entry)
                if on_done is not None:
                    on_done(outcome)
    return [outcomes[index] for index in range(len(items))]


def _timed(work: Callable[[T], R], item: T) -> tuple[R, float]:
    start = time.perf_counter()
    return work(item), time.perf_counter() - start


def _outcome(item: str, future: Future[tuple[R | Skipped[R], float]]) -> Outcome[R]:
    error = future.exception()
    if error is None:
        value, seconds = future.result()
        if isinstance(value, Skipped):
            return Outcome(item, "skipped", value.value, seconds=seconds)
        return Outcome(item, "done", value, seconds=seconds)
    if isinstance(error, MicrotomeError):
        return Outcome(item, error.state, error=error)
    if not isinstance(error, Exception):
        raise error
    return Outcome(item, "failed", error=error)


@contextmanager
def _executor(jobs: int) -> Iterator[tuple[Callable[..., Any], Callable[[list[Any]], list[Any]]]]:
    if jobs <= 1:
        # One thread: work runs in this process, and an exception comes back as a value.
        with ThreadPoolExecutor(max_workers=1) as pool:
            yield pool.submit, lambda futures: list(wait(futures, return_when=FIRST_COMPLETED).done)
        return
    from distributed import Client, LocalCluster
    from distributed import wait as dask_wait

    with (
        LocalCluster(
            n_workers=jobs,
            threads_per_worker=1,
            processes=True,
            memory_limit=memory_budget() // jobs,
            dashboard_address=None,
        ) as cluster,
        Client(cluster) as client,
    ):
        client.run(limit_threads)
        yield (
            partial(client.submit, pure=False),
            lambda futures: list(dask_wait(futures, return_when="FIRST_COMPLETED").done),
        )


def limit_threads() -> None:
    """One thread a worker process for the libraries that would each take every core."""
    import cv2

    cv2.setNumThreads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    import sys

    if "torch" in sys.modules:
        import torch

        torch.set_num_threads(1)


def memory_budget() -> int:
    """Bytes that this job may use: the cgroup's or SLURM's limit, else the host's memory."""
    limits = [int(psutil.virtual_memory().total)]
    for file in (
        Path("/sys/fs/cgroup/memory.max"),
        Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
    ):
        if file.is_file() and (text := file.read_text().strip()).isdigit():
            limits.append(int(text))
    if (per_node := os.environ.get("SLURM_MEM_PER_NODE", "")).isdigit():
        limits.append(int(per_node) * 1024**2)
    return min(limits)
