"""The report: one file, whole HTML, nothing from outside, the numbers and pictures it was given."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from microtome.assets import OPENSEADRAGON, read_asset
from microtome.report import (
    BrainSection,
    FigureRow,
    FigureTable,
    KeyFigure,
    Picture,
    Rejection,
    Report,
    SlidePanel,
    render,
    versions,
    write_report,
)
from microtome.storage.errors import MissingFile
from microtome.tasks.overlay import as_jpeg, as_png
from microtome.tasks.picture import Layers
from microtome.tasks.top_tiles import TilePicture

VOID = {"meta", "img", "input", "br", "hr", "link"}
ADDRESSES = {"src", "href", "action", "data", "srcset", "poster", "xlink:href"}


class Page(HTMLParser):
    """Elements in order, addresses, visible text; refuses tags that do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"style", "script"} & set(self.open):
            self.words.append(data.strip())

    @property
    def text(self) -> str:
        return " ".join(word for word in self.words if word)

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def addresses(self) -> list[str]:
        return [v for _, attrs in self.elements for n, v in attrs.items() if n in ADDRESSES]


def decoded(uri: str) -> Image.Image:
    kind, data = re.fullmatch(r"data:image/(\w+);base64,(.+)", uri).groups()
    image = Image.open(io.BytesIO(base64.b64decode(data, validate=True)))
    assert image.format.lower() == kind
    return image


def layers(height=30, width=40, *, slide=True, truth=True) -> Layers:
    values = np.zeros((height, width, 4), np.uint8)
    values[5:9, 6:11] = (253, 231, 37, 255)
    return Layers(
        size_px=(height, width),
        slide_jpeg=as_jpeg(np.full((height, width, 3), 230, np.uint8)) if slide else None,
        values_png=as_png(values),
        outlines=(np.array([[1.0, 2.0], [1.0, 20.0], [10.0, 20.5]]),) if truth else (),
    )


@pytest.fixture
def report(tmp_path) -> Report:
    Image.new("RGB", (12, 8), "navy").save(tmp_path / "connectome.png")
    rows = (
        FigureRow("Attention MIL", 0.9612, 0.873, 0.998, 21),
        FigureRow("Bag size alone", 0.5234, 0.3, 0.74, 21, control=True),
        FigureRow("No interval", 0.7),
    )
    slides = (
        SlidePanel("low", 0.0713, 120, "p1", "north", "normal", 0, layers(truth=False)),
        SlidePanel("high", 0.9831, 1204, "p2", "south", "tumour", 1, layers(20, 50),
                   {"tile AUC": "0.977"}, {"QuPath": "heatmaps/high.geojson.gz"}, ("a note",)),
        SlidePanel("middle", 0.4, 60),
    )  # fmt: skip
    return Report(
        title="Tumour or not",
        summary="What was done.",
        made="1 May 2026",
        key_figures=(KeyFigure("AUC of slides", "0.96", "0.87 – 1.00"),),
        figures=(FigureTable("Slides", rows),),
        target="tumour",
        slides=slides,
        brain=BrainSection(
            "Simulated subjects.",
            (FigureTable("Subjects", (FigureRow("Graph network", 0.842, 0.7, 0.93, 80),)),),
            (Picture(tmp_path / "connectome.png", "A matrix", "Mean difference"),),
            {"modularity": "0.38"},
        ),
        rejected=(Rejection("slide-9", "no_mpp", "Pass --mpp"),),
        parameters={"folds": "5"},
        versions={"torch": "2.12"},
        limits=("Procedural data: no clinical claim.",),
    )


def test_it_is_whole_html_that_names_nothing_outside(report):
    text = render(report)
    page = Page(text)
    assert text.startswith("<!doctype html>")
    for address in page.addresses:
        assert address.startswith(("data:", "#", "heatmaps/")), address[:60]
    # OpenSeadragon names servers that it could ask for tiles; the policy keeps it from asking.
    ours = text.replace(read_asset(OPENSEADRAGON), "")
    assert len(ours) < len(text)
    assert not re.search(r"https?:|url\(|@import|//cdn", ours)
    policy = next(m["content"] for m in page.all("meta") if "http-equiv" in m)
    assert "default-src 'none'" in policy
    assert all("src" not in script for script in page.all("script"))


