"""Work in a process of its own, which may hang or die without harm to anybody else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from tempfile import TemporaryFile
from typing import IO, Any, TypeVar

from ..storage.errors import TookTooLong, WorkerDied

T = TypeVar("T")
R = TypeVar("R")

_SAID_BYTES = 4000
_MOMENT_S = 1.0


def apart(work: Callable[[T], R], item: T, *, timeout_s: float, where: str = "") -> R:
    """Call ``work(item)`` in a new process and wait for it at most ``timeout_s``.

    A process that stands in a read which never ends is killed; where the kernel does not let it
    die before the file system answers, it is left behind. When the caller dies, so does it.

    Parameters
    ----------
    work, item
        Picklable, as is what ``work`` returns or raises.
    where
        Name of the item, for messages.

    Raises
    ------
    TookTooLong
        It was not done in time.
    WorkerDied
        The process died: killed from outside, out of memory, or by a fault in a library.
    """
    import cloudpickle

    with TemporaryFile() as said:
        # Standard input stays open: its end tells the process that its parent is gone.
        process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
        )
        try:
            answer = _ask(process, cloudpickle.dumps((work, item)), timeout_s)
            end = _end(process) if answer == b"" else ""
        finally:
            _let_go(process)
        if answer is None:
            raise TookTooLong(
                f"not done after {timeout_s:g} s{_words(said)}",
                where=where,
                remedy="See whether its file can be read; or give it more time with timeout_s",
            )
        if not answer:
            raise WorkerDied(
                f"the process that worked on this died ({end}){_words(said)}",
                where=where,
                remedy="Give it more memory, or leave this item out",
            )
    failed, value = cloudpickle.loads(answer)
    if failed:
        raise value
    result: R = value
    return result


def _ask(process: subprocess.Popen[bytes], question: bytes, timeout_s: float) -> bytes | None:
    """The answer; empty where the process died without one, None where time ran out."""
    assert process.stdin is not None
    assert process.stdout is not None
    answers: list[bytes] = []
    reader = threading.Thread(target=_read_into, args=(process.stdout, answers), daemon=True)
    reader.start()
    try:
        process.stdin.write(len(question).to_bytes(8, "big") + question)
        process.stdin.flush()
    except BrokenPipeError:
        return b""
    reader.join(timeout_s)
    return answers[0] if answers else None


def _read_into(stream: IO[bytes], answers: list[bytes]) -> None:
    with stream:
        size = int.from_bytes(stream.read(8), "big")
        answer = stream.read(size)
    answers.append(answer if len(answer) == size else b"")


def _end(process: subprocess.Popen[bytes]) -> str:
    try:
        code = process.wait(_MOMENT_S)
    except subprocess.TimeoutExpired:
        return "it hangs"
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def _let_go(process: subprocess.Popen[bytes]) -> None:
    """Kill it; what stands in a system call that cannot be interrupted is not waited for."""
    process.kill()
    assert process.stdin is not None
    with suppress(BrokenPipeError):
        process.stdin.close()
    with suppress(subprocess.TimeoutExpired):
        process.wait(_MOMENT_S)


def _words(said: IO[bytes]) -> str:
    """The last that it wrote on standard error."""
    said.seek(max(0, said.seek(0, os.SEEK_END) - _SAID_BYTES))
    text = said.read().decode(errors="replace").strip()
    return f"; it said: {text}" if text else ""


def _serve() -> None:
    import cloudpickle

    # Who stops a job tells all its processes: when this one ends is for its parent to decide.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    questions = os.fdopen(os.dup(0), "rb")
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    packed = questions.read(int.from_bytes(questions.read(8), "big"))
    threading.Thread(target=_end_with_parent, args=(questions,), daemon=True).start()
    answer = cloudpickle.dumps(_answer(packed))
    answers.write(len(answer).to_bytes(8, "big") + answer)
    answers.flush()
    # A library's threads, or a mount that hangs, shall not keep what is done from ending.
    os._exit(0)


def _answer(packed: bytes) -> tuple[bool, Any]:
    import cloudpickle

    from .pools import attempt

    work, item = cloudpickle.loads(packed)
    future = attempt(work, item)
    error = future.exception()
    return (False, future.result()) if error is None else (True, error)


def _end_with_parent(questions: IO[bytes]) -> None:
    questions.read(1)
    os._exit(1)


if __name__ == "__main__":
    _serve()
