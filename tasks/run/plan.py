"""The plan: which cohort goes through which stages, with which options; typed, and from TOML."""

from __future__ import annotations

import difflib
import re
import tomllib
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from ...storage.errors import MissingFile, PlanError
from .parts import (
    FOLDER,
    ClusterPart,
    ConnectomePart,
    EncodePart,
    HeatmapPart,
    IngestPart,
    MilPart,
    Part,
    PlanPath,
    RunPart,
    TissuePart,
)


class Plan(Part):
    """A whole plan; a stage is run where its table is there.

    Attributes
    ----------
    cohort
        Table of slides or scans (:func:`~microtome.tasks.cohort.read_cohort`).
    out
        Folder that everything is written below.
    slide_mpp
        µm per slide pixel, where neither the file nor the cohort states it.
    """

    cohort: PlanPath | None = None
    out: PlanPath
    slide_mpp: float | Literal["objective"] | None = None
    run: RunPart = RunPart()
    cluster: ClusterPart | None = None
    ingest: IngestPart | None = None
    tissue: TissuePart | None = None
    encode: EncodePart | None = None
    mil: MilPart = MilPart()
    heatmap: HeatmapPart | None = None
    connectome: ConnectomePart = ConnectomePart()

    def part(self, stage: str) -> Part | None:
        """Options of a stage by its name, such as ``mil train``; None where it is not asked for."""
        found: Any = self
        for name in stage.split():
            found = getattr(found, name)
        return found if isinstance(found, Part) else None


def read_plan(path: Path) -> Plan:
    """Read a plan.

    Raises
    ------
    MissingFile
        There is none.
    PlanError
        It is not TOML, or has an unknown key or a wrong value; with the line, and for a key with
        the known one that it is nearest to.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise MissingFile("no such plan", where=path, remedy="Check the path") from error
    except UnicodeDecodeError as error:
        raise PlanError("is not UTF-8 text", where=path) from error
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise PlanError(f"is not TOML: {error}", where=path, remedy="Mend this line") from error
    try:
        return Plan.model_validate(values, context={FOLDER: path.absolute().parent})
    except ValidationError as error:
        first = error.errors()[0]
        place = tuple(str(name) for name in first["loc"])
        raise PlanError(
            _what(first["type"], first["msg"], place),
            where=f"{path}:{line_of(text, place)}",
            remedy=_remedy(first["type"], place),
        ) from error


def _what(kind: str, message: str, place: tuple[str, ...]) -> str:
    key = ".".join(place)
    if kind == "extra_forbidden":
        return f"unknown key {key!r}"
    if kind == "missing":
        return f"the key {key!r} is missing"
    return f"{key}: {message[0].lower()}{message[1:]}"


def _remedy(kind: str, place: tuple[str, ...]) -> str:
    if kind != "extra_forbidden":
        return "Correct it"
    known = _known(place[:-1])
    near = difflib.get_close_matches(place[-1], known, n=1, cutoff=0.5)
    return f"Did you mean {near[0]!r}?" if near else f"Known here: {', '.join(known)}"


def _known(place: tuple[str, ...]) -> list[str]:
    """Keys that the table at a place knows."""
    found: type[BaseModel] = Plan
    for name in place:
        found = _model_in(found.model_fields[name].annotation)
    return list(found.model_fields)


def _model_in(annotation: Any) -> type[BaseModel]:
    kinds = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    return next(k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel))


def line_of(text: str, place: tuple[str, ...]) -> int:
    """Line, counted from 1, that a key of a TOML text is in; else that of the nearest table."""
    best, table = (0, 1), tuple[str, ...]()
    for number, line in enumerate(text.splitlines(), start=1):
        header = re.match(r"\s*\[([^\[\]]+)\]", line)
        pair = re.match(r"\s*([\w.\"'-]+)\s*=", line)
        if header:
            table = here = _parts(header[1])
        elif pair:
            here = (*table, *_parts(pair[1]))
        else:
            continue
        if here == place[: len(here)]:
            best = max(best, (len(here), number), key=lambda found: found[0])
    return best[1]


def _parts(name: str) -> tuple[str, ...]:
    return tuple(part.strip(" \"'") for part in name.split("."))