def test_links_inside_lead_somewhere(report):
    page = Page(render(report))
    ids = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    inner = [address[1:] for address in page.addresses if address.startswith("#")]
    assert len(inner) >= 3
    assert set(inner) <= set(ids)


def test_every_picture_is_inside_and_of_its_size(report):
    page = Page(render(report))
    uris = [a.get("href", a.get("src", "")) for t in ("image", "img") for a in page.all(t)]
    pictures = [decoded(uri) for uri in uris]
    # Two slides, each once, with its colours; and the connectome.
    assert [p.format for p in pictures] == ["JPEG", "PNG", "JPEG", "PNG", "PNG"]
    assert [p.size for p in pictures] == [(50, 20)] * 2 + [(40, 30)] * 2 + [(12, 8)]
    assert pictures[1].getpixel((7, 6)) == (253, 231, 37, 255)
    assert pictures[1].getpixel((0, 0))[3] == 0
    assert [i["alt"] for i in page.all("img")] == ["A matrix"]


def test_the_truth_is_drawn_in_x_y(report):
    page = Page(render(report))
    paths = {a["d"] for a in page.all("path")}
    assert paths == {"M2.0 1.0 L20.0 1.0 L20.5 10.0 Z"}


def test_the_numbers_are_shown(report):
    text = Page(render(report)).text
    for words in (
        "0.961", "0.873 – 0.998", "0.523", "0.300 – 0.740", "0.700", "0.983", "0.071", "1,204",
        "0.977", "0.842", "0.38", "no_mpp", "Pass --mpp", "no clinical claim", "2.12", "1 May 2026",
        "a note", "Mean difference", "95 % interval",
    ):  # fmt: skip
        assert words in text, words


def test_the_interval_is_drawn_where_it_is():
    rows = (FigureRow("x", 0.75, 0.6, 0.8, 9), FigureRow("beyond", 1.4, -3, 2.0, 9))
    page = Page(render(Report("t", "s", "m", figures=(FigureTable("f", rows, axis=(0.5, 1.0)),))))
    styles = {a["class"]: a["style"] for a in reversed(page.all("i")) if "style" in a}
    assert float(re.search(r"left:([\d.]+)%", styles["point"]).group(1)) == pytest.approx(50)
    left, width = map(float, re.findall(r"([\d.]+)%", styles["interval"]))
    assert (left, width) == pytest.approx((20, 40))
    every = [a["style"] for a in page.all("i") if a.get("class") in ("point", "interval")]
    assert all(0 <= float(v) <= 100 for style in every for v in re.findall(r"([-\d.]+)%", style))


def test_the_most_suspicious_slide_comes_first(report):
    text = render(report)
    table = text[text.index('id="worklist"') :]
    assert re.findall(r'data-value="(0\.\d+)"', table) == ["0.9831", "0.4", "0.0713"]
    panels = re.findall(r"<h3>(\w+)</h3>\s+<span", text)
    assert panels == ["high", "low"]


def test_what_the_user_named_is_text_not_markup(report):
    slide = replace(report.slides[1], id="<script>alert(1)</script>", label='"><b>')
    text = render(replace(report, slides=(slide,), title="a < b & c"))
    page = Page(text)
    assert "alert(1)" not in "".join(re.findall(r"<script>(.*?)</script>", text, re.DOTALL))
    assert "a < b & c" in page.text
    assert "<script>alert(1)</script>" in page.text


def test_a_slide_that_could_not_be_read_keeps_its_colours(report):
    slide = replace(report.slides[0], layers=layers(slide=False, truth=False))
    page = Page(render(replace(report, slides=(slide,), brain=None)))
    assert [decoded(a["href"]).format for a in page.all("image")] == ["PNG"]
    assert page.all("use") == []


