"""A QuPath project of slides that were predicted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..storage.predictions import SlidePrediction
from ..storage.qupath import PathClass
from ..storage.qupath_project import FILE, ProjectImage, write_project
from .overlay import DISTINCT
from .top_tiles import REGION

FOLDER = "project"
IGNORE = PathClass("Ignore*", (180, 180, 180))
"""QuPath's own class for what is not to count, with its own colour."""


def make_project(predictions: Sequence[SlidePrediction], out: Path, *, crop: bool = True) -> str:
    """Write ``out/project`` of the slides whose results lie in ``out``, and say what was written.

    The most suspicious comes first; beside each image stands its probability. The classes are the
    model's, to correct tiles with. A project that is there is left as it is.
    """
    folder = out / FOLDER
    if (folder / FILE).exists():
        return f"project: {folder / FILE} is left as it is, for what people drew is in it"
    ordered = sorted(predictions, key=lambda p: (-p.probability, p.id))
    images = [
        ProjectImage(p.id, Path(p.source or "its slide"), {p.target: f"{p.probability:.3f}"})
        for p in ordered
    ]
    made = write_project(folder, images, results=out, classes=_classes(predictions), crop=crop)
    lines = [f"project: {made.path}, {made.images} images"]
    lines += [f"not in the project: {name}, {why}" for name, why in made.left_out.items()]
    return "\n".join(lines)


def _classes(predictions: Sequence[SlidePrediction]) -> list[PathClass]:
    categorical = [p for p in predictions if p.kind in ("classes", "labels")]
    names = list(dict.fromkeys(name for p in categorical for name in p.classes))
    colours = [DISTINCT[i % len(DISTINCT)] for i in range(len(names))]
    found = [PathClass(name, colour) for name, colour in zip(names, colours, strict=True)]
    return [*found, REGION, IGNORE]
