"""Steps begin as soon as what they need is done, and however one ends, the rest goes on."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import cloudpickle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from microtome.engine.flow import Step, run_steps
from microtome.engine.schedule import Outcome, open_pool
from microtome.storage.errors import NoTissue

# The workers cannot import this file by name.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


def run(steps: Sequence[Step[str]], work=str, **options) -> tuple[list[str], dict[str, Outcome]]:
    """Names of steps in the order of their ends, and how each ended; in this process."""
    order: list[str] = []
    with open_pool(1) as pool:
        ended = run_steps(
            steps, work, pool=pool, on_end=lambda step, _: order.append(step.name), **options
        )
    return order, ended


def chains(slides: int) -> list[Step[str]]:
    """Three stages of each slide, and one over all."""
    steps = [
        Step(f"{stage}{i}", f"{stage}{i}", (f"{before}{i}",) if before else ())
        for before, stage in (("", "a"), ("a", "b"), ("b", "c"))
        for i in range(slides)
    ]
    return [*steps, Step("all", "all", gathers=tuple(f"c{i}" for i in range(slides)))]


def test_one_slide_is_finished_before_the_next_is_begun() -> None:
    order, _ = run(chains(3))
    assert order == ["a0", "b0", "c0", "a1", "b1", "c1", "a2", "b2", "c2", "all"]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_nothing_begins_before_what_it_needs_and_nothing_is_left_out(data: st.DataObject) -> None:
    """Of any graph, with any steps that fail: exactly those not begun that need a lost one."""
    n = data.draw(st.integers(1, 12))
    steps = []
    for i in range(n):
        needs = data.draw(st.sets(st.sampled_from(range(i)))) if i else set()
        gathers = {j for j in needs if data.draw(st.booleans())}
        names = (tuple(f"{j}" for j in sorted(part)) for part in (needs - gathers, gathers))
        steps.append(Step(f"{i}", f"{i}", *names))
    bad = data.draw(st.sets(st.sampled_from([step.name for step in steps])))

    def work(name: str) -> str:
        if name in bad:
            raise NoTissue("glass")
        return name

    order, ended = run(steps, work)
    lost: set[str] = set()
    for step in steps:
        begun = lost.isdisjoint(step.after)
        assert (step.name in ended) == begun
        if not begun or step.name in bad:
            lost.add(step.name)
        if begun:
            before = set(order[: order.index(step.name)])
            assert before.issuperset(step.after)
            assert before.issuperset(set(step.gathers) & set(ended))
    assert len(order) == len(set(order)) == len(ended)


def test_a_step_over_all_is_told_what_is_lacking_and_may_refuse() -> None:
    def work(name: str) -> str:
        if name == "b1":
            raise NoTissue("glass")
        return name

    told: list[Sequence[str]] = []

    def gathered(step: Step[str], lost: Sequence[str]) -> str | None:
        told.append(lost)
        return None

    _, ended = run(chains(3), work, gathered=gathered)
    assert told == [["c1"]]
    assert (ended["all"].state, ended["all"].reason) == ("failed", "not_ready")
    _, ended = run(chains(3), work, gathered=lambda step, lost: f"all but {lost[0]}")
    assert ended["all"].value == "all but c1"


def test_once_told_to_stop_nothing_more_is_begun() -> None:
    order: list[str] = []

    def work(name: str) -> str:
        order.append(name)
        return name

    run(chains(3), work, is_stopping=lambda: len(order) >= 2)
    assert order == ["a0", "b0"]


def deadly(places: tuple[str, str]) -> str:
    name, folder = places
    with (Path(folder) / name).open("a") as file:
        file.write("tried\n")
    if name == "a1":
        os.kill(os.getpid(), signal.SIGKILL)
    return name


def test_a_step_that_kills_its_process_is_tried_twice_and_costs_no_other(tmp_path: Path) -> None:
    steps = [
        Step(name, (name, str(tmp_path)), tuple(after))
        for name, *after in (["a0"], ["a1"], ["a2"], ["b0", "a0"], ["b1", "a1"], ["b2", "a2"])
    ]
    tries: list[str] = []
    with open_pool(2) as pool:
        ended = run_steps(
            steps,
            deadly,
            pool=pool,
            on_end=lambda step, outcome: None,
            on_try=lambda step, outcome: tries.append(f"{step.name} {outcome.reason}"),
        )
    assert {name: outcome.state for name, outcome in ended.items()} == {
        "a0": "done", "a1": "failed", "a2": "done", "b0": "done", "b2": "done",
    }  # fmt: skip
    assert ended["a1"].reason == "worker_died"
    assert "a1 worker_died" in tries
    assert len((tmp_path / "a1").read_text().splitlines()) == 2


def greedy(places: tuple[str, str]) -> str:
    """Dies with as much as it is given at first, and does with half."""
    amount, _ = places
    if amount == "all":
        os.kill(os.getpid(), signal.SIGKILL)
    return amount


def test_what_killed_its_process_is_tried_again_with_less() -> None:
    steps = [Step("a", ("all", "")), Step("b", ("little", ""))]
    with open_pool(2) as pool:
        ended = run_steps(
            steps,
            greedy,
            pool=pool,
            on_end=lambda step, outcome: None,
            spared=lambda task: ("half", task[1]),
        )
    assert ended["a"].state == ended["b"].state == "done"
    assert ended["a"].value == "half"
    # What only was in flight beside it may have been spared as well.
    assert ended["b"].value in ("little", "half")


@pytest.mark.parametrize("jobs", [1, 2])
def test_no_more_steps_are_in_flight_than_there_are_jobs(jobs: int) -> None:
    class Watching:
        def __init__(self, pool) -> None:
            self.pool, self.jobs, self.most, self.now = pool, jobs, 0, 0

        def submit(self, work, item):
            self.now += 1
            self.most = max(self.most, self.now)
            return self.pool.submit(work, item)

        def wait_any(self, futures):
            ended = self.pool.wait_any(futures)[:1]
            self.now -= len(ended)
            return ended

        def death(self, error: BaseException) -> bool:
            return False

    with open_pool(1) as inner:
        pool = Watching(inner)
        ended = run_steps(chains(4), str, pool=pool, on_end=lambda step, outcome: None)
    assert (pool.most, len(ended)) == (jobs, 13)
