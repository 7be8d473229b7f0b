"""How much is tissue and how much positive, held to polygons and to counting pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from microtome.engine.ingest import ingest_slide
from microtome.engine.tissue import TissueMask, write_slide_label, write_tissue
from microtome.storage.errors import BadGeometry, MissingFile
from microtome.storage.predictions import SlidePrediction
from microtome.tasks.extent import area_facts, find_mask, measure_extent

TILE, ROWS, COLUMNS = 60, 5, 7
MPP = (4.0, 2.5)
SIDE = (ROWS * TILE, COLUMNS * TILE)
PX_MM2 = MPP[0] * MPP[1] / 1e6


def prediction_of(coords: np.ndarray, score: np.ndarray, **facts) -> SlidePrediction:
    known = {"source": "", "slide_px": SIDE, "footprint_px": (TILE, TILE)}
    return SlidePrediction(
        id="s", probability=0.5, classes=("a", "b"), probabilities=np.array([0.5, 0.5], np.float32),
        target="b", label=None, fold=None, coords_px=coords.astype(np.int64),
        bounds_px=None, slide_mpp=MPP, score=score.astype(np.float32),
        attention=np.full(len(coords), 1 / len(coords), np.float32), encoder="e@1", model="m",
        **{**known, **facts},
    )  # fmt: skip


def lattice(step: int = TILE) -> np.ndarray:
    y, x = (np.arange(0, side - TILE + 1, step) for side in SIDE)
    return np.stack(np.meshgrid(y, x, indexing="ij"), axis=-1).reshape(-1, 2)


scores = st.lists(
    st.sampled_from([0.0, 0.2, 0.5, 0.9]), min_size=ROWS * COLUMNS, max_size=ROWS * COLUMNS
).map(np.array)
labels = st.lists(
    st.sampled_from([0, 1, 1, 2]), min_size=ROWS * COLUMNS * 9, max_size=ROWS * COLUMNS * 9
).map(lambda found: np.array(found, np.uint8).reshape(3 * ROWS, 3 * COLUMNS))


def positive_parts(score: np.ndarray) -> list[shapely.Polygon]:
    """What shapely makes of the tiles from 0.5: squares that share a side are one polygon."""
    squares = [
        shapely.box(x, y, x + TILE, y + TILE)
        for (y, x), value in zip(lattice().tolist(), score, strict=True)
        if value >= 0.5
    ]
    union = shapely.union_all(squares)
    return [part for part in shapely.get_parts(union) if not part.is_empty]


@settings(deadline=None, max_examples=30)
@given(scores, st.integers(1, ROWS * COLUMNS))
def test_without_a_mask_tiles_are_tissue_and_regions_are_polygons_of_tiles(score, n):
    kept = np.arange(len(score)) < n
    found = measure_extent(prediction_of(lattice()[kept], score[kept]))
    parts = positive_parts(np.where(kept, score, 0))
    areas = sorted((part.area * PX_MM2 for part in parts), reverse=True)
    assert found.source == "tiles"
    assert found.tissue_mm2 == pytest.approx(n * TILE * TILE * PX_MM2)
    assert found.regions_mm2.tolist() == pytest.approx(areas)
    assert found.positive_mm2 == pytest.approx(sum(areas))
    assert found.share == pytest.approx(sum(areas) / found.tissue_mm2)
    assert found.largest_mm2 == pytest.approx(max(areas, default=0))


@settings(deadline=None, max_examples=20)
@given(scores, labels)
def test_with_a_mask_only_tissue_counts(score, label):
    pixel = TILE // 3
    mask = TissueMask(label, (pixel, pixel), (pixel * MPP[0], pixel * MPP[1]))
    found = measure_extent(prediction_of(lattice(), score), mask)
    tissue = [
        shapely.Point((x + 0.5) * pixel, (y + 0.5) * pixel) for y, x in np.argwhere(label == 1)
    ]
    counts = [sum(part.contains(point) for point in tissue) for part in positive_parts(score)]
    areas = sorted((n * pixel**2 * PX_MM2 for n in counts if n), reverse=True)
    assert found.source == "mask"
    assert found.tissue_mm2 == pytest.approx(len(tissue) * pixel**2 * PX_MM2)
    assert found.regions_mm2.tolist() == pytest.approx(areas)


def test_where_tiles_overlap_their_mean_counts_once():
    coords = lattice(TILE // 2)
    score = np.random.default_rng(0).random(len(coords))
    total, count = np.zeros(SIDE), np.zeros(SIDE)
    for (y, x), value in zip(coords.tolist(), score, strict=True):
        total[y : y + TILE, x : x + TILE] += value
        count[y : y + TILE, x : x + TILE] += 1
    mean = total / count
    found = measure_extent(prediction_of(coords, score), threshold=0.6)
    assert found.positive_mm2 == pytest.approx((mean >= 0.6).sum() * PX_MM2)
    assert found.tissue_mm2 == pytest.approx(SIDE[0] * SIDE[1] * PX_MM2)


def test_tiles_whose_corners_were_rounded_leave_no_seam_between_them():
    """281.63 px at 281 or 282 px from one another, as tiles of one scanner at another's mpp."""
    side = 281.62816281628164
    corners = np.rint(np.arange(9) * side).astype(int)
    coords = np.stack(np.meshgrid(corners, corners, indexing="ij"), axis=-1).reshape(-1, 2)
    extent = (round(9 * side), round(9 * side))
    tiles = prediction_of(coords, np.ones(81), footprint_px=(side, side), slide_px=extent)
    mask = TissueMask(np.ones((extent[0] // 3, extent[1] // 3), np.uint8), (3, 3), (12, 7.5))
    for found in (measure_extent(tiles), measure_extent(tiles, mask)):
        assert len(found.regions_mm2) == 1
        assert found.share == pytest.approx(1, abs=1e-3)


def test_a_report_says_what_tissue_was_measured_by():
    tiles = prediction_of(lattice(TILE // 2), np.zeros(len(lattice(TILE // 2))))
    whole = SIDE[0] * SIDE[1] * PX_MM2
    share = {"tissue": np.full(len(tiles), 0.5, np.float32)}
    mask = TissueMask(np.ones((10, 14), np.uint8), (30, 30), (120, 75))
    mask.labels[:, 7:] = 0
    apart = prediction_of(lattice(), np.zeros(ROWS * COLUMNS))
    for found in (area_facts(tiles, {}), area_facts(apart, {})):
        assert found["area of the tiles"] == f"{whole:.2f} mm²"
        assert found["tissue"] == f"{whole:.2f} mm² (of whole tiles: there is no mask)"
    by_share = area_facts(tiles, share)["tissue"]
    assert by_share == f"{whole / 2:.2f} mm² (of the tiles, by the share in each)"
    assert area_facts(tiles, share, mask)["tissue"] == f"{whole / 2:.2f} mm² (of the mask)"


def test_the_label_in_a_slide_s_own_ome_zarr_is_taken_unasked(tmp_path):
    pixels = np.full((*SIDE, 3), 200, np.uint8)
    tifffile.imwrite(tmp_path / "s.tif", pixels, tile=(64, 64), photometric="rgb")
    image = ingest_slide(tmp_path / "s.tif", tmp_path, mpp=1.0, profile="compatible").path
    tiles = prediction_of(lattice(), np.zeros(ROWS * COLUMNS), source=str(image))
    assert find_mask(tiles) is None
    mask = TissueMask(np.ones((10, 14), np.uint8), (30, 30), (30, 30))
    mask.labels[:5] = 0
    write_slide_label(image, mask, key="k")
    found = find_mask(tiles)
    assert found is not None
    np.testing.assert_array_equal(found.labels, mask.labels)


def test_the_mask_that_was_given_is_taken_and_one_that_does_not_fit_refused(tmp_path):
    tiles = prediction_of(lattice(), np.zeros(ROWS * COLUMNS))
    assert find_mask(tiles) is None
    with pytest.raises(MissingFile):
        find_mask(tiles, tmp_path)
    mask = TissueMask(np.ones((10, 14), np.uint8), (30, 30), (120, 75))
    write_tissue(tmp_path / "s.tissue.zarr", mask, key="k")
    found = find_mask(tiles, tmp_path)
    assert found is not None
    np.testing.assert_array_equal(found.labels, mask.labels)
    with pytest.raises(BadGeometry, match="the mask is for a slide of"):
        find_mask(prediction_of(lattice(), tiles.score, slide_px=(4000, 9000)), tmp_path)
