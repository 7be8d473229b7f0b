"""Pyramids: every shard by one task, every level a true average, valid, resumable."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaozarrs
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from ome_zarr_models.v05 import Image, ImageLabel
from products import files_of

from microtome.storage import ngff
from microtome.storage.commit import new_product
from microtome.storage.errors import BadProduct, MissingFile
from microtome.storage.pyramid import Pyramid, halve, write_cell, write_pyramid_metadata
from microtome.storage.shards import ShardedArray, write_metadata, write_shard
from microtome.storage.stored_slides import KIND, StoredSlide, open_stored_slide

SMALL = {"chunk_px": 16, "shard_px": 32, "block_px": 64}


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def reader_of(pixels: np.ndarray) -> Callable[[int, int, int, int], np.ndarray]:
    return lambda y, x, height, width: pixels[y : y + height, x : x + width]


def write(plan: Pyramid, folder: Path, pixels: np.ndarray, order: random.Random) -> None:
    for stage in range(plan.stages):
        cells = plan.cells(stage)
        order.shuffle(cells)
        for cell in cells:
            write_cell(plan, cell, folder, reader_of(pixels))
    write_pyramid_metadata(plan, folder, name="a", mpp=(0.5, 0.25), about={})


def stored(path: Path, pixels: np.ndarray, **plan: int) -> StoredSlide:
    about = {"mpp": [0.5, 0.25]}
    with new_product(path, kind=KIND, key="k", about=about) as folder:
        write(Pyramid(*pixels.shape[:2], **(plan or SMALL)), folder, pixels, random.Random(0))
    return open_stored_slide(path)


def averaged(pixels: np.ndarray) -> np.ndarray:
    """Mean of the pixels that are there of each 2 x 2, rounded half up: in floating point."""
    height, width = pixels.shape[:2]
    rows, columns = -(-height // 2), -(-width // 2)
    total, count = np.zeros((rows, columns, 3)), np.zeros((rows, columns, 1))
    for y in range(2):
        for x in range(2):
            part = pixels[y::2, x::2].astype(float)
            total[: part.shape[0], : part.shape[1]] += part
            count[: part.shape[0], : part.shape[1]] += 1
    return np.floor(total / count + 0.5).astype(np.uint8)


# --- the plan


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 400),
    width=st.integers(1, 400),
    powers=st.tuples(st.integers(2, 4), st.integers(0, 2), st.integers(0, 2)),
)
def test_every_shard_of_every_level_is_made_by_exactly_one_task(
    height: int, width: int, powers: tuple[int, int, int]
) -> None:
    chunk = 2 ** powers[0]
    shard, block = chunk << powers[1], chunk << powers[1] + powers[2]
    plan = Pyramid(height, width, chunk, shard, block)
    made = Counter(
        shard
        for stage in range(plan.stages)
        for cell in plan.cells(stage)
        for shard in plan.shards(cell)
    )
    wanted = {
        (level, index)
        for level in range(len(plan.sizes_px))
        for index in plan.array(level).indices()
    }
    assert set(made) == wanted
    assert set(made.values()) == {1}


def test_the_shards_of_a_large_slide_are_few() -> None:
    plan = Pyramid(100_000, 80_000)
    assert [plan.array(level).shard[1] for level in range(7)] == [
        2048, 2048, 1024, 512, 256, 2048, 2048,
    ]  # fmt: skip
    assert plan.stages == 2
    assert max(plan.sizes_px[-1]) <= 256
    shards = sum(len(list(plan.array(n).indices())) for n in range(len(plan.sizes_px)))
    assert shards / (100_000 * 80_000 / 1e6) < 0.5


@pytest.mark.parametrize("sizes", [(16, 24, 48), (16, 32, 33), (16, 8, 16), (32, 32, 16)])
def test_sizes_that_do_not_nest_are_refused(sizes: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="power of two"):
        Pyramid(100, 100, *sizes)


# --- the pixels


@settings(max_examples=40, deadline=None)
@given(height=st.integers(1, 40), width=st.integers(1, 40), seed=st.integers(0, 9))
def test_halving_is_the_rounded_mean_of_what_is_there(height: int, width: int, seed: int) -> None:
    pixels = picture(height, width, seed)
    np.testing.assert_array_equal(halve(pixels), averaged(pixels))


@pytest.mark.parametrize("size", [(1, 1), (16, 16), (150, 217), (65, 300), (300, 129)])
def test_zarr_reads_the_pixels_and_every_level_is_their_average(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    pixels = picture(*size)
    slide = stored(tmp_path / "a.ome.zarr", pixels)
    group = zarr.open_group(tmp_path / "a.ome.zarr", mode="r")
    expected = pixels
    for level in range(len(slide.levels)):
        here = group[str(level)][...].transpose(1, 2, 0)
        np.testing.assert_array_equal(here, expected)
        np.testing.assert_array_equal(slide.read(level, 0, 0, *expected.shape[:2]), expected)
        # Against the mean over level 0 itself, each halving rounds by half a grey value at most.
        n = 2**level
        inside = pixels[: size[0] // n * n, : size[1] // n * n].astype(float)
        mean = inside.reshape(size[0] // n, n, size[1] // n, n, 3).mean((1, 3))
        off = np.abs(here[: size[0] // n, : size[1] // n] - mean)
        assert off.max(initial=0) <= 0.5 * level + 1e-9
        expected = averaged(expected)
    assert max(slide.levels[-1].shape[1:]) <= 16


def test_scales_and_translations_put_every_level_in_its_place(tmp_path: Path) -> None:
    """A ramp that grows by one grey value a pixel says where each pixel's centre lies."""
    ramp = np.broadcast_to(np.arange(256, dtype=np.uint8)[None, :, None], (256, 256, 3))
    pixels = ramp.copy()
    pixels[..., 1] = pixels[..., 1].T
    slide = stored(tmp_path / "a.ome.zarr", pixels)
    for level, dataset in enumerate(slide.ome["multiscales"][0]["datasets"]):
        scale = dataset["coordinateTransformations"][0]["scale"]
        shift = [0.0, 0.0, 0.0]
        if len(dataset["coordinateTransformations"]) > 1:
            shift = dataset["coordinateTransformations"][1]["translation"]
        height, width = slide.levels[level].shape[1:]
        here = slide.read(level, 0, 0, height, width).astype(float)
        x_um = np.arange(width) * scale[2] + shift[2]
        y_um = np.arange(height) * scale[1] + shift[1]
        # Level 0 is 0.25 µm wide and 0.5 µm high a pixel; rounding up costs half a grey value.
        assert np.abs(here[0, :, 0] - x_um / 0.25).max() <= 0.5
        assert np.abs(here[:, 0, 1] - y_um / 0.5).max() <= 0.5


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_rectangle_is_read(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "rectangles.ome.zarr"
    pixels = picture(150, 217)
    slide = open_stored_slide(path) if path.exists() else stored(path, pixels)
    y, x = data.draw(st.integers(0, 149)), data.draw(st.integers(0, 216))
    height, width = data.draw(st.integers(1, 150 - y)), data.draw(st.integers(1, 217 - x))
    part = slide.read(0, y, x, height, width)
    np.testing.assert_array_equal(part, pixels[y : y + height, x : x + width])
    assert part.flags["C_CONTIGUOUS"]


@pytest.mark.parametrize("box", [(-1, 0, 5, 5), (0, 0, 151, 5), (0, 213, 5, 5), (0, 0, 0, 5)])
def test_a_rectangle_that_leaves_the_level_is_refused(
    tmp_path: Path, box: tuple[int, int, int, int]
) -> None:
    slide = stored(tmp_path / "a.ome.zarr", picture(150, 217))
    with pytest.raises(ValueError, match="leaves level 0"):
        slide.read(0, *box)


# --- the metadata


@pytest.mark.parametrize("mpp", [(0.5, 0.25), None])
def test_independent_validators_accept_the_image(
    tmp_path: Path, mpp: tuple[float, float] | None
) -> None:
    plan = Pyramid(150, 217, **SMALL)
    folder = tmp_path / "a.ome.zarr"
    write(plan, folder, picture(150, 217), random.Random(0))
    write_pyramid_metadata(plan, folder, name="a", mpp=mpp, about={"source": "a.svs"})
    yaozarrs.validate_zarr_store(folder)
    image = Image.from_zarr(zarr.open_group(folder, mode="r"))
    (multiscale,) = image.attributes.ome.multiscales
    assert [axis.name for axis in multiscale.axes] == ["c", "y", "x"]
    assert [axis.unit for axis in multiscale.axes][1:] == ["micrometer" if mpp else None] * 2
    assert len(multiscale.datasets) == len(plan.sizes_px)
    channels = image.attributes.ome.omero["channels"]
    assert [(c["label"], c["color"]) for c in channels] == [
        ("Red", "FF0000"), ("Green", "00FF00"), ("Blue", "0000FF"),
    ]  # fmt: skip


def test_independent_validators_accept_a_label(tmp_path: Path) -> None:
    plan = Pyramid(150, 217, **SMALL)
    folder = tmp_path / "a.ome.zarr"
    write(plan, folder, picture(150, 217), random.Random(0))
    colours = {1: (0, 255, 0, 128), 2: (255, 0, 0, 128)}
    levels = [(8.0 * 2**k, 8.0 * 2**k) for k in range(len(plan.sizes_px))]
    ome = ngff.slide_label("tissue", (0.5, 0.25), levels, colours)
    write_metadata(folder / "labels", ngff.group({"ome": ngff.labels(["tissue"])}))
    label = folder / "labels" / "tissue"
    write_metadata(label, ngff.group({"ome": ome}))
    for k in range(len(levels)):
        array = ShardedArray((4, 4), np.dtype("uint8"), (4, 4), (4, 4), ("y", "x"))
        write_metadata(label / str(k), array.metadata())
        write_shard(array, label / str(k), (0, 0), np.ones((4, 4), np.uint8))
    yaozarrs.validate_zarr_store(folder)
    found = ImageLabel.from_zarr(zarr.open_group(label, mode="r"))
    assert [c.label_value for c in found.attributes.ome.image_label.colors] == [1, 2]
    (first, _) = found.attributes.ome.multiscales[0].datasets[0].coordinateTransformations
    assert first.scale == [4.0, 2.0]


# --- resuming


def test_tasks_may_run_in_any_order(tmp_path: Path) -> None:
    pixels, plan = picture(230, 301), Pyramid(230, 301, **SMALL)
    for trial in range(3):
        write(plan, tmp_path / str(trial), pixels, random.Random(trial))
    first = files_of(tmp_path / "0")
    assert files_of(tmp_path / "1") == first
    assert files_of(tmp_path / "2") == first


def test_what_is_whole_is_kept_and_what_is_not_is_made_again(tmp_path: Path) -> None:
    pixels, plan = picture(230, 301), Pyramid(230, 301, **SMALL)
    folder, draw = tmp_path / "a", random.Random(0)
    write(plan, folder, pixels, draw)
    whole = files_of(folder)
    shards = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "zarr.json")
    lost, cut = draw.sample(shards, 8), draw.sample(shards, 8)
    for path in lost:
        path.unlink()
    for path in set(cut) - set(lost):
        path.write_bytes(path.read_bytes()[:-9])
    untouched = {p: p.stat() for p in set(shards) - set(lost) - set(cut)}
    records = [
        write_cell(plan, cell, folder, reader_of(pixels))
        for stage in range(plan.stages)
        for cell in plan.cells(stage)
    ]
    assert files_of(folder) == whole
    assert sum(r.written for r in records) == len({*lost, *cut})
    assert sum(r.kept for r in records) == len(untouched)
    for path, before in untouched.items():
        after = path.stat()
        assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_finished_cell_does_not_read_the_slide(tmp_path: Path) -> None:
    pixels, plan = picture(100, 100), Pyramid(100, 100, **SMALL)
    write(plan, tmp_path / "a", pixels, random.Random(0))

    def closed(*_: int) -> np.ndarray:
        raise AssertionError("the slide was read")

    for cell in plan.cells(0):
        assert write_cell(plan, cell, tmp_path / "a", closed).written == 0


