"""Every way to find tissue, on the slides that it is there for, and the rule that picks one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from skimage.filters import threshold_otsu
from skimage.filters.rank import entropy as rank_entropy
from skimage.morphology import footprint_rectangle

from microtome.engine.slides import open_slide
from microtome.engine.synthetic import plan_slide, tissue_mask, write_slide
from microtome.engine.tiles import read_channel_overview, read_overview
from microtome.engine.tissue import find_tissue, make_tissue, read_tissue, tissue_key
from microtome.engine.tissue.brightfield import density, entropy
from microtome.engine.tissue.fluorescence import glowing
from microtome.storage.errors import NotBrightfield, NoTissue

SVS = "slides/aperio/CMU-1-Small-Region.svs"
CAMELYON = "slides/dicom/multi_frame_jpeg_camelyon_challenge_image.dcm"
VECTRA = "slides/akoya/small_vectra.qptiff"
METHODS = ("saturation", "density", "entropy")

HAEMATOXYLIN, DAB = (0.651, 0.701, 0.290), (0.269, 0.568, 0.778)
GREY = (0.577, 0.577, 0.577)
STAINS = {
    "pale": {"haematoxylin_gain": 0.3, "eosin_gain": 0.3},
    "very pale": {"haematoxylin_gain": 0.15, "eosin_gain": 0.15},
    "dark": {"haematoxylin_gain": 2.5, "eosin_gain": 2.5},
    "dim": {"glass": (97, 97, 98)},
    "yellow glass": {"glass": (240, 236, 214)},
    "DAB": {
        "haematoxylin": HAEMATOXYLIN,
        "eosin": DAB,
        "haematoxylin_gain": 0.6,
        "eosin_gain": 0.8,
    },
    "strong AEC": {
        "haematoxylin": HAEMATOXYLIN,
        "eosin": (0.274, 0.680, 0.680),
        "haematoxylin_gain": 0.6,
        "eosin_gain": 2.0,
    },
    "DAB-negative": {
        "haematoxylin": HAEMATOXYLIN,
        "eosin": DAB,
        "haematoxylin_gain": 0.5,
        "eosin_gain": 0.05,
    },
    "grey": {"haematoxylin": GREY, "eosin": GREY, "haematoxylin_gain": 0.6, "eosin_gain": 0.5},
}
"""Stain vectors of Ruifrok & Johnston (2001), concentrations relative to usual H&E."""


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union."""
    return float((a & b).sum() / (a | b).sum())


class TestStains:
    @pytest.mark.parametrize("stain", STAINS)
    def test_the_rule_finds_the_tissue_that_was_painted(self, tmp_path, stain):
        recipe = plan_slide(11, height_px=1700, width_px=1700, tumour_fraction=0.2)
        recipe = replace(recipe, stain=replace(recipe.stain, **STAINS[stain]))
        write_slide(tmp_path / "a.tiff", recipe)
        with open_slide(tmp_path / "a.tiff") as slide:
            mask = find_tissue(slide)
        size = mask.labels.shape[::-1]
        truth = tissue_mask(recipe, 4).astype(np.float32)
        truth = cv2.resize(truth, size, interpolation=cv2.INTER_AREA) > 0.5
        assert overlap(mask.tissue, truth) > 0.88
        assert set(np.unique(mask.labels)) == {0, 1}

    @pytest.mark.parametrize("method", METHODS)
    def test_each_method_finds_usual_tissue(self, shared_data, method):
        with open_slide(shared_data / SVS) as slide:
            found, usual = find_tissue(slide, method=method), find_tissue(slide)
        assert overlap(found.tissue, usual.tissue) > 0.85

    def test_on_usual_slides_the_rule_takes_saturation(self, shared_data):
        for file in (SVS, CAMELYON):
            with open_slide(shared_data / file) as slide:
                auto, saturation = find_tissue(slide), find_tissue(slide, method="saturation")
            np.testing.assert_array_equal(auto.labels, saturation.labels)

    @pytest.mark.parametrize("method", ["auto", *METHODS])
    @pytest.mark.parametrize("noise", [1.0, 6.0])
    def test_glass_has_none_by_any_method(self, tmp_path, method, noise):
        rng = np.random.default_rng(0)
        shade = np.linspace(0.97, 1, 600)[None, :, None]
        image = np.array((243, 240, 236)) * shade + rng.normal(0, noise, (500, 600, 3))
        path = tmp_path / "glass.tiff"
        tifffile.imwrite(
            path, np.clip(image, 0, 255).astype(np.uint8), photometric="rgb", tile=(256, 256),
            resolution=(2500, 2500), resolutionunit="CENTIMETER",
        )  # fmt: skip
        with open_slide(path) as slide, pytest.raises(NoTissue):
            find_tissue(slide, method=method)

    def test_the_method_is_part_of_the_key(self, shared_data):
        with open_slide(shared_data / SVS) as slide:
            keys = {tissue_key(slide, method=method) for method in ("auto", *METHODS)}
            keys |= {tissue_key(slide, artefacts=False)}
        assert len(keys) == 5


