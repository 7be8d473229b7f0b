"""Dense overlays: of the slide's extent, with its pixel size, opened by other people's readers."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import ome_types
import pytest
import tifffile
import zarr
from PIL import Image

from microtome.engine.slides import open_slide
from microtome.tasks.layers import RasterLayer, SlideLayer, Swatch
from microtome.tasks.overlay_image import OverlayImage, is_scale, write_overlay

SIDE = (2600, 3900)
BOX = (200, 300, 2000, 3001)
MPP = (0.25, 0.5)


def layer() -> RasterLayer:
    """Red in a square of level-0 pixels, blue in another, nothing elsewhere."""
    codes = np.zeros((26, 39), np.uint8)
    codes[5:9, 10:20], codes[15:20, 25:30] = 1, 2
    palette = np.zeros((256, 4), np.uint8)
    palette[1], palette[2] = (255, 0, 0, 255), (0, 0, 255, 255)
    legend = (Swatch("red", (255, 0, 0)), Swatch("blue", (0, 0, 255)))
    return RasterLayer("what it is", codes, palette, (100.0, 100.0), legend=legend)


@pytest.fixture(scope="module")
def overlay(tmp_path_factory) -> Iterator[OverlayImage]:
    path = tmp_path_factory.mktemp("slide") / "s.tif"
    tifffile.imwrite(path, np.full((*SIDE, 3), 200, np.uint8), tile=(256, 256), photometric="rgb")
    with open_slide(path) as slide:
        yield OverlayImage(layer(), SlideLayer(slide), BOX, 3.0, MPP, 0.5)


def truth(shape: tuple[int, int]) -> np.ndarray:
    """What each pixel shows, by its centre's place on the slide: float [h, w, 3]."""
    y = BOX[0] + (np.arange(shape[0]) + 0.5) * BOX[2] / shape[0]
    x = BOX[1] + (np.arange(shape[1]) + 0.5) * BOX[3] / shape[1]
    shown = np.full((*shape, 3), 200.0)
    for (top, bottom), (left, right), colour in (
        ((500, 900), (1000, 2000), (255, 0, 0)), ((1500, 2000), (2500, 3000), (0, 0, 255)),
    ):  # fmt: skip
        inside = np.ix_((y >= top) & (y < bottom), (x >= left) & (x < right))
        shown[inside] = (shown[inside] + colour) / 2
    return shown


def test_it_covers_the_box_exactly(overlay):
    height, width = overlay.shape
    assert (height, width) == (667, 1000)
    assert (height * overlay.pixel_px[0], width * overlay.pixel_px[1]) == pytest.approx(BOX[2:])
    assert (height * overlay.pixel_um[0], width * overlay.pixel_um[1]) == pytest.approx(
        (BOX[2] * MPP[0], BOX[3] * MPP[1])
    )


def test_opacity_is_how_much_of_the_slide_is_hidden(overlay):
    drawn = overlay.read(0, 0, 0, *overlay.shape).astype(float)
    assert np.abs(drawn - truth(overlay.shape)).max() <= 0.5


def test_an_ome_tiff_is_a_pyramid_that_others_read(overlay, tmp_path):
    path = write_overlay(overlay, tmp_path, "case-1", "ome-tiff")
    assert path.name == "case-1.overlay.ome.tif"
    with tifffile.TiffFile(path) as tiff:
        (series,) = tiff.series
        assert tiff.is_bigtiff
        assert tiff.is_ome
        assert [level.shape for level in series.levels] == [(667, 1000, 3), (334, 500, 3)]
        assert all(level.pages[0].is_tiled for level in series.levels)
        finest, coarse = (level.asarray().astype(float) for level in series.levels)
    wanted = truth((667, 1000))
    # JPEG: a little everywhere, more along the edges of colours.
    assert np.abs(finest - wanted).mean() < 2
    assert (np.abs(finest - wanted).max(axis=2) < 40).mean() > 0.98
    assert np.abs(coarse - truth((334, 500))).mean() < 3
    pixels = ome_types.from_tiff(path).images[0].pixels
    assert pixels.physical_size_x == pytest.approx(overlay.pixel_um[1])
    assert pixels.physical_size_y == pytest.approx(overlay.pixel_um[0])
    assert (pixels.size_x, pixels.size_y, pixels.channels[0].samples_per_pixel) == (1000, 667, 3)
    assert str(pixels.physical_size_x_unit.value) == "µm"


