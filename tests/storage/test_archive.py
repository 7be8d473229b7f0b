"""Kept JPEG tiles: described as they are, packed untouched, folded where levels lack."""

from __future__ import annotations

import io
import itertools
from collections import Counter
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import yaozarrs
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from ome_zarr_models.v05 import Image as OmeImage
from PIL import Image

from microtome.storage.archive import Archive, KeptLevel, write_batch
from microtome.storage.codecs import codec_from
from microtome.storage.commit import new_product
from microtome.storage.errors import BadProduct, DamagedChunk
from microtome.storage.jpeg import Jpeg, decode_tile, frame_of
from microtome.storage.shards import (
    ShardedArray,
    ShardWriter,
    read_box,
    write_metadata,
)
from microtome.storage.stored_slides import (
    KIND,
    StoredSlide,
    open_stored_slide,
    write_slide_metadata,
)

SAMPLINGS = {
    "4:4:4": ((1, 1), (1, 1), (1, 1)),
    "4:2:2": ((2, 1), (1, 1), (1, 1)),
    "4:2:0": ((2, 2), (1, 1), (1, 1)),
}


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth colours: what JPEG is for."""
    y, x = np.mgrid[:height, :width]
    phase = np.random.default_rng(seed).uniform(0, 6, 3)
    waves = [np.sin(y / (9 + 2 * k) + phase[k]) + np.cos(x / (11 - k)) for k in range(3)]
    return (np.stack(waves, -1) * 60 + 128).astype(np.uint8)


def jpeg(pixels: np.ndarray, sampling: str = "4:2:0", **options: object) -> bytes:
    with io.BytesIO() as file:
        Image.fromarray(pixels).save(file, "JPEG", quality=85, subsampling=sampling, **options)
        return file.getvalue()


def libjpeg(stream: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(stream)).convert("RGB"))


# --- streams


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("progressive", [False, True])
def test_headers_say_what_another_library_reads(sampling: str, progressive: bool) -> None:
    frame = frame_of(jpeg(picture(70, 90), sampling, progressive=progressive))
    assert (frame.height_px, frame.width_px, frame.is_rgb) == (70, 90, False)
    assert frame.sampling == SAMPLINGS[sampling]


def test_red_green_and_blue_are_known_by_their_marker() -> None:
    rgb = imagecodecs.jpeg8_encode(picture(20, 30), colorspace="rgb", outcolorspace="rgb")
    assert frame_of(rgb).is_rgb
    assert Jpeg.like(frame_of(rgb)).configuration() == {
        "quality": 90,
        "encoded_color_space": "rgb",
        "subsampling": [[1, 1], [1, 1], [1, 1]],
    }


@settings(max_examples=200, deadline=None)
@given(cut=st.integers(0, 800), flips=st.lists(st.tuples(st.integers(0, 799), st.integers(0, 255))))
def test_headers_of_any_bytes_are_read_or_refused(cut: int, flips: list[tuple[int, int]]) -> None:
    stream = bytearray(jpeg(picture(16, 16))[:cut])
    for at, value in flips:
        if at < len(stream):
            stream[at] = value
    try:
        frame = frame_of(bytes(stream))
    except ValueError:
        return
    assert min(frame.height_px, frame.width_px) >= 1


def test_a_tile_that_was_cut_is_filled_up_white_and_a_larger_one_refused() -> None:
    stream = jpeg(picture(40, 64))
    filled = decode_tile(stream, (64, 96))
    np.testing.assert_array_equal(filled[:40, :64], libjpeg(stream))
    assert (filled[40:] == 255).all()
    assert (filled[:, 64:] == 255).all()
    for size in [(64, 32), (32, 96), (16, 16)]:
        with pytest.raises(ValueError, match=r"."):
            decode_tile(stream, size)


@pytest.mark.parametrize("kept", [0.3, 0.7, 0.95])
def test_what_libjpeg_would_make_up_in_grey_is_refused(kept: float) -> None:
    stream = jpeg(picture(256, 256))
    with pytest.raises(ValueError, match=r"."):
        decode_tile(stream[: int(len(stream) * kept)] + b"\xff\xd9", (256, 256))


# --- the codec


@given(
    quality=st.integers(0, 100),
    space=st.sampled_from(["ycbcr", "rgb"]),
    sampling=st.sampled_from([*SAMPLINGS.values(), ((4, 1), (1, 1), (1, 1))]),
)
def test_a_codec_comes_back_from_its_metadata(
    quality: int, space: str, sampling: tuple[tuple[int, int], ...]
) -> None:
    codec = Jpeg(quality, space, sampling)
    assert codec_from(codec.metadata()) == codec


def test_metadata_are_those_of_the_open_proposal() -> None:
    assert Jpeg(90).metadata() == [
        {"name": "transpose", "configuration": {"order": [1, 2, 0]}},
        {
            "name": "jpeg",
            "configuration": {
                "quality": 90,
                "encoded_color_space": "ycbcr",
                "subsampling": [[1, 1], [1, 1], [1, 1]],
            },
        },
    ]
    # As it has it, 4:2:0 where nothing is said.
    assert Jpeg.from_configuration(quality=1).sampling == SAMPLINGS["4:2:0"]


@pytest.mark.parametrize(
    "chain",
    [
        [{"name": "transpose", "configuration": {"order": [0, 1, 2]}}, Jpeg().metadata()[1]],
        [Jpeg().metadata()[0], {"name": "jpeg", "configuration": {"quality": 200}}],
        [Jpeg().metadata()[1]],
    ],
)
def test_a_chain_that_is_not_ours_is_refused(chain: list[dict]) -> None:
    with pytest.raises((BadProduct, KeyError, ValueError)):
        codec_from(chain)


def layout(height: int, width: int) -> ShardedArray:
    return ShardedArray(
        (3, height, width), np.dtype("uint8"), (3, 64, 96), (3, 32, 48), ("c", "y", "x"),
        Jpeg(95), 255,
    )  # fmt: skip


def test_zarr_reads_what_we_pack_and_an_absent_tile_is_white(tmp_path: Path) -> None:
    array, folder = layout(50, 90), tmp_path / "a"
    tiles = [jpeg(picture(32, 48, seed)) for seed in range(4)]
    with ShardWriter() as writer:
        writer.write(array, folder, (0, 0, 0), [tiles[0], None, tiles[2], tiles[3]])
    write_metadata(folder, array.metadata())
    whole = np.full((64, 96, 3), 255, np.uint8)
    for number in (0, 2, 3):
        y, x = number // 2 * 32, number % 2 * 48
        whole[y : y + 32, x : x + 48] = libjpeg(tiles[number])
    expected = whole[:50, :90].transpose(2, 0, 1)
    np.testing.assert_array_equal(zarr.open_array(folder, mode="r")[...], expected)
    box = tuple(slice(0, n, 1) for n in array.shape)
    np.testing.assert_array_equal(read_box(array, folder, box), expected)


def test_zarr_writes_what_we_read(tmp_path: Path) -> None:
    array, folder = layout(64, 96), tmp_path / "a"
    write_metadata(folder, array.metadata())
    pixels = picture(64, 96).transpose(2, 0, 1)
    zarr.open_array(folder, mode="r+")[...] = pixels
    back = read_box(array, folder, tuple(slice(0, n, 1) for n in array.shape))
    assert np.abs(back.astype(int) - pixels).max() < 16
    np.testing.assert_array_equal(back, zarr.open_array(folder, mode="r")[...])


def test_one_damaged_tile_is_named_and_its_neighbours_are_read(tmp_path: Path) -> None:
    array, folder = layout(64, 96), tmp_path / "a"
    tile = jpeg(picture(32, 48))
    chunks = [tile, tile[: len(tile) // 2], tile, tile]
    with ShardWriter() as writer:
        writer.write(array, folder, (0, 0, 0), chunks)
    part = read_box(array, folder, (slice(0, 3, 1), slice(32, 64, 1), slice(0, 96, 1)))
    np.testing.assert_array_equal(part[:, :, :48].transpose(1, 2, 0), libjpeg(tile))
    with pytest.raises(DamagedChunk, match=r"'y': 0, 'x': 48"):
        read_box(array, folder, tuple(slice(0, n, 1) for n in array.shape))
    write_metadata(folder, array.metadata())
    with pytest.raises(ValueError, match=r"."):
        zarr.open_array(folder, mode="r")[:, :32]


# --- the plan

TILE = (32, 48)


def plan_of(height: int, width: int, steps: tuple[float, ...] = (1,), **options: int) -> Archive:
    levels = tuple(
        KeptLevel(-(-height // int(n)), -(-width // int(n)), TILE, (n, n), Jpeg()) for n in steps
    )
    return Archive(levels, **options)


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 40_000),
    width=st.integers(1, 40_000),
    steps=st.sampled_from([(1,), (1, 4), (1, 2, 8), (1, 3)]),
    jobs=st.integers(1, 5),
)
def test_every_shard_is_made_by_exactly_one_task(
    height: int, width: int, steps: tuple[int, ...], jobs: int
) -> None:
    plan = plan_of(height, width, steps)
    parts = [batch for stage in range(plan.stages) for batch in plan.batches(stage, jobs)]
    made = Counter(itertools.chain.from_iterable(part.shards for part in parts))
    wanted = {(n, i) for n, array in enumerate(plan.arrays) for i in array.indices()}
    assert set(made) == wanted
    assert set(made.values()) == {1}
    assert max(plan.arrays[-1].shape[1:]) <= 1024 or len(plan.arrays) == len(steps)
    for array in plan.arrays:
        assert max(array.shard) <= 8192


def test_a_slide_of_ten_gigapixels_is_few_files_and_few_tasks() -> None:
    plan = plan_of(100_000, 100_000, (1, 4, 16))
    assert sum(1 for array in plan.arrays for _ in array.indices()) < 250
    assert sum(len(plan.batches(stage, 1)) for stage in range(plan.stages)) < 30


# --- the image


def stored(path: Path, pixels: np.ndarray, **options: int) -> tuple[StoredSlide, dict]:
    """An image of one kept level, and the tiles that it was made of."""
    plan = plan_of(*pixels.shape[:2], **options)
    tall, wide = TILE
    tiles = {}
    rows, columns = (-(-n // side) for n, side in zip(pixels.shape, TILE, strict=False))
    for row, column in itertools.product(range(rows), range(columns)):
        part = pixels[row * tall : (row + 1) * tall, column * wide : (column + 1) * wide]
        tiles[0, row, column] = jpeg(part, "4:4:4")
    with new_product(path, kind=KIND, key="k", about={"mpp": [0.5, 0.25]}) as folder:
        for stage in range(plan.stages):
            for batch in plan.batches(stage, 1):
                write_batch(plan, batch, folder, lambda *place: tiles[place])
        write_slide_metadata(
            folder, plan.arrays, plan.downsamples, name="a", mpp=(0.5, 0.25), about={}, method=None
        )
    return open_stored_slide(path), tiles


def test_missing_levels_are_means_of_four_by_four(tmp_path: Path) -> None:
    pixels = picture(333, 470)
    slide, _ = stored(tmp_path / "a.ome.zarr", pixels, overview_px=64, shard_px=100, quality=100)
    assert [level.shape[1:] for level in slide.levels] == [(333, 470), (84, 118), (21, 30)]
    kept = slide.read(0, 0, 0, 333, 470).astype(float)
    folded = slide.read(1, 0, 0, 84, 118)
    mean = kept[:332, :468].reshape(83, 4, 117, 4, 3).mean((1, 3))
    assert np.abs(folded[:83, :117] - mean).mean() < 0.7
    # The last row stands for one row of pixels, the last column for two columns.
    edge = kept[332, :468].reshape(117, 4, 3).mean(1)
    assert np.abs(folded[83, :117] - edge).mean() < 0.8


def test_scales_are_those_of_the_levels_and_validators_accept_them(tmp_path: Path) -> None:
    plan = plan_of(90, 150, (1, 3), overview_px=16)
    folder = tmp_path / "a.ome.zarr"
    for stage in range(plan.stages):
        for batch in plan.batches(stage, 1):
            write_batch(plan, batch, folder, lambda *_: None)
    write_slide_metadata(
        folder, plan.arrays, plan.downsamples, name="a", mpp=(0.5, 0.25), about={}, method=None
    )
    yaozarrs.validate_zarr_store(folder)
    image = OmeImage.from_zarr(zarr.open_group(folder, mode="r"))
    datasets = image.attributes.ome.multiscales[0].datasets
    scales = [level.coordinateTransformations[0].scale for level in datasets]
    assert scales == [[1.0, 0.5 * n, 0.25 * n] for n in (1, 3, 12)]
    # The centre of the first pixel is that of the 3 × 3, or 12 × 12, that it stands for.
    shifts = [level.coordinateTransformations[1].translation for level in datasets[1:]]
    assert shifts == [[0.0, 0.5, 0.25], [0.0, 2.75, 1.375]]
    assert (zarr.open_group(folder, mode="r")["2"][...] == 255).all()


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_rectangle_is_read(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "archive-rectangles.ome.zarr"
    if not path.exists():
        stored(path, picture(150, 217), shard_px=100)
    slide = open_stored_slide(path)
    expected = zarr.open_group(path, mode="r")["0"][...].transpose(1, 2, 0)
    y, x = data.draw(st.integers(0, 149)), data.draw(st.integers(0, 216))
    height, width = data.draw(st.integers(1, 150 - y)), data.draw(st.integers(1, 217 - x))
    part = slide.read(0, y, x, height, width)
    np.testing.assert_array_equal(part, expected[y : y + height, x : x + width])
    assert part.flags["C_CONTIGUOUS"]
