"""Claims: the exclusive right to write one output.

A claim is a lock file that comes into being whole (hard link) and already locked (flock). While
its owner lives, the kernel keeps the flock; when the owner dies, however it dies, the flock is
gone and the next run on the same host takes the claim over. An owner on another host shows that it
lives by touching the file; its claim stands until it has not for ten minutes, by the clock of the
file system, whatever those of the hosts say. A batch job that its cluster has begun again takes
over what it held itself after two: on a node that is lost it may yet be running.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from .errors import OutputBusy

_NO_HARD_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)
_UNKNOWN = ("unknown host", 0)
_JOB_NAMES = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID")
_BEAT_S = 30
"""How often an owner touches its claim."""

_EXPIRES_S = 600
"""How long a claim of another host must be silent to be that of a dead one."""

_OWN_EXPIRES_S = 120
"""The same of a claim of this very job, begun again."""


@contextmanager
def claim(path: Path) -> Iterator[None]:
    """Hold the exclusive right to write ``path``.

    Raises
    ------
    OutputBusy
        A living process, or one on another host, holds it.
    """
    lock = path.parent / f".{path.name}.lock"
    while (descriptor := _take(lock)) is None:
        _break_if_dead(lock, path)
    over = threading.Event()
    heart = threading.Thread(target=_beat, args=(descriptor, over), daemon=True)
    heart.start()
    try:
        _remove_strays(lock)
        yield
    finally:
        over.set()
        heart.join()
        if _is_same_file(descriptor, lock):
            lock.unlink(missing_ok=True)
        os.close(descriptor)


def _beat(descriptor: int, over: threading.Event) -> None:
    while not over.wait(_BEAT_S):
        # Deleted with its folder, or the file system is gone: whoever writes will find out.
        with suppress(OSError):
            os.utime(descriptor)


def _take(lock: Path) -> int | None:
    """Make the lock file, locked; None where there is one already."""
    ready = lock.parent / f"{lock.name}.{uuid.uuid4().hex[:12]}.tmp"
    descriptor = _locked_file(ready)
    try:
        os.link(ready, lock)
    except OSError as error:
        os.close(descriptor)
        # Exists: another's claim. Not found: another swept it away, which sees no owner of it.
        if isinstance(error, FileExistsError | FileNotFoundError):
            return None
        if error.errno not in _NO_HARD_LINKS:
            raise
    else:
        return descriptor
    finally:
        ready.unlink(missing_ok=True)
    return _take_without_links(lock)


def _remove_strays(lock: Path) -> None:
    """Delete what claimants left that were killed before they had their claim, or knew they had."""
    for stray in lock.parent.glob(f"{lock.name}.*.tmp"):
        try:
            descriptor = os.open(stray, os.O_RDONLY)
        except FileNotFoundError:
            continue
        host, pid = owner = _owner(descriptor)
        os.close(descriptor)
        # Without an owner it is as old as a system call: who lives makes another.
        if owner == _UNKNOWN or (host == socket.gethostname() and not psutil.pid_exists(pid)):
            stray.unlink(missing_ok=True)


def _take_without_links(lock: Path) -> int | None:
    """The same where a file system has no hard links (exFAT, some mounts): in two steps."""
    try:
        descriptor = _locked_file(lock)
    except FileExistsError:
        return None
    if _is_same_file(descriptor, lock):
        return descriptor
    os.close(descriptor)
    return None


def _locked_file(path: Path) -> int:
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o644)
    owner = {"host": socket.gethostname(), "pid": os.getpid(), "job": _job()}
    os.write(descriptor, json.dumps(owner).encode())
    _lock(descriptor)
    return descriptor


def _lock(descriptor: int) -> bool | None:
    """Try the kernel's lock: True when it is ours, False when another's, None without flock."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _break_if_dead(lock: Path, path: Path) -> None:
    try:
        descriptor = os.open(lock, os.O_RDWR)
    except FileNotFoundError:
        return
    try:
        host, pid = _owner(descriptor)
        is_here = host == socket.gethostname()
        locked = _lock(descriptor) if is_here else False
        if not _is_same_file(descriptor, lock):
            return
        if not is_here and _is_given_up(descriptor, lock):
            # Of those that see it dead on one host, or over NFS 4, one takes it away.
            if _lock(descriptor) is not False and _is_same_file(descriptor, lock):
                _put_aside(descriptor, lock)
            return
        if locked is True or (locked is None and not psutil.pid_exists(pid)):
            lock.unlink(missing_ok=True)
            return
    finally:
        os.close(descriptor)
    raise OutputBusy(
        f"another run is writing this (process {pid} on {host})",
        where=path,
        remedy=f"Wait for it, or delete {lock} if that run is dead; on another host it counts as "
        f"dead {_EXPIRES_S // 60} minutes after its last sign of life",
    )


def _is_given_up(descriptor: int, lock: Path) -> bool:
    """Whether an owner on another host has been silent for too long."""
    job = _said(descriptor).get("job")
    limit_s = _EXPIRES_S if job is None or job != _job() else _OWN_EXPIRES_S
    probe = lock.parent / f"{lock.name}.{uuid.uuid4().hex[:12]}.now"
    try:
        probe.touch()
        # Both times are the file system's own.
        return probe.stat().st_mtime - os.fstat(descriptor).st_mtime > limit_s
    finally:
        probe.unlink(missing_ok=True)


def _put_aside(descriptor: int, lock: Path) -> None:
    """Take a dead claim away; a living one that came in its place meanwhile is put back."""
    aside = lock.parent / f"{lock.name}.{uuid.uuid4().hex[:12]}.dead"
    with suppress(FileNotFoundError):
        lock.rename(aside)
        if not _is_same_file(descriptor, aside):
            with suppress(FileExistsError):
                os.link(aside, lock)
        aside.unlink()


def _job() -> str | None:
    """The batch job that this process is part of."""
    return next((os.environ[name] for name in _JOB_NAMES if os.environ.get(name)), None)


def _owner(descriptor: int) -> tuple[str, int]:
    owner = _said(descriptor)
    try:
        return str(owner["host"]), int(owner["pid"])
    except (ValueError, KeyError, TypeError):
        return _UNKNOWN


def _said(descriptor: int) -> dict[str, Any]:
    try:
        found = json.loads(os.pread(descriptor, 4096, 0))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _is_same_file(descriptor: int, lock: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), lock.stat())
    except FileNotFoundError:
        return False
