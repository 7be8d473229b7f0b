"""The ledger: what happened to every item of a run; append-only, readable while the run goes on."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from .commit import writable
from .errors import ItemState, MissingFile


@dataclass(frozen=True)
class Entry:
    """One item's end in a run.

    Attributes
    ----------
    item
        Identity of the item, usually the slide or subject id.
    state
        ``done``, ``skipped``, ``rejected`` or ``failed``.
    reason
        Short code of a rejection or failure (``no_mpp``, ``unreadable`` …), else empty.
    detail
        The message a human reads.
    seconds
        How long the item took.
    stage
        Of a run of several stages: which one; else empty.
    """

    item: str
    state: ItemState
    reason: str = ""
    detail: str = ""
    seconds: float = 0.0
    time: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    stage: str = ""


class Ledger:
    """Append-only record of a run, one JSON object a line."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.entries: list[Entry] = []

    def record(self, entry: Entry) -> None:
        """Append one entry; on disk before this returns."""
        self.entries.append(entry)
        if self.path is None:
            return
        values = asdict(entry)
        if not entry.stage:
            del values["stage"]
        line = json.dumps(values) + "\n"
        with writable(self.path), self.path.open("ab+") as file:
            # What a killed run left half written stays a line of its own.
            lead = b"" if _ends_with_newline(file) else b"\n"
            file.write(lead + line.encode())
            file.flush()
            os.fsync(file.fileno())

    def counts(self) -> dict[str, int]:
        """How many items ended in each state, in this run."""
        return dict(Counter(entry.state for entry in self.entries))

    @property
    def exit_code(self) -> int:
        """0 when every item ended ``done`` or ``skipped``, else 3."""
        return 0 if all(e.state in ("done", "skipped") for e in self.entries) else 3


def _ends_with_newline(file: BinaryIO) -> bool:
    if file.seek(0, os.SEEK_END) == 0:
        return True
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"


def read_ledger(path: Path) -> Iterator[Entry]:
    """Entries of a ledger file, in order; a line cut off by a kill is left out."""
    if not path.is_file():
        raise MissingFile("no such ledger", where=path, remedy="Check the path")
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n") and line.strip():
                try:
                    values = json.loads(line)
                except ValueError:
                    continue
                yield Entry(**values)
