"""Views of tiles: which alterations, of which tiles, and that nothing else decides them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from microtome.cli.app import app
from microtome.engine.schedule import Skipped
from microtome.storage.bags import find_bags, read_bag
from microtome.storage.errors import BadProduct, InputError
from microtome.tasks.cohort import Case, Cohort
from microtome.tasks.encode import EncodeOptions, SlideItem, encode_slide
from microtome.tasks.encode_scan import encode_item
from microtome.tasks.mil.bag_list import read_training_bags, read_views
from microtome.tasks.scan_options import ScanOptions
from microtome.tasks.tile_views import altered

OPTIONS = EncodeOptions(tile_px=192, min_tissue=0.9, views=2)


@pytest.fixture(scope="module")
def item(shared_data) -> SlideItem:
    return SlideItem("skin", shared_data / "slides/aperio/CMU-1-Small-Region.svs")


@pytest.fixture(scope="module")
def bags(item, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("views")
    encode_slide(item, out=out, options=OPTIONS)
    return out


def tiles() -> np.ndarray:
    """Two dyes on glass, different in every corner."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(90, 220, (6, 8, 8, 3)).astype(np.uint8)
    pixels[:, :2, :2] = 250
    return pixels


def placed(tile: np.ndarray) -> list[np.ndarray]:
    """A tile in the eight ways that a square can lie."""
    turned = [np.rot90(tile, k) for k in range(4)]
    return [*turned, *(t[:, ::-1] for t in turned)]


def test_a_view_is_the_tile_turned_or_mirrored_in_other_shades() -> None:
    """The glass in one corner says how: it has no dye, and so keeps its colour."""
    before = tiles()
    ways = set()
    for view in range(1, 40):
        for tile, seen in zip(before, altered(before, view), strict=True):
            closest = [np.abs(way.astype(int) - seen).mean() for way in placed(tile)]
            way = int(np.argmin(closest))
            ways.add(way)
            assert closest[way] < 0.8 * sorted(closest)[1]
            glass = (placed(tile)[way] == 250).all(-1)
            np.testing.assert_array_equal(seen[glass], 250)
            assert not np.array_equal(placed(tile)[way], seen)
    assert ways == set(range(8))


def test_a_tile_is_altered_alike_whatever_tiles_are_with_it() -> None:
    whole = altered(tiles(), 3)
    alone = np.concatenate([altered(tile[None], 3) for tile in tiles()[::-1]])[::-1]
    np.testing.assert_array_equal(whole, alone)
    assert not np.array_equal(whole, altered(tiles(), 4))


def test_bags_of_views_lie_beside_and_are_of_the_same_tiles(item, bags, tmp_path) -> None:
    plain, *views = (
        read_bag(bags / folder / "skin.bag.zarr") for folder in (".", "view-1", "view-2")
    )
    assert [bag.view for bag in (plain, *views)] == [0, 1, 2]
    for bag in views:
        np.testing.assert_array_equal(bag.coords_px, plain.coords_px)
        for name, column in plain.quality.items():
            np.testing.assert_array_equal(bag.quality[name], column)
        assert bag.encoder == plain.encoder
        assert not np.array_equal(bag.features, plain.features)
    assert not np.array_equal(views[0].features, views[1].features)
    # What the plain bag is does not depend on whether there are views, nor on their number.
    without = EncodeOptions(tile_px=192, min_tissue=0.9, readers=1)
    alone = read_bag(encode_slide(item, out=tmp_path, options=without).path)
    np.testing.assert_array_equal(alone.features, plain.features)
    assert isinstance(encode_slide(item, out=bags, options=without), Skipped)
    assert isinstance(encode_slide(item, out=bags, options=OPTIONS), Skipped)
    assert list(find_bags(bags)) == ["skin"]


def test_only_views_that_are_lacking_are_made(item, bags) -> None:
    import shutil

    before = (bags / "view-2" / "skin.bag.zarr" / "commit.json").read_bytes()
    kept = read_bag(bags / "view-1" / "skin.bag.zarr")
    shutil.rmtree(bags / "view-1")
    assert not isinstance(encode_slide(item, out=bags, options=OPTIONS), Skipped)
    again = read_bag(bags / "view-1" / "skin.bag.zarr")
    np.testing.assert_array_equal(again.features, kept.features)
    assert (bags / "view-2" / "skin.bag.zarr" / "commit.json").read_bytes() == before


def test_views_are_for_training_and_bags_are_no_views(bags) -> None:
    cohort = Cohort((Case("skin", "p", label="a"),))
    plain = read_training_bags(cohort, bags)
    (view,) = read_views(cohort, [bags / "view-1"], plain)
    assert view.bags[0].view == 1
    with pytest.raises(BadProduct, match="is a view"):
        read_training_bags(cohort, bags / "view-1")
    with pytest.raises(BadProduct, match="is no view"):
        read_views(cohort, [bags], plain)


def test_a_scan_has_no_views(shared_data, tmp_path) -> None:
    scan = next((shared_data / "scans").rglob("*.nii.gz"))
    with pytest.raises(InputError, match="views are made of slides"):
        encode_item(
            SlideItem("scan", scan), out=tmp_path, slides=OPTIONS, scans=ScanOptions(modality="MR")
        )


def test_from_the_command_line(item, tmp_path) -> None:
    given = ["encode", str(item.path), "--out", str(tmp_path), "--tile-px", "192"]
    ended = CliRunner().invoke(app, [*given, "--min-tissue", "0.95", "--views", "1"])
    assert ended.exit_code == 0, ended.output
    name = "CMU-1-Small-Region"
    assert list(find_bags(tmp_path)) == list(find_bags(tmp_path / "view-1")) == [name]