def test_a_report_of_nothing_but_words_is_whole():
    page = Page(render(Report("Title", "Summary", "today")))
    assert "Summary" in page.text
    assert page.all("table") == []


def test_only_so_many_slides_are_pictured_but_all_are_listed(report):
    slides = tuple(replace(report.slides[0], id=f"s{i}", probability=i / 100) for i in range(70))
    page = Page(render(replace(report, slides=slides, brain=None)))
    assert len(page.all("article")) == 60
    assert all(f"s{i}" in page.text.split() for i in range(70))
    assert "10 more slides" in page.text


def test_a_slide_without_pictures_leads_to_its_own_page(report):
    files = {"page of its own": "heatmaps/far off.html"}
    slides = tuple(replace(report.slides[0], id=f"s{i}", probability=i / 100) for i in range(70))
    far = replace(report.slides[2], id="far off", probability=0.0, layers=None, files=files)
    page = Page(render(replace(report, slides=(*slides, far), brain=None)))
    assert page.addresses.count("heatmaps/far%20off.html") == 1


def test_it_is_written_whole_or_not_at_all(report, tmp_path):
    path = write_report(report, tmp_path / "deep" / "report.html")
    assert path.read_text(encoding="utf-8") == render(report)
    lost = replace(report.brain, pictures=(Picture(tmp_path / "gone.png", "x"),))
    with pytest.raises(MissingFile, match=r"gone\.png"):
        write_report(replace(report, brain=lost), tmp_path / "other.html")
    assert not (tmp_path / "other.html").exists()


def test_equal_reports_give_equal_bytes(report):
    assert render(report) == render(report)


def test_versions_say_what_is_absent():
    found = versions(["numpy", "no-such-package-anywhere"])
    assert found == {"numpy": np.__version__, "no-such-package-anywhere": "not installed"}


def test_tiles_and_the_span_of_members_are_shown(report):
    jpeg = as_jpeg(np.full((8, 8, 3), 90, np.uint8))
    pictures = (TilePicture(jpeg, 0.987, (30, 40), True), TilePicture(jpeg, 0.012, (5, 6), False))
    slides = (
        replace(report.slides[0], pictures=pictures, interval=(0.0512, 0.3)),
        report.slides[1],
    )
    page = Page(
        render(replace(report, slides=slides, brain=None, card={"trained on": "21 slides"}))
    )
    named = [i["alt"] for i in page.all("img")]
    assert named == ["Tile at x 40, y 30 px, score 0.987", "Tile at x 6, y 5 px, score 0.012"]
    assert all(decoded(i["src"]).size == (8, 8) for i in page.all("img"))
    for words in ("Highest scores", "Lowest scores", "0.051 – 0.300", "Model card", "21 slides"):
        assert words in page.text, words


def test_without_members_there_is_no_column_for_them(report):
    assert "Members" not in Page(render(report)).text


def test_a_report_of_words_carries_no_library():
    assert read_asset(OPENSEADRAGON) not in render(Report("t", "s", "m"))


def test_text_stands_out_from_its_ground(report):
    """WCAG 2.1, 1.4.3: at least 4.5 to 1 for text, in the light and in the dark."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    def ratio(one: str, other: str) -> float:
        high, low = sorted((luminance(one), luminance(other)), reverse=True)
        return (high + 0.05) / (low + 0.05)

    themes = re.findall(r":root \{([^}]*--card[^}]*)\}", render(report))
    assert len(themes) == 2
    for theme in themes:
        colours = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6});", theme))
        pairs = [("ink", "ground"), ("ink", "card"), ("quiet", "card"), ("quiet", "ground"),
                 ("accent", "card"), ("accent", "tint"), ("hit", "hit-tint")]  # fmt: skip
        for text, ground in pairs:
            assert ratio(colours[text], colours[ground]) >= 4.5, (text, ground)
