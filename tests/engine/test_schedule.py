"""However work runs, every item ends in a named state and the rest goes on."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import cloudpickle
import pytest

from microtome.engine import memory, pools
from microtome.engine.schedule import Outcome, Pool, Skipped, open_pool, run_items
from microtome.storage.errors import NoCluster, NoTissue, TruncatedFile, UnwritableOutput
from microtome.storage.ledger import Ledger, read_ledger

# The workers cannot import this file by name.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


@pytest.fixture(scope="module")
def two_processes() -> Iterator[Pool]:
    with open_pool(2) as pool:
        yield pool


@pytest.fixture(params=["in process", "two processes"])
def pool(request: pytest.FixtureRequest) -> Iterator[Pool]:
    if request.param == "in process":
        with open_pool(1) as pool:
            yield pool
    else:
        yield request.getfixturevalue("two_processes")


def square(n: int) -> int:
    return n * n


def uneven(n: int) -> int | Skipped[int]:
    time.sleep(0.05 if n % 3 == 0 else 0)
    return Skipped(n) if n == 4 else n


def picky(n: int) -> int:
    if n == 2:
        raise TruncatedFile("ends early", where="two.svs", remedy="Copy it again")
    if n == 5:
        raise UnwritableOutput("full")
    if n == 7:
        raise KeyError("a fault of ours")
    return n


def test_results_come_in_the_order_of_the_items(pool: Pool) -> None:
    outcomes = run_items(range(12), uneven, pool=pool)
    assert [o.value for o in outcomes] == list(range(12))
    assert [o.item for o in outcomes] == [str(n) for n in range(12)]
    assert [o.state for o in outcomes] == ["done"] * 4 + ["skipped"] + ["done"] * 7


def test_a_bad_item_is_named_and_the_rest_goes_on(pool: Pool, tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    outcomes = run_items(range(9), picky, pool=pool, ledger=ledger, name=lambda n: f"slide-{n}")
    ends = {o.item: (o.state, o.reason) for o in outcomes if o.state != "done"}
    assert ends == {
        "slide-2": ("rejected", "truncated"),
        "slide-5": ("failed", "unwritable"),
        "slide-7": ("failed", "KeyError"),
    }
    assert str(outcomes[2].error) == "two.svs: ends early. Copy it again"
    assert ledger.counts() == {"done": 6, "rejected": 1, "failed": 2}
    assert {(e.item, e.reason) for e in read_ledger(tmp_path / "ledger.jsonl") if e.reason} == {
        (item, reason) for item, (_, reason) in ends.items()
    }


def test_the_first_error_is_raised_where_that_is_asked_for(pool: Pool) -> None:
    done: list[int] = []

    def note(outcome: Outcome[int]) -> None:
        assert outcome.value is not None
        done.append(outcome.value)

    with pytest.raises(TruncatedFile, match="ends early"):
        run_items(range(100), picky, pool=pool, debug=True, on_done=note)
    assert set(done) <= {0, 1, 3, 4, 6}


def test_nothing_to_do_is_done_at_once(pool: Pool) -> None:
    assert run_items([], square, pool=pool) == []


class Watching:
    """A pool that notes how many items are in flight."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self.jobs = pool.jobs
        self.running = self.most = 0

    def submit(self, work, item):
        self.running += 1
        self.most = max(self.most, self.running)
        return self._pool.submit(work, item)

    def wait_any(self, futures):
        ended = self._pool.wait_any(futures)
        self.running -= len(ended)
        return ended

    def death(self, error: BaseException) -> bool:
        return self._pool.death(error)


@pytest.mark.parametrize(("window", "most"), [(None, 4), (3, 3)])
def test_no_more_items_are_in_flight_than_the_window_holds(
    two_processes: Pool, window: int | None, most: int
) -> None:
    watching = Watching(two_processes)
    outcomes = run_items(range(40), square, pool=watching, window=window)
    assert [o.value for o in outcomes] == [n * n for n in range(40)]
    assert watching.most == most


def test_in_process_an_item_is_told_of_before_the_next_begins() -> None:
    events: list[str] = []

    def work(n: int) -> int:
        events.append(f"begin {n}")
        return n

    run_items(range(3), work, on_done=lambda o: events.append(f"told {o.item}"))
    assert events == ["begin 0", "told 0", "begin 1", "told 1", "begin 2", "told 2"]


def test_in_process_work_runs_in_the_callers_thread() -> None:
    (outcome,) = run_items([0], lambda _: threading.get_ident())
    assert outcome.value == threading.get_ident()


def test_a_request_to_stop_is_no_failure_of_an_item() -> None:
    def interrupted(n: int) -> int:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_items([1, 2], interrupted)


def threads_here(_: int) -> tuple[str, int]:
    import cv2

    return os.environ["OMP_NUM_THREADS"], cv2.getNumThreads()


