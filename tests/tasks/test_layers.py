"""Tiles of layers: each pixel shows what lies at its centre, wherever the tile is cut."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from microtome.engine.slides import open_slide
from microtome.storage.commit import new_product
from microtome.storage.maps import KIND, MapFrame, MapPlan, encode, open_map
from microtome.tasks.layers import MapLayer, RasterLayer, SlideLayer
from microtome.tasks.zoom import DeepZoom

GREY = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 4, axis=1)
"""A palette in which every code is itself, four times."""


# --- Geometry -------------------------------------------------------------------------------------


@settings(max_examples=80, deadline=None)
@given(
    st.tuples(st.integers(0, 90), st.integers(0, 90), st.integers(1, 3000), st.integers(1, 3000)),
    st.integers(0, 12),
)
def test_the_tiles_of_a_level_cover_the_image_once(box, level):
    zoom = DeepZoom(box, tile_px=256)
    if level > zoom.last:
        assert zoom.place(level, 0, 0) is None
        return
    height, width = zoom.shape(level)
    covered = np.zeros((height, width), int)
    for row in range(-(-height // 256)):
        for column in range(-(-width // 256)):
            place = zoom.place(level, column, row)
            assert place is not None
            top, left = row * 256, column * 256
            covered[top : top + place.shape[0], left : left + place.shape[1]] += 1
            assert (place.box.y - box[0], place.box.x - box[1]) == (
                top * place.scale, left * place.scale
            )  # fmt: skip
    assert (covered == 1).all()
    assert zoom.place(level, -(-width // 256), 0) is None
    assert zoom.place(level, 0, -1) is None
    # As OpenSeadragon counts levels: the last is the image itself, the first one pixel.
    assert zoom.last == math.ceil(math.log2(max(box[2:])))
    assert zoom.shape(zoom.last) == box[2:]
    assert zoom.shape(0) == (1, 1)


def drawn(layer, zoom: DeepZoom, level: int) -> np.ndarray:
    """All tiles of a level put together."""
    height, width = zoom.shape(level)
    rows = []
    for row in range(-(-height // zoom.tile_px)):
        columns = range(-(-width // zoom.tile_px))
        rows.append(np.hstack([layer.draw(zoom.place(level, c, row)) for c in columns]))
    return np.vstack(rows)


# --- A slide --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    """Smooth enough that ways to average differ little, and nowhere alike."""
    y, x = np.mgrid[0:1300, 0:1700]
    waves = [np.sin(y / 37 + i) + np.cos(x / (29 + 9 * i)) for i in range(3)]
    return (127 + 60 * np.dstack(waves)).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def slide_path(tmp_path_factory, picture) -> Path:
    path = tmp_path_factory.mktemp("slide") / "s.tif"
    tifffile.imwrite(path, picture, tile=(256, 256), photometric="rgb")
    return path


def test_the_last_level_is_the_slide_pixel_for_pixel(slide_path, picture):
    with open_slide(slide_path) as slide:
        shown = drawn(SlideLayer(slide), DeepZoom((0, 0, 1300, 1700)), 11)
    np.testing.assert_array_equal(shown, picture)


@pytest.mark.parametrize("level", [7, 9, 10])
def test_coarser_levels_are_the_slide_averaged(slide_path, picture, level):
    zoom = DeepZoom((100, 200, 1024, 1280), tile_px=256)
    with open_slide(slide_path) as slide:
        shown = drawn(SlideLayer(slide), zoom, level)
    step = 2 ** (zoom.last - level)
    part = picture[100:1124, 200:1480].astype(float)
    mean = part.reshape(1024 // step, step, 1280 // step, step, 3).mean(axis=(1, 3))
    assert np.abs(shown - mean).mean() < 3
    # Not shifted: any other place agrees less.
    for axis in (0, 1):
        assert np.abs(np.roll(shown, 1, axis) - mean).mean() > np.abs(shown - mean).mean()


def test_what_is_beyond_the_slide_is_white(slide_path):
    with open_slide(slide_path) as slide:
        layer = SlideLayer(slide)
        inside = drawn(layer, DeepZoom((1200, 1600, 300, 300)), 9)
        outside = drawn(layer, DeepZoom((5000, 5000, 64, 64)), 6)
    assert (inside[100:] == 255).all()
    assert (inside[:, 100:] == 255).all()
    assert (inside[:100, :100] < 255).any()
    assert (outside == 255).all()


def test_a_slide_without_coarse_levels_is_read_in_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr("microtome.tasks.layers._MOST_PX", 300)
    pixels = np.full((1000, 1200, 3), 240, np.uint8)
    pixels[400:600, 600:900] = 10
    tifffile.imwrite(tmp_path / "s.tif", pixels, tile=(256, 256), photometric="rgb")
    with open_slide(tmp_path / "s.tif") as slide:
        largest = 0
        read = slide.read

        def counted(level, y, x, height, width):
            nonlocal largest
            largest = max(largest, height * width)
            return read(level, y, x, height, width)

        monkeypatch.setattr(slide, "read", counted)
        shown = drawn(SlideLayer(slide), DeepZoom((0, 0, 1000, 1200)), 8)
    assert largest < 1000 * 1200
    y, x = np.argwhere(shown[..., 0] < 120).mean(axis=0) * 8
    assert (y, x) == (pytest.approx(500, abs=8), pytest.approx(750, abs=8))


# --- Maps -----------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.tuples(st.floats(3, 60), st.floats(3, 60)),
    st.tuples(st.floats(0, 90), st.floats(0, 90)), st.integers(0, 9),
)  # fmt: skip
def test_a_raster_shows_the_code_at_each_centre(shape, pixel_px, origin_px, level):
    codes = np.random.default_rng(0).integers(1, 255, shape, dtype=np.uint8)
    layer = RasterLayer("m", codes, GREY, pixel_px, origin_px)
    zoom = DeepZoom((10, 20, 500, 400), tile_px=128)
    shown = drawn(layer, zoom, level)[..., 0]
    scale = 2 ** (zoom.last - level)
    for (row, column), code in list(np.ndenumerate(shown))[:: max(1, shown.size // 200)]:
        y = math.floor((10 + (row + 0.5) * scale - origin_px[0]) / pixel_px[0])
        x = math.floor((20 + (column + 0.5) * scale - origin_px[1]) / pixel_px[1])
        inside = 0 <= y < shape[0] and 0 <= x < shape[1]
        assert code == (codes[y, x] if inside else 0)


def test_a_map_at_rest_shows_what_it_holds_at_every_level(tmp_path):
    frame = MapFrame((1500, 1100), (40.0, 60.0), (4.0, 4.0), (0.5, 0.5), (6100, 4500))
    y, x = np.mgrid[0:1500, 0:1100]
    values = np.where((y // 256 + x // 256) % 2, 0.2, 0.9).astype(np.float32)
    values[:300] = np.nan
    plan = MapPlan(frame, block_px=1024)
    path = tmp_path / "s.probability.ome.zarr"
    with new_product(path, kind=KIND, key="k", about={}) as folder:
        for block in plan.blocks():
            plan.write(folder, block, values[block], plan.missing(folder, block))
        plan.finish(folder, "s", {})
    layer = MapLayer("m", open_map(path), GREY)
    zoom = DeepZoom((0, 0, 6100, 4500))
    for level in (zoom.last - 5, zoom.last - 3, zoom.last - 2):
        shown, scale = drawn(layer, zoom, level)[..., 0], 2 ** (zoom.last - level)
        rows, columns = (
            np.floor(((np.arange(n) + 0.5) * scale - start) / 4).astype(int)
            for n, start in zip(shown.shape, (40, 60), strict=True)
        )
        wanted = np.zeros(shown.shape, np.uint8)
        good_y, good_x = (rows >= 0) & (rows < 1500), (columns >= 0) & (columns < 1100)
        wanted[np.ix_(good_y, good_x)] = encode(values)[np.ix_(rows[good_y], columns[good_x])]
        # Where cells of the board meet, a coarser level has the mean of both.
        assert (shown == wanted).mean() > 0.95
        assert set(np.unique(shown[wanted == 0])) <= {0, *np.unique(encode(values)), 140}


def test_tiles_are_jpeg_and_transparent_png(slide_path):
    from microtome.view.server import tile

    with open_slide(slide_path) as slide:
        kind, data = tile(DeepZoom((0, 0, 1300, 1700)), SlideLayer(slide), 11, 0, 0)
    image = Image.open(io.BytesIO(data))
    assert (kind, image.format, image.size, image.mode) == ("image/jpeg", "JPEG", (512, 512), "RGB")
    palette = np.zeros((256, 4), np.uint8)
    palette[7] = (250, 10, 20, 255)
    layer = RasterLayer("m", np.array([[7, 0]], np.uint8), palette, (8.0, 8.0))
    kind, data = tile(DeepZoom((0, 0, 8, 16)), layer, 4, 0, 0)
    found = np.asarray(Image.open(io.BytesIO(data)))
    assert kind == "image/png"
    assert found[4, 4].tolist() == [250, 10, 20, 255]
    assert found[4, 12, 3] == 0
