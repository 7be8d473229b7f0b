"""The plan: which cohort goes through which stages, with which options; typed, and from TOML."""

from __future__ import annotations

import difflib
import re
import tomllib
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, TypeAlias, Union, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from ...engine.grid import Edge
from ...engine.stain import Method as StainMethod
from ...graphs.build_cohort import Method as NetworkMethod
from ...storage.errors import MissingFile, PlanError
from ..encoders import Precision
from ..mil.names import Kind, ModelName, SplitBy

_FOLDER = "folder"


def _from_plan(path: Path, info: ValidationInfo) -> Path:
    """Paths are said from the plan's folder, so that it means the same wherever it is run."""
    return Path((info.context or {}).get(_FOLDER, ".")) / path


PlanPath: TypeAlias = Annotated[Path, AfterValidator(_from_plan)]
Share: TypeAlias = Annotated[float, Field(ge=0, le=1)]


class Part(BaseModel):
    """A table of a plan; a key that it does not know is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class RunPart(Part):
    """How all stages are run.

    Attributes
    ----------
    timeout_s
        A step that takes longer is killed; each then runs in a process of its own.
    grace_s
        When told to stop: how long what is in flight may take to finish.
    """

    timeout_s: float | None = Field(default=None, gt=0)
    grace_s: float = Field(default=20, ge=0)


class ClusterPart(Part):
    """Jobs of a batch system, for ``--cluster slurm``, ``pbs``, ``sge`` or ``lsf``.

    As :class:`~microtome.engine.jobqueue.JobProfile`.
    """

    cores: int = Field(default=1, ge=1)
    memory: str = "4GB"
    walltime: str = "01:00:00"
    queue: str | None = None
    jobs: int = Field(default=1, ge=1)
    interface: str | None = None
    directives: tuple[str, ...] = ()
    prologue: tuple[str, ...] = ()
    tls: bool = True


class IngestPart(Part):
    """As ``microtome ingest``."""

    profile: Literal["auto", "archive", "compatible", "ngff04", "virtual"] = "auto"
    codec: Literal["zstd", "blosc", "none", "jpeg"] | None = None
    level: int | None = None
    quality: int | None = Field(default=None, ge=1, le=100)
    series: str | None = None
    resample: bool = False
    associated: bool = False
    properties: bool = False
    patient_data: bool = False
    verify: bool = False


class TissuePart(Part):
    """As ``microtome tissue``."""

    mpp: float = Field(default=8.0, ge=0.1)
    method: str = "auto"
    artefacts: bool = True
    label: bool = True


class EncodePart(Part):
    """As ``microtome encode``; with a stage ``tissue`` in the plan, on its masks."""

    encoder: str | None = None
    mpp: float | None = Field(default=None, ge=0.01)
    tile_px: int | None = Field(default=None, ge=16)
    stride_px: int | None = Field(default=None, ge=1)
    min_tissue: Share | None = None
    max_corrupt: Share = 0.02
    masks: PlanPath | None = None
    edge: Edge | None = None
    stain: StainMethod | None = None
    device: str = "cpu"
    precision: Precision = "fp32"
    is_compiled: bool = False
    readers: int | None = Field(default=None, ge=1)
    block_mm: float = Field(default=16.0, ge=0.01)
    spacing_mm: float | None = Field(default=None, ge=0.01)
    slices: Literal[1, 3] = 1
    window: tuple[str, ...] = ()
    modality: Literal["ct", "mr", "pt"] | None = None
    bias: bool = True
    robust: bool = False
    series: str | None = None
    resample: bool = False


class MilTrainPart(Part):
    """As ``microtome mil train``, on the bags of the stage ``encode``."""

    model: ModelName = "abmil"
    folds: int = Field(default=5, ge=2)
    epochs: int = Field(default=40, ge=1)
    task: Kind = "classes"
    label: tuple[str, ...] = ("label",)
    time: str | None = None
    event: str | None = None
    positive: str | None = None
    split_by: SplitBy = "patient"
    splits: PlanPath | None = None
    allow_telling_names: bool = False
    seed: int = Field(default=0, ge=0)
    device: str = "cpu"

    @model_validator(mode="after")
    def _check_columns(self) -> MilTrainPart:
        survival = self.task == "survival"
        if survival != (self.time is not None and self.event is not None):
            raise ValueError("time and event belong to task 'survival', which needs both")
        if self.task != "labels" and len(self.label) != 1:
            raise ValueError("several columns are learnt with task 'labels' only")
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the cohort that are learnt."""
        if self.time is not None and self.event is not None:
            return self.time, self.event
        return self.label


class MilPredictPart(Part):
    """As ``microtome mil predict``: a model that is there already, on the plan's slides."""

    model: PlanPath
    device: str = "cpu"


class MilPart(Part):
    """Multiple-instance learning."""

    train: MilTrainPart | None = None
    predict: MilPredictPart | None = None


class HeatmapPart(Part):
    """As ``microtome heatmap``, of what ``mil predict`` says, else of ``mil train``, held out."""

    crop: bool = True
    overlay: bool = True
    store: bool = False


class BuildPart(Part):
    """As ``microtome connectome build``; ``inputs`` may be patterns."""

    inputs: tuple[PlanPath, ...]
    method: NetworkMethod = "pearson"
    fisher: bool = False
    detrend: bool = False
    min_timepoints: int = Field(default=10, ge=2)
    rows: Literal["time", "regions"] | None = None
    key: str | None = None
    regions: PlanPath | None = None
    centroids: PlanPath | None = None
    atlas: PlanPath | None = None
    atlas_names: PlanPath | None = None
    coordinates: PlanPath | None = None
    radius_mm: float = Field(default=5.0, ge=0.1)
    resample: bool = False
    leave_out: tuple[str, ...] = ()
    drop_lost: bool = False
    subject_column: str | None = None
    reference: str | None = None
    modality: str | None = None
    controls: PlanPath | None = None

    @property
    def files(self) -> list[Path]:
        """The inputs, with patterns replaced by what matches them, sorted."""
        return [path for place in self.inputs for path in sorted(_matching(place)) or [place]]


def _matching(place: Path) -> list[Path]:
    if not set(place.name) & set("*?["):
        return []
    return list(place.parent.glob(place.name))


class DiagnosePart(Part):
    """As ``microtome connectome diagnose``, of what ``connectome build`` made."""

    table: PlanPath
    label: str
    subject: str = "subject"
    group: str | None = None
    site: str | None = None
    split_by: str | None = None
    classes: tuple[str, ...] | None = None
    positive: str | None = None
    drop_missing: bool = False
    models: tuple[str, ...] = ("gcn", "linear")
    folds: int = Field(default=5, ge=2)
    inner_folds: int = Field(default=3, ge=2)
    shuffles: int = Field(default=20, ge=0)
    graph_shuffles: int = Field(default=2, ge=0)
    backend: Literal["auto", "dgl", "dense"] = "auto"
    seed: int = Field(default=0, ge=0)


class ConnectomePart(Part):
    """Networks of the brain."""

    build: BuildPart | None = None
    diagnose: DiagnosePart | None = None


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
        return Plan.model_validate(values, context={_FOLDER: path.absolute().parent})
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
