"""Small pieces that both halves of the demonstration use."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TypeVar

from ..engine.schedule import Outcome

R = TypeVar("R")


def value_of(outcome: Outcome[R]) -> R:
    """What an item became; the demonstration needs every one of its own, so an error ends it."""
    if outcome.error is not None:
        raise outcome.error
    assert outcome.value is not None
    return outcome.value


def now() -> str:
    """The time as a reader wants it."""
    return datetime.now(UTC).strftime("%d %B %Y, %H:%M UTC")
