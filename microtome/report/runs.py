"""The report of a run: how every item ended, what was slow, what is to be mended."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime

from ..storage.errors import ItemState
from ..storage.ledger import Entry
from .model import BrainSection, KeyFigure, Rejection, Report
from .render import versions

SLOWEST = 10
STATES: tuple[ItemState, ...] = ("done", "skipped", "rejected", "failed")


def slowest(entries: Sequence[Entry], n: int = SLOWEST) -> list[Entry]:
    """The steps that took longest."""
    return sorted(entries, key=lambda entry: -entry.seconds)[:n]


def counts_by_stage(entries: Sequence[Entry]) -> dict[str, Counter[ItemState]]:
    """How many items ended in each state, by stage."""
    found: defaultdict[str, Counter[ItemState]] = defaultdict(Counter)
    for entry in entries:
        found[entry.stage][entry.state] += 1
    return dict(found)


def run_report(
    ends: Sequence[Entry],
    made: Sequence[Entry],
    *,
    parameters: Mapping[str, str],
    hide: Callable[[str], str] = lambda text: text,
) -> Report:
    """A report of how every step ended last.

    Parameters
    ----------
    made
        The last time that each product was made, which may be an earlier run.
    hide
        Puts pseudonyms in place of names.
    """
    states = Counter(entry.state for entry in ends)
    bad = [entry for entry in ends if entry.state in ("rejected", "failed")]
    return Report(
        title="Run",
        summary=f"{len(ends)} steps, {len(bad)} of which made nothing.",
        made=datetime.now(UTC).strftime("%d %B %Y, %H:%M UTC"),
        key_figures=tuple(KeyFigure(state, str(states[state])) for state in STATES),
        brain=BrainSection(
            summary="How the steps of each stage ended last; seconds of work, over all processes, "
            "of what was made; and the steps that took longest.",
            facts=_stages(ends, made) | _stragglers(made, hide),
            title="Stages and time",
        ),
        rejected=tuple(
            Rejection(hide(f"{e.stage} {e.item}"), f"{e.state}({e.reason})", hide(e.detail))
            for e in bad
        ),
        parameters=parameters,
        versions=versions(("microtome", "dask", "openslide-python", "torch")),
    )


def _stages(ends: Sequence[Entry], made: Sequence[Entry]) -> dict[str, str]:
    seconds: defaultdict[str, float] = defaultdict(float)
    for entry in made:
        seconds[entry.stage] += entry.seconds
    return {
        stage: f"{_in_words(counts)}; {seconds[stage]:,.1f} s"
        for stage, counts in counts_by_stage(ends).items()
    }


def _in_words(counts: Counter[ItemState]) -> str:
    return ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])


def _stragglers(made: Sequence[Entry], hide: Callable[[str], str]) -> dict[str, str]:
    return {
        f"slowest {n}": f"{hide(f'{e.stage} {e.item}')}: {e.seconds:,.1f} s"
        for n, e in enumerate(slowest(made), start=1)
    }
