"""The ledger says what happened to every item, however the run ended."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from microtome.storage.errors import MissingFile, UnwritableOutput
from microtome.storage.ledger import Entry, Ledger, read_ledger

STATES = st.sampled_from(["done", "skipped", "rejected", "failed"])


@settings(max_examples=25)
@given(entries=st.lists(st.builds(Entry, st.text(), STATES, st.text(), st.text(), st.floats(0, 9))))
def test_entries_come_back_as_they_were_recorded(
    tmp_path_factory: pytest.TempPathFactory, entries: list[Entry]
) -> None:
    path = tmp_path_factory.mktemp("ledger") / "ledger.jsonl"
    ledger = Ledger(path)
    for entry in entries:
        ledger.record(entry)
    assert (list(read_ledger(path)) if entries else []) == entries
    assert sum(ledger.counts().values()) == len(entries)


def test_a_second_run_appends(tmp_path: Path) -> None:
    path = tmp_path / "out" / "ledger.jsonl"
    Ledger(path).record(Entry("a", "failed", "unwritable"))
    again = Ledger(path)
    again.record(Entry("a", "done"))
    assert [e.state for e in read_ledger(path)] == ["failed", "done"]
    assert again.counts() == {"done": 1}


@pytest.mark.parametrize("cut", [1, 20, 60])
def test_a_line_cut_off_by_a_kill_costs_only_itself(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "ledger.jsonl"
    ledger = Ledger(path)
    ledger.record(Entry("first", "done"))
    ledger.record(Entry("second", "done"))
    path.write_bytes(path.read_bytes()[:-cut])
    assert [e.item for e in read_ledger(path)] == ["first"]
    Ledger(path).record(Entry("third", "done"))
    # Only the newline was lost: the line itself is whole, and counts again.
    assert [e.item for e in read_ledger(path)] == (
        ["first", "second", "third"] if cut == 1 else ["first", "third"]
    )


def test_the_ledger_can_be_read_while_the_run_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    code = (
        "import sys; from pathlib import Path; from microtome.storage.ledger import *\n"
        "ledger = Ledger(Path(sys.argv[1])); ledger.record(Entry('a', 'done'))\n"
        "print('recorded', flush=True); input()"
    )
    command = [sys.executable, "-c", code, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"recorded\n"
        entries = list(read_ledger(path))
        process.kill()
    assert [e.item for e in entries] == ["a"]


@pytest.mark.parametrize(
    ("states", "code"),
    [(["done", "skipped"], 0), (["done", "rejected"], 3), (["failed"], 3), ([], 0)],
)
def test_the_exit_code_says_whether_all_went_well(states: list[str], code: int) -> None:
    ledger = Ledger()
    for state in states:
        ledger.record(Entry("x", state))
    assert ledger.exit_code == code


def test_each_line_is_json_with_a_reason_and_a_time(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    Ledger(path).record(Entry("a", "rejected", "no_mpp", "two\nlines"))
    (line,) = path.read_text().splitlines()
    values = json.loads(line)
    assert (values["reason"], values["detail"]) == ("no_mpp", "two\nlines")
    assert values["time"].endswith("+00:00")


def test_a_missing_ledger_and_an_unwritable_one_are_named(tmp_path: Path, read_only: Path) -> None:
    with pytest.raises(MissingFile):
        list(read_ledger(tmp_path / "ledger.jsonl"))
    with pytest.raises(UnwritableOutput):
        Ledger(read_only / "ledger.jsonl").record(Entry("a", "done"))
