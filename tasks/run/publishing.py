"""Products of a run into an object store, each as soon as it is done, by whoever made it."""

from __future__ import annotations

from dataclasses import replace
from glob import escape
from pathlib import Path

from ...engine.schedule import Skipped
from ...storage.errors import PlanError
from ...storage.objects import url_of
from ...storage.publishing import Published, is_private
from ..publish_run import publish_part
from .plan import Plan
from .stages import run_task, stage_named
from .task import Made, Task


def check_publish(plan: Plan) -> None:
    """Refuse a place to publish to that is none.

    Raises
    ------
    PlanError
    """
    url = plan.run.publish
    if url is not None and url_of(url) is None:
        raise PlanError(f"run.publish: {url!r} is no URL", remedy="Write s3://BUCKET/FOLDER")


def run_and_publish(task: Task) -> Made | Skipped[Made]:
    """Make the product of a task; done only when it is published too, where the plan asks for it.

    Raises
    ------
    NoStore
        It cannot be published. What was made is there; the next run goes on with publishing it.
    """
    result = run_task(task)
    url = task.plan.run.publish
    if url is None:
        return result
    done = Published()
    for place in places_of(task):
        sent = publish_part(place, folder=task.plan.out, url=url, overwrite=task.overwrite)
        done += sent.value if isinstance(sent, Skipped) else sent
    made = result.value if isinstance(result, Skipped) else result
    told = replace(made, words=f"{made.words}, {done.sent} files published".removeprefix(", "))
    return Skipped(told) if isinstance(result, Skipped) else told


def places_of(task: Task) -> list[Path]:
    """What a task has made: its product, what lies beside it, and an image that it wrote into."""
    plan, stage = task.plan, stage_named(task.stage)
    if task.slide is None:
        return [stage.path(plan)]
    product = stage.path(plan, task.slide.id)
    beside = sorted(product.parent.glob(f"{escape(task.slide.id)}.*"))
    places = [path for path in beside if path == product or path.is_file()]
    # Views of a bag lie in folders of their own.
    places += sorted(product.parent.glob(f"*/{escape(product.name)}"))
    image = stage_named("ingest").path(plan, task.slide.id)
    if task.stage == "tissue" and image.is_dir():
        places.append(image)
    return [path for path in places if not is_private(path)]
