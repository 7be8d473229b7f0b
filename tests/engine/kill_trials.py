"""Kills ingests at random moments and writes down what each left: run as a script by a test.

Usage: kill_trials.py SLIDE OUT TRIALS SEED PROFILE. A fresh process, so that it may fork without
threads.
Each trial ingests into an output of its own, is killed once or several times, and is then run to
its end. Prints one JSON object a trial.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from microtome.engine import ingest, profiles
from microtome.engine.slides import open_slide
from microtome.storage.archive import Archive
from microtome.storage.pyramid import Pyramid
from microtome.storage.shards import is_whole


@dataclass(frozen=True)
class SmallPyramid(Pyramid):
    chunk_px: int = 64
    shard_px: int = 256
    block_px: int = 512


@dataclass(frozen=True)
class SmallArchive(Archive):
    shard_px: int = 128
    overview_px: int = 256


# Many small shards in place of a few large ones: more moments to be killed in.
profiles.Pyramid, profiles.Archive = SmallPyramid, SmallArchive
profiles.ngff04.CHUNK_PX = 256
PROFILE = sys.argv[5]
# A machine's disk may sleep through a drawn time: most are killed by what they have written.
BY_PROGRESS = 0.75


def started(slide: Path, out: Path) -> int:
    child = os.fork()
    if child == 0:
        ingest.ingest_slide(slide, out, profile=PROFILE)
        os._exit(0)
    return child


def timed(slide: Path, out: Path) -> float:
    start = time.perf_counter()
    os.waitpid(started(slide, out), 0)
    return time.perf_counter() - start


def shards_in(folder: Path, plan: Pyramid | Archive) -> dict[str, tuple[int, int, bool]]:
    """Inode, time and wholeness of every file under the name of a shard."""
    found = {}
    for level, array in enumerate(plan.arrays):
        part = plan.folder(folder, level) if isinstance(plan, Pyramid) else folder / str(level)
        for index in array.indices():
            path = array.file(part, index)
            if path.exists():
                state = path.stat()
                whole = is_whole(array, part, index)
                found[str(path.relative_to(folder))] = state.st_ino, state.st_mtime_ns, whole
    return found


def left_in(out: Path, name: str) -> Path | None:
    """Where a run keeps its product: under its own name once it is done."""
    product = out / name
    return product if product.exists() else next(out.glob(".*.partial"), None)


def count_files(folder: Path) -> int:
    """By os.walk, which a folder that is renamed meanwhile does not trouble, as it does rglob."""
    return sum(len(files) for _, _, files in os.walk(folder))


def wait_for_shards(child: int, out: Path, name: str, wanted: int) -> None:
    """Until so many files are written, or the child has ended: its zombie is left to be reaped."""
    while os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        left = left_in(out, name)
        if left is not None and count_files(left) >= wanted:
            return


def trial(
    slide: Path, out: Path, plan: Pyramid | Archive, draw: random.Random, full: tuple[float, int]
) -> dict:
    """Kill one ingest up to three times; ``full`` is the seconds and files of a whole one."""
    product = out / f"{slide.stem}.ome.zarr"
    full_s, files = full
    torn: list[str] = []
    rewritten: list[str] = []
    kills = 0
    before: dict[str, tuple[int, int, bool]] = {}
    for _ in range(draw.randint(1, 3)):
        child = started(slide, out)
        if draw.random() < BY_PROGRESS:
            wait_for_shards(child, out, product.name, draw.randrange(1, files))
            time.sleep(draw.uniform(0, full_s / files))
        else:
            time.sleep(draw.uniform(0, full_s))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        kills += os.WIFSIGNALED(status)
        left = left_in(out, product.name)
        now = {} if left is None else shards_in(left, plan)
        torn += [name for name, state in now.items() if not state[2]]
        rewritten += [name for name in before if now.get(name) != before[name]]
        before = now
    ingest.ingest_slide(slide, out, profile=PROFILE)
    end = shards_in(product, plan)
    rewritten += [name for name in before if end.get(name) != before[name]]
    others = sorted(p.name for p in out.iterdir() if p != product)
    return {
        "out": str(product),
        "kills": kills,
        "kept": len(before),
        "all": len(end),
        "torn": torn,
        "rewritten": rewritten,
        "others": others,
    }


def main() -> None:
    slide, out = Path(sys.argv[1]), Path(sys.argv[2])
    trials, draw = int(sys.argv[3]), random.Random(int(sys.argv[4]))
    # In this process, so that the children find everything imported and begin to write at once.
    ingest.ingest_slide(slide, out / "undisturbed", profile=PROFILE)
    full_s = min(timed(slide, out / f"timed-{n}") for n in range(3))
    with open_slide(slide) as opened:
        plan, _ = profiles.choose_plan(opened, PROFILE)
    files = count_files(out / "timed-0")
    for n in range(trials):
        print(json.dumps(trial(slide, out / str(n), plan, draw, (full_s, files))), flush=True)


if __name__ == "__main__":
    main()