class TestFigures:
    def test_density_is_that_of_beer_and_lambert(self):
        image = np.full((60, 60, 3), 240, np.uint8)
        image[:30] = 24
        assert density(image, 8.0)[10, 30] == 100
        assert density(image, 8.0)[50, 30] == 0

    def test_entropy_agrees_with_scikit_image(self, shared_data):
        with open_slide(shared_data / SVS) as slide:
            image, _ = read_overview(slide, mpp=8.0)
        ours = entropy(image, 8.0) / 32
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        theirs = rank_entropy(grey // 4, footprint_rectangle((11, 11)))
        inner = (slice(12, -12), slice(12, -12))
        assert np.corrcoef(ours[inner].ravel(), theirs[inner].ravel())[0, 1] > 0.97
        assert np.abs(ours - theirs)[inner].mean() < 0.5


class TestFluorescence:
    def test_a_real_core_is_the_disc_that_it_was_punched_as(self, shared_data):
        """A tissue microarray's core: 0.66 mm wide, its outline read off the picture by eye."""
        with open_slide(shared_data / VECTRA) as slide:
            mask = find_tissue(slide, mpp=4.0)
            y, x = np.mgrid[: mask.labels.shape[0], : mask.labels.shape[1]]
            where = [(axis + 0.5) * d for axis, d in zip((y, x), mask.downsample, strict=True)]
        disc = np.hypot(where[0] - 712, where[1] - 667) < 676
        assert overlap(mask.tissue, disc) > 0.9
        assert mask.area_mm2 == pytest.approx(np.pi * (0.676 * 0.4965) ** 2, rel=0.1)

    def test_the_mask_of_channels_is_kept_with_a_picture(self, shared_data, tmp_path):
        made = make_tissue(shared_data / VECTRA, tmp_path / "a.tissue.zarr")
        assert read_tissue(tmp_path / "a.tissue.zarr").fraction == made.fraction
        picture = cv2.imread(str(tmp_path / "a.tissue.zarr.png"))
        assert max(picture.shape) == 1024

    def test_methods_of_colour_are_refused_by_name(self, shared_data):
        with open_slide(shared_data / VECTRA) as slide, pytest.raises(NotBrightfield):
            find_tissue(slide, method="saturation")

    def test_no_channel_outshouts_another(self):
        """Two discs, each in one channel, a hundred times apart in strength."""
        y, x = np.mgrid[:150, :300]
        discs = [np.hypot(y - 75, x - centre) < 40 for centre in (75, 225)]
        noise = np.random.default_rng(0).normal(0, 1, (2, 150, 300))
        values = np.array([20, 2000])[:, None, None] * np.stack(discs) + noise + 10
        found = glowing(values.astype(np.float32), mpp=8.0)
        assert overlap(found, discs[0] | discs[1]) > 0.9

    @pytest.mark.parametrize("level", [0, 3, 100])
    def test_a_dark_field_has_none(self, level):
        shade = 1 + np.linspace(0, 0.15, 200)
        noise = np.random.default_rng(0).normal(0, 2, (3, 150, 200))
        dark = np.clip(level * shade + noise, 0, None).astype(np.float32)
        dark[:, 70, 70] = 1000
        assert not glowing(dark, mpp=8.0).any()

    def test_its_overview_is_the_mean_of_the_values(self, shared_data):
        with open_slide(shared_data / VECTRA) as slide:
            values, downsample = read_channel_overview(slide, max_px=480)
        whole = tifffile.imread(shared_data / VECTRA).astype(np.float64)
        assert downsample == (4.0, 4.0)
        means = whole.reshape(3, 360, 4, 480, 4).mean(axis=(2, 4))
        np.testing.assert_allclose(values, means, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("file", [SVS, CAMELYON])
def test_it_agrees_with_the_masks_of_tiatoolbox(shared_data: Path, file: str):
    """Theirs is Otsu on grey: shadows and dust in, pale stroma out."""
    from tiatoolbox.tools.tissuemask import OtsuTissueMasker

    with open_slide(shared_data / file) as slide:
        ours = find_tissue(slide).tissue
        image, _ = read_overview(slide, mpp=max(8.0, *slide.info.mpp))
    theirs = OtsuTissueMasker().fit_transform(image[None])[0]
    assert overlap(ours, theirs) > 0.75
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    assert overlap(theirs, grey < threshold_otsu(grey)) > 0.95
