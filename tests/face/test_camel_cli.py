"""CAMEL from the command line, on a real slide: coarse regions in, outlines for QuPath out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import shapely
from click.testing import Result
from typer.testing import CliRunner

from microtome.cli.app import app
from microtome.engine.slides import open_slide
from microtome.engine.tiles import read_overview
from microtome.storage.annotations import read_annotations
from microtome.storage.errors import (
    MissingFile,
    StaleProduct,
)
from microtome.storage.ledger import read_ledger
from microtome.storage.maps import open_map
from microtome.storage.polygons import outline
from microtome.storage.qupath import Frame
from microtome.storage.qupath_check import check_geojson
from microtome.tasks.camel.segmenter import load_segmenter

SLIDE = "CMU-1-Small-Region"
QUICK = [
    "--mpp",
    "2",
    "--side-px",
    "64",
    "--encoder",
    "tu-test_resnet",
    "--epochs",
    "6",
    "--at-most",
    "20",
    "--members",
    "2",
    "--rounds",
    "2",
]


def camel(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["camel", *map(str, arguments)])


def done(*arguments: str | Path) -> Result:
    result = camel(*arguments)
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture(scope="module")
def svs(shared_data: Path) -> Path:
    return shared_data / "slides" / "aperio" / f"{SLIDE}.svs"


@pytest.fixture(scope="module")
def regions(svs: Path, tmp_path_factory) -> Path:
    """Where the slide is dark over 60 µm or so, drawn coarsely, as QuPath exports it."""
    with open_slide(svs) as slide:
        overview, downsample = read_overview(slide, mpp=8)
    dark = cv2.GaussianBlur(255 - overview.mean(axis=2), (0, 0), 8)
    area = outline(dark > np.quantile(dark, 0.75), downsample).simplify(40)
    properties = {"objectType": "annotation", "classification": {"name": "Tumor"}}
    features = [
        {
            "type": "Feature",
            "geometry": json.loads(shapely.to_geojson(part)),
            "properties": properties,
        }
        for part in shapely.get_parts(area)
    ]
    folder = tmp_path_factory.mktemp("regions")
    text = json.dumps({"type": "FeatureCollection", "features": features})
    (folder / f"{SLIDE}.geojson").write_text(text)
    return folder


@pytest.fixture(scope="module")
def trained(svs: Path, regions: Path, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("camel")
    result = done("train", svs, "--regions", regions, "--out", out, *QUICK)
    assert "positive" in result.output
    return out


@pytest.fixture(scope="module")
def outlined(trained: Path, svs: Path, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("outlined")
    done("predict", trained / "model", svs, "--out", out, "--min-area-um2", 500)
    return out


def test_the_model_says_what_it_was_made_of(trained):
    card = load_segmenter(trained / "model").card
    assert (card.mpp, card.side_px, card.classes) == (2.0, 64, ("normal", "lesion"))
    assert card.training["enrichment"] == "robust"
    assert card.training["labelled by"] in {"image label", "naive", "adaptive", "faithful"}
    # Of the instances of positive images, one of sixteen at least.
    assert 1 / 16 <= float(card.training["estimated share of positive instances"]) <= 1
    assert card.training["squares along a side"] == 8
    assert 0 < int(card.training["positive images"]) < int(card.training["images"])
    assert [entry.state for entry in read_ledger(trained / "ledger.jsonl")] == ["done"]
    assert check_geojson(trained / "labels" / f"{SLIDE}.geojson.gz") == []
    assert not list(trained.glob(".work*"))


def test_outlines_open_in_qupath_at_the_right_place(outlined, regions, svs):
    path = outlined / f"{SLIDE}.geojson.gz"
    assert check_geojson(path) == []
    assert check_geojson(outlined / f"{SLIDE}.tiles.geojson.gz") == []
    stored = open_map(outlined / f"{SLIDE}.probability.ome.zarr")
    frame = Frame(stored.frame.slide_px)
    read = read_annotations(path, frame=frame)
    assert read.annotations
    assert not read.problems
    found = shapely.unary_union([a.geometry for a in read.annotations])
    assert shapely.box(0, 0, 2220, 2967).buffer(1e-6).contains(found)
    drawn = read_annotations(regions / f"{SLIDE}.geojson", frame=frame).annotations
    truth = shapely.unary_union([a.geometry for a in drawn])
    # Probabilities are higher where the regions are than elsewhere: a shift would not have that.
    tiles = read_annotations(outlined / f"{SLIDE}.tiles.geojson.gz", frame=frame).annotations
    share = np.array([t.geometry.intersection(truth).area / t.geometry.area for t in tiles])
    said = np.array([t.measurements["probability of lesion"] for t in tiles])
    assert said[share > 0.5].mean() > said[share < 0.1].mean() + 0.15
    assert np.corrcoef(share, said)[0, 1] > 0.5


def test_figures_are_those_of_the_map_and_carry_intervals(outlined, regions, tmp_path):
    result = done("evaluate", outlined, "--truth", regions, "--out", tmp_path / "f.json")
    assert "IoU" in result.output
    figures = json.loads((tmp_path / "f.json").read_text())["slides"][SLIDE]
    assert figures["IoU"]["low"] <= figures["IoU"]["value"] <= figures["IoU"]["high"]
    assert figures["instance sensitivity"]["n"] > 5
    iou, dice = figures["IoU"]["value"], figures["Dice"]["value"]
    assert dice == pytest.approx(2 * iou / (1 + iou), abs=1e-5)


def test_what_is_there_is_not_made_again_and_other_settings_are_refused(
    trained, outlined, svs, regions
):
    again = camel("train", svs, "--regions", regions, "--out", trained, *QUICK)
    assert "skipped" in again.output
    other = camel("train", svs, "--regions", regions, "--out", trained, *QUICK, "--seed", 5)
    assert isinstance(other.exception, StaleProduct)
    more = done(
        "predict", trained / "model", svs, "--out", outlined, "--threshold", 0.999, "--no-tiles"
    )
    assert "skipped" in more.output


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["train", "SLIDE", "--regions", "nowhere", "--out", "OUT"], MissingFile),
        (["predict", "nowhere", "SLIDE", "--out", "OUT"], MissingFile),
        (["evaluate", "OUT", "--truth", "nowhere"], MissingFile),
    ],
)
def test_what_is_missing_is_named(svs, tmp_path, arguments, error):
    places = {"SLIDE": str(svs), "OUT": str(tmp_path)}
    result = camel(*(places.get(text, text) for text in arguments))
    assert result.exit_code != 0
    assert isinstance(result.exception, error) or "missing" in result.output


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "either --regions or --predictions"),
        (["--regions", "r", "--class", "Tumor"], "NAME=MEANING"),
        (["--regions", "r", "--cascade", "two"], "N1,N2"),
    ],
)
def test_wrong_use_is_explained(svs, tmp_path, options, words):
    result = camel("train", svs, "--out", tmp_path, *options)
    assert result.exit_code == 2
    assert words in result.output


def codes_of(path: Path) -> np.ndarray:
    stored = open_map(path)
    height, width = stored.frame.shape
    return stored.codes(slice(0, height), slice(0, width)).astype(int)


@pytest.mark.slow
def test_several_processes_outline_what_one_does(trained, outlined, svs, tmp_path):
    rows = [f"{name},{name}.svs,patient" for name in ("one", "two")]
    for name in ("one", "two"):
        shutil.copy(svs, tmp_path / f"{name}.svs")
    (tmp_path / "cohort.csv").write_text("\n".join(["id,path,patient", *rows]), encoding="utf-8")
    out = tmp_path / "out"
    done("predict", trained / "model", tmp_path / "cohort.csv", "--out", out, "--jobs", 2)
    assert [entry.state for entry in read_ledger(out / "ledger.jsonl")] == ["done", "done"]
    alone = codes_of(outlined / f"{SLIDE}.probability.ome.zarr")
    for name in ("one", "two"):
        # Torch's sums may differ in their last digit from one number of threads to another.
        codes = codes_of(out / f"{name}.probability.ome.zarr")
        assert np.array_equal(codes == 0, alone == 0)
        assert np.abs(codes - alone).max() <= 1
        assert check_geojson(out / f"{name}.geojson.gz") == []
