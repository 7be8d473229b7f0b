"""The main job, end to end, as a user runs it; what it leaves is read by other programs."""

from __future__ import annotations

import csv
import gzip
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import openslide
import pytest
import shapely
import zarr
from ome_zarr_models import open_ome_zarr
from sklearn.metrics import roc_auc_score

from microtome.engine.synthetic import read_outlines
from microtome.storage.ledger import read_ledger

pytestmark = pytest.mark.timeout(400)


def cohort(demo: Path) -> list[dict[str, str]]:
    with (demo / "cohort" / "cohort.csv").open() as file:
        return list(csv.DictReader(file))


def features(demo: Path, slide: str) -> list[dict]:
    with gzip.open(demo / "heatmaps" / f"{slide}.geojson.gz", "rt") as file:
        found = json.load(file)["features"]
    # The places to look at first stand after the tiles, as annotations.
    return [f for f in found if f["properties"]["objectType"] == "tile"]


def test_the_report_shows_every_slide_and_needs_nothing_from_outside(small_demo: Path) -> None:
    html = (small_demo / "report.html").read_text()
    for row in cohort(small_demo):
        assert row["id"] in html
    assert "labels shuffled" in html
    assert 'src="http' not in html
    assert 'href="http' not in html


def test_every_item_of_every_step_ended_done(small_demo: Path) -> None:
    for step in ("bags", "heatmaps"):
        entries = list(read_ledger(small_demo / step / "ledger.jsonl"))
        assert {entry.state for entry in entries} == {"done"}
        assert {entry.item for entry in entries} == {row["id"] for row in cohort(small_demo)}


def test_slides_are_such_as_openslide_opens_with_their_resolution(small_demo: Path) -> None:
    for row in cohort(small_demo):
        with openslide.OpenSlide(small_demo / "cohort" / row["path"]) as slide:
            mpp = float(slide.properties[openslide.PROPERTY_NAME_MPP_X])
            assert mpp == pytest.approx({"north": 0.4990, "south": 0.4545}[row["site"]], rel=1e-6)
            assert slide.level_count >= 2


def test_predictions_are_of_slides_whose_patient_was_held_out(small_demo: Path) -> None:
    folds = json.loads((small_demo / "mil" / "splits.json").read_text())["folds"]
    patient = {row["id"]: row["patient"] for row in cohort(small_demo)}
    groups = [{patient[name] for name in fold} for fold in folds]
    assert len(groups) == 4
    for i, group in enumerate(groups):
        for other in groups[i + 1 :]:
            assert not group & other


def test_tiles_for_qupath_are_closed_valid_squares_on_the_slide(small_demo: Path) -> None:
    row = cohort(small_demo)[0]
    with openslide.OpenSlide(small_demo / "cohort" / row["path"]) as slide:
        width, height = slide.dimensions
    found = features(small_demo, row["id"])
    assert found
    for feature in found:
        assert feature["properties"]["objectType"] == "tile"
        ring = feature["geometry"]["coordinates"][0]
        assert ring[0] == ring[-1]
        polygon = shapely.Polygon(ring)
        assert polygon.is_valid
        assert shapely.box(-0.5, -0.5, width + 0.5, height + 0.5).covers(polygon)
        values = feature["properties"]["measurements"].values()
        assert all(isinstance(v, int | float) and np.isfinite(v) for v in values)


def test_scores_of_held_out_tiles_find_the_planted_tumour(small_demo: Path) -> None:
    checked = 0
    for row in cohort(small_demo):
        if row["label"] != "tumour":
            continue
        outlines = read_outlines(small_demo / "cohort" / "truth" / f"{row['id']}.geojson")
        tumour = shapely.union_all([shapely.Polygon(o[:, ::-1]) for o in outlines])
        inside, scores = [], []
        for feature in features(small_demo, row["id"]):
            tile = shapely.Polygon(feature["geometry"]["coordinates"][0])
            inside.append(tile.intersection(tumour).area > 0.5 * tile.area)
            scores.append(feature["properties"]["measurements"]["score"])
        assert roc_auc_score(inside, scores) >= 0.9, row["id"]
        checked += 1
    assert checked == 7


def test_the_stored_slide_holds_the_pixels_of_its_file(small_demo: Path) -> None:
    row = cohort(small_demo)[0]
    group = zarr.open_group(small_demo / "ome-zarr" / f"{row['id']}.ome.zarr", mode="r")
    assert open_ome_zarr(group).attributes.ome.multiscales
    with openslide.OpenSlide(small_demo / "cohort" / row["path"]) as slide:
        region = np.asarray(slide.read_region((600, 700), 0, (300, 200)).convert("RGB"))
    stored = np.moveaxis(np.asarray(group["0"][:, 700:900, 600:900]), 0, -1)
    assert np.array_equal(stored, region)


def test_diagnosis_beats_shuffled_labels(small_demo: Path) -> None:
    results = json.loads((small_demo / "brain" / "diagnosis" / "results.json").read_text())
    models = {model["model"]: model for model in results["models"]}
    for name in ("gcn", "linear"):
        assert len(models[name]["shuffled_auc"]) >= 3
        assert models[name]["auc"]["value"] > max(models[name]["shuffled_auc"])
        assert models[name]["auc"]["low"] > np.mean(models[name]["shuffled_auc"])


def test_a_second_run_makes_nothing_anew(own_demo: Path) -> None:
    kept = [*own_demo.glob("bags/*.zarr/commit.json"), *own_demo.glob("*/*/commit.json")]
    before = {path: path.stat().st_mtime_ns for path in kept}
    command = [sys.executable, "-m", "microtome", "demo", "--small", "--out", str(own_demo)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "14 skipped" in ended.stderr
    assert {path: path.stat().st_mtime_ns for path in kept} == before


def test_the_users_own_slide_becomes_a_map_without_labels(
    shared_data: Path, tmp_path: Path
) -> None:
    svs = shared_data / "slides" / "aperio" / "CMU-1-Small-Region.svs"
    command = ["demo", "--slide", str(svs), "--out", str(tmp_path / "own")]
    ended = subprocess.run(
        [sys.executable, "-m", "microtome", *command], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    with gzip.open(tmp_path / "own" / "CMU-1-Small-Region.clusters.geojson.gz", "rt") as file:
        tiles = json.load(file)["features"]
    assert len({tile["properties"]["classification"]["name"] for tile in tiles}) == 5
    assert ">nan<" not in (tmp_path / "own" / "report.html").read_text()


def test_a_slide_that_cannot_be_used_says_so_in_one_line(shared_data: Path, tmp_path: Path) -> None:
    bad = shared_data / "slides" / "bad" / "broken-html.svs"
    command = ["demo", "--slide", str(bad), "--out", str(tmp_path / "bad")]
    ended = subprocess.run(
        [sys.executable, "-m", "microtome", *command], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 3
    assert "unreadable" in ended.stderr
    assert "Traceback" not in ended.stderr
