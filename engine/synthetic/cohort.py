"""A cohort of synthetic slides: several patients, two laboratories, a label for each slide."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from ...storage.claims import claim
from ...storage.files import remove_strays, writable, write_text
from ..schedule import Outcome, Skipped, run_items
from .noise import key_of
from .plan import plan_slide
from .recipe import SITES, SlideRecipe
from .truth import outlines_geojson
from .writer import QUALITY, key_in, slide_key, write_slide

LABELS = ("normal", "tumour")
COLUMNS = ("id", "path", "patient", "site", "label")


@dataclass(frozen=True)
class PlannedSlide:
    """One row of the cohort, before it is painted; small enough to travel between processes."""

    id: str
    patient: str
    site: str
    label: str
    seed: int
    height_px: int
    width_px: int
    tissue_fraction: float
    tumour_fraction: float
    benign_fraction: float

    @property
    def recipe(self) -> SlideRecipe:
        """The slide's recipe."""
        return plan_slide(
            self.seed,
            height_px=self.height_px,
            width_px=self.width_px,
            site=next(site for site in SITES if site.name == self.site),
            tumour_fraction=self.tumour_fraction,
            benign_fraction=self.benign_fraction,
            tissue_fraction=self.tissue_fraction,
        )


def plan_cohort(
    n_slides: int = 21,
    *,
    seed: int = 0,
    side_px: tuple[int, int] = (4000, 6600),
    large_px: int | None = 16_400,
) -> list[PlannedSlide]:
    """Plan a cohort of matched pairs.

    A slide with tumour and one without share laboratory, size, amount of tissue and amount of
    dark, cell-rich tissue; where one has tumour, the other has benign epithelium. So neither
    the size of a slide nor its mean colour tells the label. Every fourth pair adds a slide to the
    patients of the pair before it.

    Parameters
    ----------
    side_px
        Least and greatest side of a slide.
    large_px
        Width of the last slide when ``n_slides`` is odd; None makes it as the others.
    """
    rng = np.random.default_rng(key_of(seed, "cohort"))
    slides: list[PlannedSlide] = []
    patients = 0
    for pair in range((n_slides + 1) // 2):
        height, width = (int(v) for v in rng.integers(*side_px, 2))
        alone = 2 * pair + 1 == n_slides
        if alone and large_px is not None:
            height, width = large_px // 2, large_px
        tissue, dense = float(rng.uniform(0.42, 0.58)), float(rng.uniform(0.12, 0.36))
        other = float(rng.uniform(0.03, 0.10))
        again = pair % 4 == 3 and not alone
        patients += 0 if again else 2
        order = rng.permutation(2)[: 1 if alone else 2]
        for label in order.tolist():
            slides.append(
                PlannedSlide(
                    id=f"slide-{len(slides) + 1:02d}",
                    patient=f"patient-{patients - 1 + label:02d}",
                    site=SITES[(patients // 2) % len(SITES)].name,
                    label=LABELS[label],
                    seed=key_of(seed, "slide", len(slides)) % 2**31,
                    height_px=height,
                    width_px=width,
                    tissue_fraction=tissue,
                    tumour_fraction=dense if label else 0.0,
                    benign_fraction=other if label else dense + other,
                )
            )
    return slides


def write_cohort(
    folder: Path,
    *,
    n_slides: int = 21,
    seed: int = 0,
    side_px: tuple[int, int] = (4000, 6600),
    large_px: int | None = 16_400,
    jobs: int = 1,
    quality: int = QUALITY,
    on_done: Callable[[Outcome[str]], None] | None = None,
) -> Path:
    """Write ``slides/<id>.tiff``, ``truth/<id>.geojson`` and then ``cohort.csv``.

    ``cohort.csv`` has the columns id, path (relative to it), patient, site and label: all that
    training may see. Slides that are there already are kept.

    Returns
    -------
    pathlib.Path
        ``cohort.csv``.

    Raises
    ------
    UnwritableOutput
        Permission denied, read-only or full file system.
    OutputBusy
        Another run is writing this cohort.
    """
    planned = plan_cohort(n_slides, seed=seed, side_px=side_px, large_px=large_px)
    # The largest first: no process is left alone with it at the end.
    largest_first = sorted(planned, key=lambda s: -s.height_px * s.width_px)
    table = folder / "cohort.csv"
    with writable(table), claim(table):
        remove_strays(folder)
        outcomes = run_items(
            largest_first,
            partial(_write, folder, quality=quality),
            name=lambda slide: slide.id,
            jobs=jobs,
            on_done=on_done,
        )
        for outcome in outcomes:
            if outcome.error is not None:
                raise outcome.error
        write_text(table, _table(planned))
    return table


def _write(folder: Path, slide: PlannedSlide, *, quality: int) -> str | Skipped[str]:
    recipe = slide.recipe
    truth, path = folder / "truth" / f"{slide.id}.geojson", folder / "slides" / f"{slide.id}.tiff"
    with writable(truth):
        write_text(truth, outlines_geojson(recipe.outlines))
    words = f"{slide.width_px} x {slide.height_px} px"
    if path.is_file() and key_in(path) == slide_key(recipe, quality):
        return Skipped(words)
    write_slide(path, recipe, quality=quality)
    return words


def _table(slides: list[PlannedSlide]) -> str:
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(COLUMNS)
    rows.writerows([s.id, f"slides/{s.id}.tiff", s.patient, s.site, s.label] for s in slides)
    return text.getvalue()
