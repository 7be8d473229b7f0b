"""Products are whole or absent, and never mixed."""

from __future__ import annotations

import errno
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from products import KEY, files_of, hidden, make

from microtome.storage import files as storage_files
from microtome.storage.commit import (
    RECORD,
    NotMade,
    file_identity,
    is_done,
    looking,
    new_product,
    product_key,
    product_state,
    read_commit,
    require_commit,
)
from microtome.storage.errors import (
    BadProduct,
    MicrotomeError,
    MissingFile,
    StaleProduct,
    TruncatedFile,
    UnwritableOutput,
)
from microtome.storage.files import new_file, remove_strays, writable, write_bytes

OTHER = product_key(input="b")


def fail_while_making(
    path: Path, error: BaseException, files: dict[str, str], **how: object
) -> None:
    with new_product(path, kind="thing", about={}, **how) as folder:
        for name, text in files.items():
            (folder / name).write_text(text)
        raise error


# --- keys and identities


@given(st.dictionaries(st.text(min_size=1), st.integers() | st.text() | st.lists(st.floats(0, 1))))
def test_a_key_depends_on_the_parts_and_not_on_their_order(parts: dict[str, object]) -> None:
    backwards = dict(reversed(parts.items()))
    assert product_key(**parts) == product_key(**backwards)
    assert product_key(**parts, further=1) != product_key(**parts)


def test_a_key_of_what_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="JSON"):
        product_key(mpp=float("nan"))


def test_a_copied_file_is_the_same_and_a_changed_one_is_not(tmp_path: Path) -> None:
    data = bytearray(os.urandom(3_000_000))
    (tmp_path / "a").write_bytes(data)
    (tmp_path / "b").write_bytes(data)
    assert file_identity(tmp_path / "a") == file_identity(tmp_path / "b")
    for place in (0, len(data) - 1):
        changed = data.copy()
        changed[place] ^= 1
        (tmp_path / "c").write_bytes(changed)
        assert file_identity(tmp_path / "c") != file_identity(tmp_path / "a")
    (tmp_path / "d").write_bytes(data + b"x")
    assert file_identity(tmp_path / "d") != file_identity(tmp_path / "a")


def test_every_byte_of_a_small_file_counts(tmp_path: Path) -> None:
    data = bytearray(os.urandom(1_000_000))
    (tmp_path / "a").write_bytes(data)
    data[123_457] ^= 1
    (tmp_path / "b").write_bytes(data)
    assert file_identity(tmp_path / "a") != file_identity(tmp_path / "b")


def test_a_folder_is_identified_by_names_and_contents(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name / "deep").mkdir(parents=True)
        (tmp_path / name / "deep" / "file").write_text("same")
    assert file_identity(tmp_path / "one") == file_identity(tmp_path / "two")
    (tmp_path / "two" / "deep" / "file").rename(tmp_path / "two" / "deep" / "other")
    assert file_identity(tmp_path / "one") != file_identity(tmp_path / "two")


def test_a_mirax_slide_is_identified_with_its_pixels(tmp_path: Path) -> None:
    slide = tmp_path / "case.mrxs"
    slide.write_text("thumbnail")
    (tmp_path / "case").mkdir()
    (tmp_path / "case" / "Data0000.dat").write_text("pixels")
    before = file_identity(slide)
    (tmp_path / "case" / "Data0000.dat").write_text("PIXELS")
    assert file_identity(slide) != before


def test_what_is_not_there_has_no_identity(tmp_path: Path) -> None:
    with pytest.raises(MissingFile):
        file_identity(tmp_path / "nothing")


# --- making products


def test_a_product_is_there_when_done_and_nothing_else_is_left(tmp_path: Path) -> None:
    make(tmp_path / "x")
    assert product_state(tmp_path / "x", KEY) == "done"
    assert product_state(tmp_path / "x", OTHER) == "stale"
    assert product_state(tmp_path / "y", KEY) == "absent"
    record = require_commit(tmp_path / "x", "thing")
    assert (record.key, record.about) == (KEY, {"n": 1})
    assert hidden(tmp_path) == []


def test_the_record_is_written_last(tmp_path: Path) -> None:
    with new_product(tmp_path / "x", kind="thing", key=KEY, about={}) as folder:
        assert not (tmp_path / "x").exists()
        assert not (folder / RECORD).exists()
    assert (tmp_path / "x" / RECORD).is_file()


def test_a_run_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        fail_while_making(tmp_path / "x", ZeroDivisionError(), {"part": "half"}, key=KEY)
    assert list(tmp_path.iterdir()) == []


