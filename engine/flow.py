"""Steps that wait for one another: each begins as soon as what it needs is done."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Generic, TypeVar

from ..storage.errors import NotReady, TookTooLong, WorkerDied
from .schedule import Outcome, Pool, Skipped, outcome_of, timed

T = TypeVar("T")
R = TypeVar("R")

TRIES = 2
"""How often a step is tried that kills its process, or hangs."""

_MENDABLE = (WorkerDied, TookTooLong)


@dataclass(frozen=True)
class Step(Generic[T]):
    """One thing to do.

    Attributes
    ----------
    name
        Identity among the steps of a run.
    task
        What to work on.
    after
        Steps that must be done first; where one is not, this one is never begun.
    gathers
        Steps that must have ended first, however they did.
    """

    name: str
    task: T
    after: tuple[str, ...] = ()
    gathers: tuple[str, ...] = ()


def run_steps(
    steps: Sequence[Step[T]],
    work: Callable[[T], R | Skipped[R]],
    *,
    pool: Pool,
    on_end: Callable[[Step[T], Outcome[R]], None],
    gathered: Callable[[Step[T], Sequence[str]], T | None] = lambda step, lost: step.task,
    is_stopping: Callable[[], bool] = lambda: False,
    on_try: Callable[[Step[T], Outcome[R]], None] = lambda step, outcome: None,
    spared: Callable[[T], T] = lambda task: task,
) -> dict[str, Outcome[R]]:
    """Work on steps in the order that their needs allow, the furthest on first.

    Of steps that could begin, that one does whose chain is nearest its end, so that one slide is
    finished before the next is begun, whatever the size of the cohort. A step that kills its
    process, or hangs, is tried once more after the others.

    Parameters
    ----------
    steps
        Each after those that it needs.
    work
        As :func:`~microtome.engine.schedule.run_items` takes it.
    on_end
        Told of each step as it ends for good.
    gathered
        Told of a step and of those that it gathers that were not done; gives the task to work on,
        or None for a step that cannot be begun without them: it ends ``failed(not_ready)``.
    is_stopping
        Once it says so nothing more is begun, and what dies is nobody's fault.
    on_try
        Told of each end that is not for good.
    spared
        Gives the task to work on in place of one that killed its process: with less memory.

    Returns
    -------
    dict
        How each step ended that was begun, by name.
    """
    flow = _Flow(steps, on_end, gathered)
    tries: defaultdict[str, int] = defaultdict(int)
    running: dict[Future[tuple[R | Skipped[R], float]], Step[T]] = {}
    suspects: list[Step[T]] = []

    def begin(step: Step[T]) -> None:
        tries[step.name] += 1
        running[pool.submit(partial(timed, work), step.task)] = step

    while True:
        while not is_stopping() and len(running) < pool.jobs and (step := flow.next_ready()):
            begin(step)
        if not running and suspects and not is_stopping():
            # Alone: of what was in flight together, only one need have killed the process.
            suspect = suspects.pop()
            begin(replace(suspect, task=spared(suspect.task)))
        if not running:
            return flow.ended
        for future in pool.wait_any(list(running)):
            step = running.pop(future)
            outcome: Outcome[R] = outcome_of(step.name, future, pool)
            if not isinstance(outcome.error, _MENDABLE):
                flow.settle(step, outcome)
            elif is_stopping():
                continue
            elif tries[step.name] >= TRIES:
                flow.settle(step, outcome)
            else:
                on_try(step, outcome)
                error = future.exception()
                if error is not None and pool.death(error):
                    suspects.append(step)
                else:
                    flow.put_last(step)


class _Flow(Generic[T, R]):
    """Which steps may begin."""

    def __init__(
        self,
        steps: Sequence[Step[T]],
        on_end: Callable[[Step[T], Outcome[R]], None],
        gathered: Callable[[Step[T], Sequence[str]], T | None],
    ) -> None:
        self.ended: dict[str, Outcome[R]] = {}
        self._steps = {step.name: step for step in steps}
        self._on_end, self._gathered = on_end, gathered
        self._lost: set[str] = set()
        self._open = {step.name: len(step.after) + len(step.gathers) for step in steps}
        self._next: defaultdict[str, list[Step[T]]] = defaultdict(list)
        self._ready: list[tuple[int, int, str]] = []
        depth: dict[str, int] = {}
        self._rank: dict[str, tuple[int, int]] = {}
        for number, step in enumerate(steps):
            needs = (*step.after, *step.gathers)
            depth[step.name] = 1 + max((depth[name] for name in needs), default=0)
            self._rank[step.name] = -depth[step.name], number
            for name in needs:
                self._next[name].append(step)
            if not needs:
                self._put(step)

    def next_ready(self) -> Step[T] | None:
        """The step to begin now, with its task; None where none can be."""
        while self._ready:
            step = self._steps[heapq.heappop(self._ready)[-1]]
            lost = [name for name in step.gathers if name in self._lost]
            task = self._gathered(step, lost) if step.gathers else step.task
            if task is not None:
                return replace(step, task=task)
            error = NotReady(
                f"{len(lost)} of {len(step.gathers)} that it needs failed, such as {lost[0]}",
                where=step.name,
                remedy="Mend them and run it again, or take them out of the cohort",
            )
            self.settle(step, Outcome(step.name, "failed", error=error))
        return None

    def put_last(self, step: Step[Any]) -> None:
        """Try a step again after all others."""
        heapq.heappush(self._ready, (1, len(self._rank), step.name))

    def settle(self, step: Step[T], outcome: Outcome[R]) -> None:
        """Note how a step ended."""
        self.ended[step.name] = outcome
        self._on_end(step, outcome)
        if outcome.error is not None:
            self._lost.add(step.name)
        self._free(step.name)

    def _free(self, name: str) -> None:
        freed = [name]
        while freed:
            name = freed.pop()
            for later in self._next[name]:
                self._open[later.name] -= 1
                if self._open[later.name]:
                    continue
                if self._lost.isdisjoint(later.after):
                    self._put(later)
                else:
                    # Never begun, and neither is what needs it.
                    self._lost.add(later.name)
                    freed.append(later.name)

    def _put(self, step: Step[T]) -> None:
        heapq.heappush(self._ready, (*self._rank[step.name], step.name))
