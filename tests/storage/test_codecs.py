"""Codecs: what one writes, other libraries read; damage is an error; loss is named."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from microtome.storage.codecs import (
    CODECS,
    Blosc,
    Checked,
    ChunkCodec,
    Raw,
    Zstd,
    codec_from,
    codec_named,
)
from microtome.storage.errors import BadProduct, DamagedChunk
from microtome.storage.jpeg import Jpeg
from microtome.storage.shards import (
    ShardedArray,
    read_box,
    read_metadata,
    write_metadata,
    write_shard,
)

LOSSLESS = [
    Zstd(), Zstd(19), Checked(Blosc()), Checked(Blosc(9)), Checked(Raw()),
]  # fmt: skip


def array_of(shape: tuple[int, int], codec: ChunkCodec) -> ShardedArray:
    return ShardedArray(
        (3, *shape), np.dtype(np.uint8), (3, 64, 64), (3, 16, 16), ("c", "y", "x"), codec
    )


def write(array: ShardedArray, folder: Path, values: np.ndarray) -> None:
    for index in array.indices():
        write_shard(array, folder, index, values[array.box(index)])
    write_metadata(folder, array.metadata())


@pytest.mark.parametrize("codec", LOSSLESS, ids=str)
def test_zarr_python_reads_what_is_written(codec: ChunkCodec, tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 9, (3, 70, 90), np.uint8)
    values[:, :20, :40] = 0
    array = array_of((70, 90), codec)
    write(array, tmp_path / "a", values)
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "a", mode="r")[...], values)
    back = ShardedArray.from_metadata(array.metadata())
    assert back == array
    np.testing.assert_array_equal(
        read_box(back, tmp_path / "a", tuple(slice(0, n, 1) for n in values.shape)), values
    )


@pytest.mark.parametrize("codec", [Checked(Blosc(1)), Checked(Raw())], ids=str)
def test_what_zarr_python_writes_is_read(codec: ChunkCodec, tmp_path: Path) -> None:
    from zarr.codecs import BloscCodec, Crc32cCodec

    values = np.random.default_rng(1).integers(0, 255, (3, 64, 64), np.uint8)
    blosc = BloscCodec(cname="zstd", clevel=1, shuffle="noshuffle", typesize=1)
    theirs = [blosc, Crc32cCodec()] if "Blosc" in str(codec) else [Crc32cCodec()]
    made = zarr.create_array(
        tmp_path / "a", shape=values.shape, dtype="u1", chunks=(3, 16, 16), shards=(3, 64, 64),
        compressors=theirs, dimension_names=("c", "y", "x"),
    )  # fmt: skip
    made[...] = values
    array = ShardedArray.from_metadata(read_metadata(tmp_path / "a"))
    assert array.codec.metadata() == codec.metadata()
    whole = tuple(slice(0, n, 1) for n in values.shape)
    np.testing.assert_array_equal(read_box(array, tmp_path / "a", whole), values)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([*LOSSLESS, codec_named("jpeg")]),
    st.integers(0, 10**6),
    st.integers(1, 255),
    st.integers(0, 4),
)
def test_a_flipped_byte_of_a_chunk_is_never_read(
    codec: ChunkCodec, place: int, flip: int, seed: int
) -> None:
    values = np.random.default_rng(seed).integers(0, 200, (3, 16, 16), np.uint8)
    data = bytearray(codec.encode(values))
    expected = codec.decode(bytes(data), values.shape, values.dtype).copy()
    data[place % len(data)] ^= flip
    try:
        found = codec.decode(bytes(data), values.shape, values.dtype)
    except (ValueError, RuntimeError):
        return
    # A frame's header has bits that mean nothing.
    np.testing.assert_array_equal(found, expected)


def test_a_cut_chunk_in_a_whole_shard_is_a_damaged_chunk(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 200, (3, 16, 16), np.uint8)
    array = array_of((16, 16), Checked(Blosc()))
    write_shard(array, tmp_path, (0, 0, 0), values)
    path = array.file(tmp_path, (0, 0, 0))
    data = bytearray(path.read_bytes())
    data[40] ^= 1
    path.write_bytes(data)
    with pytest.raises(DamagedChunk, match="checksum"):
        read_box(array, tmp_path, (slice(0, 3, 1), slice(0, 16, 1), slice(0, 16, 1)))


def test_the_same_pixels_give_the_same_bytes_in_any_thread() -> None:
    """Blosc with several threads writes its blocks in the order in which they end."""
    from concurrent.futures import ThreadPoolExecutor

    values = np.random.default_rng(0).integers(0, 9, (3, 512, 512), np.uint8)
    with ThreadPoolExecutor(4) as pool:
        made = set(pool.map(lambda _: Blosc().encode(values), range(8)))
    assert made == {Blosc().encode(values)}


def smooth(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    waves = [127 + 100 * np.sin(y / 9 + n) * np.cos(x / 11) for n in range(3)]
    return np.stack(waves).astype(np.uint8)


def test_jpeg_is_near_and_nearer_with_more_quality(tmp_path: Path) -> None:
    values, errors, sizes = smooth(70, 90), [], []
    for quality in (30, 85, 97):
        array = array_of((70, 90), codec_named("jpeg", quality=quality))
        write(array, tmp_path / str(quality), values)
        found = zarr.open_array(tmp_path / str(quality), mode="r")[...].astype(float)
        errors.append(float(np.abs(found - values).mean()))
        sizes.append(
            sum(p.stat().st_size for p in (tmp_path / str(quality)).rglob("0") if p.is_file())
        )
        # Beyond the edge its own colours go on: the last rows are as near as any.
        assert np.abs(found[:, -6:] - values[:, -6:]).mean() < 2 * errors[-1] + 1
        assert ShardedArray.from_metadata(array.metadata()).codec.loss == f"JPEG, quality {quality}"
    assert errors == sorted(errors, reverse=True)
    assert sizes == sorted(sizes)
    assert errors[-1] < 1.5


def test_codecs_by_name() -> None:
    assert [codec_named(name).loss for name in CODECS] == ["", "", "", "JPEG, quality 85"]
    assert codec_named("zstd") == Zstd(1)
    assert codec_named("zstd", 22) == Zstd(22)
    assert codec_named("blosc", 0) == Checked(Blosc(0))
    assert codec_named("jpeg", quality=100) == Checked(Jpeg(100))
    keys = [str(codec_named(name).metadata()) for name in CODECS]
    assert all(a != b for a, b in itertools.combinations(keys, 2))


@pytest.mark.parametrize(
    ("name", "level", "quality"),
    [
        ("lzma", None, None), ("zstd", 0, None), ("zstd", 23, None), ("blosc", 10, None),
        ("blosc", -1, None), ("none", 1, None), ("jpeg", 1, None), ("jpeg", None, 0),
        ("jpeg", None, 101), ("zstd", None, 85),
    ],
)  # fmt: skip
def test_what_a_codec_does_not_take_is_refused(
    name: str, level: int | None, quality: int | None
) -> None:
    with pytest.raises(ValueError, match=name):
        codec_named(name, level, quality)


@pytest.mark.parametrize(
    "chain", [[], [{"name": "crc32c"}], [{"name": "bytes"}, {"name": "gzip"}]], ids=str
)
def test_other_codecs_are_named_as_unknown(chain: list) -> None:
    with pytest.raises(BadProduct, match="are not read here"):
        codec_from(chain)
