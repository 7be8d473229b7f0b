"""What lies on tissue and is none: painted where we know it, and not seen where there is none."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile

from microtome.engine.slides import open_slide
from microtome.engine.synthetic import plan_slide, write_slide
from microtome.engine.tiles import read_overview
from microtome.engine.tissue import find_tissue, label_tissue
from microtome.engine.tissue.mask import BLUR, BUBBLE, EDGE, FOLD, LABELS, PEN, TISSUE
from microtome.storage.errors import NoTissue

SVS = "slides/aperio/CMU-1-Small-Region.svs"
CLEAN = [
    (SVS, None),
    ("slides/derived/CMU-1-Small-Region.ome.tif", None),
    ("slides/derived/CMU-1-Small-Region_dicom_exact", None),
    ("slides/derived/CMU-1-Small-Region_dicom_pyramid", None),
    ("slides/dicom/multi_frame_jpeg_camelyon_challenge_image.dcm", None),
    ("slides/plain/kidney-48-5.tif", 4.0),
]
INKS = {"red": (200, 30, 40), "green": (20, 120, 70), "blue": (30, 60, 160), "black": (30, 30, 35)}
Image = np.ndarray
Mask = np.ndarray


def overlap(a: Mask, b: Mask) -> float:
    """Intersection over union."""
    return float((a & b).sum() / (a | b).sum())


@pytest.fixture(scope="module")
def painted(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("clean") / "a.tiff"
    write_slide(path, plan_slide(4, height_px=3600, width_px=3600, tumour_fraction=0.2))
    return path


@pytest.fixture(scope="module")
def section(painted) -> Image:
    """A synthetic slide at 8 µm/px: 2.2 mm, half of it tissue."""
    with open_slide(painted) as slide:
        return read_overview(slide, mpp=8.0)[0]


@pytest.fixture(scope="module")
def skin(shared_data) -> Image:
    with open_slide(shared_data / SVS) as slide:
        return read_overview(slide, mpp=8.0)[0]


def below(image: Image, um: float, mpp: float = 8.0) -> Image:
    """The picture with glass below it."""
    glass = np.median(image[image.max(2) >= np.quantile(image.max(2), 0.9)], axis=0)
    more = np.random.default_rng(0).normal(glass, 1, (round(um / mpp), image.shape[1], 3))
    return np.concatenate([image, np.clip(more, 0, 255).astype(np.uint8)])


class TestCleanSlides:
    @pytest.mark.parametrize(
        ("file", "told", "mpp"),
        [(*case, 8.0) for case in CLEAN] + [(SVS, None, 4.0), (CLEAN[-1][0], 2.0, 6.0)],
        ids=lambda v: str(v).rsplit("/", 1)[-1],
    )
    def test_real_tissue_is_not_taken_for_an_artefact(self, shared_data, file, told, mpp):
        with open_slide(shared_data / file, mpp=told) as slide:
            clean = find_tissue(slide, mpp=mpp, artefacts=False).tissue
            labels = find_tissue(slide, mpp=mpp).labels
        assert (clean & (labels > TISSUE)).sum() < 0.02 * clean.sum()
        assert (labels > TISSUE).sum() < 0.02 * clean.sum()

    def test_synthetic_tissue_is_not(self, painted):
        with open_slide(painted) as slide:
            assert set(np.unique(find_tissue(slide).labels)) == {0, TISSUE}

    def test_a_mirrored_slide_has_the_mirrored_mask(self, skin):
        mirrored = label_tissue(np.ascontiguousarray(skin[:, ::-1]), mpp=8.0)[:, ::-1]
        assert (mirrored == label_tissue(skin, mpp=8.0)).mean() > 0.995

    def test_nothing_is_looked_for_when_it_is_not_wanted(self, section):
        inked = cv2.line(section.copy(), (10, 170), (180, 180), INKS["blue"], 20)
        assert set(np.unique(label_tissue(inked, mpp=8.0, artefacts=False))) <= {0, TISSUE}


class TestPen:
    @staticmethod
    def drawn(image: Image, ink: str, opacity: float = 1.0) -> tuple[Image, Mask]:
        """A stroke 0.2 mm wide from corner to corner."""
        height, width = image.shape[:2]
        stroke = np.zeros(image.shape[:2], np.uint8)
        places = [(0.05, 0.9), (0.4, 0.5), (0.95, 0.1)]
        points = np.array([(x * width, y * height) for x, y in places], np.int32)
        cv2.polylines(stroke, [points], False, 1, 25)
        ink_on_it = np.array(INKS[ink]) * (opacity + (1 - opacity) * image / 243)
        inked = np.where(stroke[..., None] > 0, ink_on_it, image)
        return inked.astype(np.uint8), stroke > 0

    @pytest.mark.parametrize("ink", INKS)
    @pytest.mark.parametrize("which", ["section", "skin"])
    def test_strokes_are_found_and_the_rest_is_left_alone(self, request, which, ink):
        image = request.getfixturevalue(which)
        clean = label_tissue(image, mpp=8.0)
        inked, stroke = self.drawn(image, ink)
        labels = label_tissue(inked, mpp=8.0)
        assert (labels[stroke & (clean != TISSUE)] == PEN).mean() > 0.95
        assert (labels[stroke & (clean == TISSUE)] == PEN).mean() > 0.95
        beside = labels != PEN
        assert overlap(labels[beside] == TISSUE, clean[beside] == TISSUE) > 0.9
        assert (labels == PEN).sum() < 2 * stroke.sum()

    @pytest.mark.parametrize("ink", INKS)
    def test_light_goes_through_ink(self, section, ink):
        inked, stroke = self.drawn(section, ink, opacity=0.3)
        labels = label_tissue(inked, mpp=8.0)
        assert (labels[stroke] == PEN).mean() > 0.9

    def test_a_dim_scan_is_not_black_ink(self, section):
        dim = (section * 0.35).astype(np.uint8)
        clean = label_tissue(section, mpp=8.0) == TISSUE
        assert overlap(label_tissue(dim, mpp=8.0) == TISSUE, clean) > 0.95

    def test_a_lake_of_blood_within_tissue_is_not_red_ink(self, section):
        tissue = (label_tissue(section, mpp=8.0) == TISSUE).astype(np.uint8)
        depth = cv2.distanceTransform(tissue, cv2.DIST_L2, 5)
        y, x = np.unravel_index(depth.argmax(), depth.shape)
        bled = cv2.circle(
            section.copy(), (int(x), int(y)), int(0.6 * depth.max()), (205, 50, 60), -1
        )
        assert not (label_tissue(bled, mpp=8.0) == PEN).any()


class TestFolds:
    @pytest.mark.parametrize(("width_um", "mpp"), [(80, 8.0), (130, 4.0), (130, 8.0), (200, 8.0)])
    def test_tissue_that_lies_on_itself_is_found(self, painted, width_um, mpp):
        """The density of tissue from 0.2 mm away is added along a wavy line."""
        with open_slide(painted) as slide:
            image, _ = read_overview(slide, mpp=mpp)
        clean = label_tissue(image, mpp=mpp) == TISSUE
        height, width = clean.shape
        along = np.linspace(0.15, 0.85, 40)
        points = np.stack([width * (0.55 + 0.05 * np.sin(6 * along)), height * along], axis=1)
        line = np.zeros(clean.shape, np.uint8)
        cv2.polylines(line, [points.astype(np.int32)], False, 1, round(width_um / mpp))
        density = -np.log(np.maximum(image, 1) / 244)
        moved = np.roll(density, (round(160 / mpp), round(110 / mpp)), (0, 1))
        light = 244 * np.exp(-(density + moved))
        folded = np.where(line[..., None] > 0, light, image).astype(np.uint8)
        truth = (line > 0) & clean
        labels = label_tissue(folded, mpp=mpp)
        assert (labels[truth] == FOLD).mean() > 0.6
        assert truth[labels == FOLD].mean() > 0.5
        assert overlap(labels == TISSUE, clean & ~truth) > 0.9

    def test_too_coarse_a_mask_has_none(self, section):
        coarse = cv2.resize(section, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA)
        assert not (label_tissue(coarse, mpp=32.0) == FOLD).any()


class TestBlur:
    @staticmethod
    def blurred(path: Path, out: Path, sigma_um: float, part: tuple[slice, slice]) -> Path:
        with open_slide(path) as slide:
            info = slide.info
            image = slide.read(0, 0, 0, info.height_px, info.width_px)
        soft = cv2.GaussianBlur(image, (0, 0), sigma_um / info.mpp[0])
        image[part] = soft[part]
        cm = 10_000 / info.mpp[0]
        tifffile.imwrite(
            out,
            image,
            tile=(256, 256),
            photometric="rgb",
            compression="jpeg",
            resolution=(cm, cm),
            resolutionunit="CENTIMETER",
        )
        return out

    @pytest.mark.parametrize("sigma_um", [2.5, 5.0])
    def test_a_part_out_of_focus_is_found_in_real_tissue(self, shared_data, tmp_path, sigma_um):
        part = (slice(1000, 2000), slice(500, 1700))
        path = self.blurred(shared_data / SVS, tmp_path / "a.tiff", sigma_um, part)
        with open_slide(path) as slide:
            mask = find_tissue(slide)
            clean = find_tissue(slide, artefacts=False).tissue
        truth = np.zeros(clean.shape, bool)
        truth[tuple(slice(s.start // 16, s.stop // 16) for s in part)] = True
        assert (mask.labels[truth & clean] == BLUR).mean() > 0.7
        assert (mask.labels[~truth & clean] == BLUR).mean() < 0.02

    def test_a_slide_wholly_out_of_focus_is_found_though_no_part_is_sharper(
        self, shared_data, tmp_path
    ):
        path = self.blurred(shared_data / SVS, tmp_path / "a.tiff", 5.0, (slice(None), slice(None)))
        with open_slide(path) as slide:
            clean = find_tissue(slide, artefacts=False).tissue
            try:
                labels = find_tissue(slide).labels
            except NoTissue as error:
                assert "only blur" in str(error)  # noqa: PT017 - either end is right
            else:
                assert (labels[clean] == BLUR).mean() > 0.85

    def test_a_slightly_soft_slide_is_not_condemned(self, shared_data, tmp_path):
        path = self.blurred(shared_data / SVS, tmp_path / "a.tiff", 1.0, (slice(None), slice(None)))
        with open_slide(path) as slide:
            assert not (find_tissue(slide).labels == BLUR).any()


class TestBubblesAndEdges:
    @pytest.mark.parametrize(("rim", "mpp"), [(80, 8.0), (150, 4.0), (150, 8.0), (200, 8.0)])
    def test_an_air_bubble_on_glass_is_found_whole(self, section, rim, mpp):
        image = below(section, 1600)
        image = cv2.resize(image, None, fx=8 / mpp, fy=8 / mpp, interpolation=cv2.INTER_LINEAR)
        clean = label_tissue(image, mpp=mpp)
        height, width = clean.shape
        y, x = np.mgrid[:height, :width]
        radius = np.hypot(y - (height - 700 / mpp), x - width / 2) * mpp
        shade = np.exp(-(((radius - 400) / 25) ** 2))[..., None]
        bubbly = (image * (1 - shade) + rim * shade).astype(np.uint8)
        labels = label_tissue(bubbly, mpp=mpp)
        assert overlap(labels == BUBBLE, radius < 425) > 0.85
        assert overlap(labels == TISSUE, clean == TISSUE) > 0.99

    @pytest.mark.parametrize(("grey", "mpp"), [(120, 16.0), (190, 8.0), (215, 16.0)])
    def test_the_edge_of_a_coverslip_is_found(self, grey, mpp):
        noise = np.random.default_rng(0).normal(0, 1.5, (round(6000 / mpp), round(8000 / mpp), 3))
        glass = np.clip(np.add((243, 242, 244), noise), 0, 255).astype(np.uint8)
        line = np.zeros(glass.shape[:2], np.uint8)
        cv2.line(line, (0, 150), (line.shape[1] - 1, 180), 1, 3)
        glass[line > 0] = grey
        labels = label_tissue(glass, mpp=mpp)
        assert (labels[line > 0] == EDGE).mean() > 0.9
        assert (labels == EDGE).sum() < 5 * line.sum()
        assert not (labels == TISSUE).any()

    def test_a_ring_of_tissue_is_tissue(self):
        image = np.full((300, 300, 3), 243, np.uint8)
        cv2.circle(image, (150, 150), 60, (225, 120, 170), 8)
        labels = label_tissue(image, mpp=8.0)
        assert set(np.unique(labels)) == {0, TISSUE}
        assert labels[150, 150] == 0


def test_a_slide_of_ink_alone_has_no_tissue_and_the_error_says_what_it_has(tmp_path):
    image = np.full((1200, 1200, 3), 243, np.uint8)
    cv2.line(image, (100, 200), (1100, 900), INKS["green"], 150)
    tifffile.imwrite(
        tmp_path / "ink.tiff", image, photometric="rgb", tile=(256, 256),
        resolution=(5000, 5000), resolutionunit="CENTIMETER",
    )  # fmt: skip
    with open_slide(tmp_path / "ink.tiff") as slide, pytest.raises(NoTissue, match="only pen"):
        find_tissue(slide)
    assert LABELS[PEN].name == "pen"
