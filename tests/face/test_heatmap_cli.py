"""``microtome heatmap``: predictions to QuPath, pictures and a report; and the checker."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from microtome.cli.app import app
from microtome.engine.grid import TileGrid
from microtome.engine.slides import SlideInfo, open_slide
from microtome.engine.tissue import TissueMask, write_tissue
from microtome.storage.annotation_store import read_annotation_store
from microtome.storage.bags import Bag, write_bag
from microtome.storage.errors import CohortError, MissingFile, StaleProduct
from microtome.storage.predictions import SlidePrediction, write_predictions
from microtome.storage.qupath_check import check_geojson, read_features, read_metadata

SVS = "slides/aperio/CMU-1-Small-Region.svs"


def heatmap(*arguments: object):
    return CliRunner().invoke(app, ["heatmap", *map(str, arguments)], env={"COLUMNS": "200"})


def tiles_in(path: Path) -> list[dict]:
    return [f for f in read_features(path) if f["properties"]["objectType"] == "tile"]


def prediction_of(id_: str, source: Path | str, grid, info, **facts) -> SlidePrediction:
    score = np.linspace(0, 1, len(grid), dtype=np.float32)
    defaults = {
        "probability": 0.75, "classes": ("normal", "tumour"),
        "probabilities": np.array([0.25, 0.75], np.float32), "target": "tumour",
        "label": "tumour", "fold": 1, "bounds_px": None, "slide_mpp": info.mpp,
        "attention": score / score.sum(), "encoder": "stain-texture@1", "model": "key",
        "patient": "p-" + id_,
    }  # fmt: skip
    return SlidePrediction(
        id=id_, source=str(source), score=score, coords_px=grid.coords_px,
        footprint_px=grid.footprint_px, slide_px=(info.height_px, info.width_px),
        **{**defaults, **facts},
    )  # fmt: skip


@pytest.fixture(scope="module")
def layout(shared_data) -> tuple[TileGrid, SlideInfo]:
    """Tiles over a real slide."""
    with open_slide(shared_data / SVS) as slide:
        return TileGrid.over(slide.info, tile_px=128, mpp=1.0), slide.info


@pytest.fixture
def predictions(shared_data, layout, tmp_path) -> Path:
    """Two slides: one real, one that is gone."""
    grid, info = layout
    here = prediction_of("here", shared_data / SVS, grid, info)
    gone = prediction_of(
        "gone", tmp_path / "gone.svs", grid, info, probability=0.125, label="normal"
    )
    write_predictions(tmp_path / "predictions", [here, gone], key="k", about={})
    return tmp_path / "predictions"


def test_predictions_become_geojson_pictures_and_a_report(predictions, tmp_path, layout):
    out = tmp_path / "out"
    result = heatmap(predictions, "--out", out)
    assert result.exit_code == 0, result.output
    assert sorted(p.name for p in out.iterdir()) == [
        "gone.geojson.gz", "here.geojson.gz", "here.heatmap.png", "here.html",
        "ledger.jsonl", "load_results.groovy", "report.html",
    ]  # fmt: skip
    assert "overlay was left out" in result.output
    grid, info = layout
    for name in ("here", "gone"):
        assert check_geojson(out / f"{name}.geojson.gz") == []
        features = tiles_in(out / f"{name}.geojson.gz")
        assert len(features) == len(grid)
        scores = [f["properties"]["measurements"]["score"] for f in features]
        assert scores == pytest.approx(np.linspace(0, 1, len(grid)).tolist(), abs=1e-6)
        corners = [f["geometry"]["coordinates"][0][0][::-1] for f in features]
        assert corners == grid.coords_px.tolist()
    with Image.open(out / "here.heatmap.png") as picture:
        assert picture.size[0] / picture.size[1] > info.width_px / info.height_px
    text = (out / "report.html").read_text()
    assert all(
        words in text for words in ("0.750", "0.125", "here", "gone", "overlay was left out")
    )
    # Every slide was held out and is labelled, so the report may state an AUC: 1 of 2 is perfect.
    assert re.search(r'class="number strong">1\.000<', text)
    links = re.findall(r'href="([^"#][^":]*)"', text)
    assert sorted(links) == [
        "gone.geojson.gz", "here.geojson.gz", "here.heatmap.png", "here.html",
    ]  # fmt: skip
    assert all((out / link).is_file() for link in links)


def test_the_report_says_which_tissue_it_measured_and_a_project_is_written_once(
    predictions, tmp_path, layout
):
    info = layout[1]
    labels = np.zeros((info.height_px // 10, info.width_px // 10), np.uint8)
    labels[:100, :100] = 1
    side = tuple(10 * mpp for mpp in info.mpp)
    for name in ("here", "gone"):
        mask = TissueMask(labels, (10.0, 10.0), side)
        write_tissue(tmp_path / "masks" / f"{name}.tissue.zarr", mask, key="k")
    options = ("--no-overlay", "--project", "--masks", tmp_path / "masks")
    result = heatmap(predictions, "--out", tmp_path / "out", *options)
    assert result.exit_code == 0, result.output
    area = 1e4 * math.prod(side) / 1e6
    text = (tmp_path / "out" / "report.html").read_text()
    assert text.count(f"{area:.2f} mm² (of the mask)") == 2
    assert "not in the project: gone" in result.output
    project = tmp_path / "out" / "project" / "project.qpproj"
    (entry,) = json.loads(project.read_text())["images"]
    # The script loads what is named as the image is.
    assert entry["imageName"] == "here.svs"
    assert (tmp_path / "out" / "here.geojson.gz").is_file()
    script = project.parent / "scripts" / "load_results.groovy"
    assert str((tmp_path / "out").resolve()) in script.read_text()
    before = project.read_bytes()
    again = heatmap(predictions, "--out", tmp_path / "out", *options)
    assert "left as it is" in again.output
    assert project.read_bytes() == before
    assert "(of whole tiles: there is no mask)" not in text


def test_chosen_bags_bring_their_quality(predictions, tmp_path, layout):
    grid, info = layout
    focus = np.arange(len(grid), dtype=np.float32)
    bag = Bag(
        id="gone", features=np.zeros((len(grid), 2), np.float32), coords_px=grid.coords_px,
        footprint_px=grid.footprint_px, slide_px=(info.height_px, info.width_px), mpp=1.0,
        slide_mpp=info.mpp, tile_px=128, encoder="e@1", quality={"focus": focus},
    )  # fmt: skip
    write_bag(tmp_path / "bags" / "gone.bag.zarr", bag, key="k")
    result = heatmap(predictions, tmp_path / "bags", "--out", tmp_path / "out", "--no-overlay")
    assert result.exit_code == 0, result.output
    assert not (tmp_path / "out" / "here.geojson.gz").exists()
    features = tiles_in(tmp_path / "out" / "gone.geojson.gz")
    assert [f["properties"]["measurements"]["focus"] for f in features] == focus.tolist()
    assert "left out" not in result.output


def test_bounds_are_cropped_unless_the_user_says_no(tmp_path, shared_data, layout):
    grid, info = layout
    bounded = prediction_of("b", shared_data / SVS, grid, info, bounds_px=(256, 512, 1024, 1280))
    write_predictions(tmp_path / "p", [bounded], key="k", about={})
    for flag, origin in (("--crop", {"x": 512, "y": 256}), ("--no-crop", {"x": 0, "y": 0})):
        out = tmp_path / flag
        assert heatmap(tmp_path / "p", "--out", out, flag, "--no-overlay").exit_code == 0
        assert read_metadata(out / "b.geojson.gz")["origin_px"] == origin
        assert check_geojson(out / "b.geojson.gz") == []


def test_a_store_for_tiatoolbox_on_request(predictions, tmp_path, layout):
    out = tmp_path / "out"
    assert heatmap(predictions, "--out", out, "--no-overlay", "--store").exit_code == 0
    grid, _ = layout
    found = read_annotation_store(out / "here.db")
    tiles = [a for a in found if a.object_type == "tile"]
    assert [a.geometry.bounds[1::-1] for a in tiles] == [tuple(c) for c in grid.coords_px.tolist()]
    scores = [a.measurements["score"] for a in tiles]
    assert scores == pytest.approx(np.linspace(0, 1, len(grid)).tolist(), abs=1e-6)


def test_a_slide_that_changed_is_rejected_and_the_others_go_on(
    predictions, tmp_path, shared_data, layout
):
    grid, info = layout
    fine = prediction_of("fine", shared_data / SVS, grid, info)
    other = prediction_of("other", shared_data / "slides/derived/CMU-1-Small-Region.ome.tif", grid,
                          info, slide_mpp=(1.0, 1.0))  # fmt: skip
    wrong = type(other)(**{**vars(other), "slide_px": (info.height_px + 1, info.width_px)})
    write_predictions(tmp_path / "p", [fine, wrong], key="k", about={})
    result = heatmap(tmp_path / "p", "--out", tmp_path / "out")
    assert result.exit_code == 3
    ledger = [json.loads(line) for line in (tmp_path / "out/ledger.jsonl").read_text().splitlines()]
    assert {e["item"]: (e["state"], e["reason"]) for e in ledger} == {
        "fine": ("done", ""),
        "other": ("rejected", "bad_geometry"),
    }
    assert "bad_geometry" in (tmp_path / "out/report.html").read_text()


def test_heatmaps_of_another_model_are_kept(predictions, tmp_path, shared_data, layout):
    out = tmp_path / "out"
    assert heatmap(predictions, "--out", out, "--no-overlay").exit_code == 0
    before = (out / "here.geojson.gz").read_bytes()
    grid, info = layout
    new = prediction_of("here", shared_data / SVS, grid, info, model="another")
    write_predictions(tmp_path / "p2", [new], key="k2", about={})
    assert heatmap(tmp_path / "p2", "--out", out, "--no-overlay").exit_code == 3
    assert (out / "here.geojson.gz").read_bytes() == before
    assert StaleProduct.reason in (out / "ledger.jsonl").read_text()
    assert heatmap(tmp_path / "p2", "--out", out, "--no-overlay", "--overwrite").exit_code == 0
    assert read_metadata(out / "here.geojson.gz")["model"] == "another"


@pytest.fixture(scope="module")
def trained(tmp_path_factory, shared_data, layout) -> tuple[Path, Path]:
    """A model that was fitted on bags whose first feature tells the class; and two new bags."""
    from microtome.tasks.mil.store import BagNeeds, MilModel, new_card, save_model
    from microtome.tasks.mil.train import TrainOptions, fit

    grid, info = layout
    rng = np.random.default_rng(0)

    def bag_of(name: str, hot: int) -> Bag:
        features = rng.normal(0, 1, (len(grid), 4)).astype(np.float32)
        features[:hot, 0] += 6
        return Bag(
            id=name, features=features, coords_px=grid.coords_px, footprint_px=grid.footprint_px,
            slide_px=(info.height_px, info.width_px), mpp=1.0, slide_mpp=info.mpp, tile_px=128,
            encoder="e@1", quality={"focus": features[:, 1]}, source=str(shared_data / SVS),
        )  # fmt: skip

    bags = [bag_of(f"b{i}", 20 * (i % 2)) for i in range(12)]
    labels = np.arange(12) % 2
    options = TrainOptions(members=2, epochs=12)
    members = fit([b.features for b in bags], labels, np.arange(12), options)
    card = new_card(
        options, classes=("normal", "tumour"), members=len(members), needs=BagNeeds.of(bags[0]),
        training={}, metrics={}, limits=(),
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("trained")
    save_model(folder / "model", MilModel(card, tuple(members), "the-key"))
    for name, hot in (("new-tumour", 30), ("new-normal", 0)):
        write_bag(folder / "bags" / f"{name}.bag.zarr", bag_of(name, hot), key=name)
    return folder / "model", folder / "bags"


def test_a_model_is_applied_to_bags(trained, tmp_path):
    model, bags = trained
    out = tmp_path / "out"
    result = heatmap(model, bags, "--out", out)
    assert result.exit_code == 0, result.output
    probabilities = {}
    for name in ("new-tumour", "new-normal"):
        about = read_metadata(out / f"{name}.geojson.gz")
        assert (about["model"], about["target"]) == ("the-key", "tumour")
        probabilities[name] = about["probability"]
        assert check_geojson(out / f"{name}.geojson.gz") == []
        assert (out / f"{name}.heatmap.png").is_file()
    assert probabilities["new-tumour"] > 0.5 > probabilities["new-normal"]
    scores = np.array(
        [
            feature["properties"]["measurements"]["score"]
            for feature in tiles_in(out / "new-tumour.geojson.gz")
        ]
    )
    assert scores[:30].min() > scores[30:].max()
    report = (out / "report.html").read_text()
    assert "trained on" in report
    # Its card, and what its two members say.
    assert "Model card" in report
    assert "abmil, 2 members" in report
    assert report.count("members 0.") + report.count("members 1.") == 2
    assert 'class="forest"' not in report


def test_a_bag_that_the_model_does_not_fit_is_rejected_alone(trained, layout, tmp_path):
    model, bags = trained
    grid, info = layout
    other = Bag(
        id="other", features=np.zeros((len(grid), 3), np.float32), coords_px=grid.coords_px,
        footprint_px=grid.footprint_px, slide_px=(info.height_px, info.width_px), mpp=1.0,
        slide_mpp=info.mpp, tile_px=128, encoder="another@1",
    )  # fmt: skip
    write_bag(tmp_path / "other.bag.zarr", other, key="o")
    result = heatmap(
        model, tmp_path / "other.bag.zarr", bags, "--out", tmp_path / "out", "--no-overlay"
    )
    assert result.exit_code == 3
    assert sorted(p.name for p in (tmp_path / "out").glob("*.gz")) == [
        "new-normal.geojson.gz",
        "new-tumour.geojson.gz",
    ]
    assert "bad_model" in (tmp_path / "out" / "report.html").read_text()


def test_a_model_without_bags_is_wrong_use(trained, tmp_path):
    assert isinstance(heatmap(trained[0], "--out", tmp_path).exception, CohortError)


def test_what_is_not_there_is_named(predictions, tmp_path):
    assert isinstance(heatmap(tmp_path / "nope", "--out", tmp_path).exception, MissingFile)
    (tmp_path / "empty").mkdir()
    nothing = heatmap(predictions, tmp_path / "empty", "--out", tmp_path / "out")
    assert isinstance(nothing.exception, MissingFile)
    unknown = heatmap(predictions, "never.bag.zarr", "--out", tmp_path / "out")
    assert isinstance(unknown.exception, CohortError)
    assert "never" in str(unknown.exception)


def test_make_may_be_named_and_options_may_come_first(predictions, tmp_path):
    for name, line in (
        ("a", ["make", predictions, "--out", tmp_path / "a", "--no-overlay"]),
        ("b", ["--no-overlay", "--out", tmp_path / "b", predictions]),
    ):
        assert heatmap(*line).exit_code == 0
        assert (tmp_path / name / "here.geojson.gz").is_file()


def test_help_names_both_commands():
    result = heatmap("--help")
    assert result.exit_code == 0
    assert "make" in result.output
    assert "check" in result.output


def test_check_says_which_feature_breaks_which_rule(predictions, tmp_path, shared_data):
    real = shared_data / "qupath/objects.geojson"
    broken = json.loads(real.read_text())
    broken["features"][1]["geometry"]["coordinates"][0].pop()
    (tmp_path / "broken.geojson").write_text(json.dumps(broken))
    fine = heatmap("check", real)
    assert (fine.exit_code, "import all of it" in fine.stdout) == (0, True)
    result = heatmap("check", real, tmp_path / "broken.geojson")
    assert result.exit_code == 3
    assert re.search(
        r"broken\.geojson: feature 1 \(.+\): ring-closed: .+ \[refused\]", result.stdout
    )


def test_a_wrong_use_ends_with_two_and_one_line(tmp_path):
    run = subprocess.run(
        [sys.executable, "-m", "microtome", "heatmap", str(tmp_path / "nope"), "--out", "x"],
        capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert run.returncode == 2
    assert run.stderr.startswith("microtome: missing:")
    assert "Traceback" not in run.stderr
