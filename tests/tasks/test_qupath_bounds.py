"""A slide that states bounds, written by hand and read by OpenSlide: where QuPath shows its tiles.

Leica's SCN is the one format with ``openslide.bounds-*`` (as MIRAX has them) that is plain TIFF.
QuPath shows of it what OpenSlide's properties bound (its ``OpenslideImageServer``), so the truth
of a tile's place is what lies there in that crop.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile
from shapely.geometry import shape
from typer.testing import CliRunner

from microtome.cli.app import app
from microtome.engine.grid import TileGrid
from microtome.engine.slides import open_slide
from microtome.storage.predictions import SlidePrediction, write_predictions
from microtome.storage.qupath_check import check_geojson, read_features, read_metadata

NM_PER_PX = 500
SLIDE = (4000, 6000)
Y, X, HEIGHT, WIDTH = BOUNDS = (130, 3020, 768, 1024)
TILE = 128
HOT = (2, 5)
"""Row and column of the dark tile, counted from the corner of the bounds."""


def scn_image(name: str, size: tuple[int, int], view: tuple[int, ...], ifd: int, power: str) -> str:
    (h, w), (y, x, tall, wide) = size, view
    return (
        f'<image name="{name}" uuid="{name}"><creationDate>2026-01-01T00:00:00Z</creationDate>'
        f'<device model="Leica SCN400" version="1"/><pixels sizeX="{w}" sizeY="{h}">'
        f'<dimension sizeX="{w}" sizeY="{h}" r="0" ifd="{ifd}"/></pixels>'
        f'<view sizeX="{wide}" sizeY="{tall}" offsetX="{x}" offsetY="{y}" spacingZ="0"/>'
        f"<scanSettings><objectiveSettings><objective>{power}</objective></objectiveSettings>"
        "<illuminationSettings><numericalAperture>0.4</numericalAperture>"
        "<illuminationSource>brightfield</illuminationSource></illuminationSettings>"
        "</scanSettings></image>"
    )


@pytest.fixture(scope="module")
def scn(tmp_path_factory) -> Path:
    """Grey within the bounds, one dark tile; nothing was scanned outside of them."""
    path = tmp_path_factory.mktemp("scn") / "case-9.scn"
    pixels = np.full((HEIGHT, WIDTH, 3), 200, np.uint8)
    y, x = HOT[0] * TILE, HOT[1] * TILE
    pixels[y : y + TILE, x : x + TILE] = 20
    whole = (0, 0, SLIDE[0] * NM_PER_PX, SLIDE[1] * NM_PER_PX)
    part = tuple(side * NM_PER_PX for side in BOUNDS)
    xml = (
        '<?xml version="1.0"?><scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01" '
        f'uuid="u"><collection name="c" uuid="c" sizeX="{whole[3]}" sizeY="{whole[2]}">'
        "<barcode>x</barcode>"
        + scn_image("macro", (64, 96), whole, 0, "0.6")
        + scn_image("main", (HEIGHT, WIDTH), part, 1, "20")
        + "</collection></scn>"
    )
    options = {
        "photometric": "rgb",
        "compression": "jpeg",
        "compressionargs": {"level": 95},
        "metadata": None,
    }
    with tifffile.TiffWriter(path, bigtiff=True) as out:
        macro = np.full((64, 96, 3), 230, np.uint8)
        out.write(macro, tile=(64, 64), description=xml, **options)
        out.write(pixels, tile=(128, 128), resolution=(20_000, 20_000), resolutionunit=3, **options)
    return path


@pytest.fixture(scope="module")
def crop(scn) -> np.ndarray:
    """What QuPath shows: by OpenSlide itself, cropped to the bounds that it states."""
    with openslide.OpenSlide(scn) as slide:
        stated = [
            int(slide.properties[f"openslide.bounds-{k}"]) for k in ("x", "y", "width", "height")
        ]
        shown = slide.read_region((stated[0], stated[1]), 0, (stated[2], stated[3]))
    assert (stated[1], stated[0], stated[3], stated[2]) == BOUNDS
    return np.asarray(shown.convert("RGB"))


@pytest.fixture(scope="module")
def predictions(scn, tmp_path_factory) -> Path:
    """The score of a tile is how dark it is, by pixels that our reader read."""
    from microtome.engine.tiles import read_tiles

    with open_slide(scn) as slide:
        info = slide.info
        grid = TileGrid.over(info, tile_px=TILE, mpp=NM_PER_PX / 1000)
        dark = np.concatenate(
            [1 - t.mean(axis=(1, 2, 3)) / 255 for _, t in read_tiles(slide, grid)]
        )
    assert info.bounds is not None
    score = dark.astype(np.float32)
    prediction = SlidePrediction(
        id="case-9", probability=0.9, classes=("normal", "tumour"),
        probabilities=np.array([0.1, 0.9], np.float32), target="tumour", label=None, fold=None,
        coords_px=grid.coords_px, footprint_px=grid.footprint_px, slide_px=SLIDE,
        bounds_px=(info.bounds.y_px, info.bounds.x_px, info.bounds.height_px, info.bounds.width_px),
        slide_mpp=info.mpp, score=score, attention=score / score.sum(), source=str(scn),
        encoder="e@1", model="m",
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("predictions") / "p"
    write_predictions(folder, [prediction], key="k", about={})
    return folder


def export(predictions: Path, out: Path, *flags: str) -> list[dict]:
    line = ["heatmap", str(predictions), "--out", str(out), *flags]
    result = CliRunner().invoke(app, line, env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    assert check_geojson(out / "case-9.geojson.gz") == []
    features = read_features(out / "case-9.geojson.gz")
    return [f for f in features if f["properties"]["objectType"] == "tile"]


def test_tiles_lie_on_what_they_were_cut_from(predictions, crop, tmp_path):
    tiles = export(predictions, tmp_path, "--no-overlay")
    assert len(tiles) == (HEIGHT // TILE) * (WIDTH // TILE)
    for tile in tiles:
        left, top, right, bottom = (round(v) for v in shape(tile["geometry"]).bounds)
        below = crop[top:bottom, left:right]
        assert below.shape[:2] == (TILE, TILE)
        said = tile["properties"]["measurements"]["score"]
        assert said == pytest.approx(1 - below.mean() / 255, abs=0.01)
    hot = max(tiles, key=lambda t: t["properties"]["measurements"]["score"])
    assert shape(hot["geometry"]).bounds[:2] == (HOT[1] * TILE, HOT[0] * TILE)


def test_without_the_crop_everything_is_shifted_by_exactly_the_bounds(predictions, tmp_path):
    cropped = export(predictions, tmp_path / "a", "--no-overlay")
    whole = export(predictions, tmp_path / "b", "--no-overlay", "--no-crop")
    for one, other in zip(cropped, whole, strict=True):
        near, far = shape(one["geometry"]).bounds, shape(other["geometry"]).bounds
        assert tuple(np.subtract(far, near)) == (X, Y, X, Y)
    assert read_metadata(tmp_path / "a/case-9.geojson.gz")["origin_px"] == {"x": X, "y": Y}
    assert read_metadata(tmp_path / "b/case-9.geojson.gz")["origin_px"] == {"x": 0, "y": 0}


def test_the_picture_is_of_the_crop_as_well(predictions, tmp_path):
    from PIL import Image

    export(predictions, tmp_path)
    with Image.open(tmp_path / "case-9.heatmap.png") as picture:
        drawn = np.asarray(picture.convert("RGB")).astype(int)
    # The legend stands on the right of the slide, whose height is the picture's or less.
    scale = 1200 / max(SLIDE)
    height, width = round(HEIGHT * scale), round(WIDTH * scale)
    dark = drawn[:height, :width].sum(axis=2)
    y, x = np.unravel_index(np.argmin(dark), dark.shape)
    assert HOT[0] * TILE <= y / scale <= (HOT[0] + 1) * TILE
    assert HOT[1] * TILE <= x / scale <= (HOT[1] + 1) * TILE


def test_an_overlay_covers_the_crop_and_shows_the_heat_where_it_is(predictions, tmp_path):
    line = ["heatmap", "overlay", str(predictions), "--out", str(tmp_path), "--um", "1"]
    ended = CliRunner().invoke(app, line, env={"COLUMNS": "200"})
    assert ended.exit_code == 0, ended.output
    drawn = tifffile.imread(tmp_path / "case-9.overlay.ome.tif").astype(int)
    # One micrometre is two pixels of this slide.
    assert drawn.shape == (HEIGHT // 2, WIDTH // 2, 3)
    y, x = (slice(place * TILE // 2 + 8, (place + 1) * TILE // 2 - 8) for place in HOT)
    around = np.ones(drawn.shape[:2], bool)
    around[y.start - 24 : y.stop + 24, x.start - 24 : x.stop + 24] = False
    hot, cold = drawn[y, x], drawn[around]
    # Yellow of viridis over dark; the others are a violet-blue over grey.
    assert (hot[..., 0] > hot[..., 2] + 40).all()
    assert (cold[:, 2] > cold[:, 0]).mean() > 0.99