def test_each_process_works_with_one_thread(two_processes: Pool) -> None:
    outcomes = run_items(range(4), threads_here, pool=two_processes)
    assert {o.value for o in outcomes} == {("1", 1)}


def meet(places: tuple[str, str]) -> int:
    mine, other = map(Path, places)
    mine.touch()
    for _ in range(600):
        if other.exists():
            return os.getpid()
        time.sleep(0.05)
    raise TimeoutError("nobody came")


def test_two_jobs_work_at_the_same_time(two_processes: Pool, tmp_path: Path) -> None:
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    one, other = run_items([(a, b), (b, a)], meet, pool=two_processes)
    assert one.value is not None
    assert len({one.value, other.value, os.getpid()}) == 3


def suicidal(n: int) -> int:
    if n == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.05)
    return n


def test_a_killed_worker_costs_its_item_and_nothing_else(two_processes: Pool) -> None:
    """Neighbours that were in flight on the same process are not blamed for it."""
    outcomes = run_items(range(8), suicidal, pool=two_processes)
    assert [o.value for o in outcomes] == [0, 1, 2, None, 4, 5, 6, 7]
    assert (outcomes[3].state, outcomes[3].reason) == ("failed", "worker_died")
    assert "--jobs" in str(outcomes[3].error)


def once_killed(flag: str) -> str:
    path = Path(flag)
    if not path.exists():
        path.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "survived"


def test_a_worker_killed_from_outside_costs_nothing(two_processes: Pool, tmp_path: Path) -> None:
    (outcome,) = run_items([str(tmp_path / "flag")], once_killed, pool=two_processes)
    assert (outcome.state, outcome.value) == ("done", "survived")


def test_when_no_worker_is_left_and_none_comes_back_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dask replaces a worker that died, but not one that dies as it starts."""
    monkeypatch.setattr(pools, "_LOOK_S", 0.3)
    monkeypatch.setattr(pools, "_WITHOUT_WORKERS_S", 1)
    told: list[Outcome[int]] = []
    with open_pool(2) as pool:
        deadly = "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n"
        (tmp_path / "distributed.py").write_text(deadly)
        monkeypatch.syspath_prepend(tmp_path)
        for _ in range(2):
            with pytest.raises(NoCluster, match=r"--jobs 2: all workers are gone.*Run it again"):
                run_items([3, 3], suicidal, pool=pool, on_done=told.append)
    assert told == []


class Awkward(Exception):
    """Cannot be rebuilt from its arguments: it does not survive the way between processes."""

    def __init__(self, *, needed: int) -> None:
        super().__init__(f"needed {needed}")


def awkward(n: int) -> int:
    if n == 1:
        raise Awkward(needed=n)
    return n


def test_an_error_that_cannot_travel_still_ends_its_item(pool: Pool) -> None:
    outcomes = run_items(range(3), awkward, pool=pool)
    assert [o.state for o in outcomes] == ["done", "failed", "done"]


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"SLURM_MEM_PER_NODE": "100"}, 100 << 20),
        ({"SLURM_MEM_PER_CPU": "50", "SLURM_CPUS_ON_NODE": "3"}, 150 << 20),
        ({"SLURM_MEM_PER_NODE": "0"}, None),
        ({}, None),
    ],
)
def test_the_memory_budget_heeds_slurm(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: int | None
) -> None:
    for name in ("SLURM_MEM_PER_NODE", "SLURM_MEM_PER_CPU", "SLURM_CPUS_ON_NODE"):
        monkeypatch.delenv(name, raising=False)
    unlimited = memory.memory_budget()
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert memory.memory_budget() == (expected or unlimited)
    assert unlimited > 1 << 28


@pytest.mark.parametrize(
    ("lines", "files", "expected"),
    [
        ("0::/job/step", {"job/memory.max": "900", "job/step/memory.max": "max"}, [900]),
        (
            "4:memory:/slurm/job\n0::/",
            {"memory/slurm/memory.limit_in_bytes": "70", "memory/slurm/job/memory.max": "5"},
            [70],
        ),
        ("0::/", {}, []),
    ],
)
def test_the_memory_budget_heeds_control_groups_above_ours(
    tmp_path: Path, lines: str, files: dict[str, str], expected: list[int]
) -> None:
    own = tmp_path / "own"
    own.write_text(lines)
    for name, text in files.items():
        path = tmp_path / "root" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    assert list(memory._cgroup_limits(tmp_path / "root", own)) == expected


def test_an_outcome_says_why_in_the_ledgers_words() -> None:
    entry = Outcome("a", "rejected", error=NoTissue("nothing but glass"), seconds=1.23456).entry
    assert (entry.reason, entry.detail, entry.seconds) == ("no_tissue", "nothing but glass", 1.235)
