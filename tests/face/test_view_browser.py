"""The viewer in a real browser: what is where, with keys and wheel, and nothing on the console."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest
import tifffile
from browser import Page, open_page

from microtome.storage.predictions import SlidePrediction, write_predictions
from microtome.view import open_library, serve

SIDE, TILE = (3000, 4000), 250
HOT = (7, 11)
"""Row and column of the only tile with a score."""

LOADED = (
    "viewer.world.getItemCount() === 2 && "
    "[0, 1].every((n) => viewer.world.getItemAt(n).getFullyLoaded())"
)
STILL = "Math.abs(viewer.viewport.getZoom(true) - viewer.viewport.getZoom()) < 1e-6"


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("view")
    y, x = np.divmod(np.arange(12 * 16), 16)
    for name, probability in (("low", 0.125), ("high", 0.75)):
        pixels = np.full((*SIDE, 3), 225, np.uint8)
        tifffile.imwrite(folder / f"{name}.tif", pixels, tile=(256, 256), photometric="rgb",
                         resolution=(20_000, 20_000), resolutionunit=3)  # fmt: skip
        score = np.zeros(len(y), np.float32)
        score[HOT[0] * 16 + HOT[1]] = probability > 0.5
        one = SlidePrediction(
            id=name, probability=probability, classes=("normal", "tumour"),
            probabilities=np.array([1 - probability, probability], np.float32), target="tumour",
            label=None, fold=None, coords_px=np.stack([y, x], 1) * TILE,
            footprint_px=(TILE, TILE), slide_px=SIDE, bounds_px=None, slide_mpp=(0.5, 0.5),
            score=score, attention=np.full(len(y), 1 / len(y), np.float32), source="",
            encoder="e@1", model="m",
        )  # fmt: skip
        write_predictions(folder / name, [one], key="k", about={})
    with serve(open_library([folder])) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="module")
def page(address) -> Iterator[Page]:
    with open_page() as page:
        page.open(address)
        page.wait(LOADED)
        page.wait(STILL)
        yield page
        assert page.troubles == []


def colour_at(page: Page, y: float, x: float) -> np.ndarray:
    """Colour on the screen at a place of the slide, in level-0 pixels."""
    place = page.run(
        "(() => { const box = viewer.element.getBoundingClientRect(), p = viewer.world.getItemAt(0)"
        f".imageToViewerElementCoordinates(new OpenSeadragon.Point({x}, {y}));"
        "return [box.x + p.x, box.y + p.y]; })()"
    )
    return page.picture()[round(place[1]), round(place[0])].astype(int)


def centre(row: int, column: int) -> tuple[float, float]:
    return (row + 0.5) * TILE, (column + 0.5) * TILE


def test_the_most_suspicious_slide_is_shown_first(page):
    names = page.run("[...document.querySelectorAll('#slides button')].map((b) => b.innerText)")
    assert [name.split()[0] for name in names] == ["high", "low"]
    assert page.run("document.getElementById('title').textContent") == "high"


def test_the_heatmap_is_where_the_truth_is(page):
    hot, cold = colour_at(page, *centre(*HOT)), colour_at(page, *centre(2, 3))
    # Viridis: yellow at 1, dark violet at 0, at 60 % over grey.
    assert hot[0] > hot[2] + 60
    assert cold[2] > cold[0]
    assert cold.sum() < hot.sum() - 60
    # Its neighbours on every side are cold: it is not shifted by a tile.
    for row, column in ((0, 1), (0, -1), (1, 0), (-1, 0)):
        beside = colour_at(page, *centre(HOT[0] + row, HOT[1] + column))
        assert np.abs(beside - cold).max() < 12


def test_keys_switch_layers_and_slides(page):
    page.press("2", "Digit2")
    page.wait("viewer.world.getItemAt(1).getOpacity() === 0")
    assert np.abs(colour_at(page, *centre(*HOT)) - 225).max() < 6
    page.press("2", "Digit2")
    page.press("]", "BracketRight", 221)
    page.wait("Math.abs(viewer.world.getItemAt(1).getOpacity() - 0.7) < 1e-6")
    page.press("n")
    page.wait("document.getElementById('title').textContent === 'low'")
    page.wait(LOADED)
    assert colour_at(page, *centre(*HOT))[2] > colour_at(page, *centre(*HOT))[0]
    page.press("p")
    page.wait("document.getElementById('title').textContent === 'high'")
    page.wait(LOADED)


def test_the_wheel_zooms_and_the_scale_bar_follows(page):
    def bar_um_per_px() -> float:
        text, width = page.run(
            "[document.querySelector('#bar span').textContent, parseFloat(at('bar').style.width)]"
        )
        number, unit = text.split()
        return float(number) * {"µm": 1, "mm": 1000}[unit] / width

    page.run("void viewer.viewport.goHome(true)")
    page.wait(LOADED)
    before = bar_um_per_px()
    # 4000 px of half a micrometre across the width that they have on the screen.
    wide = page.run("viewer.world.getItemAt(0).viewportToImageZoom(viewer.viewport.getZoom(true))")
    assert before == pytest.approx(0.5 / wide, rel=1e-3)
    for _ in range(4):
        page.wheel(600, 450, -120)
    page.wait("viewer.viewport.getZoom() > 1.5 * viewer.viewport.getHomeZoom()")
    page.wait(STILL)
    page.wait(LOADED)
    assert bar_um_per_px() < before / 1.5
    page.run("void viewer.viewport.goHome(true)")
    page.wait(LOADED)


def test_everything_has_a_name_for_those_who_cannot_see(page):
    unnamed = page.run(
        "[...document.querySelectorAll('button, input')].filter((e) => "
        "!(e.innerText || e.ariaLabel || e.closest('label')?.innerText)).length"
    )
    assert unnamed == 0
