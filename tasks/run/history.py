"""What earlier runs of a plan left to read: a ledger a run, in one folder.

Each run, and each task of a job array, writes a file of its own, so that no two write one over a
network. Files are numbered in the order of the runs: that counts, and not the clocks of nodes.
"""

from __future__ import annotations

import os
import re
import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from ...engine.flow import TRIES
from ...storage.commit import writable, write_text
from ...storage.errors import Quarantined, TookTooLong, WorkerDied
from ...storage.ledger import Entry, read_ledger

FOLDER = "run"
_LEDGER = re.compile(r"(\d{4,})-.*\.jsonl")
_DEADLY = (WorkerDied.reason, TookTooLong.reason)

History = dict[tuple[str, str], Entry]
"""The last end of each (stage, item)."""


def new_ledger_path(out: Path) -> Path:
    """The file that a run which begins now writes."""
    folder = out / FOLDER
    number = 1 + max((int(found[1]) for found in map(_matched, _files(folder)) if found), default=0)
    return folder / f"{number:04d}-{socket.gethostname()}-{os.getpid()}.jsonl"


def read_history(out: Path) -> History:
    """How every step ended last, over all runs."""
    return {(entry.stage, entry.item): entry for entry in entries(out)}


def last_made(out: Path) -> History:
    """The last time that each step made its product, over all runs: how long it takes."""
    return {(entry.stage, entry.item): entry for entry in entries(out) if entry.state == "done"}


def entries(out: Path) -> Iterator[Entry]:
    """All entries of all runs, those of later runs later."""
    files = [path for path in _files(out / FOLDER) if _matched(path)]
    for path in sorted(files, key=lambda path: (int(path.name.split("-")[0]), path.name)):
        yield from read_ledger(path)


def read_poison(out: Path) -> dict[tuple[str, str], Entry]:
    """Steps that killed their process, or hung, at every one of their last tries, with the last.

    One try is not enough: a run may have been killed before it could try again.
    """
    tries: Counter[tuple[str, str]] = Counter()
    last: History = {}
    for entry in entries(out):
        step = entry.stage, entry.item
        if entry.state == "failed" and entry.reason in _DEADLY:
            tries[step] += 1
            last[step] = entry
        elif entry.reason != Quarantined.reason:
            tries[step] = 0
    return {step: last[step] for step, count in tries.items() if count >= TRIES}


def quarantine_path(out: Path, stage: str, item: str) -> Path:
    """The log of an item that is left alone."""
    return out / FOLDER / "quarantine" / f"{stage.replace(' ', '-')}.{item}.log"


def write_quarantine(out: Path, stage: str, item: str) -> Path:
    """Write the log of an item: how each of its tries ended."""
    path = quarantine_path(out, stage, item)
    told = [
        f"{e.time} {e.state}({e.reason}) after {e.seconds:.1f} s\n{e.detail}\n"
        for e in entries(out)
        if (e.stage, e.item) == (stage, item) and e.reason != Quarantined.reason
    ]
    with writable(path):
        write_text(path, "\n".join(told))
    return path


def _files(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def _matched(path: Path) -> re.Match[str] | None:
    return _LEDGER.fullmatch(path.name)
