"""Both halves, and the report that shows them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..cli.common import console
from ..report import BrainSection, KeyFigure, Report, versions, write_report
from .brain import BrainPlan, run_brain
from .pathology import Pathology, PathologyPlan, median_tile_auc, run_pathology
from .steps import now

LIMITS = (
    "The slides are painted and the brains simulated; the figures say nothing about patients.",
    "A tile's score is the model's evidence for the slide's class, no calibrated probability.",
    "With few patients an interval is wide, and one of [1, 1] only says that no error was seen.",
    "For research; not a medical device.",
)


@dataclass(frozen=True)
class DemoPlan:
    """What the demonstration makes."""

    pathology: PathologyPlan = field(default_factory=PathologyPlan)
    brain: BrainPlan = field(default_factory=BrainPlan)

    @classmethod
    def of(cls, *, small: bool, seed: int) -> DemoPlan:
        """The whole, or a small one that takes a minute and whose figures mean less."""
        plan = cls()
        if small:
            plan = cls(
                PathologyPlan(n_slides=14, side_px=(2200, 3200), large_px=None, n_folds=4),
                BrainPlan(n_subjects=40, n_regions=24, n_timepoints=150, n_folds=3),
            )
        return cls(replace(plan.pathology, seed=seed), replace(plan.brain, seed=seed))


def run_demo(out: Path, plan: DemoPlan, *, jobs: int, overwrite: bool) -> Path:
    """Run both halves and write ``out/report.html``, whose path is returned."""
    console.rule("pathology: slides in, heatmaps out")
    pathology = run_pathology(out, plan.pathology, jobs=jobs, overwrite=overwrite)
    console.rule("brain: scans in, a diagnosed connectome out")
    with _spinner() as tell:
        brain = run_brain(out / "brain", plan.brain, jobs=jobs, on_step=tell, overwrite=overwrite)
    return write_report(_report(pathology, brain, plan, jobs), out / "report.html")


@contextmanager
def _spinner() -> Iterator[Callable[[str], None]]:
    with console.status("brain") as status:

        def tell(step: str) -> None:
            console.print(f"brain: {step}")
            status.update(f"brain: {step}")

        yield tell


def default_jobs() -> int:
    """Two, where there are two cores: more slides at once need more memory than 4 GiB."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(2, cores or 1)


def _report(pathology: Pathology, brain: BrainSection, plan: DemoPlan, jobs: int) -> Report:
    study = pathology.study
    model = study.figures[study.model]["auc"]
    diagnosis = brain.figures[0].rows[0]
    figures = (
        KeyFigure("slides: AUC", f"{model.value:.2f}", f"[{model.low:.2f}, {model.high:.2f}]"),
        KeyFigure("tiles: median AUC", f"{median_tile_auc(pathology):.2f}", "against the truth"),
        KeyFigure(
            "brain: AUC",
            f"{diagnosis.value:.2f}",
            f"[{diagnosis.low:.2f}, {diagnosis.high:.2f}] {diagnosis.name}",
        ),
    )
    return Report(
        title="Microtome demonstration",
        summary=f"{study.slides} painted slides of {study.patients} patients: attention MIL from "
        "labels of slides alone, every slide predicted by models that never saw its patient. "
        "A simulated brain study beside it.",
        made=now(),
        key_figures=figures,
        figures=pathology.figures,
        target="tumour",
        slides=pathology.panels,
        brain=brain,
        parameters={
            "seed": str(plan.pathology.seed),
            "processes": str(jobs),
            "folds": str(plan.pathology.n_folds),
            "splits": study.splits[:16],
        },
        versions=versions(("microtome", "torch", "dgl", "openslide-python", "tifffile", "zarr")),
        limits=LIMITS,
    )
