"""What every command shares: options, progress, the ledger, exit codes."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from typer.core import TyperGroup

if TYPE_CHECKING:
    from ..engine.schedule import Outcome, Pool, Skipped
    from ..engine.slides import Mpp
    from ..storage.ledger import Ledger

T = TypeVar("T")
R = TypeVar("R")

Jobs = Annotated[int, typer.Option("--jobs", "-j", min=1, help="Processes to work with.")]
Cluster = Annotated[
    str | None,
    typer.Option(
        "--cluster",
        metavar="ADDRESS",
        help="Dask scheduler whose workers do the work, in place of --jobs: tcp://HOST:8786.",
    ),
]
Device = Annotated[str, typer.Option("--device", help="Where torch computes: cpu, cuda, cuda:1.")]
Slides = Annotated[list[str], typer.Argument(help="Slides, patterns, or cohort tables.")]
Masks = Annotated[
    Path | None,
    typer.Option(help="Folder of <id>.tissue.zarr to use, in place of finding the tissue."),
]
MeasuredBy = Annotated[
    Path | None,
    typer.Option("--masks", help="Folder of <id>.tissue.zarr to measure the tissue by."),
]
Series = Annotated[str | None, typer.Option(help="Series of a DICOM folder, by its number or UID.")]
Bags = Annotated[list[Path], typer.Argument(help="Bags, or folders of them.")]
MilModel = Annotated[Path, typer.Argument(help="OUT/model of mil train.")]
ModelOrPredictions = Annotated[Path, typer.Argument(help="A model, or predictions.")]
Connectomes = Annotated[Path, typer.Argument(help="A NAME.connectomes.zarr.", exists=True)]
SubjectTable = Annotated[
    Path, typer.Option("--table", "-t", help="CSV or TSV with a row a subject.", exists=True)
]
SubjectColumn = Annotated[
    str, typer.Option(help="Column that names the subjects as the cohort does.")
]
Atlas = Annotated[
    Path | None, typer.Option(exists=True, help="Label image that divides scans into regions.")
]
AtlasNames = Annotated[
    Path | None,
    typer.Option(exists=True, help="Names of labels: SPM .xml, or a table with index and name."),
]
ResampleAtlas = Annotated[
    bool, typer.Option("--resample", help="Move labels to the scan's grid, nearest neighbour.")
]
LeaveOut = Annotated[
    list[str] | None, typer.Option(help="Region of the atlas to do without; repeatable.")
]
NewFolder = Annotated[Path, typer.Option("--out", "-o", help="Folder to make.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder to write into.")]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace products made with other parameters.")
]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed; equal seeds give equal results.")]


def slide_mpp_of(text: str) -> Mpp:
    """A pixel size, or ``objective``."""
    if text == "objective":
        return "objective"
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is neither a number nor 'objective'") from None


def number_range(text: str) -> tuple[float, float]:
    """Two numbers written as ``LOW:HIGH``."""
    try:
        low, high = (float(part) for part in text.split(":"))
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not two numbers with a colon between") from None
    return low, high


SLIDE_MPP_HELP = (
    "µm per slide pixel, where the file states none or lies; 'objective' takes 10 µm / objective "
    "power where it states none."
)
SlideMpp = Annotated[
    Any, typer.Option("--slide-mpp", parser=slide_mpp_of, metavar="UM", help=SLIDE_MPP_HELP)
]

console = Console(stderr=True, highlight=False)
"""Messages and progress; results go to standard output."""

STYLES = {"done": "green", "skipped": "dim", "rejected": "yellow", "failed": "red"}


class MakeByDefault(TyperGroup):
    """A group whose command ``make`` need not be named."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put ``make`` first where no command is."""
        if args and args[0] not in (*self.commands, *ctx.help_option_names):
            args = ["make", *args]
        return super().parse_args(ctx, args)


def names_in(text: str | None) -> tuple[str, ...]:
    """Names that an option takes as ``A,B``."""
    return tuple(name.strip() for name in (text or "").split(",") if name.strip())


def class_pairs(texts: Sequence[str], form: str) -> dict[str, str]:
    """What ``--class`` says, by the name of the class; ``form`` is how it is written."""
    found = {}
    for text in texts:
        name, equals, meaning = text.rpartition("=")
        if not (name and equals and meaning):
            raise typer.BadParameter(f"--class takes {form}, not {text!r}")
        found[name] = meaning
    return found


def debugging() -> bool:
    """Whether the user asked for tracebacks with --debug."""
    return os.environ.get("MICROTOME_DEBUG") == "1"


def progress_bar() -> Progress:
    """A progress bar on standard error, with time left."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
    )


def run_with_progress(
    title: str,
    items: Sequence[T],
    work: Callable[[T], R | Skipped[R]],
    *,
    name: Callable[[T], str] = str,
    jobs: int = 1,
    ledger: Path | None = None,
    say: Callable[[R], str] | None = None,
    pool: Pool | None = None,
) -> list[Outcome[R]]:
    """Run work over items with a bar, one line an item, and a summary.

    Parameters
    ----------
    ledger
        File that every item's end is appended to.
    say
        What to print of an item's result, in a few words.
    pool
        Where to run, in place of ``jobs``.
    """
    from ..engine.schedule import run_items
    from ..storage.ledger import Ledger

    book = Ledger(ledger)
    with progress_bar() as bar:
        task = bar.add_task(title, total=len(items))

        def show(outcome: Outcome[R]) -> None:
            # Not broken at a terminal's width: a log is searched by line.
            bar.console.print(outcome_line(outcome, say), soft_wrap=True)
            bar.advance(task)

        outcomes = run_items(
            items,
            work,
            name=name,
            jobs=jobs,
            ledger=book,
            on_done=show,
            debug=debugging(),
            pool=pool,
        )
    console.print(summary_line(title, book))
    return outcomes


def outcome_line(outcome: Outcome[R], say: Callable[[R], str] | None = None) -> str:
    """How an item ended, on one line, marked up."""
    words = str(outcome.error) if outcome.error is not None else ""
    if outcome.value is not None and say is not None:
        words = say(outcome.value)
    style = STYLES[outcome.state]
    state = f"{outcome.state}({outcome.reason})" if outcome.reason else outcome.state
    return f"[{style}]{state}[/] {escape(outcome.item)}  {escape(words)}"


def summary_line(title: str, ledger: Ledger) -> str:
    """How many items of a run ended in each state."""
    counts = ", ".join(f"{n} {state}" for state, n in sorted(ledger.counts().items()))
    return f"{title}: {counts or 'nothing to do'}"


def exit_unless_all_done(outcomes: Sequence[Outcome[R]]) -> None:
    """End the command with code 3 when an item was rejected or failed."""
    if any(o.state not in ("done", "skipped") for o in outcomes):
        raise typer.Exit(3)
