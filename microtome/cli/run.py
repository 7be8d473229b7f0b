"""``microtome run``: a whole cohort through its stages, by a plan."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from .common import STYLES, Jobs, MakeByDefault, Overwrite, console, summary_line
from .run_look import show_look

if TYPE_CHECKING:
    from ..engine.jobqueue import BatchSystem, JobProfile
    from ..engine.schedule import Pool
    from ..tasks.run.coordinate import Finished, Shard, Told
    from ..tasks.run.plan import Plan

STOPPED = 143
"""Exit code of a run that was told to stop: 128 and the number of SIGTERM."""


class Log(StrEnum):
    """How ends of steps are told."""

    AUTO = "auto"
    PLAIN = "plain"
    JSON = "json"


Cluster = Annotated[
    str | None,
    typer.Option(
        "--cluster",
        metavar="WHERE",
        help="In place of --jobs: slurm, pbs, sge or lsf, by the plan's table cluster; or the "
        "address of a Dask scheduler, tcp://HOST:8786.",
    ),
]
Detach = Annotated[
    bool,
    typer.Option(
        "--detach",
        help="Return at once: the run itself becomes a job of --cluster slurm, pbs, sge or lsf; "
        "else a process of this machine, that stays when you log out.",
    ),
]
PlanFile = Annotated[Path, typer.Argument(metavar="PLAN", help="A plan: TOML.")]
Part = Annotated[
    str | None,
    typer.Option("--shard", metavar="I/N", help="Only part I of N of the slides, counted from 1."),
]
LogForm = Annotated[
    Log,
    typer.Option(
        "--log", help="auto: in colour in a terminal, else plain. json: one object a line."
    ),
]
Deidentify = Annotated[
    bool,
    typer.Option(
        "--deidentify", help="Put pseudonyms for patients, slides and files in lines and report."
    ),
]

Roots = Annotated[
    list[str] | None,
    typer.Option(
        "--root",
        metavar="PLACE",
        help="Refuse a plan that names what does not lie in this folder, or below this URL; "
        "may be said several times.",
    ),
]
Metrics = Annotated[
    Path | None,
    typer.Option(
        "--metrics", metavar="FILE", help="Keep figures of the run there, for Prometheus: x.prom."
    ),
]


@dataclass(frozen=True)
class _How:
    """Where a run runs, and what it says of itself."""

    jobs: int
    cluster: str | None
    log: Log
    deidentify: bool
    metrics: Path | None


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(name="run", cls=MakeByDefault, no_args_is_help=True)
    group.callback()(run)
    group.command()(make)
    group.command()(retry)
    group.command()(status)
    group.command()(report)
    app.add_typer(group)


def run() -> None:
    """Run a whole cohort through its stages, as a plan says; only what is not there yet.

    [bold]microtome run plan.toml[/] is short for [bold]run make plan.toml[/].

    Example: [bold]microtome run plan.toml --dry-run[/]

    Example: [bold]microtome run plan.toml --jobs 8[/]
    """


def make(
    plan: PlanFile,
    *,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")
    ] = False,
    shard: Part = None,
    jobs: Jobs = 1,
    cluster: Cluster = None,
    overwrite: Overwrite = False,
    log: LogForm = Log.AUTO,
    deidentify: Deidentify = False,
    root: Roots = None,
    metrics: Metrics = None,
    detach: Detach = False,
) -> None:
    """Run a plan.

    Writes below the plan's folder OUT: products of each stage; OUT/run with a ledger a run, and
    logs of what was given up; OUT/run.html. Run it again after whatever happened: what is done
    is not done again, and what was begun is resumed.

    Ends with code 0 where all is done, 3 where items were rejected or failed, 143 where it was
    told to stop.

    Example: [bold]microtome run plan.toml --jobs 8[/]

    Example, a task of a job array: [bold]microtome run plan.toml --shard 3/40[/]
    """
    from ..tasks.run.coordinate import Shard

    read, part = _read(plan, root), Shard.of(shard)
    if dry_run:
        show_look(read, part, overwrite)
        return
    if detach:
        _detach(read, cluster)
        return
    _run(read, part, _How(jobs, cluster, log, deidentify, metrics), overwrite=overwrite)


def retry(
    plan: PlanFile,
    *,
    shard: Part = None,
    jobs: Jobs = 1,
    cluster: Cluster = None,
    overwrite: Overwrite = False,
    log: LogForm = Log.AUTO,
    deidentify: Deidentify = False,
    root: Roots = None,
    metrics: Metrics = None,
) -> None:
    """Run a plan, and try again what was left alone because it killed its process, or hung.

    Example: [bold]microtome run retry plan.toml[/]
    """
    from ..tasks.run.coordinate import Shard

    how = _How(jobs, cluster, log, deidentify, metrics)
    _run(_read(plan, root), Shard.of(shard), how, overwrite=overwrite, is_retry=True)


def status(plan: PlanFile) -> None:
    """Say how every step ended last, with the reasons, and which were slow; also while it runs.

    Ends with code 3 where items were rejected or failed.

    Example: [bold]microtome run status plan.toml[/]
    """
    from rich.console import Console
    from rich.table import Table

    from ..report.runs import STATES, counts_by_stage, slowest
    from ..tasks.run.history import last_made, read_history
    from ..tasks.run.plan import read_plan

    out = read_plan(plan).out
    ends = list(read_history(out).values())
    table = Table("stage", *STATES, title=str(out))
    for stage, counts in counts_by_stage(ends).items():
        table.add_row(stage, *(str(counts[state]) for state in STATES))
    screen = Console(highlight=False)
    screen.print(table)
    bad = [entry for entry in ends if entry.state in ("rejected", "failed")]
    lines = [f"{e.state}({e.reason}) {e.stage} {e.item}  {e.detail}" for e in bad]
    slow = [f"{e.seconds:.1f} s {e.stage} {e.item}" for e in slowest(list(last_made(out).values()))]
    screen.print(*lines, *slow, sep="\n", soft_wrap=True, markup=False)
    if bad:
        raise typer.Exit(3)


def report(
    plan: PlanFile,
    *,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="HTML file; OUT/run.html by default.")
    ] = None,
    deidentify: Deidentify = False,
) -> None:
    """Write the report of all runs of a plan so far.

    Example: [bold]microtome run report plan.toml --deidentify -o for-others.html[/]
    """
    from ..tasks.run.plan import read_plan

    read = read_plan(plan)
    _write_report(read, out or read.out / "run.html", _hider(read, deidentify))


def _read(plan: Path, roots: list[str] | None) -> Plan:
    from ..tasks.run.plan import read_plan
    from ..tasks.run.roots import require_within

    read = read_plan(plan)
    require_within(read, roots or [])
    return read


def _run(plan: Plan, shard: Shard, how: _How, *, overwrite: bool, is_retry: bool = False) -> None:
    from ..tasks.run.coordinate import check_plan, run_plan
    from ..tasks.run.stopping import HandedBack, stop_when_told

    # What is wrong with the plan is said before processes are started.
    check_plan(plan)
    hide = _hider(plan, how.deidentify)
    grace_s = plan.run.grace_s
    finished = None

    def on_stop() -> None:
        typer.echo(f"told to stop: {grace_s:g} s to finish", err=True)

    try:
        with (
            stop_when_told(grace_s, on_stop) as is_stopping,
            _pool(plan, how) as pool,
        ):
            finished = run_plan(
                plan,
                pool=pool,
                shard=shard,
                overwrite=overwrite,
                retry=is_retry,
                is_stopping=is_stopping,
                tell=_watched(_teller(how.log, hide), how.metrics),
            )
    except HandedBack:
        typer.echo("what was in flight is handed back", err=True)
    _end(plan, shard, finished, hide)


def _pool(plan: Plan, how: _How) -> AbstractContextManager[Pool]:
    from ..engine.jobqueue import open_job_pool
    from ..engine.schedule import open_pool

    system = _batch_system(how.cluster)
    if system is None:
        return open_pool(how.jobs, cluster=how.cluster)
    return open_job_pool(system, _profile(plan))


def _batch_system(cluster: str | None) -> BatchSystem | None:
    from ..engine.jobqueue import BATCH_SYSTEMS

    return next((system for system in BATCH_SYSTEMS if system == cluster), None)


def _profile(plan: Plan) -> JobProfile:
    from ..engine.jobqueue import JobProfile
    from ..storage.errors import PlanError

    if plan.cluster is None:
        raise PlanError(
            "the plan does not say what jobs to ask for", remedy="Add a table [cluster] to it"
        )
    return JobProfile(**dict(plan.cluster))


def _detach(plan: Plan, cluster: str | None) -> None:
    """Start this very command again, without ``--detach``, where it outlives this one."""
    import subprocess
    import sys

    from ..engine.jobqueue import submit_coordinator
    from ..tasks.run.coordinate import check_plan
    from ..tasks.run.history import FOLDER

    check_plan(plan)
    arguments = [argument for argument in sys.argv[1:] if argument != "--detach"]
    folder, system = plan.out / FOLDER, _batch_system(cluster)
    if system is not None:
        console.print(submit_coordinator(system, _profile(plan), arguments, folder))
        return
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "detached.log"
    with log.open("ab") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "microtome", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    console.print(f"process {process.pid}; it writes {log}", soft_wrap=True)


def _end(plan: Plan, shard: Shard, finished: Finished | None, hide: Callable[[str], str]) -> None:
    if finished is not None:
        console.print(summary_line("run", finished.ledger))
    if shard.is_whole:
        _write_report(plan, plan.out / "run.html", hide)
    if finished is None or finished.left:
        console.print("not all was begun; run the same command again to go on")
        raise typer.Exit(STOPPED)
    raise typer.Exit(finished.ledger.exit_code)


def _hider(plan: Plan, deidentify: bool) -> Callable[[str], str]:
    from ..tasks.run.names import hider

    return hider(plan) if deidentify else lambda text: text


def _teller(log: Log, hide: Callable[[str], str]) -> Callable[[Told], None]:
    """Prints one line an end: results of a run are its products, so lines go to standard error."""

    def tell(told: Told) -> None:
        entry = told.entry
        state = f"{entry.state}({entry.reason})" if entry.reason else entry.state
        item, words = hide(entry.item), hide(told.words)
        if log is Log.JSON:
            facts = {
                "time": entry.time, "state": entry.state, "reason": entry.reason,
                "stage": entry.stage, "item": item, "words": words,
                "seconds": entry.seconds, "ended": told.ended, "total": told.total,
            }  # fmt: skip
            typer.echo(json.dumps(facts), err=True)
            return
        line = f"{entry.stage} {item}  {words}  [{told.ended}/{told.total}, {entry.seconds:.1f} s]"
        if log is Log.AUTO and console.is_terminal:
            console.print(f"[{STYLES[entry.state]}]{state}[/] {escape(line)}", soft_wrap=True)
        else:
            typer.echo(f"{entry.time} {state} {line}", err=True)

    return tell


def _watched(tell: Callable[[Told], None], metrics: Path | None) -> Callable[[Told], None]:
    """Tells whoever reads lines, and keeps figures where they are asked for."""
    from ..tasks.run.metrics import RunMetrics

    if metrics is None:
        return tell
    figures = RunMetrics(metrics)

    def both(told: Told) -> None:
        tell(told)
        figures.note(told)

    return both


def _write_report(plan: Plan, path: Path, hide: Callable[[str], str]) -> None:
    from ..report import write_report
    from ..report.runs import run_report
    from ..tasks.run.history import last_made, read_history

    made = run_report(
        list(read_history(plan.out).values()),
        list(last_made(plan.out).values()),
        parameters={"output": hide(str(plan.out))},
        hide=hide,
    )
    console.print(f"report: {write_report(made, path)}", soft_wrap=True)