def test_another_key_is_refused_and_nothing_is_lost(tmp_path: Path) -> None:
    make(tmp_path / "x")
    with pytest.raises(StaleProduct, match="--overwrite"):
        make(tmp_path / "x", OTHER, text="new")
    assert (tmp_path / "x" / "part").read_text() == "content"
    make(tmp_path / "x", OTHER, text="new", overwrite=True)
    assert (tmp_path / "x" / "part").read_text() == "new"
    assert hidden(tmp_path) == []


def test_a_failing_replacement_leaves_the_old_product(tmp_path: Path) -> None:
    make(tmp_path / "x")
    with pytest.raises(ZeroDivisionError):
        fail_while_making(tmp_path / "x", ZeroDivisionError(), {}, key=OTHER, overwrite=True)
    assert product_state(tmp_path / "x", KEY) == "done"


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_is_not_ours_is_never_replaced(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "thesis.doc").write_text("years of work")
    (tmp_path / "file").write_text("years of work")
    for name in ("x", "file"):
        with pytest.raises(StaleProduct, match="not a thing"):
            make(tmp_path / name, overwrite=overwrite)
    assert (tmp_path / "x" / "thesis.doc").read_text() == "years of work"
    assert (tmp_path / "file").read_text() == "years of work"


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_product_of_another_kind_is_never_replaced(tmp_path: Path, overwrite: bool) -> None:
    make(tmp_path / "x")
    with (
        pytest.raises(StaleProduct, match="thing is in the way of a model"),
        new_product(tmp_path / "x", kind="model", key=OTHER, about={}, overwrite=overwrite),
    ):
        pass
    assert product_state(tmp_path / "x", KEY) == "done"


def test_an_empty_folder_is_not_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    make(tmp_path / "x")
    assert product_state(tmp_path / "x", KEY) == "done"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"kind": "thing"}', "\x80"])
def test_a_damaged_record_is_named(tmp_path: Path, text: str) -> None:
    make(tmp_path / "x")
    (tmp_path / "x" / RECORD).write_bytes(text.encode("latin-1"))
    with pytest.raises(BadProduct):
        read_commit(tmp_path / "x")
    with pytest.raises(BadProduct):
        make(tmp_path / "x")
    make(tmp_path / "x", overwrite=True)
    assert product_state(tmp_path / "x", KEY) == "done"


def test_a_record_must_be_of_the_kind_asked_for(tmp_path: Path) -> None:
    make(tmp_path / "x")
    with pytest.raises(BadProduct, match="a thing, not a bag"):
        require_commit(tmp_path / "x", "bag")
    (tmp_path / "bare").mkdir()
    with pytest.raises(BadProduct, match="no commit record"):
        require_commit(tmp_path / "bare", "thing")
    with pytest.raises(MissingFile):
        require_commit(tmp_path / "nothing", "thing")


def test_equal_runs_give_equal_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    make(tmp_path / "x")
    make(tmp_path / "y")
    assert (tmp_path / "x" / RECORD).read_bytes() == (tmp_path / "y" / RECORD).read_bytes()
    assert read_commit(tmp_path / "x").made == "2023-11-14T22:13:20+00:00"


# --- resuming


def interrupted(path: Path, key: str, error: type[BaseException], **files: str) -> None:
    with pytest.raises(error):
        fail_while_making(path, error("stop"), files, key=key, resume=True)


def test_a_resumed_run_finds_what_the_first_one_finished(tmp_path: Path) -> None:
    interrupted(tmp_path / "x", KEY, KeyboardInterrupt, a="1", b="2")
    assert not (tmp_path / "x").exists()
    with new_product(tmp_path / "x", kind="thing", key=KEY, about={}, resume=True) as folder:
        assert sorted(p.name for p in folder.iterdir()) == ["a", "b"]
    assert (tmp_path / "x" / "a").read_text() == "1"
    assert hidden(tmp_path) == []


def test_what_another_key_left_is_not_resumed_but_removed(tmp_path: Path) -> None:
    interrupted(tmp_path / "x", OTHER, KeyboardInterrupt, a="stale")
    with new_product(tmp_path / "x", kind="thing", key=KEY, about={}, resume=True) as folder:
        assert list(folder.iterdir()) == []
    assert hidden(tmp_path) == []


def test_a_rejected_input_leaves_nothing_to_resume(tmp_path: Path) -> None:
    interrupted(tmp_path / "x", KEY, TruncatedFile, a="1")
    assert list(tmp_path.iterdir()) == []


def test_half_written_files_do_not_reach_the_product(tmp_path: Path) -> None:
    stray = ".shard.0123456789ab.tmp"
    interrupted(tmp_path / "x", KEY, KeyboardInterrupt, a="1", **{stray: "torn"})
    with new_product(tmp_path / "x", kind="thing", key=KEY, about={}, resume=True) as folder:
        assert [p.name for p in folder.iterdir()] == ["a"]
        (folder / stray).write_text("from a worker that outlived its run")
    assert sorted(p.name for p in (tmp_path / "x").iterdir()) == ["a", RECORD]


