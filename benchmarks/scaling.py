"""How far one coordinator reaches: workers, overhead, memory; and 100 nodes by arithmetic.

Run: ``python benchmarks/scaling.py`` (a quarter of an hour; ``--quick`` in two minutes, whose page
goes to standard output). Every measurement is taken in a process of its own:

- a real plan (ingest, tissue, encode) on this machine, with one worker and with two;
- tasks that do nothing, through Dask: what each costs the coordinator;
- 10,000 slides of 200 shards, by real Dask workers that sleep for work: the coordinator's memory,
  and how long the workers wait for it.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from large_slide import write_large_slide
from scaling_workers import nap
from tables import measured_on, table, verdict, write_report

SHARDS = 200
SHARDS_IN_TASK = 8
"""Of ingest: a cell of 4096 px has four shards of level 0, and one of each of four levels above."""

NODES, CORES = 100, 32
STAGES = 3
MEMORY_BAR_GIB = 2.0
HOSTS = 2
PLAN = 'cohort = "cohort.csv"\nout = "out"\n[ingest]\nprofile = "compatible"\n[tissue]\n[encode]\n'


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    real_slides: int = 8
    side_px: int = 8192
    empty_tasks: int = 10_000
    slides: int = 10_000
    workers: int = 100
    nap_s: float = 1.0


QUICK = Size(2, 2048, 200, 20, 8, 0.2)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("--quick", action="store_true")
    size = QUICK if options.parse_args().quick else Size()
    found: dict[str, Any] = {}
    with TemporaryDirectory() as folder:
        painted(Path(folder), size)
        for jobs in (1, 2):
            found[f"plan {jobs}"] = apart("plan", size, folder=folder, jobs=jobs)
    for name in ("empty", "steps", "superblocks"):
        found[name] = apart(name, size)
    lines = page(found, size)
    if size is QUICK:
        print("\n".join(lines))
    else:
        write_report("scaling.md", lines)


def apart(name: str, size: Size, **further: Any) -> dict[str, Any]:
    """Take a measurement in a new process, so that its memory is its own."""
    question = json.dumps({"name": name, "size": asdict(size), **further})
    ended = subprocess.run(
        [sys.executable, __file__, question], stdout=subprocess.PIPE, check=True, text=True
    )
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    print(name, further.get("jobs", ""), json.dumps(found), file=sys.stderr, flush=True)
    return found


def answer(question: dict[str, Any]) -> dict[str, Any]:
    """What :func:`apart` asks for; with the most memory that this process ever held."""
    size = Size(**question["size"])
    if question["name"] == "plan":
        return measure_plan(Path(question["folder"]), question["jobs"])
    measure = {"empty": measure_empty, "steps": measure_steps, "superblocks": measure_superblocks}
    found = measure[question["name"]](size)
    return found | {"memory_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2}


def painted(folder: Path, size: Size) -> None:
    """Slides that are alike, and a plan for them."""
    first = write_large_slide(folder / "s0.tif", size.side_px)
    for number in range(1, size.real_slides):
        shutil.copyfile(first, folder / f"s{number}.tif")
    rows = [f"s{number},s{number}.tif,p{number}" for number in range(size.real_slides)]
    (folder / "cohort.csv").write_text("\n".join(["id,path,patient", *rows]) + "\n")
    (folder / "plan.toml").write_text(PLAN)


def measure_plan(folder: Path, jobs: int) -> dict[str, Any]:
    """Run the plan anew; the start of the workers does not count, as a cluster's are there."""
    from microtome.engine.schedule import open_pool, run_items
    from microtome.tasks.run.coordinate import run_plan
    from microtome.tasks.run.plan import read_plan

    shutil.rmtree(folder / "out", ignore_errors=True)
    with open_pool(jobs) as pool:
        run_items(range(2 * jobs), partial(nap, seconds=0.5), pool=pool)
        start = time.perf_counter()
        finished = run_plan(read_plan(folder / "plan.toml"), pool=pool)
        seconds = time.perf_counter() - start
    shards = sum(path.is_file() for path in folder.glob("out/slides/*.ome.zarr/*/c/**/*"))
    by_stage = {
        stage: sum(e.seconds for e in finished.ledger.entries if e.stage == stage)
        for stage in ("ingest", "tissue", "encode")
    }
    states = finished.ledger.counts()
    return {"seconds": seconds, "shards": shards, "states": states, "busy_s": by_stage}


