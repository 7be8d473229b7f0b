"""A view gives the pixels of a slide's own tiles, copies none of them, and notices their loss."""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import dask.array as da
import imagecodecs
import numpy as np
import pytest
import tifffile
import yaozarrs
import zarr
from ome_zarr_models.v05 import Image
from zarr.abc.store import OffsetByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.core.buffer import default_buffer_prototype
from zarr.errors import GroupNotFoundError
from zarr.storage import MemoryStore

from microtome.engine.ingest import Ingested, ingest_slide
from microtome.engine.schedule import Skipped
from microtome.engine.slides import open_slide
from microtome.storage.errors import (
    BadProduct,
    MissingFile,
    StaleProduct,
    UnreadableFile,
)
from microtome.storage.virtual import Window, open_view
from microtome.storage.virtual_store import VirtualStore

SVS = "slides/aperio/CMU-1-Small-Region.svs"
TALL, WIDE = 96, 160
PROTOTYPE = default_buffer_prototype()


def viewed(path: Path, out: Path, **options: object) -> Path:
    made = ingest_slide(path, out, profile="virtual", **options)
    assert isinstance(made, Ingested)
    return made.path


def opened(product: Path) -> zarr.Group:
    return zarr.open_group(VirtualStore(product), mode="r")


def files_of(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def truth_of(path: Path) -> list[np.ndarray]:
    with tifffile.TiffFile(path) as tif:
        return [level.asarray() for level in tif.series[0].levels]


# --- slides


@pytest.fixture(scope="module")
def tissue(shared_data: Path) -> np.ndarray:
    return tifffile.imread(shared_data / SVS, key=0)[:1333, :1471]


@pytest.fixture(scope="module")
def thirds(tissue: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """YCbCr 4:2:0, whole streams; levels a third and a ninth as wide."""
    path = tmp_path_factory.mktemp("thirds") / "thirds.tif"
    with tifffile.TiffWriter(path, bigtiff=True) as tif:
        for step in (1, 3, 9):
            tif.write(
                np.ascontiguousarray(tissue[::step, ::step]),
                tile=(TALL, WIDE),
                photometric="ycbcr",
                subsampling=(2, 2),
                compression="jpeg",
                compressionargs={"level": 80},
                subifds=2 if step == 1 else None,
                subfiletype=0 if step == 1 else 1,
                resolution=(20_000, 20_000),
                resolutionunit="CENTIMETER",
            )
    return path


@pytest.fixture(scope="module")
def tabled(tissue: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """RGB without a word of it in the streams, whose tables the file keeps apart."""
    path = tmp_path_factory.mktemp("tabled") / "tabled.tif"
    with tifffile.TiffWriter(path) as tif:
        for step in (1, 2, 8):
            pixels = tissue[::step, ::step]
            tables, tiles = zip(*map(_abbreviated, _tiles(pixels)), strict=True)
            (common,) = set(tables)
            tif.write(
                iter(tiles),
                shape=pixels.shape,
                dtype=np.uint8,
                tile=(TALL, WIDE),
                photometric="rgb",
                compression="jpeg",
                compressionargs={"outcolorspace": "rgb"},
                subfiletype=int(step > 1),
                extratags=[(347, 7, len(common), common, True)],
                metadata=None,
            )
    with tifffile.TiffFile(path) as tif:
        assert {page.photometric.name for page in tif.pages} == {"RGB"}
    return path


def _tiles(pixels: np.ndarray) -> Iterator[bytes]:
    for y in range(0, pixels.shape[0], TALL):
        for x in range(0, pixels.shape[1], WIDE):
            part = pixels[y : y + TALL, x : x + WIDE]
            beyond = [(0, TALL - part.shape[0]), (0, WIDE - part.shape[1]), (0, 0)]
            whole = np.ascontiguousarray(np.pad(part, beyond, mode="edge"))
            yield imagecodecs.jpeg8_encode(whole, 80, colorspace="rgb", outcolorspace="rgb")


def _abbreviated(stream: bytes) -> tuple[bytes, bytes]:
    """(tables, the rest) of a stream, without markers or names that tell its colours."""
    tables, rest, at, unnamed = [], [], 2, bytearray(stream)
    while (marker := stream[at + 1]) != 0xDA:
        stop = at + 2 + int.from_bytes(stream[at + 2 : at + 4], "big")
        if marker == 0xC0:
            unnamed[at + 10 : stop : 3] = b"\1\2\3"
        if marker in (0xDB, 0xC4):
            tables.append(stream[at:stop])
        elif marker not in (0xE0, 0xEE):
            rest.append(bytes(unnamed[at:stop]))
        at = stop
    unnamed[at + 5 : at + 11 : 2] = b"\1\2\3"
    start, end = b"\xff\xd8", b"\xff\xd9"
    return start + b"".join(tables) + end, start + b"".join(rest) + bytes(unnamed[at:])


CASES = ("svs", "thirds", "tabled")
Case = tuple[Path, Path]


@pytest.fixture(scope="module")
def cases(
    shared_data: Path, thirds: Path, tabled: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Case]:
    """The file and its view."""
    out = tmp_path_factory.mktemp("views")
    files = {"svs": shared_data / SVS, "thirds": thirds, "tabled": tabled}
    return {name: (file, viewed(file, out, name=name)) for name, file in files.items()}


@pytest.fixture
def own(thirds: Path, tmp_path: Path) -> Case:
    """A copy of a slide, and its view, for a test to spoil."""
    file = tmp_path / "in" / "own.tif"
    file.parent.mkdir()
    shutil.copy2(thirds, file)
    return file, viewed(file, tmp_path / "out")


# --- what it gives


@pytest.mark.parametrize("name", CASES)
def test_every_level_has_the_pixels_that_tifffile_decodes(
    cases: dict[str, Case], name: str
) -> None:
    file, product = cases[name]
    group, truth = opened(product), truth_of(file)
    assert sorted(group) == [str(number) for number in range(len(truth))]
    with open_slide(product) as slide:
        for number, expected in enumerate(truth):
            height, width = expected.shape[:2]
            np.testing.assert_array_equal(group[str(number)][...].transpose(1, 2, 0), expected)
            np.testing.assert_array_equal(slide.read(number, 0, 0, height, width), expected)


@pytest.mark.parametrize("name", CASES)
def test_chunks_are_the_streams_that_an_archive_copies(
    cases: dict[str, Case], name: str, tmp_path: Path
) -> None:
    file, product = cases[name]
    archive = ingest_slide(file, tmp_path, profile="archive").path
    store, levels = VirtualStore(product), len(truth_of(file))
    for level in range(levels):
        kept = b"".join(p.read_bytes() for p in (archive / str(level)).rglob("c/*/*/*"))
        prefix = f"{level}/c/"
        chunks = [store.get_sync(key) for key in names(store.list_prefix(prefix))]
        assert chunks
        assert all(chunk.to_bytes() in kept for chunk in chunks)


@pytest.mark.parametrize("name", CASES)
def test_no_pixel_is_copied(cases: dict[str, Case], name: str) -> None:
    file, product = cases[name]
    assert sum(map(len, files_of(product).values())) < 0.02 * file.stat().st_size


@pytest.mark.parametrize("name", CASES)
def test_validators_accept_its_metadata(cases: dict[str, Case], name: str, tmp_path: Path) -> None:
    _, product = cases[name]
    assert Image.from_zarr(opened(product)).attributes.ome.version == "0.5"
    # yaozarrs looks at files only.
    for key, document in json.loads((product / "virtual.json").read_text())["zarr"].items():
        (tmp_path / key).parent.mkdir(exist_ok=True)
        (tmp_path / key).write_text(json.dumps(document))
    yaozarrs.validate_zarr_store(tmp_path)


def test_levels_are_as_far_apart_as_in_the_file(cases: dict[str, Case]) -> None:
    file, product = cases["thirds"]
    with open_slide(file) as before, open_slide(product) as after:
        assert after.info.levels == before.info.levels
        assert after.info.mpp == before.info.mpp == (0.5, 0.5)
    datasets = opened(product).attrs["ome"]["multiscales"][0]["datasets"]
    scales = [level["coordinateTransformations"][0]["scale"] for level in datasets]
    assert scales == [[1.0, 0.5, 0.5], [1.0, 1.5, 1.5], [1.0, 4.5, 4.5]]


def test_a_view_archived_is_the_file_archived(cases: dict[str, Case], tmp_path: Path) -> None:
    file, product = cases["thirds"]
    shards = []
    for source in (file, product):
        made = ingest_slide(source, tmp_path / source.name, profile="archive").path
        shards.append([p.read_bytes() for p in sorted(made.rglob("c/*/*/*"))])
    assert shards[0] == shards[1]


# --- the store


def names(found: object) -> list[str]:
    async def collect() -> list[str]:
        return [name async for name in found]

    return asyncio.run(collect())


def test_the_store_agrees_with_one_in_memory_that_holds_the_same(cases: dict[str, Case]) -> None:
    store = VirtualStore(cases["thirds"][1])
    keys = names(store.list())
    assert len(keys) == len(set(keys)) == 4 + 14 * 10 + 5 * 4 + 2 * 2
    memory = MemoryStore({key: store.get_sync(key) for key in keys})
    folders = {key.rsplit("/", depth)[0] for key in keys for depth in (1, 2, 3, 4)}
    for prefix in {"", "0", "9", "0/c/1", "0/c/0/99", "0/c/0/01", "0/x", *folders}:
        assert sorted(names(store.list_dir(prefix))) == sorted(names(memory.list_dir(prefix)))
    for prefix in ("", "0", "0/", "0/c/0/1", "2/zarr", "x"):
        assert sorted(names(store.list_prefix(prefix))) == sorted(names(memory.list_prefix(prefix)))
    for key in (
        *keys[:9],
        "0",
        "c",
        "0/c/0/0",
        "0/c/0/14/0",
        "0/c/0/0/10",
        "0/c/0/00/1",
        "3/c/0/0/0",
    ):
        assert asyncio.run(store.exists(key)) == asyncio.run(memory.exists(key))
        for part in (None, RangeByteRequest(3, 40), OffsetByteRequest(7), SuffixByteRequest(9)):
            ours, theirs = (asyncio.run(s.get(key, PROTOTYPE, part)) for s in (store, memory))
            assert (ours and ours.to_bytes()) == (theirs and theirs.to_bytes())
    asked = [("zarr.json", RangeByteRequest(0, 1)), ("none", None), ("0/c/0/0/0", None)]
    ours, theirs = (asyncio.run(s.get_partial_values(PROTOTYPE, asked)) for s in (store, memory))
    assert [o and o.to_bytes() for o in ours] == [o and o.to_bytes() for o in theirs]


def test_it_is_read_only(cases: dict[str, Case]) -> None:
    product = cases["thirds"][1]
    store = VirtualStore(product)
    with pytest.raises(ValueError, match="read-only"):
        opened(product)["0"][:, :9, :9] = 0
    for work in (store.set("zarr.json", PROTOTYPE.buffer.from_bytes(b"")), store.delete("0")):
        with pytest.raises(ValueError, match="a view of a slide, and read-only"):
            asyncio.run(work)
    with pytest.raises(ValueError, match="read-only"):
        store.with_read_only(False)


def test_plain_zarr_finds_nothing_in_its_folder(cases: dict[str, Case]) -> None:
    product = cases["thirds"][1]
    with pytest.raises(GroupNotFoundError):
        zarr.open(product, mode="r")
    with pytest.raises(FileNotFoundError):
        zarr.open_array(product / "0", mode="r")


def test_pickled_it_is_a_path(cases: dict[str, Case]) -> None:
    store = VirtualStore(cases["svs"][1])
    data = pickle.dumps(store)
    assert len(data) < 500
    copy = pickle.loads(data)  # noqa: S301
    assert copy == store
    assert copy.get_sync("0/c/0/5/5").to_bytes() == store.get_sync("0/c/0/5/5").to_bytes()
    store.close()
    assert store.get_sync("zarr.json") is not None


def test_dask_reads_it_in_other_processes(cases: dict[str, Case]) -> None:
    file, product = cases["thirds"]
    array = da.from_zarr(opened(product)["2"])
    # One other process is as good as many: each opens the slide by itself.
    found = array.compute(scheduler="processes", num_workers=1)
    np.testing.assert_array_equal(found.transpose(1, 2, 0), truth_of(file)[2])
    assert da.from_zarr(VirtualStore(product), component="2").shape == array.shape


# --- what the file lacks


def test_tiles_that_were_never_written_are_absent_and_read_as_white(
    thirds: Path, tmp_path: Path
) -> None:
    path = tmp_path / "sparse.tif"
    path.write_bytes(thirds.read_bytes())
    with tifffile.TiffFile(path, mode="r+b") as tif:
        sizes = list(tif.pages[0].databytecounts)
        sizes[3] = 0
        tif.pages[0].tags["TileByteCounts"].overwrite(sizes)
    product = viewed(path, tmp_path)
    pixels = opened(product)["0"][...].transpose(1, 2, 0)
    with open_slide(path) as before:
        np.testing.assert_array_equal(pixels, before.read(0, 0, 0, 1333, 1471))
    assert (pixels[:TALL, 3 * WIDE : 4 * WIDE] == 255).all()
    assert Window(open_view(product)).tile(0, 0, 3) is None
    assert "0/c/0/0/3" not in names(VirtualStore(product).list())
    assert "3" not in names(VirtualStore(product).list_dir("0/c/0/0"))


def test_a_damaged_tile_is_an_error_and_never_white(thirds: Path, tmp_path: Path) -> None:
    path = tmp_path / "damaged.tif"
    data = bytearray(thirds.read_bytes())
    with tifffile.TiffFile(thirds) as tif:
        page = tif.pages.first
        for tile, skip in ((0, 0), (1, page.databytecounts[1] // 2)):
            start = page.dataoffsets[tile] + skip
            stop = page.dataoffsets[tile] + page.databytecounts[tile]
            data[start:stop] = bytes(stop - start)
    path.write_bytes(data)
    # The codec is described by the first tile, so that one must be sound to be viewed.
    with pytest.raises(UnreadableFile, match=r"damaged\.tif: tile \(0, 0\) of level 0"):
        viewed(path, tmp_path)
    first = slice(page.dataoffsets[0], page.dataoffsets[0] + page.databytecounts[0])
    data[first] = thirds.read_bytes()[first]
    path.write_bytes(data)
    array = opened(viewed(path, tmp_path))["0"]
    assert array[:, :TALL, :WIDE].shape == (3, TALL, WIDE)
    with pytest.raises(ValueError, match="JPEG"):
        array[:, :TALL, WIDE : 2 * WIDE]


# --- the file goes, moves, changes


def test_a_file_that_moved_with_its_view_is_found(own: Case, tmp_path: Path) -> None:
    file, product = own
    expected = truth_of(file)[2]
    (tmp_path / "elsewhere").mkdir()
    for folder in (file.parent, product.parent):
        folder.rename(tmp_path / "elsewhere" / folder.name)
    moved = tmp_path / "elsewhere" / product.relative_to(tmp_path)
    np.testing.assert_array_equal(opened(moved)["2"][...].transpose(1, 2, 0), expected)


def test_a_view_may_be_moved_alone(own: Case, tmp_path: Path) -> None:
    file, product = own
    moved = product.rename(tmp_path / "moved.ome.zarr")
    with open_slide(moved) as slide:
        assert slide.info.notes[-1] == f"a view: its pixels are those of {file}"


def test_a_file_that_is_gone_is_named_and_a_view_of_it_elsewhere_is_made_anew(
    own: Case, tmp_path: Path
) -> None:
    file, product = own
    late = pickle.dumps(opened(product)["0"])
    gone = file.rename(tmp_path / "own.tif")
    for reading in (
        lambda: VirtualStore(product),
        lambda: open_slide(product),
        lambda: pickle.loads(late)[:, :9, :9],  # noqa: S301
    ):
        with pytest.raises(MissingFile, match=str(file)) as caught:
            reading()
        assert "--profile virtual" in str(caught.value)
    assert viewed(gone, product.parent) == product
    assert opened(product)["0"].shape == (3, 1333, 1471)


def overwritten(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 255
    file.write_bytes(data)


def grown(file: Path) -> None:
    with file.open("ab") as end:
        end.write(b"\0")


@pytest.mark.parametrize("change", [overwritten, grown])
def test_a_file_that_changed_is_noticed(own: Case, change: Callable[[Path], None]) -> None:
    file, product = own
    store = VirtualStore(product)
    change(file)
    # Also by a store that had opened it before.
    for reading in (
        lambda: store.get_sync("0/c/0/0/0"),
        lambda: VirtualStore(product),
        lambda: open_slide(product),
    ):
        with pytest.raises(StaleProduct, match="has changed since"):
            reading()


def test_a_file_with_another_date_is_the_same_file(own: Case) -> None:
    file, product = own
    store = VirtualStore(product)
    os.utime(file, (0, 0))
    assert store.get_sync("0/c/0/0/0") is not None
    assert opened(product)["2"][...].shape == (3, 149, 164)


# --- the product


def test_it_is_kept_where_it_is_whole_and_mended_where_it_is_not(own: Case) -> None:
    file, product = own
    whole = files_of(product)
    assert isinstance(ingest_slide(file, product.parent, profile="virtual"), Skipped)
    assert files_of(product) == whole
    index = bytearray(whole["1.npy"])
    index[-3] ^= 1
    (product / "1.npy").write_bytes(index)
    with pytest.raises(BadProduct, match=r"1\.npy is not what was written"):
        VirtualStore(product)
    viewed(file, product.parent)
    assert files_of(product)["1.npy"] == whole["1.npy"]


def test_it_is_never_mixed_up_with_pixels(own: Case) -> None:
    file, product = own
    for profile in ("archive", "compatible"):
        with pytest.raises(StaleProduct, match="a slide view is in the way"):
            ingest_slide(file, product.parent, profile=profile, overwrite=True)


def test_the_pixel_size_that_was_given_is_kept(thirds: Path, tmp_path: Path) -> None:
    product = viewed(thirds, tmp_path, mpp=0.25)
    with open_slide(product) as slide:
        assert slide.info.mpp == (0.25, 0.25)
        assert slide.info.mpp_source == "--slide-mpp"
    with open_slide(product, mpp=0.3) as slide:
        assert slide.info.mpp == (0.3, 0.3)
    with pytest.raises(StaleProduct):
        viewed(thirds, tmp_path)


def test_a_kill_before_the_end_leaves_nothing_under_its_name(thirds: Path, tmp_path: Path) -> None:
    code = (
        "import os, signal, sys\n"
        "from microtome.engine import ingest\n"
        "def killed(folder, files):\n"
        "    for name, data in list(files.items())[:2]:\n"
        "        (folder / name).write_bytes(data[:99])\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "ingest.write_view = killed\n"
        "ingest.ingest_slide(sys.argv[1], sys.argv[2], profile='virtual')\n"
    )
    ended = subprocess.run([sys.executable, "-c", code, thirds, tmp_path], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert not (tmp_path / "thirds.ome.zarr").exists()
    product = viewed(thirds, tmp_path)
    assert [p for p in tmp_path.iterdir() if "partial" in p.name] == []
    assert opened(product)["2"][...].shape == (3, 149, 164)
