"""The QuPath project: held to what QuPath's source reads and to what real projects have.

Real projects: AndrewZhang419/QuPath at a8878fd (0.5.1, OpenSlide) and CosciaLab/Qupath_to_LMD at
827758d (0.6.0, Bio-Formats). The rules are those of ``DefaultProject.loadProject`` and of
``ImageServerBuilder.DefaultImageServerBuilder``; QuPath itself was not run.
"""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from urllib.parse import unquote, urlparse

import numpy as np
import pytest
import tifffile

from microtome.storage.errors import StaleProduct
from microtome.storage.predictions import SlidePrediction
from microtome.storage.qupath import PathClass
from microtome.storage.qupath_project import ProjectImage, write_project
from microtome.tasks.qupath_project import make_project

# Members that the real projects have, with the type of each.
PROJECT = {"version": str, "createTimestamp": int, "modifyTimestamp": int, "uri": str,
           "lastID": int, "images": list}  # fmt: skip
ENTRY = {"serverBuilder": dict, "entryID": int, "randomizedName": str, "imageName": str,
         "metadata": dict, "tags": list}  # fmt: skip
BUILDER = {"builderType": str, "providerClassName": str, "uri": str, "args": list}
OPENSLIDE = "qupath.lib.images.servers.openslide.OpenslideServerBuilder"
BIO_FORMATS = "qupath.lib.images.servers.bioformats.BioFormatsServerBuilder"


def members(found: dict) -> dict:
    return {name: type(value) for name, value in found.items()}


def file_of(uri: str) -> Path:
    """As Java's ``Paths.get(new URI(uri))``: absolute, nothing but a path in it."""
    parts = urlparse(uri)
    assert (parts.scheme, parts.netloc, parts.query, parts.fragment) == ("file", "", "", "")
    assert uri.isascii()
    return Path(unquote(parts.path))


def loaded(path: Path) -> dict:
    """A project as QuPath loads it; fails where QuPath would."""
    project = json.loads(path.read_text(encoding="utf-8"))
    assert members(project) == PROJECT
    assert file_of(project["uri"]) == path.resolve()
    ids = [entry["entryID"] for entry in project["images"]]
    assert len(set(ids)) == len(ids)
    assert project["lastID"] == max(ids, default=0)
    for entry in project["images"]:
        assert members(entry) == ENTRY
        # Gson makes entries without their constructor: what is missing would be null.
        assert all(isinstance(text, str) for text in entry["metadata"].values())
        uuid.UUID(entry["randomizedName"])
        builder = entry["serverBuilder"]
        assert members(builder) == BUILDER
        assert builder["builderType"] == "uri"
        assert file_of(builder["uri"]).is_file()
        beside = path.parent / "data" / str(entry["entryID"]) / "server.json"
        assert json.loads(beside.read_text()) == builder
    return project


@pytest.fixture
def slides(tmp_path) -> Path:
    folder = tmp_path / "größe & mehr #1"
    folder.mkdir()
    pixels = np.full((600, 600, 3), 200, np.uint8)
    for name in ("tiled.tif", "case.17.ome.tif"):
        tifffile.imwrite(folder / name, pixels, tile=(256, 256), photometric="rgb")
    tifffile.imwrite(folder / "strips.tif", pixels, photometric="rgb")
    (folder / "x.ome.zarr").mkdir()
    (folder / "notes.czi").write_bytes(b"no slide")
    return folder


def test_a_project_has_the_members_of_real_ones(slides, tmp_path, shared_data):
    aperio = shared_data / "slides" / "aperio" / "CMU-1-Small-Region.svs"
    images = [
        ProjectImage("aperio", aperio, {"tumour": "0.970"}),
        ProjectImage("case.17", slides / "case.17.ome.tif"),
        ProjectImage("b", slides / "tiled.tif"),
        ProjectImage("c", slides / "strips.tif"),
    ]
    made = write_project(tmp_path / "p", images, results=tmp_path)
    assert (made.images, dict(made.left_out)) == (4, {})
    project = loaded(made.path)
    entries = project["images"]
    # QuPath takes what stands before the last dot, or before .ome.tif: the name of our files.
    assert [e["imageName"] for e in entries] == ["aperio.svs", "case.17.ome.tif", "b.tif", "c.tif"]
    assert entries[0]["metadata"] == {"tumour": "0.970"}
    builders = [entry["serverBuilder"] for entry in entries]
    assert [b["providerClassName"] for b in builders] == [
        OPENSLIDE, BIO_FORMATS, OPENSLIDE, BIO_FORMATS,
    ]  # fmt: skip
    assert [b["args"] for b in builders] == [[], ["--series", "0"], [], ["--series", "0"]]
    assert file_of(builders[1]["uri"]).samefile(slides / "case.17.ome.tif")


