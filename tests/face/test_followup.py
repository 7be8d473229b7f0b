"""``microtome heatmap followup``: the figures, and the report in a real browser."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile
from browser import Page, open_page
from typer.testing import CliRunner

from microtome.cli.app import app
from microtome.engine.tissue import TissueMask, write_tissue
from microtome.storage.predictions import SlidePrediction, write_predictions

BEFORE, AFTER = (1500, 2000), (1000, 1000)
"""(height, width) of the slides of patient p, at 0.5 and at 1 µm per pixel."""

SMALL = (slice(500, 750), slice(1000, 1250))
LARGE, SECOND = (slice(300, 600), slice(400, 700)), (slice(800, 900), slice(100, 200))
"""What is dark and scores 1 before and after, in pixels of each slide."""

SETTLED = (
    "[...viewersOf.values()][0].length === 4 && [...viewersOf.values()][0].every((v) => "
    "v.world.getItemCount() && v.world.getItemAt(0).getFullyLoaded() && "
    "Math.abs(v.viewport.getZoom(true) - v.viewport.getZoom()) < 1e-6)"
)


FINE = {"side": BEFORE, "tile": 125, "mpp": 0.5}
COARSE = {"side": AFTER, "tile": 100, "mpp": 1.0}


def visit(folder: Path, name: str, dark, *, side, tile, mpp, **facts) -> SlidePrediction:
    pixels = np.full((*side, 3), 225, np.uint8)
    for part in dark:
        pixels[part] = 120
    tifffile.imwrite(folder / f"{name}.tif", pixels, tile=(256, 256), photometric="rgb")
    y, x = np.meshgrid(*(np.arange(0, s, tile) for s in side), indexing="ij")
    coords = np.stack([y.ravel(), x.ravel()], 1)
    score = [float(pixels[y, x, 0] == 120) for y, x in coords]
    return SlidePrediction(
        id=name, classes=("normal", "tumour"), probabilities=np.array([0.5, 0.5], np.float32),
        target="tumour", label=None, fold=None, coords_px=coords, footprint_px=(tile, tile),
        slide_px=side, bounds_px=None, slide_mpp=(mpp, mpp), score=np.array(score, np.float32),
        attention=np.full(len(score), 1 / len(score), np.float32),
        source=str(folder / f"{name}.tif"), encoder="e@1", model="m", **facts,
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("followup")
    found = [
        visit(folder, "a", [SMALL], **FINE, probability=0.25, interval=(0.2, 0.3)),
        visit(folder, "b", [LARGE, SECOND], **COARSE, probability=0.75,
              interval=(0.7, 0.9)),
        visit(folder, "c", [LARGE], **COARSE, probability=0.6),
        visit(folder, "d", [], **COARSE, probability=0.1),
        visit(folder, "e", [], **COARSE, probability=0.1),
    ]  # fmt: skip
    write_predictions(folder / "first", [found[0], found[2], found[4]], key="k", about={})
    write_predictions(folder / "later", [found[1], found[3]], key="k", about={})
    (folder / "visits.csv").write_text(
        "id,patient,date\nb,p,2026-04-11\na,p,2026-01-01\nc,q,2026-01-01\nd,q,2026-02-01\n"
        "e,lonely,2026-01-01\n"
    )
    return folder


def followup(folder: Path, out: Path, *more: str):
    arguments = ["heatmap", "followup", folder / "first", folder / "later", "-t",
                 folder / "visits.csv", "--out", out, *more]  # fmt: skip
    return CliRunner().invoke(app, list(map(str, arguments)), env={"COLUMNS": "200"})


@pytest.fixture(scope="module")
def made(folder) -> Path:
    ended = followup(folder, folder / "out")
    assert ended.exit_code == 0, ended.output
    return folder / "out"


def rows_of(path: Path) -> dict[str, dict[str, str]]:
    with path.open() as file:
        return {row["patient"]: row for row in csv.DictReader(file)}


def test_what_was_painted_is_what_is_measured(made):
    found = rows_of(made / "followup.csv")
    assert list(found) == ["p", "q"]
    p = found["p"]
    assert (p["before"], p["after"], p["days"], p["tissue_by"]) == ("a", "b", "100", "tiles")
    expected = {
        # In mm²: of 750 x 1000 µm, 125 x 125 µm; of 1000 x 1000 µm, 300 x 300 and 100 x 100 µm.
        "tissue_mm2": (0.75, 1.0), "positive_mm2": (0.015625, 0.1),
        "share": (0.015625 / 0.75, 0.1), "regions": (1, 2), "largest_mm2": (0.015625, 0.09),
        "probability": (0.25, 0.75),
    }  # fmt: skip
    for name, (before, after) in expected.items():
        values = [float(p[f"{name}_{when}"]) for when in ("before", "after", "change")]
        assert values == pytest.approx([before, after, after - before], rel=1e-5), name
    assert float(found["q"]["positive_mm2_change"]) == pytest.approx(-0.09)


def test_the_page_says_it_in_words_and_names_who_cannot_be_compared(made):
    text = re.sub(r"<[^>]+>", " ", (made / "followup.html").read_text())
    for words in (
        "(100 days)", "tissue, by the tiles", "0.75 mm²", "+0.25 mm² (+33 %)",
        "2.1 %", "10.0 %", "+7.9 points", "+0.500 (+0.400 to +0.700)", "0.250 (0.200 – 0.300)",
        "lonely", "one time point", "Two slides are two pieces of tissue",
    ):  # fmt: skip
        assert words in text, words


def test_with_masks_the_tissue_is_that_of_the_masks(folder, tmp_path):
    for name, side, mpp in (("a", BEFORE, 0.5), ("b", AFTER, 1.0), ("c", AFTER, 1.0)):
        labels = np.zeros((side[0] // 25, side[1] // 25), np.uint8)
        labels[:, : labels.shape[1] // 2] = 1
        mask = TissueMask(labels, (25, 25), (25 * mpp, 25 * mpp))
        write_tissue(tmp_path / "masks" / f"{name}.tissue.zarr", mask, key="k")
    ended = followup(folder, tmp_path / "out", "--masks", str(tmp_path / "masks"))
    # There is none of d: q is not compared, and said to be.
    assert ended.exit_code == 3
    assert "d.tissue.zarr" in (tmp_path / "out" / "followup.html").read_text()
    p = rows_of(tmp_path / "out" / "followup.csv")["p"]
    assert p["tissue_by"] == "mask"
    assert float(p["tissue_mm2_after"]) == pytest.approx(0.5)
    # The lesion of a lies right of its mask; a third of b's large one and all of its second left.
    assert float(p["positive_mm2_before"]) == 0
    assert float(p["positive_mm2_after"]) == pytest.approx(0.3 * 0.1 + 0.01)


@pytest.fixture(scope="module")
def page(made) -> Iterator[Page]:
    with open_page() as page:
        page.open((made / "followup.html").as_uri(), size=(1300, 1300))
        page.run("document.getElementById('panel-0').scrollIntoView()")
        page.wait("viewersOf.size > 0")
        page.wait(SETTLED)
        yield page
        assert page.troubles == []


def truth_in(shape: tuple[int, int], mpp: float, parts) -> np.ndarray:
    """Where a lesion lies in a frame, whose width is 1000 µm: bool [h, w]."""
    um = 1000 / shape[1]
    places = [(np.arange(n) + 0.5) * um / mpp for n in shape]
    inside = [
        np.logical_and.outer(
            *((p >= s.start) & (p < s.stop) for p, s in zip(places, part, strict=True))
        )
        for part in parts
    ]
    return np.any(inside, axis=0)


def test_the_largest_growth_comes_first_and_the_table_sorts(page):
    def names() -> list[str]:
        return page.run("[...document.querySelectorAll('#changes tbody th')].map(h => h.innerText)")

    assert names() == ["p", "q"]
    page.run(
        "[...document.querySelectorAll('#changes button')]"
        ".find((b) => b.innerText.startsWith('Positive')).click()"
    )
    assert names() == ["q", "p"]


def test_both_times_show_their_lesion_where_it_is_and_as_large_as_it_is(page):
    for number, mpp, parts in ((3, 0.5, [SMALL]), (4, 1.0, [LARGE, SECOND])):
        heat = page.picture(f"#panel-0 .frame:nth-child({number}) .zoom").astype(int)
        truth = truth_in(heat.shape[:2], mpp, parts)
        yellow = heat[..., 0] - heat[..., 2] > 20
        assert yellow[truth].mean() > 0.95, number
        assert yellow[~truth].mean() < 0.02, number
    slide = page.picture("#panel-0 .frame:nth-child(1) .zoom").astype(int).mean(axis=2)
    # The first slide is 750 µm tall: below it the picture is white.
    assert (slide[: int(0.74 * len(slide)), 10:-10] < 240).all()
    assert (slide[int(0.76 * len(slide)) : -10, 10:-10] > 250).all()


def test_all_four_move_together(page):
    views = (
        "[...viewersOf.values()][0].map((v) => { const b = v.viewport.getBounds();"
        "return [b.x, b.y, b.width, b.height]; })"
    )
    before = page.run(views)
    page.run("[...viewersOf.values()][0][0].canvas.focus()")
    box = page.run(
        "(() => { const b = [...viewersOf.values()][0][0].canvas.getBoundingClientRect();"
        "return [b.x + b.width / 3, b.y + b.height / 3]; })()"
    )
    for _ in range(3):
        page.wheel(*box, -120)
    page.wait("[...viewersOf.values()][0][0].viewport.getZoom() > 1.3")
    page.wait(SETTLED)
    after = page.run(views)
    assert after[0][2] < before[0][2] / 1.3
    for other in after[1:]:
        assert other == pytest.approx(after[0], abs=1e-6)
