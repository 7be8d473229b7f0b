"""However often and whenever it is interrupted, an ingest ends with the same bytes."""

from __future__ import annotations

import itertools
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import tifffile
import zarr
from products import done, files_of

from microtome.engine.ingest import ingest_slide
from microtome.engine.schedule import open_pool

pytestmark = pytest.mark.usefixtures("reproducible")


@pytest.mark.parametrize(
    ("compression", "profile"), [("deflate", "auto"), ("jpeg", "auto"), ("jpeg", "ngff04")]
)
@pytest.mark.parametrize("count", [10, pytest.param(100, marks=pytest.mark.slow)])
def test_killed_at_any_moment_it_ends_the_same(
    slide: Path, tmp_path: Path, count: int, compression: str, profile: str
) -> None:
    script = Path(__file__).with_name("kill_trials.py")
    crop = tmp_path / "case.tif"
    pixels = tifffile.imread(slide)[:1500, :1301]
    side = 256 if compression == "deflate" else 64
    tifffile.imwrite(crop, pixels, tile=(side, side), photometric="rgb", compression=compression)
    run = subprocess.run(
        [sys.executable, str(script), str(crop), str(tmp_path / "out"), str(count), "7", profile],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENCV_FOR_THREADS_NUM": "1"},
    )
    assert run.returncode == 0, run.stderr
    trials = [json.loads(line) for line in run.stdout.splitlines()]
    assert len(trials) == count
    whole = files_of(tmp_path / "out" / "undisturbed" / "case.ome.zarr")
    assert len(whole) > 50
    for trial in trials:
        assert trial["torn"] == []
        assert trial["rewritten"] == []
        assert trial["others"] == []
        assert files_of(Path(trial["out"])) == whole
    # Some were killed with the work half done, or nothing was tried.
    assert sum(t["kills"] for t in trials) >= count * 2 // 3
    assert sum(0 < t["kept"] < t["all"] for t in trials) >= 3


@pytest.mark.parametrize("trials", [2, pytest.param(100, marks=pytest.mark.slow)])
def test_with_two_processes_the_bytes_are_the_same_though_one_is_killed(
    slide: Path, undisturbed: Path, tmp_path: Path, trials: int
) -> None:
    """A worker is killed while it works, some time after a cell: its own is made by another."""
    draw = random.Random(trials)
    # Anew now and then: after some thirty deaths Dask was seen to replace a worker no more.
    for first in range(0, trials, 20):
        with open_pool(2) as pool:
            for trial in range(first, min(first + 20, trials)):
                until(lambda: known_to(pool) == {w.pid for w in workers()} and len(workers()) == 2)
                told = itertools.count(-draw.randrange(3))
                kill = partial(kill_one, told, draw)
                made = done(ingest_slide(slide, tmp_path / str(trial), pool=pool, on_progress=kill))
                assert files_of(made.path) == files_of(undisturbed)
                assert [p.name for p in made.path.parent.iterdir()] == ["case.ome.zarr"]


def kill_one(told: Iterator[int], draw: random.Random, _: int, __: int) -> None:
    """Kill a worker some time after the cell that ``told`` counts as 0."""
    if next(told) == 0:
        time.sleep(draw.uniform(0, 0.3))
        draw.choice(workers()).kill()


def known_to(pool: Any) -> set[int]:
    """Process numbers of the workers that answer the scheduler."""
    return set(pool._client.run(os.getpid, on_error="ignore").values())


def workers() -> list[psutil.Process]:
    children = psutil.Process().children(recursive=True)
    return [p for p in children if "spawn_main" in " ".join(p.cmdline())]


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not holds() and time.monotonic() < end:
        time.sleep(0.1)
    assert holds()


@pytest.mark.slow
def test_killed_with_its_cluster_and_run_again_at_once(
    slide: Path, undisturbed: Path, tmp_path: Path
) -> None:
    """Workers may outlive the run that started them for a moment, and still write."""
    command = [sys.executable, "-m", "microtome", "ingest", str(slide), "--out"]
    for trial in range(5):
        out = tmp_path / str(trial)
        with subprocess.Popen(
            [*command, str(out), "--jobs", "2"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ) as run:
            while run.poll() is None and not list(out.glob(f".*.partial/{trial % 3}/c")):
                time.sleep(0.01)
            run.kill()
        assert not (out / "case.ome.zarr").exists()
        subprocess.run([*command, str(out)], check=True, capture_output=True)
        assert files_of(out / "case.ome.zarr") == files_of(undisturbed)
        names = sorted(p.name for p in out.iterdir())
        assert names == ["case.ome.zarr", "ledger.jsonl"]


def test_a_slide_that_changed_between_runs_is_begun_anew(slide: Path, tmp_path: Path) -> None:
    copy = tmp_path / "case.tif"
    copy.write_bytes(slide.read_bytes())

    def stop(_: int, __: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ingest_slide(copy, tmp_path / "out", on_progress=stop)
    (partial,) = (tmp_path / "out").glob(".*.partial")
    pixels = 255 - tifffile.imread(slide)
    tifffile.imwrite(copy, pixels, tile=(256, 256), photometric="rgb", compression="deflate")
    made = done(ingest_slide(copy, tmp_path / "out"))
    assert made.kept == 0
    assert not partial.exists()
    level_0 = zarr.open_group(made.path, mode="r")["0"]
    np.testing.assert_array_equal(level_0[:, :9, :9].transpose(1, 2, 0), pixels[:9, :9])
