"""Normalisation: on tissue whose stains are known, between two laboratories, and on real slides."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from microtome.engine.slides import open_slide
from microtome.engine.stain import (
    METHODS,
    REFERENCE_TARGET,
    LabMoments,
    Stains,
    StainStatistics,
    estimate_stains,
    make_normaliser,
    stain_statistics,
    statistics_of,
)
from microtome.engine.synthetic import SITES, Painter, plan_slide
from microtome.engine.tissue import find_tissue
from microtome.storage.errors import BadResolution, CorruptTiles, NoStains

SVS = "slides/aperio/CMU-1-Small-Region.svs"
CAMELYON = "slides/dicom/multi_frame_jpeg_camelyon_challenge_image.dcm"
KIDNEY = "slides/plain/kidney-48-5.tif"
RUIFROK = ((0.65, 0.70, 0.29), (0.07, 0.99, 0.11))
DAB = (0.27, 0.57, 0.78)
MOMENTS = LabMoments((60.0, 20.0, -10.0), (12.0, 6.0, 5.0))


def unit(vectors) -> np.ndarray:
    v = np.asarray(vectors, float)
    return v / np.linalg.norm(v, axis=-1, keepdims=True)


def expose(amounts: np.ndarray, stains: np.ndarray) -> np.ndarray:
    """Beer and Lambert's law: amounts [..., k] of stains [k, 3] to light 0 … 255."""
    return 255 * 10.0 ** -(amounts @ stains)


def to_pixels(light: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(light), 0, 255).astype(np.uint8)


def known(vectors, scale=(1.0, 1.0)) -> StainStatistics:
    """Statistics of a slide whose stains we know."""
    (h, e) = unit(vectors).tolist()
    stains = Stains(tuple(h), tuple(e), scale)
    return StainStatistics(stains, stains, MOMENTS, tiles=1, pixels=1000)


def tiles_of(image: np.ndarray, px: int = 256) -> np.ndarray:
    n = image.shape[0] // px
    cut = image.reshape(n, px, n, px, 3).swapaxes(1, 2)
    return np.ascontiguousarray(cut.reshape(-1, px, px, 3))


