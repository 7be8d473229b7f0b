"""Synthetic slides: read back by OpenSlide, measured by scikit-image and Shapely."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import openslide
import pytest
import shapely
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.color import rgb2hed
from skimage.filters import gaussian, threshold_otsu
from skimage.measure import label, regionprops

from microtome.engine.grid import TileGrid
from microtome.engine.synthetic import (
    SITES,
    Painter,
    SlideRecipe,
    plan_cohort,
    plan_slide,
    read_outlines,
    tissue_mask,
    tumour_fraction,
    write_cohort,
    write_slide,
)
from microtome.engine.synthetic.writer import level_sizes
from microtome.storage.errors import UnwritableOutput

HEIGHT, WIDTH = 2300, 2571


@pytest.fixture(scope="module", params=SITES, ids=lambda site: site.name)
def recipe(request) -> SlideRecipe:
    return plan_slide(
        5,
        height_px=HEIGHT,
        width_px=WIDTH,
        site=request.param,
        tumour_fraction=0.25,
        benign_fraction=0.25,
    )


@pytest.fixture(scope="module")
def painted(recipe: SlideRecipe) -> np.ndarray:
    return Painter(recipe).paint(0, 0, HEIGHT, WIDTH)


@pytest.fixture(scope="module")
def written(recipe: SlideRecipe, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("slide") / "a.tiff"
    write_slide(path, recipe)
    return path


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((a.astype(float) - b.astype(float)) ** 2)))


def inside(outlines, shape, step: int) -> np.ndarray:
    """Sample points of a map that lie in polygons, by Shapely."""
    y, x = ((np.arange(n) + 0.5) * step for n in shape)
    union = shapely.unary_union([shapely.Polygon(o[:, ::-1]) for o in outlines])
    return shapely.contains_xy(union, *np.meshgrid(x, y))


def region_means(painted: np.ndarray, step: int = 16) -> np.ndarray:
    h, w = painted.shape[0] // step, painted.shape[1] // step
    return painted[: h * step, : w * step].reshape(h, step, w, step, 3).mean((1, 3))


def test_openslide_reads_a_tiled_pyramid_with_its_resolution(written, recipe):
    with openslide.OpenSlide(written) as slide:
        properties = slide.properties
        assert properties["openslide.vendor"] == "generic-tiff"
        assert slide.level_dimensions == ((2571, 2300), (642, 575))
        for axis in "xy":
            assert float(properties[f"openslide.mpp-{axis}"]) == pytest.approx(recipe.mpp, rel=1e-6)
        for level in range(slide.level_count):
            assert properties[f"openslide.level[{level}].tile-width"] == "256"
            assert properties[f"openslide.level[{level}].tile-height"] == "256"


def test_tags_hold_the_resolution_as_an_exact_fraction(written, recipe):
    with tifffile.TiffFile(written) as file:
        for power, page in enumerate(file.pages):
            numerator, denominator = page.tags["XResolution"].value
            assert 10_000 * denominator / numerator == pytest.approx(recipe.mpp * 4**power, 1e-9)
            assert page.tags["ResolutionUnit"].value == tifffile.RESUNIT.CENTIMETER
            assert page.compression == tifffile.COMPRESSION.JPEG


def test_what_openslide_decodes_is_what_was_painted(written, painted):
    with openslide.OpenSlide(written) as slide:
        level_0 = np.array(slide.read_region((0, 0), 0, (WIDTH, HEIGHT)).convert("RGB"))
        width, height = slide.level_dimensions[1]
        level_1 = np.array(slide.read_region((0, 0), 1, (width, height)).convert("RGB"))
    assert psnr(level_0, painted) > 33
    mean = painted[: 4 * height, : 4 * width].reshape(height, 4, width, 4, 3).mean((1, 3))
    assert psnr(level_1, mean) > 30
    assert np.abs(level_1.mean((0, 1)) - mean.mean((0, 1))).max() < 1
    shifted = np.roll(mean, 1, axis=0)
    assert psnr(level_1, shifted) < psnr(level_1, mean) - 3


@given(
    st.integers(-600, HEIGHT), st.integers(-600, WIDTH), st.integers(1, 700), st.integers(1, 700)
)
@settings(max_examples=12, deadline=None)
def test_any_part_painted_alone_equals_that_part_of_the_whole(y, x, height, width):
    part = painter().paint(y, x, height, width)
    whole = around()
    assert np.array_equal(part, whole[y + 600 :, x + 600 :][:height, :width])


@cache
def painter() -> Painter:
    return Painter(plan_slide(2, height_px=HEIGHT, width_px=WIDTH, tumour_fraction=0.2))


@cache
def around() -> np.ndarray:
    return painter().paint(-600, -600, HEIGHT + 1300, WIDTH + 1300)


def test_no_seam_where_painted_squares_meet(painted):
    """Steps across the borders of squares are no larger than one pixel beside them."""
    grey = painted.astype(float).mean(2)
    down, across = np.abs(np.diff(grey, axis=0)), np.abs(np.diff(grey, axis=1))
    at = np.arange(512, 2300, 512)
    seams = np.concatenate([down[at - 1].ravel(), across[:, at - 1].ravel()])
    beside = np.concatenate(
        [down[at + k].ravel() for k in (-9, 8)] + [across[:, at + k].ravel() for k in (-9, 8)]
    )
    assert seams.mean() == pytest.approx(beside.mean(), rel=0.06)
    assert np.quantile(seams, 0.999) < 1.2 * np.quantile(beside, 0.999)


def test_equal_recipes_give_equal_bytes_and_other_seeds_do_not(tmp_path, recipe, written):
    again, other = tmp_path / "again.tiff", tmp_path / "other.tiff"
    write_slide(again, recipe)
    assert again.read_bytes() == written.read_bytes()
    write_slide(other, replace(recipe, seed=recipe.seed + 1))
    assert other.read_bytes() != written.read_bytes()


def test_empty_tiles_are_encoded_once(written):
    with tifffile.TiffFile(written) as file:
        sizes = file.pages.first.databytecounts
    _, counts = np.unique(sizes, return_counts=True)
    assert counts.max() > 0.2 * len(sizes)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (255, 3000), (1025, 1027), (4099, 260)])
def test_odd_sizes_are_written_whole(tmp_path, recipe, height, width):
    small = replace(recipe, height_px=height, width_px=width, tumour=(), benign=())
    write_slide(tmp_path / "a.tiff", small)
    with openslide.OpenSlide(tmp_path / "a.tiff") as slide:
        assert slide.level_dimensions == tuple((w, h) for h, w in level_sizes(height, width))
        for level, (w, h) in enumerate(slide.level_dimensions):
            image = np.array(slide.read_region((0, 0), level, (w, h)))
            assert (image[..., 3] == 255).all()
            assert image[..., :3].min() > 0


def test_an_interrupted_slide_leaves_nothing(tmp_path, recipe):
    def stop(done: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_slide(tmp_path / "a.tiff", recipe, on_progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_an_unwritable_place_is_named(tmp_path, recipe):
    (tmp_path / "file").touch()
    with pytest.raises(UnwritableOutput, match="file"):
        write_slide(tmp_path / "file" / "a.tiff", recipe)


def test_progress_ends_at_one(tmp_path, recipe):
    heard: list[float] = []
    write_slide(tmp_path / "a.tiff", recipe, on_progress=heard.append)
    assert heard == sorted(heard)
    assert heard[-1] == 1


MEASURE = """
import re, sys
from pathlib import Path
from microtome.engine.synthetic import plan_slide, write_slide
side = int(sys.argv[1])
recipe = plan_slide(1, height_px=side, width_px=side, tumour_fraction=0.2, tissue_fraction=0.03)
write_slide(Path(sys.argv[2]), recipe)
print(int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024)
"""


def test_memory_does_not_grow_with_the_slide(tmp_path):
    """25 times the pixels: at most 32 MiB more, and under 320 MiB in all."""
    peaks_mib = [
        float(
            subprocess.run(
                [sys.executable, "-c", MEASURE, str(side), str(tmp_path / f"{side}.tiff")],
                check=True,
                capture_output=True,
                text=True,
            ).stdout
        )
        for side in (4000, 20_000)
    ]
    assert peaks_mib[1] < peaks_mib[0] + 32
    assert peaks_mib[1] < 320
    with openslide.OpenSlide(tmp_path / "20000.tiff") as slide:
        assert slide.dimensions == (20_000, 20_000)
        assert [round(d) for d in slide.level_downsamples] == [1, 4, 16, 64]


def test_outlines_are_valid_apart_and_inside_the_tissue(recipe):
    shapes = [shapely.Polygon(o[:, ::-1]) for o in recipe.outlines]
    others = [shapely.Polygon(b.outline[:, ::-1]) for b in recipe.benign]
    assert shapes
    assert all(shape.is_valid and shape.area > 0 for shape in shapes + others)
    together = shapely.unary_union(shapes + others)
    assert together.area == pytest.approx(sum(s.area for s in shapes + others), rel=1e-6)
    tissue = tissue_mask(recipe, 8)
    in_tumour = inside(recipe.outlines, tissue.shape, 8)
    assert (in_tumour & ~tissue).sum() < 0.001 * in_tumour.sum()
    assert 0.05 < in_tumour.sum() / tissue.sum() < 0.4
    assert tissue.mean() == pytest.approx(0.5, abs=0.03)


def test_area_and_depth_agree_with_shapely(recipe):
    rng = np.random.default_rng(0)
    for blob in recipe.tumour + recipe.benign:
        polygon = shapely.Polygon(blob.outline[:, ::-1])
        assert blob.area_px == pytest.approx(polygon.area, rel=1e-9)
        y = blob.y_px + rng.uniform(-1, 1, 4000) * max(blob.radii_px)
        x = blob.x_px + rng.uniform(-1, 1, 4000) * max(blob.radii_px)
        depth = blob.depth_px(y, x)
        clear = np.abs(depth) > 1e-6
        assert np.array_equal((depth > 0)[clear], shapely.contains_xy(polygon, x, y)[clear])


def nuclei_of(painted: np.ndarray, mpp: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Centres (y, x), areas in µm² and solidity of pieces of haematoxylin, by scikit-image."""
    stain = gaussian(rgb2hed(painted)[..., 0], 0.8)
    found = regionprops(label(stain > threshold_otsu(stain)))
    large = [r for r in found if r.area * mpp**2 > 8]
    centres, solidity = (
        np.array([getattr(r, name) for r in large]) for name in ("centroid", "solidity")
    )
    return centres, np.array([r.area for r in large]) * mpp**2, solidity


