"""The tables of a plan: one a stage, with the options of its command; typed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    model_validator,
)

from ...engine.grid import Edge
from ...engine.stain import Method as StainMethod
from ...graphs.build_cohort import Method as NetworkMethod
from ..encoders import Precision
from ..mil.names import Kind, ModelName, SplitBy

FOLDER = "folder"


def _from_plan(path: Path, info: ValidationInfo) -> Path:
    """Paths are said from the plan's folder, so that it means the same wherever it is run."""
    return Path((info.context or {}).get(FOLDER, ".")) / path


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
    publish
        URL in an object store, to which each product is published as it is done.
    """

    timeout_s: float | None = Field(default=None, gt=0)
    grace_s: float = Field(default=20, ge=0)
    publish: str | None = None


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
    half: bool = False
    views: int = Field(default=0, ge=0)
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
    """As ``microtome mil train``, on the bags of the stage ``encode``, and on as many views."""

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
    candidate: tuple[str, ...] = ()
    inner_folds: int | None = Field(default=None, ge=2)
    views: int = Field(default=0, ge=0)
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
    calibrated: bool = False
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
    confounds: PlanPath | None = None
    confound: tuple[str, ...] = ()
    max_fd_mm: float | None = Field(default=None, ge=0)
    max_dvars: float | None = Field(default=None, ge=0)
    low_pass_hz: float | None = Field(default=None, ge=0)
    high_pass_hz: float | None = Field(default=None, ge=0)
    tr_s: float | None = Field(default=None, ge=0.001)
    band_hz: tuple[float, float] | None = None
    max_lag: int = Field(default=3, ge=0)
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
    covariates: tuple[str, ...] = ()
    split_by: str | None = None
    classes: tuple[str, ...] | None = None
    positive: str | None = None
    drop_missing: bool = False
    models: tuple[str, ...] = ("gcn", "linear")
    folds: int = Field(default=5, ge=2)
    inner_folds: int = Field(default=3, ge=2)
    shuffles: int = Field(default=20, ge=0)
    graph_shuffles: int = Field(default=2, ge=0)
    layers: tuple[PlanPath, ...] = ()
    harmonise: Literal["refuse", "leave"] | None = None
    backend: Literal["auto", "dgl", "dense"] = "auto"
    seed: int = Field(default=0, ge=0)


class ConnectomePart(Part):
    """Networks of the brain."""

    build: BuildPart | None = None
    diagnose: DiagnosePart | None = None
