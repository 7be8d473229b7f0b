"""Heatmaps: the numbers QuPath gets, the dense map, and the picture, each held to a known place."""

from __future__ import annotations

import colorsys
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from shapely.geometry import shape
from sklearn.metrics import adjusted_rand_score

from microtome.engine.slides import open_slide
from microtome.storage.bags import Bag
from microtome.storage.errors import BadGeometry, StaleProduct
from microtome.storage.predictions import SlidePrediction
from microtome.storage.qupath_check import check_geojson, read_features, read_metadata
from microtome.tasks.cluster import cluster_map, cluster_tiles
from microtome.tasks.heatmap import draw_heatmap, make_heatmap, measurements, rank
from microtome.tasks.overlay import DISTINCT, colour_table, colourise, lay_over
from microtome.tasks.rasters import rasterise

TILE, ROWS, COLUMNS = 200, 6, 9
HEIGHT, WIDTH = TILE * ROWS + 37, TILE * COLUMNS + 11
HOT = (2, 6)


def grid_coords() -> np.ndarray:
    y, x = np.meshgrid(np.arange(ROWS) * TILE, np.arange(COLUMNS) * TILE, indexing="ij")
    return np.stack([y.ravel(), x.ravel()], axis=1).astype(np.int64)


def prediction_of(**changes) -> SlidePrediction:
    coords = changes.pop("coords_px", grid_coords())
    n = len(coords)
    facts = {
        "id": "case-1",
        "probability": 0.8,
        "classes": ("normal", "tumour"),
        "probabilities": np.array([0.2, 0.8], np.float32),
        "target": "tumour",
        "label": "tumour",
        "fold": 0,
        "coords_px": coords,
        "footprint_px": (float(TILE), float(TILE)),
        "slide_px": (HEIGHT, WIDTH),
        "bounds_px": None,
        "slide_mpp": (0.5, 0.5),
        "score": np.zeros(n, np.float32),
        "attention": np.full(n, 1 / n, np.float32),
        "source": "slides/case-1.tiff",
        "encoder": "e@1",
        "model": "m",
    }
    return SlidePrediction(**{**facts, **changes})


def hot_prediction(**changes) -> SlidePrediction:
    score = np.zeros(ROWS * COLUMNS, np.float32)
    score[HOT[0] * COLUMNS + HOT[1]] = 1
    return prediction_of(score=score, **changes)


@pytest.fixture(scope="module")
def slide_path(tmp_path_factory) -> Path:
    """A grey slide whose pixels are black where the hot tile is."""
    pixels = np.full((HEIGHT, WIDTH, 3), 200, np.uint8)
    y, x = HOT[0] * TILE, HOT[1] * TILE
    pixels[y : y + TILE, x : x + TILE] = 0
    path = tmp_path_factory.mktemp("slides") / "case-1.tiff"
    tifffile.imwrite(
        path, pixels, tile=(256, 256), photometric="rgb", compression="jpeg",
        resolution=(20_000, 20_000), resolutionunit="CENTIMETER",
    )  # fmt: skip
    return path


def brute_force(coords, footprint, values, downsample, shape_):
    dense = np.full(shape_, np.nan)
    for row, column in np.ndindex(shape_):
        y, x = (row + 0.5) * downsample[0], (column + 0.5) * downsample[1]
        over = [
            value
            for (top, left), value in zip(coords, values, strict=True)
            if top <= y < top + footprint[0] and left <= x < left + footprint[1]
        ]
        if over:
            dense[row, column] = np.mean(over)
    return dense


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 12),
    st.tuples(st.sampled_from([3.0, 4.3, 9.7]), st.sampled_from([3.1, 8.0])),
    st.tuples(st.sampled_from([1.0, 2.0, 2.37]), st.sampled_from([1.0, 1.5, 3.05])),
)
def test_the_dense_map_is_the_mean_of_the_tiles_over_each_pixel(seed, n, footprint, downsample):
    rng = np.random.default_rng(seed)
    coords, values = rng.integers(-3, 28, (n, 2)), rng.random(n).astype(np.float32)
    tiles = prediction_of(coords_px=coords, footprint_px=footprint, slide_px=(30, 25))
    dense = rasterise(tiles, values, downsample, (12, 9))
    wanted = brute_force(coords, footprint, values, downsample, (12, 9))
    np.testing.assert_allclose(dense, wanted, atol=1e-6)


