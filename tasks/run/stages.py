"""The stages that a plan may name: what each takes, makes, and by which function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ...engine.schedule import Skipped
from ...engine.tissue.store import SUFFIX as MASK
from ...storage.bags import SUFFIX as BAG
from ...storage.connectomes import SUFFIX as CONNECTOMES
from ...storage.errors import PlanError
from ...storage.stored_slides import SUFFIX as IMAGE
from . import brain, slides, study
from .plan import Plan
from .task import Made, Task


@dataclass(frozen=True)
class Stage:
    """One kind of work.

    Attributes
    ----------
    name
        As the plan's table: ``mil train`` is ``[mil.train]``.
    per
        Made once for each slide, or once for the whole cohort.
    takes
        Stages whose products it takes, where the plan has them: those of its slide, for a stage
        that is made for each slide.
    product
        Where, below the plan's ``out``, its product lies; ``{id}`` is the slide's.
    make
        Makes the product of a task, or says that it is there already.
    needs
        Stages without which it has no input; one of them must be in the plan.
    reads_slide
        Whether it reads the slide's own file.
    """

    name: str
    per: Literal["slide", "cohort"]
    takes: tuple[str, ...]
    product: str
    make: Callable[[Task], Made | Skipped[Made]]
    needs: tuple[str, ...] = ()
    reads_slide: bool = False

    def path(self, plan: Plan, id_: str = "") -> Path:
        """Where the product of a slide, or of the cohort, lies."""
        return plan.out / self.product.format(id=id_)


STAGES = (
    Stage("ingest", "slide", (), f"slides/{{id}}{IMAGE}", slides.ingest, reads_slide=True),
    Stage("tissue", "slide", ("ingest",), f"tissue/{{id}}{MASK}", slides.tissue, reads_slide=True),
    Stage("encode", "slide", ("tissue",), f"bags/{{id}}{BAG}", slides.encode, reads_slide=True),
    Stage("mil train", "cohort", ("encode",), "mil", study.train, ("encode",)),
    Stage("mil predict", "cohort", ("encode",), "predicted", study.predict, ("encode",)),
    Stage(
        "heatmap", "slide", ("encode", "mil train", "mil predict"),
        "heatmaps/{id}.geojson.gz", study.heatmap, ("mil train", "mil predict"), reads_slide=True,
    ),
    Stage("connectome build", "cohort", (), f"networks{CONNECTOMES}", brain.build),
    Stage(
        "connectome diagnose", "cohort", ("connectome build",),
        "diagnosis", brain.diagnose, ("connectome build",),
    ),
)  # fmt: skip
"""In an order in which each comes after those that it takes. A new stage is one entry here, and a
table of the same name in the plan."""


def stages_of(plan: Plan) -> list[Stage]:
    """The stages that a plan asks for.

    Raises
    ------
    PlanError
        It asks for none, for one without its input, or for slides without a cohort.
    """
    chosen = [stage for stage in STAGES if plan.part(stage.name) is not None]
    names = {stage.name for stage in chosen}
    if not chosen:
        tables = ", ".join(f"[{stage.name.replace(' ', '.')}]" for stage in STAGES)
        raise PlanError("the plan has no stage", remedy=f"There are {tables}")
    for stage in chosen:
        if stage.needs and names.isdisjoint(stage.needs):
            wanted = " or ".join(stage.needs)
            raise PlanError(
                f"the stage {stage.name!r} has no input", remedy=f"Add the stage {wanted} to it"
            )
    if plan.cohort is None and any(stage.per == "slide" for stage in chosen):
        raise PlanError("stages of slides have no slides", remedy="Name a table with cohort = …")
    return chosen


def run_task(task: Task) -> Made | Skipped[Made]:
    """Make the product of a task."""
    return stage_named(task.stage).make(task)


def stage_named(name: str) -> Stage:
    """A stage by its name."""
    return next(stage for stage in STAGES if stage.name == name)
