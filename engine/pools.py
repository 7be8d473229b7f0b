"""Where work runs: in this process, on a local Dask cluster, or on one that is there already."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, suppress
from types import TracebackType
from typing import Any, Protocol, TypeVar

import psutil

from ..storage.errors import NoCluster
from .memory import memory_budget

T = TypeVar("T")
R = TypeVar("R")

_REACH_S = 10
"""How long a scheduler, and its first worker, are waited for."""

_GOODBYE_S = 20
"""How long a local cluster may take to end."""

_LOOK_S = 20
"""How often is looked, while work is waited for, whether anybody is left to do it."""

_WITHOUT_WORKERS_S = 120
"""How long a pool may be without a worker: on a busy machine one takes a minute to start."""

ONE_THREAD = dict.fromkeys(
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


class Pool(Protocol):
    """Where work runs: made by :func:`open_pool`, used by :mod:`~microtome.engine.schedule`."""

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
    """Open a pool to be used by several calls of :func:`~microtome.engine.schedule.run_items`.

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
        There is no scheduler at the address, or it has no workers; or, while work is waited for,
        all workers are gone and none comes back.
    """
    if cluster is not None:
        with _client_of(cluster) as client:
            remedy = "Start workers and run it again: it goes on from what is done"
            yield on_dask(client, sum(client.nthreads().values()), cluster, remedy)
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
        # By Dask's 15 s, a worker that is slow to start would never be replaced.
        "distributed.deploy.lost-worker-timeout": f"{_WITHOUT_WORKERS_S}s",
        # A second's profile is kept for an hour: a tenth of a megabyte each, never looked at.
        "distributed.worker.profile.enabled": False,
        "distributed.nanny.pre-spawn-environ": {**ONE_THREAD, **_KEEP_FREED},
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
        stack.callback(_close_cluster, local)
        client = Client(local)
        stack.callback(close_late, client)
        remedy = "Run it again with fewer --jobs, so with more memory each: it goes on from there"
        yield on_dask(client, jobs, f"--jobs {jobs}", remedy)


def _close_cluster(local: Any) -> None:
    """Close a local cluster; where a worker has just died, Dask may wait for it for ever."""
    nannies = list(local.workers.values())
    try:
        local.close(timeout=_GOODBYE_S)
    except TimeoutError:
        for nanny in nannies:
            nanny.auto_restart = False
            with suppress(psutil.NoSuchProcess):
                if nanny.pid:
                    psutil.Process(nanny.pid).kill()


def close_late(part: Any) -> None:
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
        close_late(client)


def attempt(work: Callable[[T], R], item: T) -> Future[R]:
    """Work on an item here and now; a future that has ended, with the result or the error."""
    future: Future[R] = Future()
    with _Captured(future):
        future.set_result(work(item))
    return future


class _InProcess:
    """Works at once, in the caller's thread, so that Ctrl-C stops it at once."""

    jobs = 1

    def submit(self, work: Callable[[T], R], item: T) -> Future[R]:
        return attempt(work, item)

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


def on_dask(
    client: Any, jobs: int, where: str, remedy: str, patience_s: float | None = None
) -> Pool:
    """A pool on what a Dask client is connected to.

    Parameters
    ----------
    where, remedy
        For the error that there are no workers.
    patience_s
        How long there may be none; by default as long as a process may take to start.
    """
    return _OnDask(client, jobs, where, remedy, patience_s)


class _OnDask:
    def __init__(
        self, client: Any, jobs: int, where: str, remedy: str, patience_s: float | None
    ) -> None:
        self._client = client
        self._patience_s = patience_s
        self.jobs = jobs
        self._where = where
        self._remedy = remedy
        self._empty_since_s: float | None = None

    def submit(self, work: Callable[[T], R], item: T) -> Future[R]:
        import cloudpickle

        # Unpacked within the task: what a worker cannot import is then that task's error, and
        # not the end of the worker.
        packed = cloudpickle.dumps((work, item))
        future: Future[R] = self._client.submit(_unpack_and_work, packed, pure=False)
        return future

    def wait_any(self, futures: Sequence[Future[R]]) -> list[Future[R]]:
        from distributed import wait

        while True:
            with suppress(TimeoutError):
                ended = wait(list(futures), timeout=_LOOK_S, return_when="FIRST_COMPLETED")
                return list(ended.done)
            self._require_workers()

    def _require_workers(self) -> None:
        """Dask waits for ever for a worker: one that dies as it starts is not replaced."""
        now_s = time.monotonic()
        if self._has_workers():
            self._empty_since_s = None
        elif self._empty_since_s is None:
            self._empty_since_s = now_s
        elif now_s - self._empty_since_s >= (self._patience_s or _WITHOUT_WORKERS_S):
            waited_s = self._patience_s or _WITHOUT_WORKERS_S
            raise NoCluster(
                f"all workers are gone, and none has come back for {waited_s:g} s",
                where=self._where,
                remedy=self._remedy,
            )

    def _has_workers(self) -> bool:
        try:
            return bool(self._client.nthreads())
        except OSError:  # The scheduler does not answer: it may come back, as workers may.
            return False

    def death(self, error: BaseException) -> bool:
        from distributed.scheduler import KilledWorker

        return isinstance(error, KilledWorker)


def _unpack_and_work(packed: bytes) -> Any:
    import cloudpickle

    work, item = cloudpickle.loads(packed)
    return work(item)