def test_a_tile_smaller_than_a_pixel_is_still_on_the_map():
    tiles = prediction_of(
        coords_px=np.array([[95, 31]]), footprint_px=(3.0, 3.0), slide_px=(99, 80)
    )
    dense = rasterise(tiles, np.ones(1), (20.0, 20.0))
    assert dense.shape == (5, 4)
    assert np.argwhere(np.isfinite(dense)).tolist() == [[4, 1]]


def test_a_value_that_is_not_finite_is_no_tile():
    tiles = prediction_of(coords_px=np.array([[0, 0], [0, 200]]), slide_px=(200, 400))
    dense = rasterise(tiles, np.array([np.nan, 0.5]), (100.0, 100.0))
    np.testing.assert_array_equal(dense, [[np.nan, np.nan, 0.5, 0.5]] * 2)


@given(st.lists(st.sampled_from([0.1, 0.2, 0.5, 0.9, np.nan]), max_size=12))
def test_a_rank_is_the_share_of_the_others_that_are_lower(values):
    ranks = rank(np.array(values))
    known = [v for v in values if v == v]  # noqa: PLR0124
    for value, found in zip(values, ranks, strict=True):
        if np.isnan(value):
            assert np.isnan(found)
        elif len(known) == 1:
            assert found == 0.5
        else:
            lower = sum(v < value for v in known) + (known.count(value) - 1) / 2
            assert found == pytest.approx(lower / (len(known) - 1))


def test_qupath_gets_scores_ranks_and_quality_of_every_tile(tmp_path):
    n = ROWS * COLUMNS
    score = np.linspace(0, 1, n, dtype=np.float32)
    attention = np.geomspace(1e-6, 1e-2, n).astype(np.float32)
    prediction = prediction_of(score=score, attention=attention)
    focus = np.full(n, 7, np.float32)
    made = make_heatmap(prediction, tmp_path, quality={"focus": focus})
    assert check_geojson(made.geojson) == []
    features = read_features(made.geojson)
    assert made.objects == n
    # Beside them the places to look at first, apart from each other.
    top = [f["properties"] for f in features[n:]]
    assert {p["objectType"] for p in top} == {"annotation"}
    assert [p["name"].split(":")[0] for p in top] == [f"top {i + 1}" for i in range(len(top))]
    assert top[0]["measurements"]["score"] == 1
    for i in (0, 17, n - 1):
        found = features[i]["properties"]["measurements"]
        assert np.float32(found["score"]) == score[i]
        assert np.float32(found["attention"]) == attention[i]
        assert found["score rank"] == pytest.approx(i / (n - 1))
        assert found["attention rank"] == pytest.approx(i / (n - 1))
        assert found["focus"] == 7
        y, x = prediction.coords_px[i]
        assert shape(features[i]["geometry"]).bounds == (x, y, x + TILE, y + TILE)
    about = read_metadata(made.geojson)
    assert (about["slide"], about["slide_file"]) == ("case-1", "case-1.tiff")
    assert about["target"] == "tumour"
    assert about["size_px"] == {"width": WIDTH, "height": HEIGHT}


def test_the_measurements_are_the_models_own_values():
    prediction = hot_prediction()
    columns = measurements(prediction)
    assert list(columns) == ["score", "score rank", "attention", "attention rank"]
    assert columns["score"] is prediction.score