def test_an_ome_zarr_0_5_is_valid_and_holds_the_same(overlay, tmp_path):
    from ome_zarr_models.v05.image import Image as Model

    path = write_overlay(overlay, tmp_path, "case-1", "ome-zarr")
    group = zarr.open_group(path, mode="r", zarr_format=3)
    model = Model.from_zarr(group)
    data = np.asarray(group["0"][...]).transpose(1, 2, 0)
    np.testing.assert_array_equal(data, overlay.read(0, 0, 0, *overlay.shape))
    (scale, *_) = model.attributes.ome.multiscales[0].datasets[0].coordinateTransformations
    assert list(scale.scale)[1:] == pytest.approx(overlay.pixel_um)


def test_an_ome_zarr_0_4_is_what_qupath_reads(overlay, tmp_path):
    path = write_overlay(overlay, tmp_path, "case-1", "ome-zarr04")
    group = zarr.open_group(path, mode="r", zarr_format=2)
    data = np.asarray(group["0/0"][...]).transpose(1, 2, 0)
    np.testing.assert_array_equal(data, overlay.read(0, 0, 0, *overlay.shape))
    # Its reader takes pixel size and colours from here alone.
    document = (path / "OME" / "METADATA.ome.xml").read_text()
    pixels = ome_types.from_xml(document).images[0].pixels
    assert pixels.physical_size_x == pytest.approx(overlay.pixel_um[1])
    assert [channel.name for channel in pixels.channels] == ["Red", "Green", "Blue"]


def test_what_cannot_hold_a_legend_has_one_beside_it(overlay, tmp_path):
    write_overlay(overlay, tmp_path, "case-1", "ome-tiff")
    with Image.open(tmp_path / "case-1.legend.png") as legend:
        colours = {tuple(c) for _, c in legend.convert("RGB").getcolors(100_000)}
    assert {(255, 0, 0), (0, 0, 255)} <= colours


def test_a_png_has_the_legend_on_its_right(overlay, tmp_path):
    path = write_overlay(overlay, tmp_path, "case-1", "png")
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    assert pixels.shape[1] > 1000
    np.testing.assert_array_equal(pixels[:667, :1000], overlay.read(0, 0, 0, 667, 1000))


def test_numbers_are_a_scale_and_names_are_not():
    assert is_scale([Swatch("0", (0, 0, 0)), Swatch("0.5", (1, 1, 1))])
    assert not is_scale([Swatch("1", (0, 0, 0)), Swatch("tissue", (1, 1, 1))])
    assert not is_scale([])


LARGE = """
import sys
from pathlib import Path
import numpy as np
from microtome.tasks.layers import RasterLayer
from microtome.tasks.overlay_image import OverlayImage, write_overlay

def peak_kib():
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])

codes = np.random.default_rng(0).integers(0, 255, (256, 256), dtype=np.uint8)
palette = np.tile(np.arange(256, dtype=np.uint8)[:, None], 4)
side = int(sys.argv[2])
layer = RasterLayer("m", codes, palette, (side / 256, side / 256))
image = OverlayImage(layer, None, (0, 0, side, side), 1.0, None)
small = OverlayImage(image.layer, None, (0, 0, 700, 700), 1.0, None)
write_overlay(small, Path(sys.argv[1]), "warm", sys.argv[3])
before = peak_kib()
write_overlay(image, Path(sys.argv[1]), "large", sys.argv[3])
print(peak_kib() - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "most_mib"), [("ome-tiff", 64), ("ome-zarr", 256)])
def test_memory_does_not_grow_with_the_slide(tmp_path, kind, most_mib):
    run = subprocess.run(
        [sys.executable, "-c", LARGE, str(tmp_path), "12000", kind],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    # Its pixels are 412 MiB.
    assert int(run.stdout) < most_mib * 1024
    assert any(Path(tmp_path).glob("large.overlay*"))
