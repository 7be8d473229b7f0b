"""The pictures of the documentation are of what the demonstration writes."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
from browser import open_page
from PIL import Image

pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def script() -> ModuleType:
    path = Path(__file__).parents[2] / "scripts" / "pictures.py"
    spec = importlib.util.spec_from_file_location("pictures", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_they_are_made_anew_without_a_complaint_and_show_slides_and_scores(small_demo, script):
    with open_page() as page:
        report = script.of_report(page, small_demo)
        said = page.run("document.body.innerText")
        seen = script.of_viewer(page, small_demo)
        assert page.troubles == []
    assert report.shape[1] == script.REPORT_PX[0]
    assert seen.shape[1::-1] == script.VIEW_PX
    for words in ("Microtome demonstration", "Worklist", "control: labels shuffled"):
        assert words in said
    for picture in (report, seen):
        red, _, blue = picture.astype(int).transpose(2, 0, 1)
        # Viridis at 60 % over tissue, which has no yellow of its own, nor the page.
        assert ((red - blue > 60) & (red > 150)).mean() > 0.002


def test_those_that_are_kept_are_of_the_size_that_is_made(script):
    with Image.open(script.PICTURES / "report.png") as report:
        assert report.width == script.REPORT_PX[0]
    with Image.open(script.PICTURES / "view.png") as seen:
        assert seen.size == script.VIEW_PX
