"""Turn a report into one HTML file that needs nothing beside it and asks nothing of a network."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..assets import OPENSEADRAGON, read_asset
from ..storage.commit import writable, write_text
from ..storage.errors import MissingFile
from ..storage.installed import installed_version
from ..tasks.overlay import DISTINCT, colour_table
from ..tasks.rasters import Outline
from .model import FollowUpPanel, Picture, Report, SlidePanel

MAX_PICTURED = 60
"""Slides that are shown with pictures; the others are in the worklist, with links."""

_MIME = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg"}


def write_report(report: Report, path: str | Path) -> Path:
    """Write a report as one self-contained HTML file.

    Raises
    ------
    MissingFile
        A picture that the report names is not there.
    UnwritableOutput
        Permission denied, read-only or full file system.
    """
    path = Path(path)
    text = render(report)
    with writable(path):
        write_text(path, text)
    return path


def render(report: Report) -> str:
    """The report as HTML: styles, scripts and pictures inside, no address of anything outside."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    folder = Path(__file__).parent
    environment = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(data_uri=_data_uri, embedded=_embedded, path=_svg_path)
    ordered = sorted(report.slides, key=lambda s: (-(s.probability or 0.0), s.id))
    pictured = [slide for slide in ordered if slide.layers is not None]
    changed = sorted(report.followups, key=lambda f: (-f.growth_mm2, f.patient))
    html: str = environment.get_template("report.html").render(
        report=report,
        slides=ordered,
        panels=[_Panel(number, slide) for number, slide in enumerate(pictured[:MAX_PICTURED])],
        without_picture=len(pictured[MAX_PICTURED:]),
        followups=[_Pair(number, pair) for number, pair in enumerate(changed)],
        max_pairs=MAX_PICTURED // 2,
        has_truth=any(s.layers is not None and s.layers.outlines for s in pictured),
        scale=_gradient(),
        spread=any(slide.interval is not None for slide in ordered),
        predicted=any(slide.probability is not None for slide in ordered),
        groups=list(zip(report.groups, _distinct(), strict=False)),
        style=(folder / "report.css").read_text(encoding="utf-8"),
        library=read_asset(OPENSEADRAGON),
    )
    return html


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Versions of installed packages by name; one that is absent is said to be."""
    return {name: installed_version(name) for name in packages}


@dataclass(frozen=True)
class _Panel:
    number: int
    slide: SlidePanel


@dataclass(frozen=True)
class _Pair:
    number: int
    change: FollowUpPanel

    @property
    def before(self) -> _Panel:
        return _Panel(2 * self.number, self.change.before)

    @property
    def after(self) -> _Panel:
        return _Panel(2 * self.number + 1, self.change.after)


def _gradient() -> str:
    colours = colour_table()[::32].tolist() + colour_table()[-1:].tolist()
    return ", ".join(f"rgb({r} {g} {b})" for r, g, b in colours)


def _distinct() -> list[str]:
    return [f"rgb({r} {g} {b})" for r, g, b in DISTINCT]


def _svg_path(outlines: Iterable[Outline]) -> str:
    rings = (" L".join(f"{x:.1f} {y:.1f}" for y, x in outline) for outline in outlines)
    return " ".join(f"M{ring} Z" for ring in rings)


def _data_uri(data: bytes, mime: str) -> str:
    return f"data:{mime};base64,{base64.b64encode(data).decode()}"


def _embedded(picture: Picture) -> str:
    if not picture.path.is_file():
        raise MissingFile("no such picture", where=picture.path)
    return _data_uri(picture.path.read_bytes(), _MIME[picture.path.suffix.lower()])
