"""Shards are what Zarr says they are, whole, and their damage is noticed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from microtome.storage.codecs import Zstd
from microtome.storage.errors import BadProduct
from microtome.storage.shards import (
    ShardedArray,
    ShardWriter,
    encoded_chunks,
    is_whole,
    read_box,
    write_metadata,
    write_shard,
)

DTYPES = ["uint8", "int16", "uint16", "int32", "float32", "float64"]


@st.composite
def layouts(draw: st.DrawFn) -> ShardedArray:
    ndim = draw(st.integers(1, 4))
    chunk = draw(st.tuples(*[st.integers(1, 4)] * ndim))
    times = draw(st.tuples(*[st.integers(1, 3)] * ndim))
    shape = draw(st.tuples(*[st.integers(1, 14 if ndim < 4 else 7)] * ndim))
    return ShardedArray(
        shape=shape,
        dtype=np.dtype(draw(st.sampled_from(DTYPES))),
        shard=tuple(c * t for c, t in zip(chunk, times, strict=True)),
        chunk=chunk,
        names=("t", "z", "y", "x")[:ndim],
        codec=Zstd(draw(st.sampled_from([1, 3]))),
    )


def values_for(array: ShardedArray, seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).integers(0, 50, array.shape)
    values[values < 20] = 0
    return values.astype(array.dtype)


def keep(array: ShardedArray, folder: Path, values: np.ndarray) -> None:
    for index in array.indices():
        write_shard(array, folder, index, values[array.box(index)])
    write_metadata(folder, array.metadata())


@settings(max_examples=60, deadline=None)
@given(array=layouts(), data=st.data())
def test_zarr_and_we_read_the_same_values(
    tmp_path_factory: pytest.TempPathFactory, array: ShardedArray, data: st.DataObject
) -> None:
    folder, values = tmp_path_factory.mktemp("a") / "a", values_for(array)
    keep(array, folder, values)
    opened = zarr.open_array(folder, mode="r")
    assert (opened.dtype, opened.shape) == (array.dtype, array.shape)
    assert opened.metadata.dimension_names == array.names
    np.testing.assert_array_equal(opened[...], values)
    lows = [data.draw(st.integers(0, n - 1)) for n in array.shape]
    highs = [data.draw(st.integers(a + 1, n)) for a, n in zip(lows, array.shape, strict=True)]
    box = tuple(slice(a, b, 1) for a, b in zip(lows, highs, strict=True))
    np.testing.assert_array_equal(read_box(array, folder, box), values[box])
    assert ShardedArray.from_metadata(json.loads((folder / "zarr.json").read_text())) == array


def test_we_read_what_zarr_wrote(tmp_path: Path) -> None:
    array = ShardedArray((3, 70, 45), np.dtype("uint16"), (3, 32, 32), (3, 8, 8), ("c", "y", "x"))
    values = values_for(array)
    opened = zarr.create_array(
        tmp_path / "a",
        shape=array.shape,
        dtype=array.dtype,
        chunks=array.chunk,
        shards=array.shard,
        compressors=zarr.codecs.ZstdCodec(level=1),
    )
    opened[...] = values
    whole = tuple(slice(0, n, 1) for n in array.shape)
    np.testing.assert_array_equal(read_box(array, tmp_path / "a", whole), values)


def test_minus_zero_and_nan_are_kept(tmp_path: Path) -> None:
    array = ShardedArray((4,), np.dtype("float32"), (4,), (2,), ("x",))
    values = np.array([-0.0, 0.0, np.nan, 0.0], np.float32)
    keep(array, tmp_path / "a", values)
    back = read_box(array, tmp_path / "a", (slice(0, 4, 1),))
    assert back.tobytes() == values.tobytes()
    assert zarr.open_array(tmp_path / "a", mode="r")[...].tobytes() == values.tobytes()


def encoded(array: ShardedArray, values: np.ndarray) -> bytes:
    return b"".join(array.packed(encoded_chunks(array, values)))


def test_an_empty_chunk_takes_no_room() -> None:
    array = ShardedArray((64, 64), np.dtype("uint8"), (64, 64), (16, 16), ("y", "x"))
    assert len(encoded(array, np.zeros((64, 64), np.uint8))) == 16 * 16 + 4


A_LAYOUT = ShardedArray((3, 40, 40), np.dtype("uint8"), (3, 32, 32), (3, 16, 16), ("c", "y", "x"))
WHOLE = tuple(slice(0, n, 1) for n in A_LAYOUT.shape)


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    keep(A_LAYOUT, tmp_path / "a", values_for(A_LAYOUT))
    return tmp_path / "a"


def test_a_shard_cut_off_anywhere_is_not_whole(kept: Path) -> None:
    path = A_LAYOUT.file(kept, (0, 0, 0))
    data = path.read_bytes()
    assert is_whole(A_LAYOUT, kept, (0, 0, 0))
    for length in [*range(0, len(data), 7), len(data) - 1]:
        path.write_bytes(data[:length])
        assert not is_whole(A_LAYOUT, kept, (0, 0, 0))
    path.write_bytes(data + b"\0")
    assert not is_whole(A_LAYOUT, kept, (0, 0, 0))
    path.write_bytes(b"\0" + data)
    assert not is_whole(A_LAYOUT, kept, (0, 0, 0))
    path.unlink()
    assert not is_whole(A_LAYOUT, kept, (0, 0, 0))
    with pytest.raises(BadProduct, match="missing"):
        read_box(A_LAYOUT, kept, WHOLE)


def test_a_flipped_bit_anywhere_is_noticed_when_it_is_read(kept: Path) -> None:
    path = A_LAYOUT.file(kept, (0, 0, 0))
    data = path.read_bytes()
    for place in range(0, len(data), 5):
        damaged = bytearray(data)
        damaged[place] ^= 0x04
        path.write_bytes(damaged)
        with pytest.raises(BadProduct):
            read_box(A_LAYOUT, kept, WHOLE)


def test_equal_values_give_equal_bytes() -> None:
    values = values_for(A_LAYOUT)[A_LAYOUT.box((0, 0, 0))]
    strided = np.asfortranarray(values)
    assert encoded(A_LAYOUT, values) == encoded(A_LAYOUT, strided)


@pytest.mark.parametrize(
    "change",
    [
        {"shard": (3, 32, 30)},
        {"chunk": (3, 16)},
        {"shape": (3, 0, 40)},
        {"names": ("y", "x")},
    ],
)
def test_a_layout_that_cannot_be_is_refused(change: dict[str, Any]) -> None:
    parts = {"shape": (3, 40, 40), "dtype": np.dtype("uint8"), "shard": (3, 32, 32)}
    parts |= {"chunk": (3, 16, 16), "names": ("c", "y", "x")} | change
    with pytest.raises(ValueError, match="do not tile"):
        ShardedArray(**parts)


def test_a_shard_whose_making_fails_leaves_nothing_and_those_before_it_are_whole(
    tmp_path: Path,
) -> None:
    first, second = (list(A_LAYOUT.indices())[n] for n in (0, 1))
    values = values_for(A_LAYOUT)

    def failing() -> Iterator[bytes | None]:
        yield b"a chunk"
        raise ValueError("the second chunk")

    whole = encoded_chunks(A_LAYOUT, values[A_LAYOUT.box(first)])
    with ShardWriter() as writer:
        writer.write(A_LAYOUT, tmp_path, first, whole)
        with pytest.raises(ValueError, match="the second chunk"):
            writer.write(A_LAYOUT, tmp_path, second, failing())
    assert is_whole(A_LAYOUT, tmp_path, first)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [
        A_LAYOUT.file(tmp_path, first)
    ]


def test_what_befell_a_shard_on_its_way_to_disk_is_raised(tmp_path: Path) -> None:
    index = (0, 0, 0)
    path = A_LAYOUT.file(tmp_path, index)
    path.mkdir(parents=True)
    chunks = encoded_chunks(A_LAYOUT, values_for(A_LAYOUT)[A_LAYOUT.box(index)])
    writer = ShardWriter()
    writer.write(A_LAYOUT, tmp_path, index, chunks)
    with pytest.raises(IsADirectoryError):
        writer.__exit__(None, None, None)
    assert list(path.parent.iterdir()) == [path]
