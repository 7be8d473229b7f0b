"""The one way to run work over items: in process, or on a local Dask cluster.

However it runs, an item that cannot be done ends in a named state, and the rest goes on.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Protocol, TypeVar

import psutil

from ..storage.errors import ItemState, MicrotomeError, NoCluster, WorkerDied
from ..storage.ledger import Entry, Ledger

T = TypeVar("T")
R = TypeVar("R")

_REACH_S = 10
"""How long a scheduler, and its first worker, are waited for."""

_ONE_THREAD = dict.fromkeys(
    (
        "OMP_NUM_THREADS",
        "MKL_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "NUMBA_NUM_THREADS",
        "OPENCV_FOR_THREADS_NUM",
        "VIPS_CONCURRENCY",
    ),
    "1",
)
"""Each worker process is one thread of work; a library may not take every core again."""

_KEEP_FREED = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(128 * 1024**2),
    "MALLOC_TRIM_THRESHOLD_": str(256 * 1024**2),
}
"""glibc: by Dask's defaults every tile's memory goes back to the system, and returns page by page,
zeroed: measured on a slide of 40,960 px, that is half of the time of two workers."""


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
        """The ledger's line for this item; a value's ``warning`` goes with what is done."""
        detail = getattr(self.value, "warning", "") if self.error is None else f"{self.error}"
        return Entry(self.item, self.state, self.reason, detail, round(self.seconds, 3))


class Pool(Protocol):
    """Where work runs: made by :func:`open_pool`, used by :func:`run_items`."""

    @property
    def jobs(self) -> int:
        """How many items are worked on at once."""
        ...

    def submit(self, work: Callable[[T], R], item: T) -> Future[R]:
        """Start work on one item."""
        ...

    def wait_any(self, futures: Sequence[Future[R]]) -> list[Future[R]]:
        """Those that have ended, at least one."""
        ...

    def death(self, error: BaseException) -> bool:
        """Whether an error says that the process died that worked on the item."""
        ...


@contextmanager
def open_pool(jobs: int = 1, *, cluster: str | None = None) -> Iterator[Pool]:
    """Open a pool to be used by several calls of :func:`run_items`.

    Parameters
    ----------
    jobs
        1 works in this process; more, in that many processes of a local Dask cluster. A script
        that does so needs ``if __name__ == "__main__":`` around its calls.
    cluster
        Address of a Dask scheduler whose workers do it in their place, such as
        ``tcp://node17:8786``. They need Microtome, and the same files under the same names.

    Raises
    ------
    NoCluster
        There is no scheduler at the address, or it has no workers.
    """
    if cluster is not None:
        with _client_of(cluster) as client:
            yield _OnDask(client, sum(client.nthreads().values()))
        return
    if jobs <= 1:
        yield _InProcess()
        return
    import dask
    from distributed import Client, LocalCluster

    settings = {
        # The first death ends the future; `run_items` finds out whose fault it was.
        "distributed.scheduler.allowed-failures": 0,
        # Results are small records: there is nothing to spill.
        "distributed.worker.memory.target": False,
        # Until a worker has started: on a busy machine that is more than Dask's half a minute.
        "distributed.comm.timeouts.connect": "120s",
        "distributed.worker.memory.spill": False,
        "distributed.nanny.pre-spawn-environ": {**_ONE_THREAD, **_KEEP_FREED},
    }
    with dask.config.set(settings), ExitStack() as stack:
        local = LocalCluster(
            n_workers=jobs,
            threads_per_worker=1,
            processes=True,
            memory_limit=memory_budget() // jobs,
            # Any free port, heard by this machine only: None would still ask for 8787.
            dashboard_address="127.0.0.1:0",
            silence_logs=logging.CRITICAL,
        )
        stack.callback(_close, local)
        client = Client(local)
        stack.callback(_close, client)
        yield _OnDask(client, jobs)


def _close(part: Any) -> None:
    """Close a cluster or client; on a busy machine its goodbye may be late, the work is done."""
    with suppress(TimeoutError):
        part.close()


@contextmanager
def _client_of(cluster: str) -> Iterator[Any]:
    from distributed import Client

    remedy = "Start dask scheduler and dask worker, and pass the address that the first one prints"
    try:
        client = Client(cluster, timeout=_REACH_S)
    except (OSError, ValueError) as error:
        raise NoCluster("no Dask scheduler answers", where=cluster, remedy=remedy) from error
    try:
        try:
            client.wait_for_workers(1, timeout=_REACH_S)
        except TimeoutError as error:
            raise NoCluster("the scheduler has no workers", where=cluster, remedy=remedy) from error
        yield client
    finally:
        _close(client)


class _InProcess:
    """Works at once, in the caller's thread, so that Ctrl-C stops it at once."""

    jobs = 1

    def submit(self, work: Callable[[T], R], item: T) -> Future[R]:
        future: Future[R] = Future()
        with _Captured(future):
            future.set_result(work(item))
        return future

    def wait_any(self, futures: Sequence[Future[R]]) -> list[Future[R]]:
        return list(futures)

    def death(self, error: BaseException) -> bool:
        return False


class _Captured:
    """Hands an exception over to a future; a request to stop is let through."""

    def __init__(self, future: Future[Any]) -> None:
        self._future = future

    def __enter__(self) -> None:
        return None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        if not isinstance(error, Exception):
            return False
        self._future.set_exception(error)
        return True


