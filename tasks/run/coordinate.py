"""The coordinator: which steps a plan asks for, and running them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from ...engine.apart import apart
from ...engine.flow import Step, run_steps
from ...engine.schedule import Outcome, Pool, Skipped
from ...storage.commit import claim, writable
from ...storage.errors import MissingFile, PlanError, Quarantined, TookTooLong, WorkerDied
from ...storage.ledger import Entry, Ledger
from ..slide_list import SlideItem, list_slides
from .history import (
    FOLDER,
    History,
    new_ledger_path,
    quarantine_path,
    read_poison,
    write_quarantine,
)
from .plan import Plan
from .publishing import check_publish, run_and_publish
from .slides import check_ingest
from .stages import Stage, stages_of
from .study import label_cohort
from .task import Made, Task, step_name

_FOR_GOOD = (WorkerDied, TookTooLong, Quarantined)


@dataclass(frozen=True)
class Shard:
    """One of several runs that part the slides between them, counted from 1.

    Raises
    ------
    PlanError
        There is no such part.
    """

    number: int = 1
    count: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise PlanError(
                f"there is no part {self.number} of {self.count}",
                where="--shard",
                remedy="Parts are counted from 1: 1/8 … 8/8",
            )

    @classmethod
    def of(cls, text: str | None) -> Shard:
        """``I/N``; the whole where nothing is said."""
        if text is None:
            return cls()
        found = re.fullmatch(r"(\d+)/(\d+)", text)
        if found is None:
            raise PlanError(
                f"{text!r} is no part of a run", where="--shard", remedy="Write I/N, such as 3/8"
            )
        return cls(int(found[1]), int(found[2]))

    @property
    def is_whole(self) -> bool:
        """Whether it is all of the run, with the stages over the cohort."""
        return self.count == 1


@dataclass(frozen=True)
class Told:
    """One step's end, for whoever watches.

    Attributes
    ----------
    words
        What was made, or what went wrong.
    ended, total
        How many steps have ended, of how many.
    """

    entry: Entry
    words: str
    ended: int
    total: int


@dataclass(frozen=True)
class Finished:
    """A run that has ended.

    Attributes
    ----------
    ledger
        Its own.
    left
        Names of steps that were not begun, or handed back, because it was told to stop.
    """

    ledger: Ledger
    left: tuple[str, ...] = ()


def slides_of(plan: Plan, shard: Shard) -> list[SlideItem]:
    """The slides of a plan, or of one part of it: every n-th, in the cohort's order."""
    if plan.cohort is None:
        return []
    return list_slides([str(plan.cohort)], mpp=plan.slide_mpp)[shard.number - 1 :: shard.count]


def check_plan(plan: Plan) -> list[Stage]:
    """The stages of a plan; refuses before anything is begun what would fail hours later.

    Raises
    ------
    PlanError
        Stages or options that do not go together.
    CohortError, MissingFile
        A table or a file that it names cannot be used.
    """
    stages = stages_of(plan)
    if plan.ingest is not None:
        check_ingest(plan.ingest)
    check_publish(plan)
    if plan.mil.train is not None:
        label_cohort(plan.cohort, plan.mil.train)
    build, diagnose = plan.connectome.build, plan.connectome.diagnose
    named = [
        *(build.files if build else ()),
        *((diagnose.table, *diagnose.layers) if diagnose else ()),
    ]
    named += [plan.mil.predict.model] if plan.mil.predict else []
    for path in named:
        if not path.exists():
            raise MissingFile("the plan names it, and it is not there", where=path)
    return stages


def steps_of(
    plan: Plan, shard: Shard | None = None, *, overwrite: bool = False
) -> list[Step[Task]]:
    """Every step of a plan, each after those that it needs.

    A part of a run has the stages of its slides up to the first that needs the whole cohort.
    """
    shard = shard or Shard()
    slides = slides_of(plan, shard)
    stages = check_plan(plan)
    if not shard.is_whole:
        stages = _before_the_cohort(stages)
    per = {stage.name: stage.per for stage in stages}
    steps: list[Step[Task]] = []
    for stage in stages:
        takes = [name for name in stage.takes if name in per]
        over_all = [name for name in takes if per[name] == "cohort"]
        of_slide = [name for name in takes if per[name] == "slide"]
        if stage.per == "cohort":
            gathers = tuple(step_name(name, slide.id) for name in of_slide for slide in slides)
            task = Task(stage.name, plan, overwrite=overwrite)
            steps.append(Step(task.name, task, tuple(over_all), gathers))
            continue
        for slide in slides:
            task = Task(stage.name, plan, slide, overwrite)
            after = (*over_all, *(step_name(name, slide.id) for name in of_slide))
            steps.append(Step(task.name, task, after))
    return steps


