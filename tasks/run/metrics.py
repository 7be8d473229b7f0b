"""Figures of a run for Prometheus: a text file, which its node exporter collects."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ...storage.commit import writable

if TYPE_CHECKING:
    from .coordinate import Told


class RunMetrics:
    """Keeps a file of figures up to date, as steps of a run end; whole at any time.

    Parameters
    ----------
    path
        The file; the node exporter's textfile collector takes those called ``*.prom``.
    """

    def __init__(self, path: Path) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge, ProcessCollector, Summary

        self._path = path
        self._registry = CollectorRegistry()
        self._ends = Counter(
            "microtome_step_ends",
            "Ends of steps, those that are tried again among them",
            ("stage", "state", "reason"),
            registry=self._registry,
        )
        self._seconds = Summary(
            "microtome_step_seconds",
            "How long steps took that made their product",
            ("stage",),
            registry=self._registry,
        )
        self._total = Gauge("microtome_steps", "Steps of this run", registry=self._registry)
        self._ended = Gauge(
            "microtome_steps_ended", "Steps that have ended for good", registry=self._registry
        )
        ProcessCollector("microtome_coordinator", registry=self._registry)

    def note(self, told: Told) -> None:
        """A step has ended.

        Raises
        ------
        UnwritableOutput
            The file cannot be written.
        """
        from prometheus_client import write_to_textfile

        entry = told.entry
        self._ends.labels(entry.stage, entry.state, entry.reason).inc()
        if entry.state == "done":
            self._seconds.labels(entry.stage).observe(entry.seconds)
        self._total.set(told.total)
        self._ended.set(told.ended)
        with writable(self._path):
            write_to_textfile(str(self._path), self._registry)
