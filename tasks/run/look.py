"""What a plan would do, without doing it."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from ...engine.flow import Step
from ...engine.schedule import Skipped
from ...storage.commit import NotMade, looking
from ...storage.errors import MicrotomeError, StaleProduct
from .coordinate import Shard, steps_of
from .history import History, last_made, read_history, read_poison
from .plan import Plan
from .stages import Stage, run_task, stage_named
from .task import Task, step_name

Seen = Literal["fresh", "to make", "waits", "stale", "quarantined", "in the way"]
"""``waits``: to be made once what it takes has been. ``stale``: made otherwise than the plan asks;
only ``overwrite`` replaces it. ``in the way``: it would end in a named error."""

_Stages = Mapping[str, Sequence[str]]
"""Stages at which a slide ended for good, by its id."""

_SAMPLE = 16
"""Finished products of a stage that its sizes are estimated from."""


@dataclass(frozen=True)
class Look:
    """What is true of one step.

    Attributes
    ----------
    reason
        Of what is in the way: the code of the error, and its message.
    read_bytes
        Of the slide's own file, which the step would read at most once.
    """

    task: Task
    seen: Seen
    reason: str = ""
    detail: str = ""
    read_bytes: int = 0


@dataclass(frozen=True)
class Cost:
    """What a stage has left to do.

    Attributes
    ----------
    to_make
        Steps, those that wait for others among them.
    read_bytes
        Of slides' own files.
    write_bytes, seconds
        Estimated by what the same stage wrote, and took, for a byte of the slides that are done;
        None where none is.
    """

    to_make: int
    read_bytes: int
    write_bytes: int | None
    seconds: float | None


def look_at(
    plan: Plan,
    shard: Shard | None = None,
    *,
    overwrite: bool = False,
    tell: Callable[[Look], None] = lambda look: None,
) -> list[Look]:
    """Ask of every step of a plan whether its product is there; nothing is made or changed.

    Each stage's own function is asked (:func:`~microtome.storage.commit.looking`), so the answer
    is what a run would find.
    """
    history, poison = read_history(plan.out), read_poison(plan.out)
    given_up: defaultdict[str, list[str]] = defaultdict(list)
    for (stage, item), end in (history | poison).items():
        if end.state == "rejected" or (stage, item) in poison:
            given_up[item].append(stage)
    seen: dict[str, Look] = {}
    for step in steps_of(plan, shard, overwrite=overwrite):
        look = _look(step, seen, poison, given_up)
        seen[step.name] = look
        tell(look)
    return list(seen.values())


def _look(step: Step[Task], seen: Mapping[str, Look], poison: History, given_up: _Stages) -> Look:
    task = step.task
    size = _input_bytes(task)
    lacking = frozenset(
        seen[name].task.item
        for name in step.gathers
        if seen[name].seen != "fresh" and _is_given_up(seen[name].task, seen, given_up)
    )
    ready = all(seen[name].seen == "fresh" for name in step.after) and all(
        seen[name].seen == "fresh" or seen[name].task.item in lacking for name in step.gathers
    )
    if (task.stage, task.item) in poison:
        return Look(task, "quarantined", poison[task.stage, task.item].reason)
    if not ready:
        return Look(task, "waits", read_bytes=size)
    try:
        with looking():
            found = run_task(replace(task, lacking=lacking))
    except NotMade:
        return Look(task, "to make", read_bytes=size)
    except StaleProduct as error:
        return Look(task, "stale", error.reason, str(error))
    except MicrotomeError as error:
        return Look(task, "in the way", error.reason, str(error))
    assert isinstance(found, Skipped)
    return Look(task, "fresh")


def _is_given_up(task: Task, seen: Mapping[str, Look], given_up: _Stages) -> bool:
    """Whether the slide ended for good at this stage or at one before it, in an earlier run."""
    ends = (seen.get(step_name(stage, task.item)) for stage in given_up.get(task.item, ()))
    return any(look is not None and look.seen != "fresh" for look in ends)


def _input_bytes(task: Task) -> int:
    if task.slide is None or not stage_named(task.stage).reads_slide:
        return 0
    return size_of(task.slide.path)


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files below a folder; of a MIRAX file with its folder."""
    if path.is_dir():
        return sum(file.stat().st_size for file in _files(path))
    size = path.stat().st_size if path.is_file() else 0
    pixels = path.with_suffix("")
    is_mirax = path.suffix.lower() == ".mrxs" and pixels.is_dir()
    return size + size_of(pixels) if is_mirax else size


def _files(folder: Path) -> Iterator[Path]:
    for root, _, names in os.walk(folder):
        yield from (Path(root) / name for name in names)


def costs(plan: Plan, looks: list[Look]) -> dict[str, Cost]:
    """What each stage has left to do, by its name."""
    made = last_made(plan.out)
    by_stage: defaultdict[str, list[Look]] = defaultdict(list)
    for look in looks:
        by_stage[look.task.stage].append(look)
    found = {}
    for name, of_stage in by_stage.items():
        stage = stage_named(name)
        left = [look for look in of_stage if look.seen in ("to make", "waits")]
        done = [look.task for look in of_stage if look.seen == "fresh"][:_SAMPLE]
        size = sum(look.read_bytes for look in left)
        written, seconds = _rates(plan, stage, done, made)
        found[name] = Cost(
            len(left),
            size,
            None if written is None else round(size * written),
            None if seconds is None else size * seconds,
        )
    return found


def _rates(
    plan: Plan, stage: Stage, done: list[Task], made: History
) -> tuple[float | None, float | None]:
    """Bytes written and seconds taken for a byte of a slide, over some that are done."""
    read = {task.item: _input_bytes(task) for task in done}
    total = sum(read.values())
    if not total:
        return None, None
    written = sum(size_of(stage.path(plan, item)) for item in read)
    timed = {item: made[stage.name, item].seconds for item in read if (stage.name, item) in made}
    of_timed = sum(read[item] for item in timed)
    return written / total, sum(timed.values()) / of_timed if of_timed else None