def picture(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def hot_box(scale: float, offset=(0, 0)) -> tuple[slice, slice]:
    """Pixels well inside the hot tile, in a picture at ``scale``."""
    y, x = HOT[0] * TILE - offset[0], HOT[1] * TILE - offset[1]
    inner = [slice(round(v / scale) + 4, round((v + TILE) / scale) - 4) for v in (y, x)]
    return inner[0], inner[1]


def test_the_hot_tile_lies_over_its_own_pixels(tmp_path, slide_path):
    with open_slide(slide_path) as slide:
        made = make_heatmap(hot_prediction(), tmp_path, slide=slide, max_px=600, opacity=0.5)
    shown = picture(made.overlay)[: made.layers.size_px[0], : made.layers.size_px[1]]
    scale = WIDTH / 600
    cold, hot = colour_table()[0].astype(int), colour_table()[255].astype(int)
    inside = hot_box(scale)
    # Black under the hot colour in the tile; grey under the cold one everywhere else.
    assert np.abs(shown[inside] - hot * 0.5).max() <= 12
    beyond = np.ones(shown.shape[:2], bool)
    grown = tuple(slice(s.start - 8, s.stop + 8) for s in inside)
    beyond[grown] = False
    beyond[int(ROWS * TILE / scale) - 4 :] = beyond[:, int(COLUMNS * TILE / scale) - 4 :] = False
    assert np.abs(shown[beyond] - (cold + 200) * 0.5).max() <= 12


def test_the_picture_is_cropped_as_qupath_crops(tmp_path, slide_path):
    bounds = (200, 400, 800, 1200)
    prediction = hot_prediction(bounds_px=bounds)
    with open_slide(slide_path) as slide:
        corners = np.array([[200.0, 400.0], [200.0, 700.0], [500.0, 700.0]])
        cropped = make_heatmap(
            prediction, tmp_path / "a", slide=slide, truth=[corners], max_px=600, opacity=1
        )
        whole = make_heatmap(
            prediction, tmp_path / "b", slide=slide, max_px=600, opacity=1, crop=False
        )
    scale = WIDTH / 600
    assert cropped.layers.size_px == pytest.approx((800 / scale, 1200 / scale), abs=1)
    assert whole.layers.size_px == pytest.approx((HEIGHT / scale, 600), abs=1)
    np.testing.assert_allclose(cropped.layers.outlines[0] * scale, corners - bounds[:2], atol=2)
    hot = colour_table()[255]
    assert (picture(cropped.overlay)[hot_box(scale, bounds[:2])] == hot).all()
    assert (picture(whole.overlay)[hot_box(scale)] == hot).all()
    hottest = max(
        read_features(cropped.geojson), key=lambda f: f["properties"]["measurements"]["score"]
    )
    x, y = HOT[1] * TILE - 400, HOT[0] * TILE - 200
    assert shape(hottest["geometry"]).bounds == (x, y, x + TILE, y + TILE)
    assert cropped.objects < whole.objects
    assert any("outside" in note for note in cropped.notes)


def test_the_truth_is_drawn_where_it_is(tmp_path, slide_path):
    square = np.array([[300, 500], [300, 1100], [900, 1100], [900, 500]], float)
    with open_slide(slide_path) as slide:
        plain = make_heatmap(hot_prediction(), tmp_path / "a", slide=slide, max_px=600)
        drawn = make_heatmap(
            hot_prediction(), tmp_path / "b", slide=slide, truth=[square], max_px=600
        )
    scale = WIDTH / 600
    changed = (picture(plain.overlay) != picture(drawn.overlay)).any(axis=2)
    rows, columns = np.nonzero(changed)
    found = np.array([rows.min(), columns.min(), rows.max(), columns.max()])
    assert np.abs(found - np.array([300, 500, 900, 1100]) / scale).max() <= 4
    assert not changed[round(600 / scale), round(800 / scale)]
    np.testing.assert_allclose(drawn.layers.outlines[0] * scale, square, rtol=0.01)


def test_without_the_slide_the_geojson_is_whole_and_the_user_is_told(tmp_path):
    made = draw_heatmap(hot_prediction(source=str(tmp_path / "gone.svs")), tmp_path / "out")
    assert made.overlay is None
    assert made.layers.slide_jpeg is None
    assert check_geojson(made.geojson) == []
    assert any("overlay was left out" in note for note in made.notes)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["case-1.geojson.gz"]
    layer = np.asarray(Image.open(io.BytesIO(made.layers.values_png)))
    assert layer.shape == (*made.layers.size_px, 4)
    assert (layer[HOT[0] * 133 + 40, HOT[1] * 133 + 40] == [*colour_table()[255], 255]).all()


def test_the_slide_is_found_where_it_was_encoded(tmp_path, slide_path):
    prediction = hot_prediction(source=str(slide_path))
    assert draw_heatmap(prediction, tmp_path / "a").overlay.is_file()
    without = draw_heatmap(prediction, tmp_path / "b", overlay=False)
    assert (without.overlay, without.notes) == (None, ())
    unnamed = draw_heatmap(hot_prediction(source=""), tmp_path / "c")
    assert "overlay was left out" in unnamed.notes[0]


def test_a_heatmap_of_another_model_is_not_replaced_unasked(tmp_path):
    first = draw_heatmap(hot_prediction(), tmp_path, overlay=False)
    before = first.geojson.read_bytes()
    draw_heatmap(hot_prediction(), tmp_path, overlay=False)
    assert first.geojson.read_bytes() == before
    with pytest.raises(StaleProduct):
        draw_heatmap(hot_prediction(model="other"), tmp_path, overlay=False)
    assert first.geojson.read_bytes() == before
    draw_heatmap(hot_prediction(model="other"), tmp_path, overlay=False, overwrite=True)
    assert read_metadata(first.geojson)["model"] == "other"


def test_a_slide_of_another_size_is_refused(tmp_path, slide_path):
    with open_slide(slide_path) as slide, pytest.raises(BadGeometry, match="1811 x 1237"):
        make_heatmap(hot_prediction(slide_px=(HEIGHT, WIDTH + 1)), tmp_path, slide=slide)


def test_the_colours_rise_in_lightness_so_that_everybody_can_order_them():
    lightness = [
        0.2126 * r + 0.7152 * g + 0.0722 * b for r, g, b in (colour_table() / 255).tolist()
    ]
    assert (np.diff(lightness) >= -1e-3).all()
    assert lightness[-1] - lightness[0] > 0.6
    hues = [colorsys.rgb_to_hsv(*(c / 255 for c in colour)) for colour in DISTINCT]
    assert len({tuple(np.round(h, 2)) for h in hues}) == len(DISTINCT)


def test_colours_are_clear_where_nothing_is_known_and_blend_linearly():
    table = np.array([[0, 0, 0], [200, 100, 0]], np.uint8)
    layer = colourise(np.array([[0.0, 1.0, np.nan, 7.0]]), table)
    assert layer[..., 3].tolist() == [[255, 255, 0, 255]]
    assert layer[0, 3, :3].tolist() == [200, 100, 0]
    image = np.full((1, 4, 3), 100, np.uint8)
    blended = lay_over(image, layer, 0.25)
    assert blended[0].tolist() == [[75] * 3, [125, 100, 75], [100] * 3, [125, 100, 75]]


def bag_of(features: np.ndarray, coords=None) -> Bag:
    return Bag(
        id="case-1",
        features=features.astype(np.float32),
        coords_px=grid_coords() if coords is None else coords,
        footprint_px=(float(TILE), float(TILE)),
        slide_px=(HEIGHT, WIDTH),
        mpp=0.5,
        slide_mpp=(0.5, 0.5),
        tile_px=TILE,
        encoder="e@1",
        quality={"tissue": np.ones(len(features), np.float32)},
        source="case-1.tiff",
    )


def planted(seed: int = 0) -> tuple[Bag, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = np.repeat([0, 1, 2], [30, 16, 8])
    centres = rng.normal(0, 10, (3, 20))
    return bag_of(centres[truth] + rng.normal(0, 0.5, (54, 20))), truth


def test_planted_groups_are_found_the_largest_first():
    bag, truth = planted()
    clusters = cluster_tiles(bag, 3, seed=1)
    assert adjusted_rand_score(truth, clusters.index) == 1
    assert np.bincount(clusters.index).tolist() == [30, 16, 8]
    assert clusters.names == ("Cluster 1", "Cluster 2", "Cluster 3")
    again = cluster_tiles(bag, 3, seed=1)
    assert np.array_equal(again.index, clusters.index)


def test_what_fits_no_cluster_is_far_from_its_centre():
    bag, _ = planted()
    features = bag.features.copy()
    features[0] += np.random.default_rng(5).normal(0, 8, 20).astype(np.float32)
    clusters = cluster_tiles(replace(bag, features=features), 3)
    assert np.argmax(clusters.distance) == 0


def test_there_are_no_more_clusters_than_tiles_that_differ():
    same = bag_of(np.ones((54, 4)))
    assert cluster_tiles(same, 5).count == 1
    two = np.ones((54, 4))
    two[:9, 2] = 3
    assert cluster_tiles(bag_of(two), 5).count == 2
    with pytest.raises(ValueError, match="k must be"):
        cluster_tiles(same, 9)


def test_the_cluster_map_classes_every_tile(tmp_path, slide_path):
    bag, truth = planted()
    with open_slide(slide_path) as slide:
        made = cluster_map(bag, tmp_path, 3, slide=slide)
    assert check_geojson(made.geojson) == []
    features = read_features(made.geojson)
    found = [f["properties"]["classification"]["name"] for f in features]
    assert adjusted_rand_score(truth, found) == 1
    colours = {
        f["properties"]["classification"]["name"]: tuple(f["properties"]["classification"]["color"])
        for f in features
    }
    assert colours == {f"Cluster {i + 1}": DISTINCT[i] for i in range(3)}
    numbers = [f["properties"]["measurements"]["cluster"] for f in features]
    assert [f"Cluster {n:.0f}" for n in numbers] == found
    layer = np.asarray(Image.open(io.BytesIO(made.layers.values_png)))
    scale = WIDTH / layer.shape[1]
    for (y, x), name in zip(bag.coords_px, found, strict=True):
        middle = layer[int((y + TILE / 2) / scale), int((x + TILE / 2) / scale)]
        assert tuple(middle) == (*colours[name], 255)
