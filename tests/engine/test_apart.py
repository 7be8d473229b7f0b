"""Work in a process of its own harms nobody, whatever becomes of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cloudpickle
import psutil
import pytest

from microtome.engine.apart import apart
from microtome.storage.errors import NoTissue, TookTooLong, WorkerDied

cloudpickle.register_pickle_by_value(sys.modules[__name__])


def noted(place: str) -> int:
    print("a library talks on standard output")
    Path(place).write_text(str(os.getpid()))
    return os.getpid()


def hangs(place: str) -> None:
    noted(place)
    read, _ = os.pipe()
    os.read(read, 1)


def dies(place: str) -> None:
    noted(place)
    os.write(2, b"the disk is on fire\n")
    os.kill(os.getpid(), signal.SIGKILL)


def refuses(place: str) -> None:
    raise NoTissue("nothing but glass", where=place)


def test_it_is_another_process_and_what_it_says_is_no_part_of_the_answer(tmp_path: Path) -> None:
    found = apart(noted, str(tmp_path / "pid"), timeout_s=60)
    assert found == int((tmp_path / "pid").read_text()) != os.getpid()


def test_a_named_error_comes_back_as_it_was_raised() -> None:
    with pytest.raises(NoTissue, match=r"^a.svs: nothing but glass$"):
        apart(refuses, "a.svs", timeout_s=60)


def test_a_read_that_never_ends_is_ended(tmp_path: Path) -> None:
    with pytest.raises(TookTooLong, match=r"case-1: not done after 3 s"):
        apart(hangs, str(tmp_path / "pid"), timeout_s=3, where="case-1")
    wait_until_gone(int((tmp_path / "pid").read_text()))


def test_a_death_is_told_with_the_signal_and_the_last_words(tmp_path: Path) -> None:
    with pytest.raises(WorkerDied, match=r"(?s)SIGKILL\); it said: .*the disk is on fire"):
        apart(dies, str(tmp_path / "pid"), timeout_s=60)


def test_it_does_not_outlive_its_parent(tmp_path: Path) -> None:
    place = tmp_path / "pid"
    code = (
        "import sys; sys.path.insert(0, sys.argv[2])\n"
        "import test_apart; from microtome.engine.apart import apart\n"
        "apart(test_apart.hangs, sys.argv[1], timeout_s=60)"
    )
    command = [sys.executable, "-c", code, str(place), str(Path(__file__).parent)]
    with subprocess.Popen(command) as parent:
        while not place.exists() or not place.read_text():
            time.sleep(0.05)
        parent.kill()
    wait_until_gone(int(place.read_text()))


def wait_until_gone(pid: int) -> None:
    for _ in range(600):
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return
        time.sleep(0.05)
    raise AssertionError("it is still there")
