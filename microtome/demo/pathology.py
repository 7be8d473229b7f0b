"""The pathology half: synthetic slides, bags, MIL under cross-validation, heatmaps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from ..cli.common import console, progress_bar, run_with_progress
from ..engine.synthetic import read_outlines, tumour_fraction, write_cohort
from ..report.heatmaps import slide_panel
from ..report.model import FigureRow, FigureTable, SlidePanel
from ..tasks.cohort import Cohort, read_cohort
from ..tasks.encode import Encoded, EncodeOptions, encode_slide
from ..tasks.slide_list import SlideItem, list_slides
from .steps import value_of

if TYPE_CHECKING:
    from ..engine.ingest import Ingested
    from ..engine.schedule import Outcome
    from ..storage.predictions import SlidePrediction
    from ..tasks.heatmap import HeatmapProducts
    from ..tasks.heatmap_run import HeatmapItem
    from ..tasks.mil.study import Study

Drawn = tuple["SlidePrediction", "HeatmapProducts"]


@dataclass(frozen=True)
class PathologyPlan:
    """Size of the synthetic cohort; ``large_px`` is the width of its largest slide."""

    n_slides: int = 21
    side_px: tuple[int, int] = (4000, 6600)
    large_px: int | None = 16_400
    n_folds: int = 5
    seed: int = 0


@dataclass(frozen=True)
class Pathology:
    """What came out.

    Attributes
    ----------
    study
        Figures of the model and its controls.
    tile_auc
        For each slide with tumour, the AUC of its held-out tile scores against the true outlines.
    panels
        For the report.
    """

    study: Study
    tile_auc: Mapping[str, float]
    panels: tuple[SlidePanel, ...]

    @property
    def figures(self) -> tuple[FigureTable, ...]:
        """The model beside its controls; the tiles of each slide with tumour."""
        return self._slides(), self._tiles()

    def _slides(self) -> FigureTable:
        from ..tasks.mil.study import TITLES

        rows = [
            FigureRow(
                TITLES[name], f["auc"].value, f["auc"].low, f["auc"].high, f["auc"].n, control
            )
            for name, f in self.study.figures.items()
            for control in [name != self.study.model]
        ]
        return FigureTable(
            "Slides: tumour or not",
            tuple(rows),
            caption=f"{self.study.slides} slides of {self.study.patients} patients, "
            f"{self.study.folds} folds by patient; intervals by resampling patients.",
        )

    def _tiles(self) -> FigureTable:
        rows = tuple(FigureRow(name, value) for name, value in sorted(self.tile_auc.items()))
        return FigureTable(
            "Tiles: score against the planted outlines",
            rows,
            caption="Each slide was held out; training saw labels of slides only.",
        )


def run_pathology(out: Path, plan: PathologyPlan, *, jobs: int, overwrite: bool) -> Pathology:
    """Make slides, encode, learn, predict what was held out, and draw it; all below ``out``.

    What an earlier run with the same plan has done is kept.
    """
    table = _write_slides(out / "cohort", plan, jobs)
    bags = out / "bags"
    _encode(table, bags, jobs, overwrite)
    _store_one(read_cohort(table), out / "ome-zarr", jobs, overwrite)
    study = _learn(table, bags, out / "mil", plan, overwrite)
    drawn = _draw(out, table, jobs, overwrite)
    return _gather(drawn, study, read_cohort(table), table.parent / "truth", out)


def _write_slides(folder: Path, plan: PathologyPlan, jobs: int) -> Path:
    with progress_bar() as bar:
        task = bar.add_task("paint slides", total=plan.n_slides)

        def tell(outcome: Outcome[str]) -> None:
            bar.advance(task)

        return write_cohort(
            folder,
            n_slides=plan.n_slides,
            seed=plan.seed,
            side_px=plan.side_px,
            large_px=plan.large_px,
            jobs=jobs,
            on_done=tell,
        )


def _encode(table: Path, bags: Path, jobs: int, overwrite: bool) -> None:
    def say(made: Encoded) -> str:
        return f"{made.tiles:,} tiles × {made.dim} features"

    def name(item: SlideItem) -> str:
        return item.id

    outcomes = run_with_progress(
        "encode",
        list_slides([str(table)]),
        partial(encode_slide, out=bags, options=EncodeOptions(), overwrite=overwrite),
        name=name,
        jobs=jobs,
        ledger=bags / "ledger.jsonl",
        say=say,
    )
    for outcome in outcomes:
        value_of(outcome)


def _store_one(cohort: Cohort, folder: Path, jobs: int, overwrite: bool) -> None:
    """One slide as OME-Zarr with its tissue beside it: what `ingest` and `tissue` do for many."""
    from ..engine.ingest import ingest_slide
    from ..engine.schedule import Skipped
    from ..engine.tissue import make_tissue

    case = cohort.cases[0]
    assert case.path is not None
    with progress_bar() as bar:
        task = bar.add_task("OME-Zarr", total=None)

        def tell(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        made = ingest_slide(
            case.path, folder, name=case.id, jobs=jobs, on_progress=tell, overwrite=overwrite
        )
    ingested: Ingested = made.value if isinstance(made, Skipped) else made
    make_tissue(case.path, folder / f"{case.id}.tissue.zarr", overwrite=overwrite)
    console.print(f"OME-Zarr: {ingested.path}")


def _learn(table: Path, bags: Path, out: Path, plan: PathologyPlan, overwrite: bool) -> Study:
    from ..tasks.mil.study import run_study
    from ..tasks.mil.train import TrainOptions

    with progress_bar() as bar:
        task = bar.add_task("train MIL", total=None)

        def tell(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        study, _ = run_study(
            read_cohort(table, needs=("label",)),
            bags,
            out,
            options=TrainOptions(seed=plan.seed),
            n_folds=plan.n_folds,
            positive="tumour",
            overwrite=overwrite,
            on_fold=tell,
        )
    return study


def _draw(out: Path, table: Path, jobs: int, overwrite: bool) -> list[Drawn]:
    from ..tasks.heatmap_run import heatmap_items

    def name(item: HeatmapItem) -> str:
        return item.id

    outcomes = run_with_progress(
        "heatmaps",
        heatmap_items(out / "mil" / "predictions", [out / "bags"]),
        partial(
            draw_with_truth,
            truth=table.parent / "truth",
            out=out / "heatmaps",
            overwrite=overwrite,
        ),
        name=name,
        jobs=jobs,
        ledger=out / "heatmaps" / "ledger.jsonl",
    )
    return [value_of(outcome) for outcome in outcomes]


def draw_with_truth(item: HeatmapItem, *, truth: Path, out: Path, overwrite: bool) -> Drawn:
    """One slide's heatmap, with the planted outlines over the picture."""
    from ..tasks.heatmap_run import draw_item

    outlines = read_outlines(truth / f"{item.id}.geojson")
    return draw_item(item, out, truth=outlines, overwrite=overwrite, max_px=900)


def _gather(drawn: list[Drawn], study: Study, cohort: Cohort, truth: Path, out: Path) -> Pathology:
    from ..tasks.evaluation import auc

    sites = {case.id: case.site or "" for case in cohort.cases}
    tile_auc, panels = {}, []
    for prediction, made in drawn:
        share = tumour_fraction(prediction, read_outlines(truth / f"{prediction.id}.geojson"))
        facts = {}
        if prediction.label == "tumour":
            tile_auc[prediction.id] = auc(share >= 0.5, prediction.score)
            facts["AUC of tile scores against the truth"] = f"{tile_auc[prediction.id]:.3f}"
            facts["tumour tiles"] = f"{(share >= 0.5).mean():.0%}"
        panels.append(slide_panel(prediction, made, out, site=sites[prediction.id], facts=facts))
    return Pathology(study, tile_auc, tuple(panels))


def median_tile_auc(found: Pathology) -> float:
    """Median over the slides with tumour."""
    return float(median(found.tile_auc.values()))
