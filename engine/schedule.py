"""The one way to run work over items, in whatever pool of processes.

However it runs, an item that cannot be done ends in a named state, and the rest goes on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Generic, TypeVar

from ..storage.errors import ItemState, MicrotomeError, WorkerDied
from ..storage.ledger import Entry, Ledger
from .pools import Pool, open_pool

__all__ = ["Outcome", "Pool", "Skipped", "open_pool", "outcome_of", "run_items", "timed"]

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
        """The ledger's line for this item; a value's ``warning`` goes with what is done."""
        detail = getattr(self.value, "warning", "") if self.error is None else f"{self.error}"
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
            outcome = outcome_of(name(items[index]), future, active)
            if isinstance(outcome.error, WorkerDied):
                suspects.append(index)
            else:
                settle(index, outcome)
        # Of the items that were in flight together, only one need have killed the process.
        alone = (index for index in suspects if not stopped_by)
        for index, future in _flow(active, items, work, alone, 1):
            settle(index, outcome_of(name(items[index]), future, active))
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
            running[pool.submit(partial(timed, work), items[index])] = index
        if not running:
            return
        for future in pool.wait_any(list(running)):
            yield running.pop(future), future


def timed(work: Callable[[T], R], item: T) -> tuple[R, float]:
    """The result, and the seconds that it took."""
    start = time.perf_counter()
    return work(item), time.perf_counter() - start


def outcome_of(item: str, future: Future[tuple[R | Skipped[R], float]], pool: Pool) -> Outcome[R]:
    """How an item ended whose future has."""
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
