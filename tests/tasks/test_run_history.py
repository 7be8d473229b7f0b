"""What is left alone: what killed its process, or hung, whenever it was tried of late."""

from __future__ import annotations

from pathlib import Path

import pytest

from microtome.storage.ledger import Entry, Ledger
from microtome.tasks.run.history import FOLDER, new_ledger_path, read_history, read_poison

DIED, HUNG = ("failed", "worker_died"), ("failed", "timeout")
ALONE, FULL = ("failed", "quarantined"), ("failed", "unwritable")
DONE, SKIPPED = ("done", ""), ("skipped", "")


@pytest.mark.parametrize(
    ("runs", "poison"),
    [
        ([[DIED, DIED]], True),
        ([[DIED, HUNG]], True),
        # The coordinator was killed before it could try again.
        ([[DIED]], False),
        ([[DIED], [DIED]], True),
        ([[DIED, DONE], [DIED]], False),
        ([[DIED, DIED], [ALONE], [ALONE]], True),
        ([[DIED, DIED], [ALONE], [DONE], [SKIPPED]], False),
        ([[DIED, DIED], [DONE], [DIED]], False),
        ([[DIED], [FULL], [DIED]], False),
        ([[FULL, FULL, FULL]], False),
    ],
)
def test_two_tries_in_a_row_and_nothing_that_went_well_since(
    tmp_path: Path, runs: list[list[tuple[str, str]]], poison: bool
) -> None:
    for n, ends in enumerate(runs):
        # Nodes' clocks differ: a later run may say that it was earlier.
        time = f"2026-01-{28 - n:02d}T00:00:00+00:00"
        ledger = Ledger(new_ledger_path(tmp_path))
        for state, reason in ends:
            ledger.record(Entry("s1", state, reason, time=time, stage="encode"))
            ledger.record(Entry("s2", "done", time=time, stage="encode"))
    assert (("encode", "s1") in read_poison(tmp_path)) == poison
    assert ("encode", "s2") not in read_poison(tmp_path)
    assert read_history(tmp_path)["encode", "s1"].reason == runs[-1][-1][1]
    assert len(list((tmp_path / FOLDER).iterdir())) == len(runs)
