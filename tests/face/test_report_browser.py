"""The report in a real browser, from the disk: what is where, what moves, and a silent console."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile
from browser import Page, open_page
from typer.testing import CliRunner

from microtome.cli.app import app
from microtome.storage.predictions import SlidePrediction, write_predictions

SIDE, TILE = (1500, 2000), 125
TRUTH = (slice(500, 1000), slice(1000, 1750))
"""Rows and columns, in level-0 pixels, that are dark on the slide and score 1."""

SETTLED = (
    "[...viewersOf.values()][0].every((v) => v.world.getItemCount() && "
    "v.world.getItemAt(0).getFullyLoaded() && "
    "Math.abs(v.viewport.getZoom(true) - v.viewport.getZoom()) < 1e-6)"
)


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    """By the command, of three slides of which one has a lesion, and one that is gone."""
    folder = tmp_path_factory.mktemp("report")
    y, x = np.divmod(np.arange(12 * 16), 16)
    coords = np.stack([y, x], 1) * TILE
    pixels = np.full((*SIDE, 3), 225, np.uint8)
    pixels[TRUTH] = 120
    tifffile.imwrite(folder / "s.tif", pixels, tile=(256, 256), photometric="rgb")
    inside = np.ones(len(y), np.bool_)
    for axis, part in enumerate(TRUTH):
        inside &= (coords[:, axis] >= part.start) & (coords[:, axis] < part.stop)
    found = []
    for name, probability, n in (("b-sure", 0.97, len(y)), ("c-low", 0.04, 20), ("a-mid", 0.5, 60)):
        found.append(
            SlidePrediction(
                id=name, probability=probability, classes=("normal", "tumour"),
                probabilities=np.array([1 - probability, probability], np.float32),
                target="tumour", label=None, fold=None, coords_px=coords[:n],
                footprint_px=(TILE, TILE), slide_px=SIDE, bounds_px=None, slide_mpp=(0.5, 0.5),
                score=inside[:n].astype(np.float32), attention=np.full(n, 1 / n, np.float32),
                source=str(folder / ("gone.tif" if name == "c-low" else "s.tif")),
                encoder="e@1", model="m", interval=(probability - 0.03, probability + 0.02),
            )
        )  # fmt: skip
    write_predictions(folder / "p", found, key="k", about={})
    ended = CliRunner().invoke(app, ["heatmap", str(folder / "p"), "--out", str(folder / "out")])
    assert ended.exit_code == 0, ended.output
    return folder / "out"


@pytest.fixture(scope="module")
def page(report) -> Iterator[Page]:
    with open_page() as page:
        page.open((report / "report.html").as_uri())
        page.run("document.getElementById('panel-0').scrollIntoView()")
        page.wait("viewersOf.size > 0")
        page.wait(SETTLED)
        yield page
        assert page.troubles == []


def pictured(page: Page, number: int) -> np.ndarray:
    """What the first panel shows in one of its two frames, int [h, w, 3]."""
    return page.picture(f"#panel-0 .frame:nth-child({number}) .zoom").astype(int)


def expected(shape: tuple[int, int]) -> np.ndarray:
    """Where the truth lies in a frame, which shows the slide from edge to edge: bool [h, w]."""
    scale = SIDE[1] / shape[1]
    rows, columns = (
        (np.arange(n) * scale >= part.start) & (np.arange(n) * scale < part.stop)
        for n, part in zip(shape, TRUTH, strict=True)
    )
    return rows[:, None] & columns


def test_the_heatmap_is_visible_where_the_truth_is(page):
    slide, heat = pictured(page, 1), pictured(page, 2)
    truth = expected(slide.shape[:2])
    # The slide itself: dark where it was painted so. The heatmap: yellow there, violet elsewhere.
    assert ((slide.mean(axis=2) < 170) == truth).mean() > 0.98
    yellow = heat[..., 0] - heat[..., 2] > 20
    assert yellow[truth].mean() > 0.97
    assert yellow[~truth].mean() < 0.02


def test_the_worklist_begins_with_the_most_suspicious_and_sorts(page):
    def names() -> list[str]:
        return page.run(
            "[...document.querySelectorAll('#worklist tbody th')].map(h => h.innerText)"
        )

    def press(column: str) -> None:
        page.run(
            "[...document.querySelectorAll('#worklist button')]"
            f".find((b) => b.innerText === '{column}').focus()"
        )
        page.press("Enter", "Enter", 13)

    def said() -> list[str]:
        return page.run(
            "[...document.querySelectorAll('#worklist th')].map(h => h.getAttribute('aria-sort'))"
            ".filter(Boolean)"
        )

    assert names() == ["b-sure", "a-mid", "c-low"]
    assert said() == ["descending"]
    press("Slide")
    assert names() == ["a-mid", "b-sure", "c-low"]
    assert said() == ["ascending"]
    press("Slide")
    assert names() == ["c-low", "b-sure", "a-mid"]
    press("Tiles")
    assert names() == ["c-low", "a-mid", "b-sure"]


def test_both_views_move_together_by_wheel_and_by_keys(page):
    def views() -> list[list[float]]:
        return page.run(
            "[...viewersOf.values()][0].map((v) => { const b = v.viewport.getBounds();"
            "return [b.x, b.y, b.width, b.height]; })"
        )

    before = views()
    page.run("[...viewersOf.values()][0][0].canvas.focus()")
    box = page.run(
        "(() => { const b = [...viewersOf.values()][0][0].canvas.getBoundingClientRect();"
        "return [b.x + b.width / 3, b.y + b.height / 3]; })()"
    )
    for _ in range(3):
        page.wheel(*box, -120)
    page.wait("[...viewersOf.values()][0][0].viewport.getZoom() > 1.3")
    page.wait(SETTLED)
    one, other = views()
    assert one == pytest.approx(other, abs=1e-6)
    assert one[2] < before[0][2] / 1.3
    page.press("ArrowRight", "ArrowRight", 39)
    page.wait(f"[...viewersOf.values()][0][1].viewport.getBounds().x > {one[0]} + 0.01")
    page.wait(SETTLED)
    one, other = views()
    assert one == pytest.approx(other, abs=1e-6)
    page.run("void [...viewersOf.values()][0].forEach((v) => v.viewport.goHome(true))")


def test_the_opacity_of_the_heatmap_is_the_user_s(page):
    page.run(
        "opacity.value = 0; opacity.dispatchEvent(new Event('input'));"
        "document.getElementById('panel-0').scrollIntoView()"
    )
    page.wait("[...viewersOf.values()][0][1].values.getOpacity() === 0")
    page.wait(SETTLED)
    pictures = []
    # What was asked for may be drawn some frames later.
    for _ in range(100):
        pictures = [pictured(page, 1), pictured(page, 2)]
        if difference(*pictures) < 1:
            break
    page.run("opacity.value = 60; opacity.dispatchEvent(new Event('input'))")
    assert difference(*pictures) < 1


def difference(one: np.ndarray, other: np.ndarray) -> float:
    """Within the frames, of which one has the focus."""
    return float(np.abs(one - other)[10:-10, 10:-10].mean())


def test_the_wheel_scrolls_the_page_until_a_picture_is_chosen(page):
    page.run("document.activeElement.blur(); scrollTo(0, 0)")
    page.run("document.getElementById('panel-0').scrollIntoView({behavior: 'instant'})")
    box = page.run(
        "(() => { const b = [...viewersOf.values()][0][0].canvas.getBoundingClientRect();"
        "return [b.x + 50, b.y + 50, scrollY]; })()"
    )
    page.wheel(box[0], box[1], 150)
    page.wait(f"scrollY > {box[2]} + 50")
    zoom = page.run("[...viewersOf.values()][0][0].viewport.getZoom()")
    assert zoom == pytest.approx(page.run("[...viewersOf.values()][0][0].viewport.getHomeZoom()"))


def test_on_paper_the_heatmap_stands_where_the_viewer_was(page):
    page.show_as("print")
    heat = page.picture("#panel-0 .frame:nth-child(2) svg").astype(int)
    tools = page.run("getComputedStyle(document.querySelector('.tools')).display")
    page.show_as("screen")
    truth = expected(heat.shape[:2])
    yellow = heat[..., 0] - heat[..., 2] > 20
    assert yellow[truth].mean() > 0.97
    assert yellow[~truth].mean() < 0.02
    assert tools == "none"


def test_a_page_of_one_slide_shows_its_tiles(report):
    with open_page() as page:
        page.open((report / "b-sure.html").as_uri())
        page.wait("viewersOf.size > 0")
        page.wait(SETTLED)
        page.wait("[...document.querySelectorAll('.tiles img')].every((i) => i.complete)")
        assert page.run("document.querySelectorAll('#worklist').length") == 0
        sizes = page.run("[...document.querySelectorAll('.tiles img')].map((i) => i.naturalWidth)")
        assert len(sizes) == 8
        assert min(sizes) > 0
        assert page.troubles == []