def test_slides_whose_reader_is_not_known_are_left_out_and_named(slides, tmp_path):
    images = [ProjectImage(p.name, p) for p in sorted(slides.iterdir())]
    images.append(ProjectImage("gone", slides / "gone.svs"))
    made = write_project(tmp_path / "p", images, results=tmp_path)
    assert sorted(made.left_out) == ["gone", "notes.czi", "x.ome.zarr"]
    assert "not there" in made.left_out["gone"]
    assert made.images == len(loaded(made.path)["images"]) == 3


def test_uncropped_slides_are_opened_uncropped(slides, tmp_path):
    image = ProjectImage("b", slides / "tiled.tif")
    made = write_project(tmp_path / "p", [image], results=tmp_path, crop=False)
    assert loaded(made.path)["images"][0]["serverBuilder"]["args"] == ["--no-crop"]


def test_classes_have_java_s_packed_colours(tmp_path):
    # -65536 is red and -16776961 blue in real projects' channels; -16547823 is a class's colour.
    known = {(255, 0, 0): -65536, (0, 0, 255): -16776961, (3, 128, 17): -16547823}
    classes = [PathClass(str(color), color) for color in known] + [PathClass("own", None)]
    write_project(tmp_path / "p", [], results=tmp_path, classes=classes)
    found = json.loads((tmp_path / "p" / "classifiers" / "classes.json").read_text())
    assert found == {
        "pathClasses": [{"name": str(rgb), "color": packed} for rgb, packed in known.items()]
        + [{"name": "own"}]
    }


def test_the_script_lies_among_the_project_s_and_looks_where_the_results_are(tmp_path):
    results = tmp_path / "results"
    write_project(tmp_path / "p", [], results=results)
    text = (tmp_path / "p" / "scripts" / "load_results.groovy").read_text()
    assert f"'{results.resolve()}'" in text


def test_a_project_is_never_replaced(slides, tmp_path):
    image = ProjectImage("b", slides / "tiled.tif")
    path = write_project(tmp_path / "p", [image], results=tmp_path).path
    before = path.read_bytes()
    with pytest.raises(StaleProduct, match="what people drew"):
        write_project(tmp_path / "p", [], results=tmp_path)
    assert path.read_bytes() == before


def test_predictions_become_a_project_with_the_most_suspicious_first(slides, tmp_path):
    def prediction(id_: str, probability: float, file: str) -> SlidePrediction:
        return SlidePrediction(
            id=id_, probability=probability, classes=("normal", "tumour"),
            probabilities=np.array([0.5, 0.5], np.float32), target="tumour", label=None, fold=None,
            coords_px=np.zeros((1, 2), np.int64), footprint_px=(9, 9), slide_px=(600, 600),
            bounds_px=None, slide_mpp=(1, 1), score=np.zeros(1, np.float32),
            attention=np.ones(1, np.float32), source=str(slides / file) if file else "",
            encoder="e", model="m",
        )  # fmt: skip

    found = [prediction("low", 0.1, "tiled.tif"), prediction("high", 0.9, "strips.tif"),
             prediction("none", 0.5, "")]  # fmt: skip
    said = make_project(found, tmp_path)
    assert "2 images" in said
    assert "not in the project: none" in said
    project = loaded(tmp_path / "project" / "project.qpproj")
    assert [entry["imageName"] for entry in project["images"]] == ["high.tif", "low.tif"]
    classes = json.loads((tmp_path / "project" / "classifiers" / "classes.json").read_text())
    names = [one["name"] for one in classes["pathClasses"]]
    assert names == ["normal", "tumour", "Region*", "Ignore*"]
    assert "left as it is" in make_project(found, tmp_path)