def test_nuclei_of_tumour_are_larger_less_alike_and_denser(painted, recipe):
    centres, areas, solidity = nuclei_of(painted, recipe.mpp)
    y, x = (centres // 16).astype(int).T
    shape = (HEIGHT // 16 + 1, WIDTH // 16 + 1)
    tumour = inside(recipe.outlines, shape, 16)
    benign = inside([blob.outline for blob in recipe.benign], shape, 16)
    stroma = np.pad(tissue_mask(recipe, 16), ((0, 1), (0, 1))) & ~tumour & ~benign
    # Convex pieces are single nuclei; touching ones are not.
    single = solidity > 0.9
    sizes = [areas[region[y, x] & single] for region in (tumour, benign, stroma)]
    assert min(map(len, sizes)) > 100
    assert np.median(sizes[0]) > 1.35 * np.median(sizes[1])
    assert np.median(sizes[0]) > 1.5 * np.median(sizes[2])
    assert np.log(sizes[0]).std() > 1.1 * np.log(sizes[1]).std()
    covered = [areas[region[y, x]].sum() / region.sum() for region in (tumour, stroma)]
    assert covered[0] > 2 * covered[1]


def test_mean_colour_does_not_tell_tumour_from_benign_epithelium(painted, recipe):
    means = region_means(painted)
    tumour = inside(recipe.outlines, means.shape[:2], 16)
    benign = inside([b.outline for b in recipe.benign], means.shape[:2], 16)
    stroma = tissue_mask(recipe, 16) & ~tumour & ~benign
    colours = [means[region].mean(0) for region in (tumour, benign, stroma)]
    assert np.abs(colours[0] - colours[1]).max() < 8
    assert np.abs(colours[0] - colours[2]).max() > 16


def test_mean_colour_of_a_slide_does_not_tell_its_label():
    colours = {"tumour": [], "normal": []}
    for planned in plan_cohort(12, seed=3, side_px=(1000, 1300), large_px=None):
        recipe = planned.recipe
        means = region_means(Painter(recipe).paint(0, 0, recipe.height_px, recipe.width_px))
        colours[planned.label].append(means[tissue_mask(recipe, 16)].mean(0))
    tumour, normal = np.array(colours["tumour"]), np.array(colours["normal"])
    effect = (tumour.mean(0) - normal.mean(0)) / np.concatenate([tumour, normal]).std(0)
    assert np.abs(effect).max() < 0.8


def test_sites_differ_in_colour_and_resolution():
    assert {site.mpp for site in SITES} == {0.4990, 0.4545}
    north, south = (
        Painter(plan_slide(5, height_px=900, width_px=900, site=site)).paint(0, 0, 900, 900)
        for site in SITES
    )
    assert np.abs(north.mean((0, 1)) - south.mean((0, 1))).max() > 3


def test_every_parameter_of_a_recipe_changes_its_key(recipe):
    changes = {
        "seed": 99,
        "height_px": 100,
        "mpp": 0.25,
        "threshold": 1.0,
        "tumour": (),
        "fat": 0.5,
        "stain": replace(recipe.stain, blur_px=2.0),
    }
    keys = {replace(recipe, **{name: value}).key for name, value in changes.items()}
    assert len(keys | {recipe.key}) == len(changes) + 1


def test_tumour_fraction_is_the_share_of_the_tile_by_exact_geometry(recipe):
    rng = np.random.default_rng(1)
    coords = rng.integers(0, (HEIGHT - 260, WIDTH - 260), (400, 2))
    grid = TileGrid(256, 256, 0.5, 0, (255.5, 256.25), (256.0, 256.0), (1.0, 1.0), coords, "drop")
    got = tumour_fraction(grid, recipe.outlines)
    truth = shapely.unary_union([shapely.Polygon(o[:, ::-1]) for o in recipe.outlines])
    boxes = shapely.box(coords[:, 1], coords[:, 0], coords[:, 1] + 256.25, coords[:, 0] + 255.5)
    exact = shapely.area(shapely.intersection(boxes, truth)) / (256.25 * 255.5)
    assert got.dtype == np.float32
    assert got == pytest.approx(exact, abs=0.02)
    assert ((exact > 0.05) & (exact < 0.95)).sum() > 20
    assert tumour_fraction(grid, ()).max() == 0


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> Path:
    return write_cohort(
        tmp_path_factory.mktemp("cohort"), n_slides=4, seed=7, side_px=(900, 1200), large_px=None
    )


def rows_of(table: Path) -> list[dict[str, str]]:
    with table.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_cohort_table_names_slides_that_openslide_opens(cohort):
    rows = rows_of(cohort)
    assert list(rows[0]) == ["id", "path", "patient", "site", "label"]
    assert [row["label"] for row in rows].count("tumour") == 2
    mpp = {site.name: site.mpp for site in SITES}
    for row in rows:
        with openslide.OpenSlide(cohort.parent / row["path"]) as slide:
            stated = float(slide.properties["openslide.mpp-x"])
        assert stated == pytest.approx(mpp[row["site"]], rel=1e-6)


def test_truth_is_geojson_in_x_y_and_agrees_with_the_labels(cohort):
    planned = {p.id: p for p in plan_cohort(4, seed=7, side_px=(900, 1200), large_px=None)}
    for row in rows_of(cohort):
        path = cohort.parent / "truth" / f"{row['id']}.geojson"
        features = json.loads(path.read_text())["features"]
        assert bool(features) == (row["label"] == "tumour")
        for feature, outline in zip(features, planned[row["id"]].recipe.outlines, strict=True):
            polygon = shapely.from_geojson(json.dumps(feature["geometry"]))
            assert polygon.is_valid
            ring = feature["geometry"]["coordinates"][0]
            assert ring[0] == ring[-1]
            assert polygon.equals_exact(shapely.Polygon(outline[:, ::-1]), tolerance=0.01)
        for read, outline in zip(
            read_outlines(path), planned[row["id"]].recipe.outlines, strict=True
        ):
            assert read == pytest.approx(outline, abs=0.01)


def test_a_second_run_keeps_whole_slides_and_mends_others(cohort):
    slides = sorted((cohort.parent / "slides").iterdir())
    before = [slide.read_bytes() for slide in slides]
    slides[1].write_bytes(b"")
    slides[2].unlink()
    (cohort.parent / "slides" / ".slide-09.tiff.0123456789ab.tmp").touch()
    ended = {}
    write_cohort(
        cohort.parent,
        n_slides=4,
        seed=7,
        side_px=(900, 1200),
        large_px=None,
        on_done=lambda outcome: ended.update({outcome.item: outcome.state}),
    )
    assert ended == {
        "slide-01": "skipped",
        "slide-02": "done",
        "slide-03": "done",
        "slide-04": "skipped",
    }
    assert sorted((cohort.parent / "slides").iterdir()) == slides
    assert [slide.read_bytes() for slide in slides] == before


@pytest.mark.parametrize("n_slides", [20, 21])
def test_a_planned_cohort_is_balanced_and_its_patients_stay_apart(n_slides):
    planned = plan_cohort(n_slides, seed=1)
    assert len({p.id for p in planned}) == n_slides
    for site in SITES:
        labels = [p.label for p in planned if p.site == site.name]
        assert abs(labels.count("tumour") - labels.count("normal")) <= 1
        assert len(labels) >= 9
    patients = {p.patient for p in planned}
    for patient in patients:
        own = [p for p in planned if p.patient == patient]
        assert len({(p.site, p.label) for p in own}) == 1
    assert 2 <= n_slides - len(patients) <= 6
    assert max(p.width_px for p in planned) == (
        16_400 if n_slides % 2 else pytest.approx(5300, 0.3)
    )