def damage(source: Path, path: Path, tiles: Iterable[int]) -> Path:
    """A copy of a slide in which half the bytes of some of its JPEG tiles are zero."""
    shutil.copyfile(source, path)
    with tifffile.TiffFile(path) as tif:
        page = tif.pages.first
        spots = [(page.dataoffsets[tile], page.databytecounts[tile]) for tile in tiles]
    with path.open("r+b") as file:
        for offset, size in spots:
            file.seek(offset + size // 2)
            file.write(bytes(size // 2))
    return path


@pytest.fixture(scope="module")
def skin(shared_data):
    """Real skin: its statistics and nine tiles."""
    with open_slide(shared_data / SVS) as slide:
        statistics = stain_statistics(slide, find_tissue(slide))
        places = [(y, x) for y in (1500, 1756, 2012) for x in (700, 956, 1212)]
        return statistics, np.stack([slide.read(0, y, x, 256, 256) for y, x in places])


@pytest.fixture(scope="module")
def laboratories():
    """Three slides of each of two laboratories, as tiles."""
    found = []
    for site in SITES:
        sizes = {"height_px": 768, "width_px": 768, "tissue_fraction": 0.7}
        plans = [plan_slide(k, site=site, tumour_fraction=0.2, **sizes) for k in range(3)]
        found.append([tiles_of(Painter(plan).paint(0, 0, 768, 768)) for plan in plans])
    return found


@pytest.fixture(scope="module")
def normalised(laboratories):
    """Their slides with the target's look, by method; each by its own statistics."""

    def run(method):
        return [
            [make_normaliser(method, statistics_of(s[:, ::4, ::4])).apply(s) for s in slides]
            for slides in laboratories
        ]

    return {method: run(method) for method in METHODS}


@pytest.mark.parametrize("method", ["macenko", "vahadane"])
@settings(max_examples=30, deadline=None)
@given(
    amounts=st.tuples(st.floats(0, 0.7), st.floats(0, 0.7)),
    ratio=st.tuples(st.floats(0.5, 1.4), st.floats(0.5, 1.4)),
)
def test_the_same_amounts_appear_in_the_targets_stains(method, amounts, ratio):
    ours, theirs = unit(RUIFROK), unit([[0.5626, 0.7201, 0.4062], [0.2159, 0.8012, 0.5581]])
    normaliser = make_normaliser(method, known(ours), target=known(theirs, scale=ratio))
    seen = to_pixels(expose(np.array(amounts), ours))
    wanted = expose(np.array(amounts) * ratio, theirs)
    # Rounding moves a channel's density by 0.5 / (I ln 10); follow it through the matrix.
    moved = (0.5 / (seen * math.log(10))) @ np.abs(normaliser.transform.matrix)
    allowed = 0.51 + wanted * (10**moved - 1)
    got = normaliser.apply(seen[None, None, None])[0, 0, 0]
    assert (np.abs(got - wanted) <= allowed).all()


def test_the_matrix_equals_least_squares_pixel_by_pixel(skin):
    statistics, tiles = skin
    got = make_normaliser("macenko", statistics).apply(tiles[4:5])
    source, target = statistics.macenko, REFERENCE_TARGET.macenko
    density = -np.log10(np.maximum(tiles[4].reshape(-1, 3), 1) / 255.0)
    amounts = np.linalg.lstsq(source.vectors.T, density.T, rcond=None)[0].T
    wanted = expose(amounts / source.scale * target.scale, target.vectors).clip(0, 255)
    assert np.abs(got.reshape(-1, 3) - wanted).max() < 0.51


@pytest.mark.parametrize("method", ["macenko", "vahadane"])
def test_nothing_is_left_to_do_on_a_slide_that_is_its_own_target(skin, method):
    """What is neither stain is dropped the first time; then everything stays as it is."""
    statistics, tiles = skin
    normaliser = make_normaliser(method, statistics, target=statistics)
    once = normaliser.apply(tiles)
    moved = np.abs(normaliser.apply(once).astype(int) - once)
    assert np.percentile(moved, 98) <= 1


def test_reinhard_leaves_a_slide_that_is_its_own_target(skin):
    statistics, tiles = skin
    got = make_normaliser("reinhard", statistics, target=statistics).apply(tiles)
    # One of 255 levels of lightness, cut off, is up to four grey levels.
    assert np.abs(got.astype(int) - tiles).mean() < 0.5


@pytest.mark.parametrize("method", METHODS)
def test_white_stays_white(skin, method):
    glass = np.full((1, 8, 8, 3), 255, np.uint8)
    assert (make_normaliser(method, skin[0]).apply(glass) == 255).all()


@pytest.mark.parametrize("method", METHODS)
def test_a_pixel_depends_on_nothing_but_itself(skin, method):
    statistics, tiles = skin
    normaliser = make_normaliser(method, statistics)
    whole = normaliser.apply(tiles)
    np.testing.assert_array_equal(normaliser.apply(tiles[3:4])[0], whole[3])
    np.testing.assert_array_equal(normaliser.apply(tiles[:, 10:20, 30:40]), whole[:, 10:20, 30:40])
    turned = normaliser.apply(tiles.transpose(0, 2, 1, 3))
    np.testing.assert_array_equal(turned.transpose(0, 2, 1, 3), whole)
    assert normaliser.apply(tiles[:0]).shape == (0, 256, 256, 3)


def test_torch_gives_the_same_to_one_grey_level(skin):
    torch = pytest.importorskip("torch")
    statistics, tiles = skin
    values = np.random.default_rng(0).integers(0, 256, tiles.shape, dtype=np.uint8)
    normaliser = make_normaliser("macenko", statistics)
    for batch in (tiles, values):
        got = normaliser.apply_torch(torch.from_numpy(batch)).numpy()
        assert got.dtype == np.uint8
        assert np.abs(got.astype(int) - normaliser.apply(batch)).max() <= 1
    with pytest.raises(ValueError, match="reinhard"):
        make_normaliser("reinhard", statistics).apply_torch(torch.from_numpy(tiles))


class TestLaboratories:
    """The same kind of tissue, stained and scanned in two places."""

    @staticmethod
    def mean_colour(tiles: np.ndarray) -> np.ndarray:
        """Mean RGB of tissue: of what is clearly darker than either laboratory's glass."""
        return tiles[tiles.min(axis=-1) < 200].mean(axis=0)

    @staticmethod
    def apart(laboratories, measure) -> float:
        north, south = (np.mean([measure(s) for s in slides], axis=0) for slides in laboratories)
        return float(np.linalg.norm(north - south))

    @pytest.mark.parametrize("method", METHODS)
    def test_their_mean_colours_come_together(self, laboratories, normalised, method):
        before = self.apart(laboratories, self.mean_colour)
        assert before > 15
        assert self.apart(normalised[method], self.mean_colour) < before / 5

    @pytest.mark.parametrize("method", ["macenko", "vahadane"])
    def test_so_do_their_stains(self, laboratories, normalised, method):
        def vectors(tiles):
            return estimate_stains(tiles[:, ::4, ::4]).vectors.ravel()

        before = self.apart(laboratories, vectors)
        assert self.apart(normalised[method], vectors) < before / 10

    @pytest.mark.parametrize("method", METHODS)
    def test_and_what_is_to_be_seen_stays(self, laboratories, normalised, method):
        for slides, changed in zip(laboratories, normalised[method], strict=True):
            grey, after = (np.stack(s).mean(axis=-1).ravel() for s in (slides, changed))
            assert np.corrcoef(grey, after)[0, 1] > 0.97


class TestRealSlides:
    @pytest.mark.parametrize("method", METHODS)
    def test_skin_takes_the_look_of_the_target(self, skin, method):
        statistics, tiles = skin
        got = make_normaliser(method, statistics).apply(tiles)
        assert got.min() > 0
        assert np.corrcoef(tiles.mean(axis=-1).ravel(), got.mean(axis=-1).ravel())[0, 1] > 0.9
        # The published reference is half as strong as this slide, which is very dark.
        assert got.mean() > tiles.mean() + 10
        if method == "macenko":
            found, target = estimate_stains(got[:, ::2, ::2]), REFERENCE_TARGET.macenko
            cosines = (found.vectors * target.vectors).sum(axis=1)
            assert np.degrees(np.arccos(cosines)).max() < 6

    def test_statistics_do_not_change_from_run_to_run(self, skin, shared_data):
        with open_slide(shared_data / SVS) as slide:
            again = stain_statistics(slide, find_tissue(slide))
        assert again == skin[0]

    def test_half_the_tiles_give_nearly_the_same_stains(self, skin, shared_data):
        with open_slide(shared_data / SVS) as slide:
            fewer = stain_statistics(slide, find_tissue(slide), tiles=16)
        assert fewer.tiles == 16
        np.testing.assert_allclose(fewer.macenko.vectors, skin[0].macenko.vectors, atol=0.06)

    def test_tiles_that_cannot_be_decoded_are_left_out(self, skin, shared_data, tmp_path):
        with open_slide(shared_data / SVS) as slide:
            mask = find_tissue(slide)
        path = tmp_path / "damaged.svs"
        with open_slide(damage(shared_data / SVS, path, range(60, 70))) as slide:
            fewer = stain_statistics(slide, mask)
        assert 0 < fewer.tiles < skin[0].tiles
        nothing = damage(shared_data / SVS, path, range(130))
        refused = pytest.raises(CorruptTiles, match=r"damaged\.svs")
        with open_slide(nothing) as slide, refused:
            stain_statistics(slide, mask)

    def test_an_overview_that_shows_no_nuclei_is_refused(self, shared_data):
        with open_slide(shared_data / CAMELYON) as slide:
            mask = find_tissue(slide, mpp=30)
            with pytest.raises(BadResolution, match=r"camelyon.*28\.97 µm/px"):
                stain_statistics(slide, mask)

    def test_a_pale_grey_picture_is_refused(self, shared_data):
        image = np.asarray(Image.open(shared_data / KIDNEY))
        statistics = statistics_of(image[None], source="kidney-48-5.tif")
        for method in METHODS:
            with pytest.raises(NoStains, match=r"kidney-48-5\.tif"):
                make_normaliser(method, statistics)


def stained_tile(vectors, seed=2) -> np.ndarray:
    amounts = np.random.default_rng(seed).gamma(8, 0.05, (1, 64, 64, len(vectors)))
    return to_pixels(expose(amounts, unit(vectors)))


UNKNOWN = {
    "nothing": np.zeros((0, 64, 64, 3), np.uint8),
    "glass": np.full((1, 64, 64, 3), 245, np.uint8),
    "black": np.zeros((1, 64, 64, 3), np.uint8),
    "noise": np.random.default_rng(3).integers(0, 256, (1, 64, 64, 3), dtype=np.uint8),
    "eosin alone": stained_tile(RUIFROK[1:]),
    "haematoxylin alone": stained_tile(RUIFROK[:1]),
    "haematoxylin and DAB": stained_tile([RUIFROK[0], DAB]),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("tiles", UNKNOWN.values(), ids=UNKNOWN)
def test_what_is_no_haematoxylin_and_eosin_is_refused_or_left(tiles, method, skin):
    statistics = statistics_of(tiles)
    with pytest.raises(NoStains, match="cannot be told apart"):
        make_normaliser(method, statistics)
    with pytest.raises(NoStains):
        make_normaliser(method, skin[0], target=statistics)
    left = make_normaliser(method, statistics, if_unknown="unchanged")
    assert left.name == "unchanged@1:reference"
    np.testing.assert_array_equal(left.apply(tiles), tiles)
    assert left.apply(tiles) is not tiles


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("tiles", list(UNKNOWN.values())[1:], ids=list(UNKNOWN)[1:])
def test_no_tile_of_a_good_slide_turns_black(tiles, method, skin):
    """However odd a tile is, the statistics are the slide's: dark stays dark, pale stays pale."""
    got = make_normaliser(method, skin[0]).apply(tiles)
    # The target is paler than this slide.
    assert got.mean() > tiles.mean() - 10
    assert (got.mean() < 80) == (tiles.mean() < 80)
    assert (got.mean() > 240) == (tiles.mean() > 240) or method == "vahadane"


def test_the_record_goes_through_json(skin):
    statistics, _ = skin
    again = StainStatistics.from_record(json.loads(json.dumps(statistics.record)))
    assert again == statistics
    with pytest.raises(ValueError, match="version 0"):
        StainStatistics.from_record(statistics.record | {"version": 0})


def test_the_references_moments_are_those_of_the_picture_that_it_names():
    (folder,) = find_spec("tiatoolbox").submodule_search_locations
    image = np.asarray(Image.open(Path(folder) / "data" / "target_image.png"))[None]
    target = replace(REFERENCE_TARGET, reinhard=MOMENTS)
    statistics = statistics_of(image)
    changed = make_normaliser("macenko", statistics, target=target).apply(image)
    found, stated = statistics_of(changed).reinhard, REFERENCE_TARGET.reinhard
    np.testing.assert_allclose(found.mean, stated.mean, atol=0.01)
    np.testing.assert_allclose(found.std, stated.std, atol=0.01)


def test_other_pixels_and_other_methods_are_refused(skin):
    statistics, tiles = skin
    normaliser = make_normaliser("macenko", statistics)
    for wrong in (tiles[0], tiles.astype(np.float32), tiles[..., :2]):
        with pytest.raises(ValueError, match="uint8"):
            normaliser.apply(wrong)
    with pytest.raises(ValueError, match="vahadane"):
        make_normaliser("vahadan", statistics)


def test_the_scripts_of_the_how_to_run(shared_data, tmp_path):
    (tmp_path / "case-17.svs").symlink_to(shared_data / SVS)
    page = Path(__file__).parents[2] / "docs" / "how-to" / "stain.md"
    scripts = re.findall(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    script = "\n".join([*scripts, "print(normaliser.method, normalised.shape, varied.shape)"])
    ended = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ended.stdout.strip() == "macenko (1, 256, 256, 3) (1, 256, 256, 3)", ended.stderr
