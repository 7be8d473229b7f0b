"""A QuPath project that names slides: the part of its format that is JSON.

Written as QuPath 0.3 to 0.7 write it (``qupath.lib.projects.DefaultProject``): which images there
are, by URI, with the reader that opens them; their names; the classes. What is found on an image
is in ``data.qpdata``, Java objects that only QuPath writes; QuPath makes it when an image is first
saved. Until then :mod:`.qupath_script` loads the objects.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import StaleProduct
from .files import writable, write_text
from .qupath_objects import PathClass
from .qupath_script import write_load_script

FILE = "project.qpproj"
VERSION = "0.4.4"
"""The oldest QuPath that our GeoJSON is for; QuPath refuses none but 0.2's first milestones."""

_READERS = "qupath.lib.images.servers."
OPENSLIDE = f"{_READERS}openslide.OpenslideServerBuilder"
BIO_FORMATS = f"{_READERS}bioformats.BioFormatsServerBuilder"

_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "microtome/qupath/project")


@dataclass(frozen=True)
class ProjectImage:
    """A slide that a project is to list.

    Attributes
    ----------
    id
        As the files of results are named; the image is called so too, with the slide's suffix,
        which QuPath's scripts leave off.
    path
        The slide's file.
    facts
        Texts by name that QuPath lists beside the image and sorts by.
    """

    id: str
    path: Path
    facts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ProjectMade:
    """A project that was written.

    Attributes
    ----------
    path
        Its ``project.qpproj``.
    images
        How many it lists.
    left_out
        Why an image is not listed, by its id.
    """

    path: Path
    images: int
    left_out: Mapping[str, str] = field(default_factory=dict)


def write_project(
    folder: Path,
    images: Sequence[ProjectImage],
    *,
    results: Path,
    classes: Sequence[PathClass] = (),
    crop: bool = True,
) -> ProjectMade:
    """Write a project, with the script that loads results among its own scripts.

    Parameters
    ----------
    folder
        Of the project, and of nothing else: QuPath manages it from then on.
    images
        In the order in which QuPath lists them.
    results
        Folder of GeoJSON files, for the script.
    classes
        That annotations can be given; without any QuPath offers its own.
    crop
        False opens slides with ``--no-crop``, the whole of level 0.

    Raises
    ------
    StaleProduct
        A project is there; it is never replaced, for what people drew is in it.
    UnwritableOutput
        Permission denied, read-only or full file system.
    """
    path = folder / FILE
    if path.exists():
        raise StaleProduct(
            "a QuPath project is here already, perhaps with what people drew",
            where=path,
            remedy="Add images to it in QuPath, or choose another folder",
        )
    builders = {image.id: _builder(image.path, crop=crop) for image in images}
    listed = [image for image in images if not isinstance(builders[image.id], str)]
    for number, image in enumerate(listed, start=1):
        _write_json(folder / "data" / str(number) / "server.json", builders[image.id])
    if classes:
        named = [_class(one) for one in classes]
        _write_json(folder / "classifiers" / "classes.json", {"pathClasses": named})
    write_load_script(folder / "scripts", results)
    now_ms = int(time.time() * 1000)
    project = {
        "version": VERSION,
        "createTimestamp": now_ms,
        "modifyTimestamp": now_ms,
        "uri": path.resolve().as_uri(),
        "lastID": len(listed),
        "images": [
            _entry(number, image, builders[image.id]) for number, image in enumerate(listed, 1)
        ],
    }
    _write_json(path, project)
    left_out = {name: why for name, why in builders.items() if isinstance(why, str)}
    return ProjectMade(path, len(listed), left_out)


def _builder(path: Path, *, crop: bool) -> dict[str, Any] | str:
    """How QuPath opens a slide, as it writes it; or, in words, why that is not known."""
    if not path.is_file():
        return f"{path} is a folder: add it in QuPath" if path.exists() else f"{path} is not there"
    reader = _reader(path)
    if reader is None:
        return f"it is not known how QuPath opens {path.name}: add it in QuPath"
    no_crop = [] if crop else ["--no-crop"]
    return {
        "builderType": "uri",
        "providerClassName": reader,
        "uri": path.resolve().as_uri(),
        # One file of Bio-Formats may have several images.
        "args": no_crop if reader == OPENSLIDE else ["--series", "0"],
    }


def _reader(path: Path) -> str | None:
    """The reader that QuPath itself takes; None where that depends on more than the file."""
    import openslide

    if path.name.lower().endswith((".ome.tif", ".ome.tiff")):
        return BIO_FORMATS
    if openslide.OpenSlide.detect_format(str(path)) is not None:
        return OPENSLIDE
    return BIO_FORMATS if path.suffix.lower() in (".tif", ".tiff") else None


def _entry(number: int, image: ProjectImage, builder: Any) -> dict[str, Any]:
    return {
        "serverBuilder": builder,
        "entryID": number,
        # What QuPath shows in place of the name where names are to be hidden.
        "randomizedName": str(uuid.uuid5(_NAMESPACE, image.id)),
        "imageName": image.id + _suffix(image.path.name),
        "metadata": dict(image.facts),
        "tags": [],
    }


def _suffix(name: str) -> str:
    for double in (".ome.tif", ".ome.tiff"):
        if name.lower().endswith(double):
            return double
    return Path(name).suffix


def _class(path_class: PathClass) -> dict[str, Any]:
    if path_class.color is None:
        return {"name": path_class.name}
    red, green, blue = path_class.color
    # Java's packed colour, opaque: a signed 32-bit integer.
    return {"name": path_class.name, "color": (red << 16 | green << 8 | blue) - (1 << 24)}


def _write_json(path: Path, content: Any) -> None:
    with writable(path):
        write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