class _OnDask:
    def __init__(self, client: Any, jobs: int) -> None:
        self._client = client
        self.jobs = jobs

    def submit(self, work: Callable[[T], R], item: T) -> Future[R]:
        import cloudpickle

        # Unpacked within the task: what a worker cannot import is then that task's error, and
        # not the end of the worker.
        packed = cloudpickle.dumps((work, item))
        future: Future[R] = self._client.submit(_unpack_and_work, packed, pure=False)
        return future

    def wait_any(self, futures: Sequence[Future[R]]) -> list[Future[R]]:
        from distributed import wait

        return list(wait(list(futures), return_when="FIRST_COMPLETED").done)

    def death(self, error: BaseException) -> bool:
        from distributed.scheduler import KilledWorker

        return isinstance(error, KilledWorker)


def _unpack_and_work(packed: bytes) -> Any:
    import cloudpickle

    work, item = cloudpickle.loads(packed)
    return work(item)


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
    pool: Pool | None = None,
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
        Raise the first error instead of recording it: nothing more is begun, and what is in
        flight is waited for.
    pool
        Where to run, in place of ``jobs``: spares starting a cluster for every call.

    Returns
    -------
    list of Outcome
        In the order of ``items``. An item whose process died was tried once more on its own; if
        that one died too, it ends ``failed(worker_died)``.
    """
    outcomes: dict[int, Outcome[R]] = {}
    suspects: list[int] = []
    stopped_by: list[BaseException] = []

    def settle(index: int, outcome: Outcome[R]) -> None:
        if debug and outcome.error is not None:
            stopped_by.append(outcome.error)
            return
        outcomes[index] = outcome
        if ledger is not None:
            ledger.record(outcome.entry)
        if on_done is not None:
            on_done(outcome)

    with open_pool(jobs) if pool is None else _borrowed(pool) as active:
        limit = window or (2 * active.jobs if active.jobs > 1 else 1)
        wanted = (index for index in range(len(items)) if not stopped_by)
        for index, future in _flow(active, items, work, wanted, limit):
            outcome = _outcome(name(items[index]), future, active)
            if isinstance(outcome.error, WorkerDied):
                suspects.append(index)
            else:
                settle(index, outcome)
        # Of the items that were in flight together, only one need have killed the process.
        alone = (index for index in suspects if not stopped_by)
        for index, future in _flow(active, items, work, alone, 1):
            settle(index, _outcome(name(items[index]), future, active))
    if stopped_by:
        raise stopped_by[0]
    return [outcomes[index] for index in range(len(items))]


@contextmanager
def _borrowed(pool: Pool) -> Iterator[Pool]:
    yield pool


def _flow(
    pool: Pool,
    items: Sequence[T],
    work: Callable[[T], R | Skipped[R]],
    indices: Iterable[int],
    window: int,
) -> Iterator[tuple[int, Future[tuple[R | Skipped[R], float]]]]:
    """Work on items by index, at most ``window`` at once; yields each as it ends."""
    running: dict[Future[tuple[R | Skipped[R], float]], int] = {}
    pending = iter(indices)
    while True:
        while len(running) < window and (index := next(pending, None)) is not None:
            running[pool.submit(partial(_timed, work), items[index])] = index
        if not running:
            return
        for future in pool.wait_any(list(running)):
            yield running.pop(future), future


def _timed(work: Callable[[T], R], item: T) -> tuple[R, float]:
    start = time.perf_counter()
    return work(item), time.perf_counter() - start


def _outcome(item: str, future: Future[tuple[R | Skipped[R], float]], pool: Pool) -> Outcome[R]:
    error = future.exception()
    if error is None:
        value, seconds = future.result()
        if isinstance(value, Skipped):
            return Outcome(item, "skipped", value.value, seconds=seconds)
        return Outcome(item, "done", value, seconds=seconds)
    if pool.death(error):
        error = WorkerDied(
            "the process that worked on this died; most likely it ran out of memory",
            where=item,
            remedy="Use fewer --jobs, so that each has more memory",
        )
    if isinstance(error, MicrotomeError):
        return Outcome(item, error.state, error=error)
    if not isinstance(error, Exception):
        raise error
    return Outcome(item, "failed", error=error)


def memory_budget() -> int:
    """Bytes that this job may use: the least of the host's memory, cgroup's and SLURM's limits."""
    limits = [int(psutil.virtual_memory().total), *_cgroup_limits()]
    per_node = os.environ.get("SLURM_MEM_PER_NODE", "")
    per_cpu = os.environ.get("SLURM_MEM_PER_CPU", "")
    cpus = os.environ.get("SLURM_CPUS_ON_NODE", "")
    if per_node.isdigit():
        limits.append(int(per_node) * 1024**2)
    elif per_cpu.isdigit() and cpus.isdigit():
        limits.append(int(per_cpu) * int(cpus) * 1024**2)
    # SLURM says 0 for the whole node.
    return min(limit for limit in limits if limit > 0)


def _cgroup_limits(
    root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")
) -> Iterator[int]:
    """Memory limits of this process's control groups and of all above them."""
    lines = own.read_text().splitlines() if own.is_file() else []
    for line in lines:
        _, controllers, place = line.split(":", 2)
        if controllers == "":
            base, file = root, "memory.max"
        elif "memory" in controllers.split(","):
            base, file = root / "memory", "memory.limit_in_bytes"
        else:
            continue
        inner = base / place.lstrip("/")
        for folder in (inner, *inner.parents):
            limit = folder / file
            if folder.is_relative_to(base) and limit.is_file():
                text = limit.read_text().strip()
                if text.isdigit():
                    yield int(text)
