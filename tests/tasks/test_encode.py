"""Slides to bags on a real slide: which tiles, which pixels, and what becomes of a killed run."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from microtome.engine.grid import TileGrid
from microtome.engine.schedule import Skipped
from microtome.engine.slides import open_slide
from microtome.engine.stain import make_normaliser, stain_statistics
from microtome.engine.tiles import read_tiles
from microtome.engine.tissue import find_tissue
from microtome.storage.bags import find_bags, read_bag
from microtome.storage.errors import (
    BadGeometry,
    CohortError,
    CorruptTiles,
    MissingFile,
    NoResolution,
    NoTissue,
    StaleProduct,
)
from microtome.storage.ledger import Ledger
from microtome.tasks.encode import (
    EncodeOptions,
    SlideItem,
    encode,
    encode_cohort,
    encode_slide,
)
from microtome.tasks.encoders import load_encoder
from microtome.tasks.encoders.stain_texture import FEATURES
from microtome.tasks.slide_list import list_slides


@pytest.fixture(scope="module")
def item(shared_data) -> SlideItem:
    return SlideItem("skin", shared_data / "slides/aperio/CMU-1-Small-Region.svs")


@pytest.fixture(scope="module")
def bag_path(item, tmp_path_factory) -> Path:
    return encode_slide(item, out=tmp_path_factory.mktemp("bags")).path


def tree(folder: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


class TestOneSlide:
    def test_tiles_are_those_of_the_grid_that_lie_on_tissue(self, item, bag_path):
        bag = read_bag(bag_path)
        with open_slide(item.path) as slide:
            grid = TileGrid.over(slide.info, tile_px=256, mpp=0.5)
        place = {tuple(c): i for i, c in enumerate(grid.coords_px.tolist())}
        order = [place[tuple(c)] for c in bag.coords_px.tolist()]
        assert order == sorted(set(order))
        assert len(grid) == (2967 // 256) * (2220 // 256)
        assert 0.3 * len(grid) < len(bag) < 0.95 * len(grid)
        assert (bag.quality["tissue"] >= 0.5).all()
        assert (bag.tile_px, bag.mpp, bag.id) == (256, 0.5, "skin")
        assert bag.slide_px == (2967, 2220)
        assert bag.encoder == "stain-texture@1"
        assert bag.corrupt_tiles == 0

    def test_pixels_are_those_that_openslide_reads_at_the_coordinates(self, item, bag_path):
        import openslide

        bag = read_bag(bag_path)
        with openslide.OpenSlide(item.path) as slide:
            for (y, x), row in zip(bag.coords_px.tolist(), bag.features, strict=True):
                region = np.asarray(slide.read_region((x, y), 0, (256, 256)))[..., :3]
                np.testing.assert_allclose(row[:3], region.mean((0, 1)) / 255, rtol=1e-5)

    def test_another_container_of_the_same_pixels_gives_the_same_features(
        self, item, bag_path, shared_data, tmp_path
    ):
        dicom = shared_data / "slides/derived/CMU-1-Small-Region_dicom_exact/level0.dcm"
        made = encode_slide(SlideItem("dicom", dicom), out=tmp_path)
        theirs, ours = read_bag(made.path), read_bag(bag_path)
        np.testing.assert_array_equal(theirs.coords_px, ours.coords_px)
        np.testing.assert_array_equal(theirs.features, ours.features)

    def test_deep_encoders_take_tiles_of_their_own_size(self, item, tmp_path):
        options = EncodeOptions(encoder="timm:test_resnet", min_tissue=0.9)
        bag = read_bag(encode_slide(item, out=tmp_path, options=options).path)
        encoder = load_encoder("timm:test_resnet")
        assert (bag.tile_px, bag.features.shape[1]) == (160, encoder.dim)
        y, x = bag.coords_px[7].tolist()
        with open_slide(item.path) as slide:
            tile = slide.read(0, y, x, 160, 160)
        np.testing.assert_allclose(bag.features[7], encoder.encode(tile[None])[0], rtol=1e-4)

    def test_a_grid_of_other_tiles_is_refused(self, item):
        with open_slide(item.path) as slide:
            grid = TileGrid.over(slide.info, tile_px=224, mpp=0.5)
            with pytest.raises(BadGeometry, match="never resized"):
                encode(slide, grid)
            with pytest.raises(BadGeometry, match="the grid has 256 px at 1 "):
                encode(slide, TileGrid.over(slide.info, tile_px=256, mpp=1.0))

    def test_public_encode_of_a_whole_grid(self, item, bag_path):
        with open_slide(item.path) as slide:
            grid = TileGrid.over(slide.info, tile_px=256, mpp=0.5)
            keep = np.zeros(len(grid), bool)
            keep[::9] = True
            bag = encode(slide, grid.select(keep), "stain-texture")
        np.testing.assert_array_equal(bag.coords_px, grid.coords_px[::9])
        assert bag.id == "CMU-1-Small-Region"
        assert np.isfinite(bag.features).all()


class TestAgain:
    def test_a_finished_bag_is_skipped_and_left_alone(self, item, bag_path):
        before = tree(bag_path)
        again = encode_slide(item, out=bag_path.parent)
        assert isinstance(again, Skipped)
        assert again.value.tiles == len(read_bag(bag_path))
        assert tree(bag_path) == before

    def test_other_parameters_are_noticed_and_not_mixed(self, item, bag_path, tmp_path):
        shutil.copytree(bag_path, tmp_path / bag_path.name)
        other = EncodeOptions(min_tissue=0.9)
        with pytest.raises(StaleProduct, match="--overwrite"):
            encode_slide(item, out=tmp_path, options=other)
        assert tree(tmp_path / bag_path.name) == tree(bag_path)
        encode_slide(item, out=tmp_path, options=other, overwrite=True)
        assert len(read_bag(tmp_path / bag_path.name)) < len(read_bag(bag_path))

    @pytest.mark.parametrize(
        "options",
        [
            EncodeOptions(mpp=1.0),
            EncodeOptions(tile_px=128),
            EncodeOptions(stride_px=64),
            EncodeOptions(max_corrupt=0.5),
        ],
    )
    def test_every_parameter_is_part_of_the_key(self, item, bag_path, options):
        with pytest.raises(StaleProduct):
            encode_slide(item, out=bag_path.parent, options=options)

    def test_resolution_override_is_part_of_the_key(self, item, bag_path):
        with pytest.raises(StaleProduct):
            encode_slide(replace(item, mpp=0.4), out=bag_path.parent)

    @pytest.mark.parametrize("moment", ["encoding", "committing"])
    def test_a_killed_run_leaves_nothing_and_the_next_writes_the_same_bytes(
        self, item, tmp_path, monkeypatch, moment
    ):
        monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
        undisturbed = encode_slide(item, out=tmp_path / "undisturbed").path
        out = tmp_path / "killed"
        killed = subprocess.run(
            [sys.executable, "-c", _DIES[moment], str(item.path), str(out)],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            check=False,
        )
        assert killed.returncode == -signal.SIGKILL
        assert not find_bags(out)
        again = encode_slide(item, out=out)
        assert not isinstance(again, Skipped)
        assert tree(again.path) == tree(undisturbed)
        assert [p.name for p in out.iterdir()] == ["skin.bag.zarr"]


_DIE = """
import os, signal, sys
from pathlib import Path
from microtome.tasks.encode import SlideItem, encode_slide
def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
"""
_RUN = "encode_slide(SlideItem('skin', Path(sys.argv[1])), out=Path(sys.argv[2]))\n"
_DIES = {
    "encoding": _DIE
    + "from microtome.tasks.encoders.stain_texture import StainTexture\n"
    + "tiles_done, describe = [], StainTexture.describe\n"
    + "def counted(self, tile):\n"
    + "    tiles_done.append(1)\n"
    + "    return die() if len(tiles_done) > 20 else describe(self, tile)\n"
    + "StainTexture.describe = counted\n"
    + _RUN,
    "committing": _DIE + "import microtome.storage.commit as c\nc.write_text = die\n" + _RUN,
}


class TestCohort:
    def test_processes_change_no_bit(self, item, shared_data, tmp_path):
        items = [item, SlideItem("ome", shared_data / "slides/derived/CMU-1-Small-Region.ome.tif")]
        for jobs in (1, 2):
            outcomes = encode_cohort(items, out=tmp_path / str(jobs), jobs=jobs)
            assert [o.state for o in outcomes] == ["done", "done"]
        for name in ("skin", "ome"):
            one, two = (tree(tmp_path / n / f"{name}.bag.zarr") for n in "12")
            assert set(one) == set(two)
            assert [k for k in one if one[k] != two[k]] in ([], ["commit.json"])

    def test_one_bad_slide_does_not_stop_the_rest(self, item, shared_data, tmp_path):
        bad = shared_data / "slides/bad"
        items = [
            SlideItem("html", bad / "broken-html.svs"),
            SlideItem("junk", bad / "unreadable.svs"),
            SlideItem("nowhere", tmp_path / "nowhere.svs"),
            SlideItem("strips", shared_data / "slides/plain/kidney-48-5.tif"),
            item,
        ]
        ledger = Ledger(tmp_path / "out/ledger.jsonl")
        outcomes = encode_cohort(items, out=tmp_path / "out", ledger=ledger)
        assert [o.state for o in outcomes] == ["rejected"] * 4 + ["done"]
        reasons = [o.reason for o in outcomes]
        assert reasons[0] == "unreadable"
        assert reasons[2] == "missing"
        assert reasons[3] in ("no_mpp", "bad_mpp")
        assert list(find_bags(tmp_path / "out")) == ["skin"]
        assert ledger.exit_code == 3


class TestRefusals:
    @pytest.fixture
    def drawn(self, tmp_path):
        """Write a pyramidal JPEG TIFF of 4 x 4 tiles with pink tissue, at 0.5 µm/px."""
        import tifffile

        def write(name: str, *, tissue: bool = True, mpp: float | None = 0.5) -> Path:
            rng = np.random.default_rng(0)
            pixels = np.full((1024, 1024, 3), 245, np.uint8)
            if tissue:
                pixels[:, 100:] = (215, 140, 180)
                for y, x in rng.integers(10, 1010, (900, 2)):
                    pixels[y - 4 : y + 4, x - 5 : x + 5] = (100, 70, 150)
            pixels = np.clip(pixels + rng.normal(0, 3, pixels.shape), 0, 255).astype(np.uint8)
            path = tmp_path / name
            with tifffile.TiffWriter(path) as writer:
                for k in (1, 4):
                    writer.write(
                        np.ascontiguousarray(pixels[::k, ::k]),
                        tile=(256, 256),
                        compression="jpeg",
                        photometric="rgb",
                        subfiletype=int(k > 1),
                        resolution=(10_000 / mpp / k,) * 2 if mpp else None,
                        resolutionunit="CENTIMETER" if mpp else None,
                        metadata=None,
                    )
            return path

        return write

    @staticmethod
    def damage(path: Path, tile: int) -> None:
        import tifffile

        with tifffile.TiffFile(path) as file:
            page = file.pages.first
            start, count = page.dataoffsets[tile], page.databytecounts[tile]
        with path.open("r+b") as file:
            file.seek(start)
            file.write(b"\x00" * count)

    def test_undecodable_tiles_are_left_out_and_counted(self, drawn, tmp_path):
        whole, damaged = drawn("whole.tif"), drawn("damaged.tif")
        self.damage(damaged, tile=6)
        options = EncodeOptions(max_corrupt=0.1)
        good, torn = (
            read_bag(encode_slide(SlideItem(p.stem, p), out=tmp_path, options=options).path)
            for p in (whole, damaged)
        )
        assert (good.corrupt_tiles, torn.corrupt_tiles) == (0, 1)
        lost = set(map(tuple, good.coords_px.tolist())) - set(map(tuple, torn.coords_px.tolist()))
        assert lost == {(256, 512)}
        assert len(torn) == len(good) - 1

    def test_too_many_undecodable_tiles_reject_the_slide(self, drawn, tmp_path):
        path = drawn("damaged.tif")
        self.damage(path, tile=6)
        with pytest.raises(CorruptTiles, match=r"6.25 % of tiles \(1 of 16\)"):
            encode_slide(SlideItem("damaged", path), out=tmp_path / "out")
        assert not find_bags(tmp_path / "out")

    def test_glass_without_tissue(self, drawn, tmp_path):
        path = drawn("glass.tif", tissue=False)
        with pytest.raises(NoTissue):
            encode_slide(SlideItem("glass", path), out=tmp_path)

    def test_resolution_is_never_guessed_but_may_be_given(self, drawn, tmp_path):
        path = drawn("bare.tif", mpp=None)
        with pytest.raises(NoResolution):
            encode_slide(SlideItem("bare", path), out=tmp_path)
        made = encode_slide(SlideItem("bare", path, mpp=0.25), out=tmp_path)
        assert read_bag(made.path).footprint_px == (512, 512)

    def test_a_slide_smaller_than_a_tile(self, shared_data, tmp_path):
        small = SlideItem("small", shared_data / "slides/synthetic/small.svs")
        with pytest.raises(BadGeometry, match="256 px"):
            encode_slide(small, out=tmp_path)


class TestNames:
    def test_files_patterns_and_tables(self, tmp_path):
        for name in ("b.svs", "a.svs", "c.ome.tif"):
            (tmp_path / name).touch()
        (tmp_path / "cohort.csv").write_text("id,patient,path,mpp\nx,p,a.svs,0.25\ny,p,b.svs,\n")
        found = list_slides([str(tmp_path / "*.svs"), str(tmp_path / "c.ome.tif")], mpp=0.5)
        assert [(i.id, i.mpp) for i in found] == [("a", 0.5), ("b", 0.5), ("c", 0.5)]
        rows = list_slides([str(tmp_path / "cohort.csv")], mpp=0.5)
        assert [(i.id, i.path.name, i.mpp) for i in rows] == [
            ("x", "a.svs", 0.25),
            ("y", "b.svs", 0.5),
        ]

    def test_two_slides_of_one_id_are_refused(self, tmp_path):
        with pytest.raises(CohortError, match="'a'"):
            list_slides([str(tmp_path / "one/a.svs"), str(tmp_path / "two/a.svs")])

    def test_a_pattern_that_nothing_matches(self, tmp_path):
        with pytest.raises(MissingFile):
            list_slides([str(tmp_path / "*.svs")])


class TestCommand:
    @pytest.fixture(scope="class")
    @classmethod
    def app(cls):
        from microtome.cli.app import app

        return app

    def test_encode_tells_each_slide_and_ends_with_3_when_one_is_rejected(
        self, app, item, shared_data, tmp_path
    ):
        arguments = ["encode", str(item.path), "--out", str(tmp_path)]
        first = CliRunner().invoke(app, arguments)
        assert first.exit_code == 0, first.output
        assert "done CMU-1-Small-Region" in first.output
        assert "tiles/s" in first.output
        second = CliRunner().invoke(app, [*arguments, str(shared_data / "slides/bad/broken.svs")])
        assert second.exit_code == 3
        assert "skipped CMU-1-Small-Region" in second.output
        assert "rejected(unreadable) broken" in second.output
        assert len((tmp_path / "ledger.jsonl").read_text().splitlines()) == 3

    def test_encoder_list_names_every_feature(self, app):
        result = CliRunner().invoke(app, ["encoder", "list"], env={"COLUMNS": "200"})
        assert result.exit_code == 0
        assert [name for name in FEATURES if name not in result.output] == []


class TestStain:
    def test_tiles_are_given_one_look_before_they_are_encoded(self, item, bag_path, tmp_path):
        made = encode_slide(item, out=tmp_path, options=EncodeOptions(stain="macenko"))
        plain, bag = read_bag(bag_path), read_bag(made.path)
        assert bag.encoder.startswith(f"{plain.encoder}+macenko@")
        np.testing.assert_array_equal(bag.coords_px, plain.coords_px)
        with open_slide(item.path) as slide:
            normaliser = make_normaliser("macenko", stain_statistics(slide, find_tissue(slide)))
            grid = TileGrid.over(slide.info, tile_px=bag.tile_px, mpp=bag.mpp)
            tiles = np.concatenate([t for _, t in read_tiles(slide, grid)])
        rows = [grid.coords_px.tolist().index(place) for place in bag.coords_px.tolist()]
        encoder = load_encoder()
        looked = normaliser.apply(tiles[rows])
        count = min(encoder.sample_tiles, len(rows))
        sample = np.unique(np.linspace(0, len(rows) - 1, count).astype(int))
        expected = encoder.for_slide(looked[sample]).encode(looked)
        np.testing.assert_array_equal(bag.features, expected)
        # Quality is of the tiles as they were scanned.
        np.testing.assert_array_equal(bag.quality["focus"], plain.quality["focus"])

    def test_a_bag_of_another_look_is_another_product(self, item, bag_path):
        with pytest.raises(StaleProduct):
            encode_slide(item, out=bag_path.parent, options=EncodeOptions(stain="reinhard"))


def test_kept_edges_add_tiles_at_the_right_and_lower_edge(item, bag_path, tmp_path):
    options = EncodeOptions(edge="keep", min_tissue=0.0)
    kept = read_bag(encode_slide(item, out=tmp_path, options=options).path)
    reach = kept.coords_px.max(0) + np.array(kept.footprint_px)
    assert (np.array(kept.slide_px) - reach < 1).all()
