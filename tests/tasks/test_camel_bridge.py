"""The bridge from regions and from scores of tiles to labels of images, in level-0 pixels."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from microtome.engine.grid import TileGrid
from microtome.engine.slides import Level, SlideInfo, open_slide
from microtome.engine.tissue.exchange import tissue_frame
from microtome.storage.errors import BadGeometry, CohortError, LabelError, NoTissue
from microtome.storage.polygons import rasterise
from microtome.storage.predictions import SlidePrediction
from microtome.tasks.camel.bridge import (
    ScoreBands,
    calibrate_bands,
    covered_share,
    image_scores,
    label_by_regions,
    label_by_scores,
    read_regions,
    truth_masks,
)
from microtome.tasks.camel.gather import (
    ImageOptions,
    RegionSource,
    label_slide,
    read_images,
    score_source,
)
from microtome.tasks.slide_list import SlideItem


def info(height: int, width: int, mpp: float = 0.5) -> SlideInfo:
    return SlideInfo(
        path=Path("x.svs"), backend="", vendor="", levels=(Level(height, width, 1.0, 1.0),),
        mpp=(mpp, mpp), mpp_source="", objective_power=None, bounds=None, associated=(),
        properties={},
    )  # fmt: skip


GRID = TileGrid.over(info(400, 600), tile_px=50, mpp=1.0)
"""4 x 6 images of 100 level-0 pixels."""


@dataclass(frozen=True)
class Scored:
    coords_px: np.ndarray
    score: np.ndarray
    footprint_px: tuple[float, float] = (40.0, 40.0)
    slide_px: tuple[int, int] = (400, 600)


def geojson(path: Path, drawn: list[tuple[str | None, list[float]]]) -> Path:
    """Boxes of a class, each as (left, top, right, bottom)."""
    features = []
    for name, box in drawn:
        properties: dict = {"objectType": "annotation"}
        if name:
            properties["classification"] = {"name": name, "color": [200, 0, 0]}
        shape = json.loads(shapely.to_geojson(shapely.box(*box)))
        features.append({"type": "Feature", "geometry": shape, "properties": properties})
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


def places(images) -> set[tuple[int, int]]:
    chosen = images.grid.coords_px[images.labels]
    return {(int(y), int(x)) for y, x in chosen}


def test_images_in_regions_are_positive_and_rims_are_left_out(tmp_path):
    path = geojson(tmp_path / "a.geojson", [("Tumor", [90, 100, 310, 200])])
    regions = read_regions(path, tissue_frame(info(400, 600)))
    found = label_by_regions(GRID, regions, least=0.25)
    assert places(found) == {(100, 100), (100, 200)}
    # A tenth of the images on either side is inside: neither positive nor negative.
    assert found.left_out["unclear"] == 2
    assert len(found) == 24 - 2
    assert "2 positive, 20 negative, 2 unclear" in str(found)


def test_where_negative_regions_are_drawn_the_rest_is_unknown(tmp_path):
    drawn = [("Tumor", [0, 0, 100, 100]), ("Stroma", [300, 200, 510, 400]), (None, [0, 0, 9, 9])]
    path = geojson(tmp_path / "a.geojson", drawn)
    classes = {"tumor": "positive", "Stroma": "negative", "Unclassified": "ignore"}
    found = label_by_regions(
        GRID, read_regions(path, tissue_frame(info(400, 600)), classes=classes)
    )
    assert places(found) == {(0, 0)}
    assert len(found) == 1 + 4
    assert found.left_out["outside of all regions"] == 24 - 5


def test_a_file_without_objects_is_a_slide_without_lesion(tmp_path):
    path = geojson(tmp_path / "a.geojson", [])
    found = label_by_regions(GRID, read_regions(path, tissue_frame(info(400, 600))))
    assert len(found) == 24
    assert not found.labels.any()


def test_classes_of_which_nobody_said_what_they_are_are_refused(tmp_path):
    path = geojson(tmp_path / "a.geojson", [("Necrosis", [0, 0, 50, 50])])
    with pytest.raises(LabelError, match=r"Necrosis.*--class 'Necrosis=positive'"):
        read_regions(path, tissue_frame(info(400, 600)))
    with pytest.raises(LabelError, match="maybe"):
        read_regions(path, tissue_frame(info(400, 600)), classes={"Necrosis": "maybe"})


@given(boxes=st.lists(st.tuples(*(st.integers(0, 30) for _ in range(4))), min_size=1, max_size=5))
def test_the_covered_share_is_that_of_a_raster(boxes):
    drawn = [shapely.box(x * 20, y * 13, (x + w) * 20, (y + h) * 13) for x, y, w, h in boxes]
    area = shapely.unary_union([box for box in drawn if box.area])
    share = covered_share(GRID, area)
    raster = np.zeros((400, 600), bool)
    for part in shapely.get_parts(area):
        raster |= rasterise(part, (400, 600), (1.0, 1.0))
    expected = [raster[y : y + 100, x : x + 100].mean() for y, x in GRID.coords_px]
    assert np.allclose(share, expected, atol=1e-9)


def test_an_image_has_the_highest_score_of_the_tiles_whose_centre_it_holds():
    coords = np.array([[0, 0], [60, 10], [75, 0], [85, 0], [0, 590], [-30, 0]])
    tiles = Scored(coords, np.array([0.2, 0.4, 0.9, 0.1, 0.7, 1.0], np.float32))
    scores = image_scores(GRID, tiles, (400, 600))
    # Centres: (20, 20) and (80, 30) in the first; (95, 20) too; (105, 20) in the one below.
    assert scores[0] == np.float32(0.9)
    assert scores[6] == np.float32(0.1)
    assert np.isnan(scores[5])
    assert np.isfinite(scores).sum() == 2
    with pytest.raises(BadGeometry, match="400 x 600"):
        image_scores(GRID, tiles, (400, 601))


@given(
    seed=st.integers(0, 99), window=st.integers(20, 90), shift=st.integers(0, 40),
)  # fmt: skip
@settings(max_examples=30)
def test_points_find_the_image_that_a_search_finds(seed, window, shift):
    grid = TileGrid.over(info(400, 600), tile_px=window, stride_px=window + shift, mpp=0.5)
    keep = np.random.default_rng(seed).random(len(grid)) < 0.7
    grid = grid.select(keep)
    coords = np.random.default_rng(seed).integers(0, 400, (50, 2))
    score = np.random.default_rng(seed).random(50).astype(np.float32)
    scores = image_scores(grid, Scored(coords, score), (400, 600))
    for (y, x), found in zip(grid.coords_px, scores, strict=True):
        inside = ((coords + 20 >= (y, x)) & (coords + 20 < (y + window, x + window))).all(axis=1)
        assert found == score[inside].max() if inside.any() else np.isnan(found)


def test_of_new_negatives_no_more_are_called_positive_than_was_promised():
    """The conformal guarantee, for a score of any distribution: at most alpha on average."""
    rng = np.random.default_rng(0)
    shares, kept = [], []
    for _ in range(400):
        scores = rng.beta(0.5, 8, 250).astype(np.float32)
        bands = calibrate_bands(scores[:150], alpha=0.05, beta=0.5)
        shares.append((scores[150:] > bands.high).mean())
        kept.append((scores[150:] <= bands.low).mean())
    assert np.mean(shares) <= 0.05
    assert np.mean(shares) > 0.03
    assert np.mean(kept) == pytest.approx(0.5, abs=0.02)


def test_too_few_negatives_promise_nothing():
    with pytest.raises(LabelError, match="at least 99"):
        calibrate_bands(np.zeros(50, np.float32), alpha=0.01)
    assert calibrate_bands(np.arange(99, dtype=np.float32), alpha=0.01).high == 98


def test_scores_between_the_bands_are_left_out_and_negative_slides_are_believed():
    scores = np.array([0.1, 0.4, 0.8, np.nan] * 6, np.float32)
    bands = ScoreBands(0.2, 0.6, 100)
    found = label_by_scores(GRID, scores, bands, is_negative=False)
    assert len(found) == 12
    assert found.labels.sum() == 6
    assert found.left_out == {"unclear": 6, "without a scored tile": 6}
    negative = label_by_scores(GRID, scores, bands, is_negative=True)
    assert len(negative) == 24
    assert not negative.labels.any()


def test_truth_masks_are_cut_from_the_mask_of_the_slide():
    area = shapely.unary_union([shapely.Point(250, 180).buffer(120), shapely.box(400, 0, 460, 90)])
    ring = area.difference(shapely.Point(250, 180).buffer(50))
    whole = rasterise(ring, (200, 300), (2.0, 2.0))
    masks = truth_masks(GRID, ring)
    assert masks.shape == (24, 50, 50)
    for mask, (y, x) in zip(masks, GRID.coords_px // 2, strict=True):
        assert np.array_equal(mask, whole[y : y + 50, x : x + 50])


def test_images_of_a_real_slide_are_its_own_pixels_in_grid_order(shared_data, tmp_path):
    path = shared_data / "slides" / "aperio" / "CMU-1-Small-Region.svs"
    regions = geojson(tmp_path / "r.geojson", [("Tumor", [300, 300, 1200, 1400])])
    options = ImageOptions(side_px=300, mpp=0.499, at_most=4)
    item = SlideItem("cmu", path)
    found = label_slide(item, RegionSource(regions), options)
    assert found.facts() == label_slide(item, RegionSource(regions), options).facts()
    assert found.images.labels.sum() == 4
    assert len(found.images) == 8
    images = read_images([found], tmp_path / "pixels.npy")
    assert images.slides == images.groups == ("cmu",) * 8
    with open_slide(path) as slide:
        for pixels, (y, x) in zip(images.pixels, found.images.grid.coords_px, strict=True):
            assert np.array_equal(pixels, slide.read(0, int(y), int(x), 300, 300))
    with pytest.raises(NoTissue, match="--side-px"):
        label_slide(item, RegionSource(regions), ImageOptions(side_px=5000, mpp=0.499))


def prediction(id_: str, label: str, score: np.ndarray, coords: np.ndarray) -> SlidePrediction:
    n = len(score)
    return SlidePrediction(
        id=id_, probability=0.5, classes=("normal", "tumour"),
        probabilities=np.array([0.5, 0.5], np.float32), target="tumour", label=label, fold=0,
        coords_px=coords, footprint_px=(300.0, 300.0), slide_px=(2967, 2220), bounds_px=None,
        slide_mpp=(0.499, 0.499), score=score.astype(np.float32),
        attention=np.full(n, 1 / n, np.float32), source="", encoder="e@1", model="m",
    )  # fmt: skip


def test_scores_of_a_cohort_label_a_real_slide_by_what_its_negative_slides_score(shared_data):
    path = shared_data / "slides" / "aperio" / "CMU-1-Small-Region.svs"
    options = ImageOptions(side_px=300, mpp=0.499)
    with open_slide(path) as slide:
        coords = TileGrid.over(slide.info, tile_px=300, mpp=0.499).coords_px
    rng = np.random.default_rng(0)
    high = coords[:, 0] < 1000
    said = [
        prediction("sick", "tumour", np.where(high, 0.95, 0.2), coords),
        prediction("well", "normal", rng.uniform(0.1, 0.5, len(coords)), coords),
    ]
    items = [SlideItem("sick", path), SlideItem("well", path)]
    source = score_source(said, items, options, alpha=0.05)
    assert 0.4 < source.bands.high < 0.5
    assert source.bands.negatives == len(coords)
    sick, well = (label_slide(item, source, options).images for item in items)
    assert not well.labels.any()
    assert np.array_equal(sick.labels, sick.grid.coords_px[:, 0] < 1000)
    with pytest.raises(CohortError, match="say nothing"):
        label_slide(SlideItem("other", path), source, options)