@contextmanager
def stand_ins(count: int) -> Iterator[Any]:
    """A pool of that many workers, which live in processes of their own; the scheduler in this."""
    import dask
    from distributed import Client, LocalCluster

    from microtome.engine.pools import on_dask

    settings = {"distributed.scheduler.allowed-failures": 0}
    with (
        dask.config.set(settings),
        LocalCluster(n_workers=0, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster) as client,
    ):
        program = Path(__file__).with_name("scaling_workers.py")
        shares = [len(range(n, count, HOSTS)) for n in range(HOSTS)]
        hosts = [
            subprocess.Popen([sys.executable, program, client.scheduler.address, str(share)])
            for share in shares
            if share
        ]
        try:
            client.wait_for_workers(count)
            yield on_dask(client, count, "stand-in workers", "")
        finally:
            for host in hosts:
                host.terminate()
                host.wait()


def measure_empty(size: Size) -> dict[str, Any]:
    """Tasks that do nothing, by one worker."""
    from microtome.engine.schedule import run_items

    with stand_ins(1) as pool:
        run_items(range(100), partial(nap, seconds=0), pool=pool)
        wall, processor = time.perf_counter(), time.process_time()
        run_items(range(size.empty_tasks), partial(nap, seconds=0), pool=pool, window=4)
        wall, processor = time.perf_counter() - wall, time.process_time() - processor
    return {"wall_us": 1e6 * wall / size.empty_tasks, "cpu_us": 1e6 * processor / size.empty_tasks}


def measure_steps(size: Size) -> dict[str, Any]:
    """The steps of a plan of so many slides, as ``microtome run`` hands them out, each a nap."""
    from microtome.engine.flow import run_steps
    from microtome.storage.ledger import Ledger
    from microtome.tasks.run.coordinate import steps_of
    from microtome.tasks.run.plan import read_plan

    with TemporaryDirectory() as folder:
        plan = Path(folder) / "plan.toml"
        plan.write_text(PLAN)
        rows = [f"slide-{n},/slides/{n}.svs,patient-{n}" for n in range(size.slides)]
        plan.with_name("cohort.csv").write_text("\n".join(["id,path,patient", *rows]) + "\n")
        ledger = Ledger(plan.with_name("ledger.jsonl"))
        with stand_ins(size.workers) as pool:
            wall, processor = time.perf_counter(), time.process_time()
            steps = steps_of(read_plan(plan))
            ended = run_steps(
                steps,
                partial(nap, seconds=size.nap_s),
                pool=pool,
                on_end=lambda step, outcome: ledger.record(outcome.entry),
            )
            wall, processor = time.perf_counter() - wall, time.process_time() - processor
    assert ledger.counts() == {"done": STAGES * size.slides}
    napped = sum(outcome.value or 0 for outcome in ended.values())
    return {
        "tasks": len(ended),
        "wall_s": wall,
        "cpu_us": 1e6 * processor / len(ended),
        "efficiency": napped / size.workers / wall,
    }


def measure_superblocks(size: Size) -> dict[str, Any]:
    """The shards of so many slides, one slide after another, as ingest spreads one over workers."""
    from microtome.engine.schedule import run_items

    of_slide = SHARDS // SHARDS_IN_TASK
    with stand_ins(size.workers) as pool:
        wall, processor = time.perf_counter(), time.process_time()
        for _ in range(size.slides):
            run_items(range(of_slide), partial(nap, seconds=0), pool=pool)
        wall, processor = time.perf_counter() - wall, time.process_time() - processor
    tasks = size.slides * of_slide
    return {"tasks": tasks, "wall_s": wall, "cpu_us": 1e6 * processor / tasks}