def test_a_stage_on_a_damaged_stage_is_refused(tmp_path: Path) -> None:
    pixels, plan = picture(300, 300), Pyramid(300, 300, **SMALL)
    for cell in plan.cells(0):
        write_cell(plan, cell, tmp_path / "a", reader_of(pixels))
    shard = plan.array(2).file(tmp_path / "a" / "2", (0, 1, 1))
    shard.write_bytes(shard.read_bytes()[:-1])
    (top,) = plan.cells(1)
    with pytest.raises(BadProduct, match="cut off"):
        write_cell(plan, top, tmp_path / "a", reader_of(pixels))


# --- opening


def test_what_is_no_pyramid_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingFile):
        open_stored_slide(tmp_path / "nothing")
    with new_product(tmp_path / "a", kind=KIND, key="k", about={}):
        pass
    with pytest.raises(BadProduct, match="metadata"):
        open_stored_slide(tmp_path / "a")
    slide = stored(tmp_path / "b", picture(40, 40))
    metadata = json.loads((slide.path / "0" / "zarr.json").read_text())
    for codecs in ([], [{"name": "bytes"}], [{"name": "bytes"}, {"name": "blosc"}]):
        metadata["codecs"][0]["configuration"]["codecs"] = codecs
        (slide.path / "0" / "zarr.json").write_text(json.dumps(metadata))
        with pytest.raises(BadProduct):
            open_stored_slide(slide.path)
