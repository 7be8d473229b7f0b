"""A bag comes back as it was kept, or its damage is named."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest
import sample_bags
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sample_bags import assert_same

from microtome.storage.arrays import PagedRows
from microtome.storage.bags import Bag, find_bags, read_bag, write_bag
from microtome.storage.commit import new_product
from microtome.storage.errors import (
    BadModel,
    BadProduct,
    MissingFile,
    StaleProduct,
    UnwritableOutput,
)

COLUMN = st.text("abcdefgh_ µ.", min_size=1, max_size=8).filter(lambda s: s.strip(". "))


@st.composite
def bags(draw: st.DrawFn) -> Bag:
    n, d = draw(st.integers(0, 9)), draw(st.integers(0, 5))
    positive = st.floats(0.01, 1e6)
    pairs = st.tuples(positive, positive)
    return Bag(
        id=draw(st.text(max_size=20)),
        features=draw(arrays(np.float32, (n, d))),
        coords_px=draw(arrays(np.int64, (n, 2))),
        footprint_px=draw(pairs),
        slide_px=draw(st.tuples(st.integers(1, 10**6), st.integers(1, 10**6))),
        mpp=draw(positive),
        slide_mpp=draw(pairs),
        tile_px=draw(st.integers(1, 4096)),
        encoder=draw(st.text()),
        bounds_px=draw(st.none() | st.tuples(*[st.integers(0, 10**6)] * 4)),
        feature_names=draw(st.sampled_from([(), tuple(f"f{i}" for i in range(d))])),
        quality=draw(st.dictionaries(COLUMN, arrays(np.float32, (n,)), max_size=3)),
        source=draw(st.text()),
    )


def a_bag(n: int = 5000, d: int = 3) -> Bag:
    """With a column of zeros, which is what a lost chunk might be taken for."""
    return sample_bags.a_bag(n, d, quality={"tissue": np.zeros(n, np.float32)})


@settings(max_examples=25, deadline=None)
@given(bag=bags())
def test_a_bag_comes_back_bit_for_bit(tmp_path_factory: pytest.TempPathFactory, bag: Bag) -> None:
    path = tmp_path_factory.mktemp("bag") / "x.bag.zarr"
    write_bag(path, bag, key="k")
    assert_same(read_bag(path), bag)


def test_another_zarr_reader_sees_the_same_arrays(tmp_path: Path) -> None:
    bag = a_bag()
    write_bag(tmp_path / "x.bag.zarr", bag, key="k")
    group = zarr.open_group(tmp_path / "x.bag.zarr", mode="r")
    np.testing.assert_array_equal(group["features"][...], bag.features)
    np.testing.assert_array_equal(group["coords_px"][...], bag.coords_px)
    assert group.attrs["microtome"]["instances"] == len(bag)


def test_what_is_kept_has_the_documented_types(tmp_path: Path) -> None:
    bag = dataclasses.replace(
        a_bag(10), features=np.ones((10, 2)), coords_px=np.ones((10, 2), np.int32)
    )
    write_bag(tmp_path / "x.bag.zarr", bag, key="k")
    back = read_bag(tmp_path / "x.bag.zarr")
    assert (back.features.dtype, back.coords_px.dtype) == (np.float32, np.int64)


def test_a_large_bag_is_a_few_files_and_its_features_shards(tmp_path: Path) -> None:
    bag = dataclasses.replace(a_bag(40_000), quality=dict.fromkeys("abcd", np.ones(40_000)))
    write_bag(tmp_path / "x.bag.zarr", bag, key="k")
    files = [path for path in (tmp_path / "x.bag.zarr").rglob("*") if path.is_file()]
    assert len(files) == 5 + 3 + 3 + 3
    features = zarr.open_group(tmp_path / "x.bag.zarr", mode="r")["features"]
    assert (features.chunks[0], features.shards[0]) == (512, 16_384)
    np.testing.assert_array_equal(features[...], bag.features)


def test_half_keeps_what_16_bits_hold_and_refuses_what_they_do_not(tmp_path: Path) -> None:
    bag = a_bag(10)
    write_bag(tmp_path / "x.bag.zarr", bag, key="k", half=True)
    assert zarr.open_group(tmp_path / "x.bag.zarr", mode="r")["features"].dtype == np.float16
    back = read_bag(tmp_path / "x.bag.zarr")
    assert back.features.dtype == np.float32
    np.testing.assert_array_equal(back.features, bag.features.astype(np.float16))
    large = dataclasses.replace(bag, features=np.full((10, 3), 70_000, np.float32))
    with pytest.raises(BadModel, match="too large for 16 bits"):
        write_bag(tmp_path / "y.bag.zarr", large, key="k", half=True)
    assert not (tmp_path / "y.bag.zarr").exists()


@settings(max_examples=25, deadline=None)
@given(bag=bags(), corner=st.tuples(*[st.floats(-1e6, 1e6)] * 2), size=st.floats(0, 1e6))
def test_a_part_of_a_bag_is_the_tiles_that_reach_into_it(
    tmp_path_factory: pytest.TempPathFactory, bag: Bag, corner: tuple[float, float], size: float
) -> None:
    path = tmp_path_factory.mktemp("bag") / "x.bag.zarr"
    coords = bag.coords_px % 10**6
    bag = dataclasses.replace(bag, coords_px=coords)
    write_bag(path, bag, key="k")
    part = read_bag(path, within=(*corner, size, size))
    expected = [
        i
        for i, (y, x) in enumerate(coords.tolist())
        if corner[0] - bag.footprint_px[0] < y < corner[0] + size
        and corner[1] - bag.footprint_px[1] < x < corner[1] + size
    ]
    np.testing.assert_array_equal(part.coords_px, coords[expected])
    np.testing.assert_array_equal(part.features, bag.features[expected])
    for name, column in bag.quality.items():
        np.testing.assert_array_equal(part.quality[name], column[expected])


def chunks_of(path: Path) -> list[Path]:
    return sorted(p for p in path.rglob("*") if p.is_file() and "c" in p.relative_to(path).parts)


def test_a_lost_chunk_is_damage_and_not_zeros(tmp_path: Path) -> None:
    for i, name in enumerate(["features/c/0/0", "coords_px/c/0/0", "quality/c/0/0"]):
        path = tmp_path / f"{i}.bag.zarr"
        write_bag(path, a_bag(), key="k")
        (path / name).unlink()
        with pytest.raises(BadProduct, match="missing"):
            read_bag(path)


def test_every_damaged_chunk_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "x.bag.zarr"
    write_bag(path, a_bag(), key="k")
    chunks = chunks_of(path)
    assert len(chunks) == 3
    for chunk in chunks:
        good = chunk.read_bytes()
        bad = bytearray(good)
        bad[len(bad) // 2] ^= 0x10
        for data in (bytes(bad), good[: len(good) // 2], b""):
            chunk.write_bytes(data)
            with pytest.raises(BadProduct):
                read_bag(path)
        chunk.write_bytes(good)
    assert_same(read_bag(path), a_bag())


@pytest.mark.parametrize("name", ["zarr.json", "features/zarr.json", "quality/zarr.json"])
@pytest.mark.parametrize("text", [None, "", "[]"])
def test_damaged_metadata_is_named(tmp_path: Path, name: str, text: str | None) -> None:
    path = tmp_path / "x.bag.zarr"
    write_bag(path, a_bag(10), key="k")
    if text is None:
        (path / name).unlink()
    else:
        (path / name).write_text(text)
    with pytest.raises(BadProduct):
        read_bag(path)


def test_what_is_no_bag_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingFile):
        read_bag(tmp_path / "x.bag.zarr")
    (tmp_path / "half.bag.zarr").mkdir()
    with pytest.raises(BadProduct, match="commit record"):
        read_bag(tmp_path / "half.bag.zarr")
    with new_product(tmp_path / "model", kind="model", key="k", about={}):
        pass
    with pytest.raises(BadProduct, match="a model, not a bag"):
        read_bag(tmp_path / "model")
    with new_product(tmp_path / "bare.bag.zarr", kind="bag", key="k", about={}):
        pass
    with pytest.raises(BadProduct, match="damaged"):
        read_bag(tmp_path / "bare.bag.zarr")


def test_a_bag_of_other_parameters_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "x.bag.zarr"
    write_bag(path, a_bag(10), key="k")
    with pytest.raises(StaleProduct):
        write_bag(path, a_bag(20), key="other")
    assert len(read_bag(path)) == 10
    write_bag(path, a_bag(20), key="other", overwrite=True)
    assert len(read_bag(path)) == 20


@pytest.mark.parametrize(
    "change",
    [
        {"coords_px": np.zeros((4, 2), np.int64)},
        {"coords_px": np.zeros((5, 3), np.int64)},
        {"features": np.zeros(5, np.float32)},
        {"feature_names": ("one",)},
        {"quality": {"tissue": np.zeros(4, np.float32)}},
        {"quality": {"a/b": np.zeros(5, np.float32)}},
    ],
)
def test_parts_that_do_not_fit_together_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="case-17"):
        dataclasses.replace(a_bag(5), **change)


def test_bags_are_found_by_slide_and_unfinished_ones_are_not(tmp_path: Path) -> None:
    for name in ("b", "a"):
        write_bag(tmp_path / f"{name}.bag.zarr", a_bag(2), key="k")
    (tmp_path / ".c.bag.zarr.0123456789ab.partial").mkdir()
    (tmp_path / ".a.bag.zarr.lock").touch()
    assert list(find_bags(tmp_path)) == ["a", "b"]


class TestPagedRows:
    @pytest.mark.parametrize("paged", [False, True])
    def test_rows_that_come_in_any_order_are_all_there(self, tmp_path: Path, paged: bool) -> None:
        rng = np.random.default_rng(0)
        values = rng.normal(size=(3000, 37)).astype(np.float32)
        kept = PagedRows(3000, 37, tmp_path if paged else None)
        for part in np.array_split(rng.permutation(3000), 40):
            kept.put(part, values[part])
        np.testing.assert_array_equal(kept.rows, values)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.skipif(sys.platform != "linux", reason="memory is paged on Linux alone")
    def test_rows_that_were_put_leave_memory(self, tmp_path: Path) -> None:
        def resident() -> int:
            return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

        kept = PagedRows(16384, 1024, tmp_path)
        before = resident()
        for start in range(0, 16384, 1024):
            at = np.arange(start, start + 1024)
            kept.put(at, np.full((1024, 1024), start, np.float32))
        assert resident() - before < 32 * 2**20 < kept.rows.nbytes
        assert (kept.rows[::1024, 5] == np.arange(0, 16384, 1024)).all()

    def test_a_folder_that_cannot_be_made_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(UnwritableOutput, match="file"):
            PagedRows(3, 4, tmp_path / "file" / "bags")
