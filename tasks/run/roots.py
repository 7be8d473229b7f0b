"""Places that a plan and its cohort may name, where roots are declared."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import BaseModel

from ...storage.errors import PlanError
from ...storage.objects import url_of
from .coordinate import Shard, slides_of
from .plan import Plan


def require_within(plan: Plan, roots: Sequence[str]) -> None:
    """Refuse a plan that reads or writes outside of declared roots; none declared, none refused.

    Symbolic links are followed before it is looked where a place lies. Looked at are all paths and
    URLs of the plan, an encoder that is a file, and the slides of the cohort; not what a slide's
    file or a model may name in its turn.

    Parameters
    ----------
    roots
        Folders, or URLs.

    Raises
    ------
    PlanError
        It names one that lies elsewhere.
    CohortError, MissingFile
        The cohort cannot be read.
    """
    if not roots:
        return
    # The table first: it is not to be read where it lies outside.
    for places in (_places(plan), (str(slide.path) for slide in slides_of(plan, Shard()))):
        for place in places:
            if not any(_lies_in(place, root) for root in roots):
                raise PlanError(
                    f"lies outside of {' and '.join(roots)}",
                    where=place,
                    remedy="Name another place, or declare this one's folder with --root",
                )


def _places(part: BaseModel) -> Iterator[str]:
    for name in type(part).model_fields:
        value = getattr(part, name)
        for found in value if isinstance(value, tuple) else (value,):
            if isinstance(found, BaseModel):
                yield from _places(found)
            elif isinstance(found, Path):
                yield str(found)
            elif isinstance(found, str) and (url_of(found) or Path(found).exists()):
                yield found


def _lies_in(place: str, root: str) -> bool:
    url, base = url_of(place), url_of(root)
    if url is not None or base is not None:
        if url is None or base is None or ".." in url.split("/"):
            return False
        return f"{url}/".startswith(f"{base.rstrip('/')}/")
    return Path(place).resolve().is_relative_to(Path(root).resolve())
