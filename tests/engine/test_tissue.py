"""Tissue masks: against the generator's own map, real slides, and slides with nothing on them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
import zarr
from ome_zarr_models.v05 import ImageLabel
from PIL import Image
from skimage.color import rgb2hsv
from skimage.filters import threshold_otsu
from skimage.measure import label
from typer.testing import CliRunner

from microtome.cli.app import app
from microtome.engine.schedule import Skipped
from microtome.engine.slides import open_slide
from microtome.engine.synthetic import SITES, plan_slide, tissue_mask, write_slide
from microtome.engine.tiles import read_overview
from microtome.engine.tissue import (
    TissueMask,
    find_tissue,
    label_tissue,
    make_tissue,
    read_tissue,
    tissue_key,
    write_tissue,
)
from microtome.storage.errors import (
    BadProduct,
    BadResolution,
    NoResolution,
    NoTissue,
    StaleProduct,
)

SVS = Path("slides/aperio/CMU-1-Small-Region.svs")
CAMELYON = Path("slides/dicom/multi_frame_jpeg_camelyon_challenge_image.dcm")
KIDNEY = Path("slides/plain/kidney-48-5.tif")


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union."""
    return float((a & b).sum() / (a | b).sum())


def at_size(mask: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    resized = cv2.resize(mask.astype(np.float32), shape[::-1], interpolation=cv2.INTER_AREA)
    return resized > 0.5


def write_flat(path: Path, image: np.ndarray, mpp: float = 2.0) -> Path:
    tifffile.imwrite(
        path,
        image,
        tile=(256, 256),
        photometric="rgb",
        resolution=(10_000 / mpp, 10_000 / mpp),
        resolutionunit="CENTIMETER",
    )
    return path


@pytest.fixture(scope="module")
def overview(tmp_path_factory) -> np.ndarray:
    """A synthetic slide at 8 µm/px."""
    path = tmp_path_factory.mktemp("overview") / "a.tiff"
    write_slide(path, plan_slide(4, height_px=3000, width_px=3000, tumour_fraction=0.2))
    with open_slide(path) as slide:
        return read_overview(slide, mpp=8.0)[0]


@pytest.mark.parametrize("seed", [11, 12])
@pytest.mark.parametrize("site", SITES, ids=lambda site: site.name)
def test_it_finds_the_tissue_that_was_painted(tmp_path, site, seed):
    recipe = plan_slide(seed, height_px=3000, width_px=3500, site=site, tumour_fraction=0.2)
    write_slide(tmp_path / "a.tiff", recipe)
    with open_slide(tmp_path / "a.tiff") as slide:
        mask = find_tissue(slide)
    truth = at_size(tissue_mask(recipe, 4), mask.labels.shape)
    assert overlap(mask.tissue, truth) >= 0.9
    assert (mask.labels == 2).sum() == 0
    assert mask.downsample == pytest.approx((8 / site.mpp, 8 / site.mpp), rel=0.01)
    assert mask.mpp == pytest.approx((8, 8), rel=0.01)
    true_area_mm2 = tissue_mask(recipe, 4).sum() * (4 * site.mpp) ** 2 / 1e6
    assert mask.area_mm2 == pytest.approx(true_area_mm2, rel=0.1)


def test_real_skin_agrees_with_otsu_of_scikit_image(shared_data):
    with open_slide(shared_data / SVS) as slide:
        mask = find_tissue(slide)
        image, _ = read_overview(slide, mpp=8.0)
    assert 0.3 < mask.fraction < 0.5
    saturation = rgb2hsv(image)[..., 1]
    assert overlap(mask.tissue, saturation > threshold_otsu(saturation)) > 0.75
    # The left third of the picture is glass, but for one stray strand.
    assert mask.tissue[:, : mask.labels.shape[1] // 4].mean() < 0.03


def test_real_lymph_node_is_taken_at_its_own_resolution(shared_data):
    with open_slide(shared_data / CAMELYON) as slide:
        mask = find_tissue(slide)
        image, _ = read_overview(slide, max_px=1152)
    assert mask.labels.shape == (700, 1152)
    assert 0.15 < mask.fraction < 0.3
    # Two sections of four large pieces; what lies between them is fat and dust.
    sizes = np.sort(np.bincount(label(mask.tissue).ravel())[1:])[::-1]
    assert sizes[:4].sum() > 0.9 * sizes.sum()
    assert image[mask.tissue].mean() < 170 < image[~mask.tissue].mean()


@pytest.mark.parametrize(
    "colour", [(255, 255, 255), (243, 242, 244), (232, 230, 215), (250, 235, 240)]
)
def test_bare_glass_has_no_tissue_whatever_its_tint(tmp_path, colour):
    noise = np.random.default_rng(0).normal(0, 3, (1200, 1500, 1))
    shade = np.linspace(0.97, 1.0, 1500)[None, :, None]
    glass = np.clip(np.array(colour) * shade + noise, 0, 255).astype(np.uint8)
    path = write_flat(tmp_path / "glass.tiff", glass)
    with open_slide(path) as slide, pytest.raises(NoTissue, match=r"glass\.tiff"):
        find_tissue(slide)


def test_a_real_biopsy_of_a_few_per_mille_is_found_and_dirt_is_not(shared_data):
    """In this picture, whose file states no resolution, all else is dust and scratches."""
    with open_slide(shared_data / KIDNEY, mpp=4.0) as slide:
        mask = find_tissue(slide)
    assert label(mask.tissue).max() == 1
    y, x = np.nonzero(mask.tissue)
    seen = [v.min() * d for v, d in zip((y, x), mask.downsample, strict=True)]
    seen += [v.max() * d for v, d in zip((y, x), mask.downsample, strict=True)]
    assert seen == pytest.approx([504, 284, 567, 400], abs=10)


def test_a_slide_without_resolution_is_refused(shared_data):
    with open_slide(shared_data / KIDNEY) as slide, pytest.raises(NoResolution, match="mpp"):
        find_tissue(slide)


def test_a_screen_resolution_is_not_believed(shared_data):
    path = shared_data / "slides/synthetic/boxes.tiff"
    with open_slide(path) as slide, pytest.raises(BadResolution, match="72 dpi"):
        find_tissue(slide)


@pytest.mark.parametrize(
    "colour",
    [(30, 60, 160), (20, 120, 70), (30, 30, 35)],
    ids=["blue", "green", "black"],
)
def test_ink_is_an_artefact_and_leaves_the_rest_alone(overview, colour):
    clean = label_tissue(overview, mpp=8.0)
    inked = overview.copy()
    cv2.line(inked, (10, 170), (180, 180), colour, 7)
    cv2.line(inked, (60, 20), (90, 120), colour, 7)
    stroke = (inked != overview).any(2)
    labels = label_tissue(inked, mpp=8.0)
    assert (clean == 2).sum() == 0
    assert (labels[stroke] == 2).mean() > 0.99
    beside = labels != 2
    assert (labels == 2).sum() < 4 * stroke.sum()
    assert overlap(labels[beside] == 1, clean[beside] == 1) > 0.97


def test_the_mask_does_not_depend_on_its_resolution(tmp_path):
    write_slide(tmp_path / "a.tiff", plan_slide(9, height_px=2500, width_px=2500))
    with open_slide(tmp_path / "a.tiff") as slide:
        coarse, fine = find_tissue(slide, mpp=10.0), find_tissue(slide, mpp=4.0)
    assert fine.labels.shape[0] == pytest.approx(2.5 * coarse.labels.shape[0], rel=0.02)
    assert overlap(at_size(fine.tissue, coarse.labels.shape), coarse.tissue) > 0.95


def drawing(side: int = 400) -> np.ndarray:
    return np.full((side, side, 3), 243, np.uint8)


@pytest.mark.parametrize("mpp", [4.0, 8.0])
def test_dust_is_dropped_and_holes_are_filled_by_their_size_in_micrometres(mpp):
    image = drawing()
    pink = (225, 120, 170)
    radius = {um: round(um / mpp) for um in (50, 150, 600)}
    cv2.circle(image, (100, 100), round(360 / mpp), pink, -1)
    cv2.circle(image, (100, 100), radius[50], (243, 243, 243), -1)
    cv2.circle(image, (300, 300), round(360 / mpp), pink, -1)
    cv2.circle(image, (300, 300), radius[150], (243, 243, 243), -1)
    cv2.circle(image, (300, 60), radius[50], pink, -1)
    cv2.circle(image, (60, 300), radius[150], pink, -1)
    labels = label_tissue(image, mpp=mpp)
    assert labels[100, 100] == 1, "a hole of 0.008 mm² is filled"
    assert labels[300, 300] == 0, "a hole of 0.07 mm² stays"
    assert labels[60, 300] == 0, "a speck of 0.008 mm² is dropped"
    assert labels[300, 60] == 1, "a piece of 0.07 mm² stays"


def test_a_small_corner_of_glass_is_no_hole():
    image = np.full((200, 200, 3), (225, 120, 170), np.uint8)
    image[:15, :15] = 243
    assert (label_tissue(image, mpp=8.0)[:10, :10] == 0).all()


def mask_of(labels: np.ndarray) -> TissueMask:
    return TissueMask(labels.astype(np.uint8), (16.1, 15.9), (8.05, 7.95))


def test_a_mask_comes_back_as_it_was_kept(tmp_path):
    mask = mask_of(np.random.default_rng(0).integers(0, 3, (311, 97)))
    write_tissue(tmp_path / "a.tissue.zarr", mask, key="k")
    back = read_tissue(tmp_path / "a.tissue.zarr")
    assert np.array_equal(back.labels, mask.labels)
    assert (back.downsample, back.mpp) == (mask.downsample, mask.mpp)
    assert back.fraction == (mask.labels == 1).mean()


def test_a_kept_mask_is_an_ome_zarr_label_image(tmp_path):
    mask = mask_of(np.eye(40))
    write_tissue(tmp_path / "a.tissue.zarr", mask, key="k")
    group = zarr.open_group(tmp_path / "a.tissue.zarr", mode="r")
    image = ImageLabel.from_zarr(group).ome_attributes
    [dataset] = image.multiscales[0].datasets
    assert [axis.unit for axis in image.multiscales[0].axes] == ["micrometer"] * 2
    assert dataset.coordinateTransformations[0].scale == [8.05, 7.95]
    assert {colour.label_value for colour in image.image_label.colors} == {*range(1, 7)}


def test_a_mask_of_other_parameters_is_never_replaced_unasked(tmp_path):
    path = tmp_path / "a.tissue.zarr"
    write_tissue(path, mask_of(np.eye(40)), key="one")
    with pytest.raises(StaleProduct):
        write_tissue(path, mask_of(np.zeros((40, 40))), key="two")
    assert read_tissue(path).labels.sum() == 40
    write_tissue(path, mask_of(np.zeros((40, 40))), key="two", overwrite=True)
    assert read_tissue(path).labels.sum() == 0


def test_a_damaged_mask_is_named(tmp_path):
    path = tmp_path / "a.tissue.zarr"
    write_tissue(path, mask_of(np.eye(40)), key="one")
    (path / "0" / "zarr.json").unlink()
    with pytest.raises(BadProduct, match=r"a\.tissue\.zarr"):
        read_tissue(path)


def test_the_key_follows_slide_and_resolution_not_the_name(shared_data, tmp_path):
    copy = tmp_path / "renamed.svs"
    copy.write_bytes((shared_data / SVS).read_bytes())
    with open_slide(shared_data / SVS) as slide, open_slide(copy) as same:
        assert tissue_key(slide) == tissue_key(same)
        assert tissue_key(slide) != tissue_key(slide, mpp=4.0)
    with open_slide(copy, mpp=0.25) as told:
        assert tissue_key(told) != tissue_key(same)


def test_a_mask_is_made_once(shared_data, tmp_path):
    path = tmp_path / "a.tissue.zarr"
    made = make_tissue(shared_data / SVS, path)
    with Image.open(tmp_path / "a.tissue.zarr.png") as picture:
        assert max(picture.size) == 1024
        assert picture.mode == "RGB"
    again = make_tissue(shared_data / SVS, path)
    assert isinstance(again, Skipped)
    assert again.value == made
    with pytest.raises(StaleProduct):
        make_tissue(shared_data / SVS, path, mpp=4.0)


def test_the_command_ends_with_3_when_a_slide_is_refused_and_does_the_others(shared_data, tmp_path):
    good, bad = str(shared_data / SVS), str(shared_data / "slides/bad/broken.svs")
    run = CliRunner().invoke(app, ["tissue", good, bad, "--out", str(tmp_path)])
    assert run.exit_code == 3
    assert read_tissue(tmp_path / "CMU-1-Small-Region.tissue.zarr").fraction > 0.3
    ledger = (tmp_path / "ledger.jsonl").read_text()
    assert '"state": "done"' in ledger
    assert '"reason": "unreadable"' in ledger
    again = CliRunner().invoke(app, ["tissue", good, "--out", str(tmp_path)])
    assert again.exit_code == 0
    assert '"state": "skipped"' in (tmp_path / "ledger.jsonl").read_text()
