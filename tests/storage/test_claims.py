"""One run at a time writes a product, and a dead one keeps nobody out."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from products import hidden, make

from microtome.storage import claims
from microtome.storage.claims import claim
from microtome.storage.errors import (
    OutputBusy,
)

HOLD = """
import sys, time
from pathlib import Path
from microtome.storage.claims import claim
with claim(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def holder(path: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == "held\n"
    return process


def test_a_living_run_keeps_others_out_and_a_killed_one_does_not(tmp_path: Path) -> None:
    process = holder(tmp_path / "x")
    try:
        with pytest.raises(OutputBusy, match=str(process.pid)):
            make(tmp_path / "x")
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert hidden(tmp_path) == [".x.lock"]
    make(tmp_path / "x")
    assert hidden(tmp_path) == []


def test_one_process_cannot_claim_twice(tmp_path: Path) -> None:
    with claim(tmp_path / "x"), pytest.raises(OutputBusy), claim(tmp_path / "x"):
        pass
    with claim(tmp_path / "x"):
        pass


def test_a_claim_of_another_host_stands(tmp_path: Path) -> None:
    lock = tmp_path / ".x.lock"
    lock.write_text(json.dumps({"host": "elsewhere.example", "pid": os.getpid()}))
    with pytest.raises(OutputBusy, match=r"elsewhere\.example.*delete"), claim(tmp_path / "x"):
        pass
    assert lock.exists()


def elsewhere(lock: Path, *, silent_s: float, **more: str) -> None:
    lock.write_text(json.dumps({"host": "elsewhere.example", "pid": 1, **more}))
    now = lock.stat().st_mtime
    os.utime(lock, (now, now - silent_s))


def test_a_claim_of_another_host_expires_once_it_is_silent(tmp_path: Path) -> None:
    elsewhere(tmp_path / ".x.lock", silent_s=claims._EXPIRES_S - 60)
    with pytest.raises(OutputBusy, match="10 minutes"), claim(tmp_path / "x"):
        pass
    elsewhere(tmp_path / ".x.lock", silent_s=claims._EXPIRES_S + 60)
    assert sorted(race(tmp_path / "x", 8)) == [False] * 7 + [True]
    assert hidden(tmp_path) == []


def test_a_living_owner_shows_that_it_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "_BEAT_S", 0.01)
    lock = tmp_path / ".x.lock"
    with claim(tmp_path / "x"):
        os.utime(lock, (0, 0))
        for _ in range(1000):
            if lock.stat().st_mtime > 0:
                break
            time.sleep(0.01)
        assert lock.stat().st_mtime > 0


@pytest.mark.parametrize(
    ("job", "silent_s", "is_free"), [("4711", 130, True), ("4711", 60, False), ("4712", 130, False)]
)
def test_a_job_that_is_begun_again_elsewhere_soon_takes_over_what_it_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, job: str, silent_s: float, is_free: bool
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    elsewhere(tmp_path / ".x.lock", silent_s=silent_s, job=job)
    if is_free:
        with claim(tmp_path / "x"):
            assert json.loads((tmp_path / ".x.lock").read_text())["job"] == "4711"
    else:
        with pytest.raises(OutputBusy), claim(tmp_path / "x"):
            pass


def race(path: Path, contenders: int) -> list[bool]:
    """Who got the claim, when all try at once and the winner holds on until all have tried."""
    start, done = threading.Barrier(contenders), threading.Barrier(contenders)
    got: list[bool] = []

    def contend() -> None:
        start.wait()
        try:
            with claim(path):
                got.append(True)
                done.wait()
        except OutputBusy:
            got.append(False)
            done.wait()

    threads = [threading.Thread(target=contend) for _ in range(contenders)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return got


def test_of_many_that_find_a_dead_claim_exactly_one_gets_it(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    for trial in range(20):
        lock = tmp_path / f".x{trial}.lock"
        lock.write_text(json.dumps({"host": os.uname().nodename, "pid": process.pid}))
        assert sorted(race(tmp_path / f"x{trial}", 8)) == [False] * 7 + [True]


def test_a_claim_taken_while_the_dead_one_was_looked_at_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = tmp_path / ".x.lock"
    lock.write_text(json.dumps({"host": os.uname().nodename, "pid": 1}))
    real, taken = claims._owner, []

    def overtaken(descriptor: int) -> tuple[str, int]:
        if not taken:
            lock.unlink()
            taken.append(claims._take(lock))
        return real(descriptor)

    monkeypatch.setattr(claims, "_owner", overtaken)
    with pytest.raises(OutputBusy), claim(tmp_path / "x"):
        pass
    assert lock.exists()
    os.close(taken[0])


def test_a_claim_that_was_deleted_by_hand_does_not_take_another_along(tmp_path: Path) -> None:
    with claim(tmp_path / "x"):
        (tmp_path / ".x.lock").unlink()
        other = claims._take(tmp_path / ".x.lock")
    assert other is not None
    with pytest.raises(OutputBusy), claim(tmp_path / "x"):
        pass
    os.close(other)


def test_without_hard_links_claims_still_exclude(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "no hard links on this file system")

    monkeypatch.setattr("microtome.storage.claims.os.link", refuse)
    with claim(tmp_path / "x"), pytest.raises(OutputBusy), claim(tmp_path / "x"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_what_killed_claimants_left_is_swept_away_and_what_living_ones_made_is_not(tmp_path):
    dead, living, unborn = (tmp_path / f".x.lock.{name * 12}.tmp" for name in "abc")
    # Killed before it had written who it is.
    unborn.touch()
    child = os.fork()
    if child == 0:
        os.close(claims._locked_file(dead))
        os._exit(0)
    os.waitpid(child, 0)
    mine = claims._locked_file(living)
    with claims.claim(tmp_path / "x"):
        assert not dead.exists()
        assert not unborn.exists()
        assert living.exists()
    os.close(mine)
