"""A map of a real slide: in the right place, only on tissue, and the same bytes after a kill."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from microtome.engine.slides import open_slide
from microtome.engine.tiles import read_overview
from microtome.storage.maps import MapPlan, StoredMap, encode
from microtome.tasks.camel.predict import Windows, fill_map, on_tissue

MPP = 0.499


@pytest.fixture(scope="module")
def svs(shared_data: Path) -> Path:
    return shared_data / "slides" / "aperio" / "CMU-1-Small-Region.svs"


def darkness(tiles: np.ndarray) -> np.ndarray:
    """A predictor that is right by definition: how dark a pixel is."""
    return np.asarray(1 - tiles.mean(axis=3) / 255, np.float32)


def small_map(svs: Path, folder: Path, predict: Callable = darkness) -> tuple[MapPlan, Windows]:
    with open_slide(svs) as slide:
        windows = Windows.over(slide.info, window_px=128, stride_px=64, mpp=4 * MPP)
        plan = MapPlan(windows.frame, shard_px=128, chunk_px=64, block_px=256)
        windows = on_tissue(windows, slide)
        fill_map(slide, windows, predict, plan, folder)
        plan.finish(folder, "map", {})
    return plan, windows


def files(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def test_blended_windows_are_the_pixels_of_the_slide_where_they_are(svs, tmp_path):
    """At the slide's own resolution every window has its very pixels, so the blend has too."""
    with open_slide(svs) as slide:
        windows = Windows.over(slide.info, window_px=256, stride_px=200, mpp=MPP)
        plan = MapPlan(windows.frame, shard_px=256, chunk_px=64, block_px=512)
        near = (windows.corners_px < 700).all(axis=1)
        windows = windows.select(near)
        fill_map(slide, windows, darkness, plan, tmp_path)
        own = slide.read(0, 0, 0, 600, 600)
    plan.finish(tmp_path, "map", {})
    stored = StoredMap(tmp_path, None, plan.array(0), plan.frame, {})
    codes = stored.codes(slice(0, 600), slice(0, 600))
    assert np.abs(codes.astype(int) - encode(darkness(own[None])[0])).max() <= 1
    # Beyond the last window nobody looked.
    last = int(windows.corners_px.max()) + 256
    assert not stored.codes(slice(last, last + 50), slice(0, 300)).any()


def test_a_rescaled_map_lies_on_the_slide_and_only_on_tissue(svs, tmp_path):
    plan, windows = small_map(svs, tmp_path)
    stored = StoredMap(tmp_path, None, plan.array(0), plan.frame, {})
    rows, columns = (slice(0, n) for n in plan.frame.shape)
    found = stored.read(rows, columns)
    with open_slide(svs) as slide:
        overview, downsample = read_overview(slide, mpp=4 * MPP)
    shape = tuple(min(a, b) for a, b in zip(found.shape, overview.shape, strict=False))
    assert np.allclose(plan.frame.pixel_px, downsample, rtol=0.005)
    expected = 1 - overview[: shape[0], : shape[1]].mean(axis=2) / 255
    known = np.isfinite(found[: shape[0], : shape[1]])
    assert known.mean() > 0.5
    a, b = found[: shape[0], : shape[1]][known], expected[known]
    assert np.corrcoef(a, b)[0, 1] > 0.97
    covered = np.zeros(plan.frame.shape, bool)
    for y, x in windows.corners_px.tolist():
        covered[y : y + 128, x : x + 128] = True
    assert np.array_equal(np.isfinite(found), covered)


def test_a_map_that_was_interrupted_ends_with_the_same_bytes(svs, tmp_path):
    small_map(svs, tmp_path / "whole")
    seen: list[int] = []

    def until(tiles: np.ndarray) -> np.ndarray:
        seen.append(len(tiles))
        if len(seen) == 3:
            raise KeyboardInterrupt
        return darkness(tiles)

    with pytest.raises(KeyboardInterrupt):
        small_map(svs, tmp_path / "cut", until)
    left = files(tmp_path / "cut")
    assert 0 < len(left) < len(files(tmp_path / "whole"))
    torn = next(path for path in (tmp_path / "cut").rglob("*") if path.is_file())
    torn.write_bytes(torn.read_bytes()[:-3])
    again: list[int] = []

    def counted(tiles: np.ndarray) -> np.ndarray:
        again.append(len(tiles))
        return darkness(tiles)

    small_map(svs, tmp_path / "cut", counted)
    assert files(tmp_path / "cut") == files(tmp_path / "whole")
    third: list[int] = []
    small_map(svs, tmp_path / "cut", lambda tiles: third.append(1) or darkness(tiles))
    assert not third