def test_cleaning_up_spares_neighbours_with_similar_names(tmp_path: Path) -> None:
    """``model`` and ``model.v2`` share a prefix; ``a[1]`` is no pattern."""
    interrupted(tmp_path / "model.v2", KEY, KeyboardInterrupt, a="1")
    interrupted(tmp_path / "a1", KEY, KeyboardInterrupt, a="1")
    before = hidden(tmp_path)
    make(tmp_path / "model")
    make(tmp_path / "a[1]")
    assert hidden(tmp_path) == before
    interrupted(tmp_path / "b[1]", OTHER, KeyboardInterrupt, a="1")
    make(tmp_path / "b[1]")
    assert hidden(tmp_path) == before


# --- what the operating system refuses


def test_a_read_only_output_is_named(read_only: Path) -> None:
    with pytest.raises(UnwritableOutput, match="Read-only"):
        make(read_only / "x")
    with pytest.raises(UnwritableOutput, match="Read-only"):
        make(read_only / "new" / "folder" / "x")


def test_a_full_output_is_named_and_frees_its_space(mounted: Callable[..., Path]) -> None:
    place = mounted(size_kib=256)
    with (
        pytest.raises(UnwritableOutput, match="No space left"),
        new_product(place / "x", kind="thing", key=KEY, about={}) as folder,
    ):
        write_bytes(folder / "big", bytes(1 << 20))
    assert list(place.iterdir()) == []


def test_a_file_where_a_folder_should_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UnwritableOutput):
        make(tmp_path / "file" / "x")
    with pytest.raises(UnwritableOutput, match="too long"):
        make(tmp_path / ("x" * 300))


def test_a_source_that_may_not_be_read_is_not_the_outputs_fault(tmp_path: Path) -> None:
    source = tmp_path / "source.svs"
    with pytest.raises(PermissionError), writable(tmp_path / "x"):
        raise PermissionError(errno.EACCES, "Permission denied", str(source))
    with pytest.raises(PermissionError), writable(tmp_path / "x"):
        raise PermissionError(errno.EACCES, "Permission denied")


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    write_bytes(tmp_path / "x", b"old")

    def fail_while_writing() -> None:
        with new_file(tmp_path / "x") as file:
            file.write(b"ne")
            file.flush()
            assert (tmp_path / "x").read_bytes() == b"old"
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_while_writing()
    assert (tmp_path / "x").read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_only_our_own_temporary_files_are_swept_up(tmp_path: Path) -> None:
    keep = ["a.tmp", ".hidden", ".a.12.tmp", "0.0.0123456789ab.tmp"]
    for name in (*keep, ".0.0.0123456789ab.tmp"):
        (tmp_path / name).write_text("")
    remove_strays(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(keep)


def test_every_file_reaches_the_disk_before_the_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    real = os.fsync

    def note(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_ino)
        real(descriptor)

    monkeypatch.setattr(storage_files.os, "fsync", note)
    with new_product(tmp_path / "x", kind="thing", key=KEY, about={}) as folder:
        (folder / "deep").mkdir()
        (folder / "deep" / "part").write_text("content")
    part = (tmp_path / "x" / "deep" / "part").stat().st_ino
    record = (tmp_path / "x" / RECORD).stat().st_ino
    assert synced.index(part) < synced.index(record)
    assert (tmp_path / "x" / "deep").stat().st_ino in synced


def test_named_errors_survive_the_way_between_processes() -> None:
    error = TruncatedFile("ends early", where=Path("a.svs"), remedy="Copy it again")
    back = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    assert isinstance(back, MicrotomeError)
    assert (type(back), str(back), back.state) == (TruncatedFile, str(error), "rejected")


def test_looking_finds_what_is_done_and_makes_nothing(tmp_path: Path) -> None:
    with looking(), pytest.raises(NotMade):
        make(tmp_path / "a")
    assert list(tmp_path.iterdir()) == []
    make(tmp_path / "a")
    before = files_of(tmp_path)
    with looking():
        assert is_done(tmp_path / "a", kind="thing", key=KEY)
        with pytest.raises(StaleProduct):
            is_done(tmp_path / "a", kind="thing", key=product_key(input="b"))
        with pytest.raises(StaleProduct):
            make(tmp_path / "a", product_key(input="b"))
        with pytest.raises(NotMade):
            is_done(tmp_path / "a", kind="thing", key=product_key(input="b"), overwrite=True)
        with pytest.raises(NotMade):
            is_done(tmp_path / "b", kind="thing", key=KEY)
    assert files_of(tmp_path) == before
    assert not is_done(tmp_path / "b", kind="thing", key=KEY)
