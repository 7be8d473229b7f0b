"""HDF5 files read by a process of their own: all that they may do to it stays there."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from sample_bags import a_bag, assert_same
from typer.testing import CliRunner

from microtome.cli.app import app
from microtome.storage.bags import find_bags, read_bag
from microtome.storage.errors import (
    BadProduct,
    MicrotomeError,
    MissingFile,
    NoResolution,
    UnreadableFile,
    WorkerDied,
)
from microtome.storage.exchange import Facts, export_clam, export_pt, export_stamp, import_bag
from microtome.storage.exchange.apart import import_apart


def h5py_that(does: str, folder: Path, monkeypatch) -> None:
    """Let processes that are started from now on find another h5py."""
    (folder / "lib").mkdir()
    (folder / "lib" / "h5py.py").write_text(f"import os, signal\n{does}\n")
    monkeypatch.syspath_prepend(folder / "lib")


def test_the_bag_is_what_reading_here_gives(tmp_path):
    facts = Facts(slide_mpp=(0.25, 0.25), slide_px=(60_000, 80_000), bounds_px=(0, 0, 9, 9))
    for export in (export_clam, export_stamp):
        export(a_bag(), tmp_path / "case-17.h5")
        here = import_bag(tmp_path / "case-17.h5", facts=facts)
        assert_same(import_apart(tmp_path / "case-17.h5", facts=facts), here)


def test_errors_come_over_as_they_are(tmp_path):
    import h5py

    export_stamp(a_bag(), tmp_path / "stamp.h5")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["nothing"] = [1]
    for name, kind in (("stamp", NoResolution), ("other", BadProduct), ("absent", MissingFile)):
        with pytest.raises(kind) as here:
            import_bag(tmp_path / f"{name}.h5")
        with pytest.raises(kind) as apart:
            import_apart(tmp_path / f"{name}.h5")
        assert str(apart.value) == str(here.value)


def test_damaged_copies_end_as_bags_or_named_errors(tmp_path):
    export_clam(a_bag(), tmp_path / "whole.h5")
    whole, path = (tmp_path / "whole.h5").read_bytes(), tmp_path / "hurt.h5"
    ends = []
    for seed in range(8):
        rng = random.Random(seed)
        hurt = bytearray(whole)
        for _ in range(200):
            hurt[rng.randrange(len(hurt))] = rng.randrange(256)
        path.write_bytes(hurt[: len(hurt) // 2] if seed == 0 else hurt)
        try:
            ends.append(type(import_apart(path)))
        except MicrotomeError as error:
            ends.append(type(error))
    assert UnreadableFile in ends
    assert WorkerDied not in ends


@pytest.mark.parametrize(
    ("does", "kind", "says"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", UnreadableFile, "SIGSEGV"),
        ("os.abort()", UnreadableFile, "SIGABRT"),
        ("os.kill(os.getpid(), signal.SIGKILL)", WorkerDied, "-9"),
        ("raise SystemExit(7)", WorkerDied, "code 7"),
    ],
)
def test_a_library_that_dies_is_an_error_of_the_file(does, kind, says, tmp_path, monkeypatch):
    export_clam(a_bag(), tmp_path / "case-17.h5")
    h5py_that(does, tmp_path, monkeypatch)
    with pytest.raises(kind, match=says):
        import_apart(tmp_path / "case-17.h5")


@pytest.mark.parametrize("dies", [False, True])
def test_coordinates_beside_a_tensor_are_read_apart_too(dies, tmp_path, monkeypatch):
    bag = a_bag(id="case-17")
    export_clam(bag, tmp_path / "coords" / "case-17.h5")
    export_pt(bag, tmp_path / "case-17.pt")
    if dies:
        h5py_that("os.kill(os.getpid(), signal.SIGSEGV)", tmp_path, monkeypatch)
    words = ["bags", "import", tmp_path / "case-17.pt", "--coords", tmp_path / "coords"]
    words += ["--encoder", bag.encoder, "--out", tmp_path / "out"]
    ran = CliRunner().invoke(app, [*map(str, words)], env={"COLUMNS": "300"})
    assert ran.exit_code == (3 if dies else 0), ran.output
    if dies:
        assert "SIGSEGV" in ran.stderr
        assert "coords/case-17.h5" in ran.stderr.replace("\n", "")
    else:
        (path,) = find_bags(tmp_path / "out").values()
        np.testing.assert_array_equal(read_bag(path).features, bag.features)


def test_one_that_kills_does_not_end_the_run(tmp_path, monkeypatch):
    for name in ("a", "b"):
        export_clam(a_bag(id=name), tmp_path / "in" / f"{name}.h5")
    (tmp_path / "in" / "b.h5").rename(tmp_path / "in" / "killer.h5")
    h5py_that(
        "import sys, importlib.util\n"
        "real = importlib.machinery.PathFinder.find_spec('h5py', sys.path[2:])\n"
        "here = sys.modules.pop('h5py')\n"
        "module = importlib.util.module_from_spec(real)\n"
        "sys.modules['h5py'] = module\n"
        "real.loader.exec_module(module)\n"
        "class File(module.File):\n"
        "    def __init__(self, path, *a, **k):\n"
        "        if 'killer' in str(path):\n"
        "            os.kill(os.getpid(), signal.SIGSEGV)\n"
        "        super().__init__(path, *a, **k)\n"
        "module.File = File\n",
        tmp_path,
        monkeypatch,
    )
    out = tmp_path / "out"
    ran = CliRunner().invoke(app, ["bags", "import", str(tmp_path / "in"), "--out", str(out)])
    assert ran.exit_code == 3, ran.output
    assert list(find_bags(out)) == ["a"]
    assert "rejected(unreadable) killer" in ran.stderr