def page(found: dict[str, Any], size: Size) -> list[str]:
    """The page, in Markdown."""
    one, two = found["plan 1"], found["plan 2"]
    empty, steps, blocks = found["empty"], found["steps"], found["superblocks"]
    per_shard_s = sum(one["busy_s"].values()) / one["shards"]
    memory = max(steps["memory_gib"], blocks["memory_gib"])
    rows = [[str(jobs), f"{run['seconds']:.1f}", f"{one['seconds'] / run['seconds']:.2f}"]
            for jobs, run in ((1, one), (2, two))]  # fmt: skip
    return [
        "# How far one coordinator reaches",
        "",
        "Written by `benchmarks/scaling.py`.",
        "",
        (f"## Workers of this machine: {size.real_slides} slides of {size.side_px:,} × "
        f"{size.side_px:,} px through ingest, tissue and encode"),
        "",
        *table(["workers", "seconds", "over one"], rows),
        "",
        f"{one['shards']} shards; one costs a worker {1e3 * per_shard_s:.0f} ms, all stages told.",
        "",
        "## What a task costs the coordinator",
        "",
        *overhead_rows(empty, steps, blocks),
        "",
        f"## {size.slides:,} slides of {SHARDS} shards, by {size.workers} workers that sleep",
        "",
        *simulated_rows(steps, blocks),
        "",
        verdict("memory of the coordinator, its scheduler included", memory, -MEMORY_BAR_GIB,
                unit=" GiB"),
        (f"- {size.workers} workers that nap {size.nap_s:g} s a step were busy "
        f"{steps['efficiency']:.1%} of the time; a step of {SHARDS} shards takes "
        f"{per_shard_s * SHARDS / STAGES:.0f} s here, so that they would wait for their "
        "coordinator far less"),
        "",
        *extrapolated(per_shard_s, steps["cpu_us"] / 1e6, one["seconds"] / two["seconds"], size),
        "",
        measured_on("dask", "distributed"),
    ]  # fmt: skip


def overhead_rows(
    empty: dict[str, Any], steps: dict[str, Any], blocks: dict[str, Any]
) -> list[str]:
    rows = [
        ["a task that does nothing, one worker (wall)", empty["wall_us"], SHARDS_IN_TASK],
        ["the same (processor of the coordinator)", empty["cpu_us"], SHARDS_IN_TASK],
        ["a superblock of one slide over many workers (processor)", blocks["cpu_us"],
         SHARDS_IN_TASK],
        ["a step of a plan (processor), ledger on disk included", steps["cpu_us"], SHARDS],
    ]  # fmt: skip
    return table(
        ["what", "µs a task", "shards in it", "µs a shard"],
        [[what, f"{us:,.0f}", str(n), f"{us / n:,.1f}"] for what, us, n in rows],
    )


def simulated_rows(steps: dict[str, Any], blocks: dict[str, Any]) -> list[str]:
    rows = [
        [name, f"{run['tasks']:,}", f"{run['wall_s']:,.0f}", f"{run['memory_gib']:.2f}"]
        for name, run in (
            ("a plan: a task is a stage of a slide", steps),
            ("one slide over all workers: a task is a superblock", blocks),
        )
    ]
    return table(["how", "tasks", "seconds", "most memory (GiB)"], rows)


def extrapolated(per_shard_s: float, cost_s: float, speedup: float, size: Size) -> list[str]:
    """Efficiency by arithmetic, from what was measured."""
    step_s, steps = per_shard_s * SHARDS / STAGES, STAGES * size.slides
    rows = []
    for nodes in (1, 10, NODES):
        workers = nodes * CORES
        ideal_s = steps * step_s / workers
        # Either the workers are the limit, or the coordinator, which hands out one step at a time;
        # then the last slides go through what is left of their stages, with ever fewer of them.
        busy_s = max(ideal_s, steps * cost_s)
        tail_s = STAGES * step_s / 2
        share = workers / step_s * cost_s
        rows.append([f"{nodes}", f"{workers:,}", f"{ideal_s / 3600:,.2f}", f"{share:.1%}",
                     f"{ideal_s / (busy_s + tail_s):.1%}"])  # fmt: skip
    return [
        f"## {NODES} nodes, by arithmetic",
        "",
        *table(["nodes", "workers", "hours at best", "coordinator busy", "efficiency"], rows),
        "",
        (
            f"Assumed, not measured: nodes of {CORES} cores, each as fast as one of this machine "
            f"working alone; slides alike, of {SHARDS} shards; a file system and a network that "
            "keep up; no node lost. Measured: a shard takes "
            f"{1e3 * per_shard_s:.0f} ms, a step costs the coordinator {1e6 * cost_s:,.0f} µs. "
            "At the end the last slides' stages follow one another while other workers have "
            "nothing left to do: half the length of a slide's stages is counted for that. Two "
            f"workers of this machine do {speedup:.2f} times the work of one: what cores of a node "
            "take from each other (memory, caches, the clock) comes on top, and depends on it."
        ),
    ]


if __name__ == "__main__":
    if len(sys.argv) == 2 and sys.argv[1].startswith("{"):
        print(json.dumps(answer(json.loads(sys.argv[1]))))
    else:
        main()
