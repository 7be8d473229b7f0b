"""Told to stop: what is in flight is finished, or handed back."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class HandedBack(KeyboardInterrupt):
    """The time to finish is over: what is in flight is left, to be resumed by the next run."""


@contextmanager
def stop_when_told(
    grace_s: float, on_stop: Callable[[], None] = lambda: None
) -> Iterator[Callable[[], bool]]:
    """Heed SIGTERM and SIGINT within the block, which runs in the main thread.

    The first makes the function that is yielded say so: nothing more shall be begun. After
    ``grace_s``, or at a second one, :class:`HandedBack` is raised wherever the block is.
    """
    told: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        if told or grace_s <= 0:
            told.append(number)
            raise HandedBack
        told.append(number)
        signal.setitimer(signal.ITIMER_REAL, grace_s)
        on_stop()

    def end(number: int, frame: FrameType | None) -> None:
        raise HandedBack

    wanted = {signal.SIGTERM: stop, signal.SIGINT: stop, signal.SIGALRM: end}
    before = {number: signal.signal(number, action) for number, action in wanted.items()}
    try:
        yield lambda: bool(told)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, action in before.items():
            signal.signal(number, action)