def _before_the_cohort(stages: Sequence[Stage]) -> list[Stage]:
    later = {stage.name for stage in stages if stage.per == "cohort"}
    for stage in stages:
        if not later.isdisjoint(stage.takes):
            later.add(stage.name)
    return [stage for stage in stages if stage.name not in later]


def run_plan(
    plan: Plan,
    *,
    pool: Pool,
    shard: Shard | None = None,
    overwrite: bool = False,
    retry: bool = False,
    is_stopping: Callable[[], bool] = lambda: False,
    tell: Callable[[Told], None] = lambda told: None,
) -> Finished:
    """Run what of a plan is not there yet.

    Every stage asks its product's own key whether it is there: nothing else is kept of what was
    done. Each end is written to a ledger of this run, ``<out>/run/<number>-<host>-<pid>.jsonl``.

    Parameters
    ----------
    pool
        Where to run (:func:`~microtome.engine.schedule.open_pool`).
    shard
        Only a part of the slides.
    overwrite
        Replace products that were made from other input or with other options; without, such a
        step ends ``failed(stale_product)``.
    retry
        Try again what was left alone because it killed its process, or hung.
    is_stopping, tell
        Asked before anything is begun; told of every end.

    Raises
    ------
    PlanError, CohortError, MissingFile
        The plan cannot be used.
    OutputBusy
        Another run of the same plan, or of the same part, is at work on this output.
    """
    shard = shard or Shard()
    steps = steps_of(plan, shard, overwrite=overwrite)
    steps = [replace(step, task=replace(step.task, jobs=pool.jobs)) for step in steps]
    mine = plan.out / FOLDER / f"part-{shard.number}-of-{shard.count}"
    with writable(mine), claim(mine):
        if not retry:
            poison = read_poison(plan.out)
            steps = [replace(step, task=_marked(step.task, poison)) for step in steps]
        run = _Run(plan, Ledger(new_ledger_path(plan.out)), steps, tell)
        ended = run_steps(
            steps,
            partial(_work, timeout_s=plan.run.timeout_s),
            pool=pool,
            on_end=run.note,
            on_try=run.note_try,
            gathered=run.gather,
            is_stopping=is_stopping,
            spared=lambda task: replace(task, is_sparing=True),
        )
    left = tuple(step.name for step in steps if step.name not in ended) if is_stopping() else ()
    return Finished(run.ledger, left)


def _marked(task: Task, poison: History) -> Task:
    entry = poison.get((task.stage, task.item))
    return task if entry is None else replace(task, quarantined=entry.detail or entry.reason)


def _work(task: Task, *, timeout_s: float | None) -> Made | Skipped[Made]:
    if task.quarantined:
        log = quarantine_path(task.plan.out, task.stage, task.item)
        raise Quarantined(
            "left alone: it killed its process, or hung, whenever it was tried",
            where=task.name,
            remedy=f"See {log}; microtome run retry tries it again",
        )
    if timeout_s is None:
        return run_and_publish(task)
    return apart(run_and_publish, task, timeout_s=timeout_s, where=task.name)


class _Run:
    """Notes how steps end, and decides what a stage over the cohort may do without."""

    def __init__(
        self,
        plan: Plan,
        ledger: Ledger,
        steps: Sequence[Step[Task]],
        tell: Callable[[Told], None],
    ) -> None:
        self.ledger = ledger
        self._plan, self._tell = plan, tell
        self._items = {step.name: step.task.item for step in steps}
        self._ended = 0
        self._bad: dict[str, Outcome[Made]] = {}

    def note(self, step: Step[Task], outcome: Outcome[Made]) -> None:
        """A step has ended for good."""
        self._ended += 1
        self.note_try(step, outcome)
        if outcome.error is None:
            return
        self._bad.setdefault(step.task.item, outcome)
        if isinstance(outcome.error, WorkerDied | TookTooLong):
            write_quarantine(self._plan.out, step.task.stage, step.task.item)

    def note_try(self, step: Step[Task], outcome: Outcome[Made]) -> None:
        """A step has ended, and may be tried again."""
        entry = replace(outcome.entry, item=step.task.item, stage=step.task.stage)
        self.ledger.record(entry)
        words = entry.detail if outcome.value is None else outcome.value.words
        self._tell(Told(entry, words, self._ended, len(self._items)))

    def gather(self, step: Step[Task], lost: Sequence[str]) -> Task | None:
        """The task without the slides that never will have its input; None while one may yet."""
        ids = frozenset(self._items[name] for name in lost)
        if all(self._is_for_good(self._bad[id_]) for id_ in ids):
            return replace(step.task, lacking=ids)
        return None

    @staticmethod
    def _is_for_good(outcome: Outcome[Made]) -> bool:
        return outcome.state == "rejected" or isinstance(outcome.error, _FOR_GOOD)
