"""Probability maps and their polygons: places, blending, seams, holes, and other readers."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import shapely
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from ome_zarr_models.v05.image import Image
from scipy import ndimage

from microtome.engine.slides import Level, SlideInfo
from microtome.engine.slides.base import Bounds
from microtome.storage.annotations import read_annotations
from microtome.storage.commit import new_product
from microtome.storage.errors import BadGeometry, BadProduct
from microtome.storage.maps import (
    KIND,
    MapFrame,
    MapPlan,
    StoredMap,
    at_least,
    decode,
    encode,
    halve,
    open_map,
)
from microtome.storage.polygons import outline
from microtome.storage.qupath import Frame
from microtome.storage.qupath_check import check_geojson
from microtome.tasks.camel.polygons import (
    PolygonOptions,
    export_polygons,
    export_tiles,
    mean_tiles,
    polygonise,
)
from microtome.tasks.camel.predict import Blend, WindowOptions, Windows

EXACT = PolygonOptions(min_area_um2=0, simplify_um=0)


def frame(
    shape: tuple[int, int],
    pixel_px: tuple[float, float] = (2.0, 2.0),
    origin_px: tuple[float, float] = (0.0, 0.0),
) -> MapFrame:
    slide_px = tuple(
        int(np.ceil(n * side + at)) for n, side, at in zip(shape, pixel_px, origin_px, strict=True)
    )
    return MapFrame(shape, origin_px, pixel_px, (0.25, 0.25), (slide_px[0], slide_px[1]))


def stored(path: Path, values: np.ndarray, **where: tuple[float, float]) -> StoredMap:
    plan = MapPlan(frame(values.shape, **where), shard_px=32, chunk_px=16, block_px=64)
    about = {"classes": ["normal", "lesion"]}
    with new_product(path, kind=KIND, key="k", about=about) as folder:
        for block in plan.blocks():
            plan.write(folder, block, values[block].astype(np.float32), plan.missing(folder, block))
        plan.finish(folder, "map", about)
    return open_map(path)


def blobs(shape: tuple[int, int], seed: int, sigma: float = 3.0) -> np.ndarray:
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), sigma)
    return noise > np.quantile(noise, 0.6)


def info(height: int, width: int, mpp: float, bounds: Bounds | None = None) -> SlideInfo:
    return SlideInfo(
        path=Path("x.svs"), backend="", vendor="", levels=(Level(height, width, 1.0, 1.0),),
        mpp=(mpp, mpp), mpp_source="", objective_power=None, bounds=bounds, associated=(),
        properties={},
    )  # fmt: skip


@given(
    size=st.tuples(st.integers(40, 400), st.integers(40, 400)), window=st.integers(8, 64),
    part=st.floats(0.2, 1.0), scale=st.sampled_from([1.0, 2.0, 1.37]), data=st.data(),
)  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_windows_of_a_constant_make_a_constant_everywhere(size, window, part, scale, data):
    """Every pixel of the map is covered, and its weights sum to what they are divided by."""
    height, width = size
    y, x = data.draw(st.integers(0, 15)), data.draw(st.integers(0, 15))
    bounds = Bounds(y, x, height - y, width - x)
    windows = Windows.over(
        info(height, width, 0.5, bounds),
        window_px=window, stride_px=max(1, int(window * part)), mpp=0.5 * scale,
    )  # fmt: skip
    block = tuple(slice(0, n) for n in windows.frame.shape)
    blend = Blend((block[0], block[1]), window)
    for y_map, x_map in windows.corners_px.tolist():
        blend.add((y_map, x_map), np.full((window, window), 0.3, np.float32))
    mean = blend.mean()
    assert np.isfinite(mean).all()
    assert np.allclose(mean, 0.3, atol=1e-5)
    # A window is read within half a level-0 pixel of where the map puts it.
    at = windows.corners_px * np.array(windows.frame.pixel_px) + np.array(windows.frame.origin_px)
    assert np.abs(at - windows.grid.coords_px).max() <= 0.5 + 1e-6
    reach = np.array(windows.frame.shape) * np.array(windows.frame.pixel_px)
    assert (reach >= np.array([height - y, width - x]) - 1e-6).all()
    assert (reach < np.array([height - y, width - x]) + np.array(windows.frame.pixel_px)).all()


@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_a_block_has_the_blend_that_the_whole_has(height, width, seed):
    rng = np.random.default_rng(seed)
    places = [(int(y), int(x)) for y, x in rng.integers(0, 50, (9, 2))]
    values = rng.random((9, 20, 20), np.float32)
    whole = Blend((slice(0, 70), slice(0, 70)), 20)
    y, x = (int(v) for v in rng.integers(0, 10, 2))
    block = (slice(y, y + height), slice(x, x + width))
    part = Blend(block, 20)
    for at, value in zip(places, values, strict=True):
        whole.add(at, value)
        if y - 20 < at[0] < y + height and x - 20 < at[1] < x + width:
            part.add(at, value)
    assert np.array_equal(part.mean(), whole.mean()[block], equal_nan=True)


def test_a_stride_that_leaves_gaps_is_refused():
    with pytest.raises(BadGeometry, match="gaps"):
        WindowOptions(window_px=64, stride_px=65).sizes_px(128)
    assert WindowOptions().sizes_px(1280) == (512, 256)


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=20), st.floats(0.01, 1))
def test_a_kept_probability_is_within_half_a_step_and_unknown_stays_unknown(values, threshold):
    known = np.array([[*values, np.nan]], np.float32)
    codes = encode(known)
    back = decode(codes)
    assert np.isnan(back[0, -1])
    assert np.abs(back - known)[0, :-1].max() <= 0.5 / 254 + 1e-6
    expected = np.nan_to_num(back, nan=-1) >= threshold - 1e-7
    assert np.array_equal(at_least(codes, threshold), expected)


def test_a_coarser_level_is_the_mean_of_what_is_known():
    codes = encode(np.array([[0.2, 0.4, np.nan], [np.nan, 0.6, np.nan]], np.float32))
    assert decode(halve(codes))[0, 0] == pytest.approx(0.4, abs=0.005)
    assert halve(codes)[0, 1] == 0
    assert decode(halve(np.full((4, 4), 255, np.uint8))).tolist() == [[1, 1], [1, 1]]


def test_other_readers_find_the_map_and_where_it_is(tmp_path):
    values = np.random.default_rng(0).random((100, 75)).astype(np.float32)
    values[:40] = np.nan
    made = stored(tmp_path / "a.ome.zarr", values, pixel_px=(2.5, 2.0), origin_px=(12.0, 8.0))
    group = zarr.open_group(tmp_path / "a.ome.zarr", mode="r")
    assert np.array_equal(group["0"][...], encode(values))
    assert np.array_equal(group["1"][...], halve(encode(values)))
    image = Image.from_zarr(group)
    (first, *_) = image.ome_attributes.multiscales[0].datasets
    scale, translation = first.coordinateTransformations
    assert scale.scale == [2.5 * 0.25, 2.0 * 0.25]
    # The centre of the first pixel, where level-0 pixel 0 has its centre at 0.
    assert translation.translation == [(12 + 0.75) * 0.25, (8 + 0.5) * 0.25]
    rows, columns = slice(30, 60), slice(10, 70)
    assert np.array_equal(
        made.read(rows, columns), decode(encode(values))[rows, columns], equal_nan=True
    )
    (tmp_path / "a.ome.zarr" / "0" / "c" / "1" / "1").write_bytes(b"torn")
    with pytest.raises(BadProduct):
        made.read(slice(32, 64), slice(32, 64))


@given(
    seed=st.integers(0, 999), sigma=st.floats(0.3, 4),
    shape=st.tuples(st.integers(5, 90), st.integers(5, 90)), block=st.sampled_from([16, 23, 64]),
)  # fmt: skip
@settings(max_examples=30, deadline=None)
def test_blocks_put_together_have_the_outline_of_the_whole(
    tmp_path_factory, seed, sigma, shape, block
):
    """Same pieces, same holes, by connected components of the mask."""
    mask = blobs(shape, seed, sigma)
    path = tmp_path_factory.mktemp("map") / "a.ome.zarr"
    pieces = polygonise(stored(path, mask.astype(float)), EXACT, block_px=block)
    assert all(piece.is_valid and piece.geom_type == "Polygon" for piece in pieces)
    assert len(pieces) == ndimage.label(mask)[1]
    together = shapely.MultiPolygon(pieces)
    assert together.area == mask.sum() * 4
    assert (
        shapely.symmetric_difference(
            shapely.unary_union(pieces), shapely.unary_union(outline(mask, (2.0, 2.0)))
        ).area
        == 0
    )


def test_polygons_drawn_by_another_library_are_the_mask_again_holes_included(tmp_path):
    mask = np.zeros((120, 160), np.uint8)
    cv2.circle(mask, (60, 60), 40, 1, -1)
    cv2.circle(mask, (60, 60), 15, 0, -1)
    cv2.rectangle(mask, (130, 10), (150, 100), 1, -1)
    made = stored(tmp_path / "a.ome.zarr", mask, pixel_px=(1.0, 1.0))
    pieces = polygonise(made, EXACT, block_px=32)
    assert sorted(len(piece.interiors) for piece in pieces) == [0, 1]
    drawn = np.zeros((1200, 1600), np.uint8)
    for piece in pieces:
        rings = [piece.exterior, *piece.interiors]
        corners = [np.rint(shapely.get_coordinates(r) * 10 - 0.5).astype(np.int32) for r in rings]
        cv2.fillPoly(drawn, corners, 1)
    # Ten times as fine, pixel centres are well inside.
    assert np.array_equal(drawn[5::10, 5::10], mask)


def test_small_pieces_go_small_holes_are_filled_and_simple_outlines_stay_close(tmp_path):
    mask = np.zeros((200, 200), np.uint8)
    cv2.circle(mask, (100, 100), 60, 1, -1)
    mask[100:103, 100:103] = 0
    mask[5:8, 5:8] = 1
    made = stored(tmp_path / "a.ome.zarr", mask)
    # A pixel is 0.25 µm²: nine are 2.25.
    (piece,) = polygonise(made, PolygonOptions(min_area_um2=2.5))
    assert piece.is_valid
    assert not piece.interiors
    exact = polygonise(made, EXACT)
    assert len(exact) == 2
    assert [len(p.interiors) for p in exact] == [0, 1]
    assert len(piece.exterior.coords) < len(exact[1].exterior.coords) / 3
    apart = shapely.hausdorff_distance(piece.exterior, exact[1].exterior)
    assert apart <= 0.75 * 2 + 1e-9
    assert piece.area == pytest.approx(shapely.Polygon(exact[1].exterior).area, rel=0.01)


def test_the_files_open_in_qupath_at_the_right_place(tmp_path):
    mask = blobs((90, 90), 3)
    values = np.where(mask, 0.9, 0.1)
    values[:, 80:] = np.nan
    made = stored(tmp_path / "a.ome.zarr", values, origin_px=(10.0, 20.0))
    path = tmp_path / "a.geojson.gz"
    written = export_polygons(made, path, EXACT, slide="a")
    assert check_geojson(path) == []
    read = read_annotations(path, frame=Frame(made.frame.slide_px))
    assert not read.problems
    assert len(read.annotations) == written.objects > 1
    assert {a.path_class.name for a in read.annotations if a.path_class} == {"lesion"}
    expected = mask.copy()
    expected[:, 80:] = False
    truth = shapely.transform(outline(expected, (2.0, 2.0)), lambda xy: xy + np.array([20, 10]))
    found = shapely.unary_union([a.geometry for a in read.annotations])
    assert shapely.symmetric_difference(found, shapely.unary_union(truth)).area == 0
    areas = sum(a.measurements["Area mm^2"] for a in read.annotations)
    assert areas == pytest.approx(expected.sum() * 4 * 0.0625 / 1e6)
    assert export_tiles(made, tmp_path / "t.geojson.gz", slide="a", tile_um=5).objects == 9 * 8
    assert check_geojson(tmp_path / "t.geojson.gz") == []


def test_tiles_have_the_mean_of_what_was_looked_at(tmp_path):
    values = np.random.default_rng(1).random((50, 70)).astype(np.float32)
    values[:, 35:] = np.nan
    made = stored(tmp_path / "a.ome.zarr", values)
    tiles = mean_tiles(made, 20)
    # Of the last one, 10 × 15 of 20 × 20 are there and known.
    assert tiles.coords_px.tolist() == [[0, 0], [0, 40], [40, 0], [40, 40], [80, 0]]
    assert tiles.footprint_px == (40.0, 40.0)
    (means,) = tiles.measurements.values()
    assert means[0] == pytest.approx(values[:20, :20].mean(), abs=0.002)
    assert means[3] == pytest.approx(np.nanmean(values[20:40, 20:40]), abs=0.002)


@pytest.mark.parametrize("wrong", [{"threshold": 0}, {"threshold": 1.5}, {"min_area_um2": -1}])
def test_what_makes_no_polygons_is_refused(wrong):
    with pytest.raises(BadGeometry):
        PolygonOptions(**wrong)
