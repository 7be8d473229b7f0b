"""A slide's own JPEG tiles go into OME-Zarr untouched, and come out as the same pixels."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
import pytest
import tifffile
import yaozarrs
import zarr
from ome_zarr_models.v05 import Image
from products import done, files_of
from pydicom.encaps import encapsulate, generate_frames

from microtome.engine.ingest import ingest_slide
from microtome.engine.schedule import Skipped, open_pool
from microtome.engine.slides import open_slide
from microtome.storage.commit import read_commit
from microtome.storage.errors import NoJpegTiles, StaleProduct, UnreadableFile
from microtome.storage.shards import ShardedArray, read_index
from microtome.storage.stored_slides import open_stored_slide

SVS = "slides/aperio/CMU-1-Small-Region.svs"
OME = "slides/derived/CMU-1-Small-Region.ome.tif"
EXACT = "slides/derived/CMU-1-Small-Region_dicom_exact"
PYRAMID = "slides/derived/CMU-1-Small-Region_dicom_pyramid"
CAMELYON = "slides/dicom/multi_frame_jpeg_camelyon_challenge_image.dcm"

Scans = dict[tuple[int, int], bytes]


@pytest.fixture(autouse=True)
def _reproducible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")


@pytest.fixture(scope="module")
def thirds(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """YCbCr 4:2:0 in tiles that are not square, with levels a third and a ninth as wide."""
    path = tmp_path_factory.mktemp("thirds") / "thirds.tif"
    pixels = tifffile.imread(shared_data / SVS, key=0)[:1333, :1471]
    with tifffile.TiffWriter(path, bigtiff=True) as tif:
        for step in (1, 3, 9):
            tif.write(
                np.ascontiguousarray(pixels[::step, ::step]),
                tile=(96, 160),
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


def archived(path: Path, out: Path, **options: object) -> Path:
    return done(ingest_slide(path, out, profile="archive", **options)).path


def scan(stream: bytes) -> bytes:
    """What follows the header of the scan: the compressed pixels, to the end of the image."""
    at = stream.index(b"\xff\xda")
    return stream[at : stream.rindex(b"\xff\xd9") + 2]


def kept_chunks(product: Path, level: int) -> Iterator[tuple[tuple[int, int], bytes]]:
    """(row, column) and bytes of every chunk of a level, by the index of its shards."""
    folder = product / str(level)
    array = ShardedArray.from_metadata(json.loads((folder / "zarr.json").read_text()))
    for index in array.indices():
        path = array.file(folder, index)
        data, table = path.read_bytes(), read_index(array, path)
        places = itertools.product(range(array.chunks[1]), range(array.chunks[2]))
        for (row, column), (offset, length) in zip(places, table.tolist(), strict=True):
            if offset < 2**63:
                place = index[1] * array.chunks[1] + row, index[2] * array.chunks[2] + column
                yield place, data[offset : offset + length]


class FromTiff:
    """What another library says of a TIFF: the pixels and the scans of its levels."""

    def __init__(self, path: Path) -> None:
        with tifffile.TiffFile(path) as tif:
            pages = [level.pages[0].aspage() for level in tif.series[0].levels]
            self.levels = [page.asarray() for page in pages]
            self.scans = [self._scans(tif, page) for page in pages]
            self.tile_bytes = sum(sum(page.databytecounts) for page in pages)

    def _scans(self, tif: tifffile.TiffFile, page: tifffile.TiffPage) -> Scans:
        columns = -(-page.imagewidth // page.tilewidth)
        found = {}
        for number, (offset, size) in enumerate(
            zip(page.dataoffsets, page.databytecounts, strict=True)
        ):
            tif.filehandle.seek(offset)
            found[divmod(number, columns)] = scan(tif.filehandle.read(size))
        return found


class FromDicom:
    """The same of a folder's DICOM files, or of one: pydicom's frames, decoded by imagecodecs."""

    def __init__(self, path: Path) -> None:
        files = [pydicom.dcmread(p) for p in (path.glob("level*.dcm") if path.is_dir() else [path])]
        files.sort(key=lambda data: -data.TotalPixelMatrixRows)
        self.levels, self.scans, self.tile_bytes = [], [], 0
        for data in files:
            frames = list(generate_frames(data.PixelData, number_of_frames=data.NumberOfFrames))
            height, width = data.TotalPixelMatrixRows, data.TotalPixelMatrixColumns
            columns, rows = -(-width // data.Columns), -(-height // data.Rows)
            space = "rgb" if data.PhotometricInterpretation == "RGB" else "ycbcr"
            tiles = [
                imagecodecs.jpeg8_decode(frame, colorspace=space, outcolorspace="rgb")
                for frame in frames
            ]
            grid = np.array(tiles).reshape(rows, columns, data.Rows, data.Columns, 3)
            whole = grid.swapaxes(1, 2).reshape(rows * data.Rows, columns * data.Columns, 3)
            self.levels.append(whole[:height, :width])
            self.scans.append({divmod(n, columns): scan(frame) for n, frame in enumerate(frames)})
            self.tile_bytes += sum(map(len, frames))


CASES = {
    SVS: FromTiff, OME: FromTiff, "thirds": FromTiff,
    EXACT: FromDicom, PYRAMID: FromDicom, CAMELYON: FromDicom,
}  # fmt: skip


@pytest.fixture(scope="module")
def truth_and_product(
    shared_data: Path, thirds: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[FromTiff | FromDicom, Path]]:
    out = tmp_path_factory.mktemp("archives")
    made: dict[str, tuple[FromTiff | FromDicom, Path]] = {}

    def get(name: str) -> tuple[FromTiff | FromDicom, Path]:
        if name not in made:
            path = thirds if name == "thirds" else shared_data / name
            made[name] = CASES[name](path), archived(path, out, name=str(len(made)))
        return made[name]

    return get


# --- what is kept


@pytest.mark.parametrize("name", CASES)
def test_every_level_of_the_file_has_the_pixels_that_another_library_decodes(
    truth_and_product: Callable, name: str
) -> None:
    truth, product = truth_and_product(name)
    group = zarr.open_group(product, mode="r")
    with open_slide(product) as slide:
        for number, expected in enumerate(truth.levels):
            height, width = expected.shape[:2]
            np.testing.assert_array_equal(slide.read(number, 0, 0, height, width), expected)
            np.testing.assert_array_equal(group[str(number)][...].transpose(1, 2, 0), expected)
            y, x = height // 3, width // 3
            part = slide.read(number, y, x, height // 2, width // 2)
            np.testing.assert_array_equal(part, expected[y:, x:][: height // 2, : width // 2])


@pytest.mark.parametrize("name", CASES)
def test_every_scan_is_the_files_own_byte_for_byte(truth_and_product: Callable, name: str) -> None:
    truth, product = truth_and_product(name)
    for number, scans in enumerate(truth.scans):
        kept = {place: scan(chunk) for place, chunk in kept_chunks(product, number)}
        assert kept == scans


@pytest.mark.parametrize("name", CASES)
def test_independent_validators_accept_it(truth_and_product: Callable, name: str) -> None:
    truth, product = truth_and_product(name)
    yaozarrs.validate_zarr_store(product)
    image = Image.from_zarr(zarr.open_group(product, mode="r"))
    assert len(image.attributes.ome.multiscales[0].datasets) >= len(truth.levels)


@pytest.mark.parametrize("name", [SVS, CAMELYON])
def test_another_process_reads_it_with_zarr_alone(
    truth_and_product: Callable, name: str, tmp_path: Path
) -> None:
    truth, product = truth_and_product(name)
    code = (
        "import sys, zarr\n"
        "array = zarr.open_group(sys.argv[1], mode='r')[sys.argv[2]]\n"
        "sys.stdout.buffer.write(array[:, :50, :60].tobytes())"
    )
    last = len(truth.levels) - 1
    ended = subprocess.run(
        [sys.executable, "-c", code, product, str(last)],
        capture_output=True,
        check=False,
        cwd=tmp_path,
    )
    assert ended.returncode == 0, ended.stderr.decode()
    expected = truth.levels[last][:50, :60].transpose(2, 0, 1)
    assert ended.stdout == expected.tobytes()


@pytest.mark.parametrize("name", [SVS, OME, EXACT, PYRAMID])
def test_what_is_kept_takes_little_more_room_than_in_the_file(
    truth_and_product: Callable, name: str
) -> None:
    truth, product = truth_and_product(name)
    kept = sum(len(b"".join(files_of(product / str(n)).values())) for n in range(len(truth.levels)))
    assert truth.tile_bytes < kept <= 1.06 * truth.tile_bytes


def test_a_slide_of_one_level_gets_an_overview_and_is_no_larger_than_its_file(
    shared_data: Path, truth_and_product: Callable
) -> None:
    _, product = truth_and_product(SVS)
    whole = len(b"".join(files_of(product).values()))
    assert whole <= 1.06 * (shared_data / SVS).stat().st_size
    levels = json.loads((product / "zarr.json").read_text())["attributes"]["microtome"]["levels"]
    assert [level["kept"] for level in levels] == [True, False]
    assert levels[1]["jpeg_quality"] == 90
    with open_slide(product) as slide:
        assert [level.downsample_y for level in slide.info.levels] == [1, 4]
        level_0 = slide.read(0, 0, 0, 2964, 2220).reshape(741, 4, 555, 4, 3).mean((1, 3))
        off = np.abs(slide.read(1, 0, 0, 741, 555) - level_0)
    assert off.mean() < 2.5


def test_levels_are_as_far_apart_as_in_the_file(thirds: Path, truth_and_product: Callable) -> None:
    _, product = truth_and_product("thirds")
    with open_slide(thirds) as before, open_slide(product) as after:
        assert [level.downsample_y for level in after.info.levels] == [1.0, 3.0, 9.0]
        assert after.info.levels == before.info.levels
        assert after.info.mpp == before.info.mpp == (0.5, 0.5)
    scales = [
        level["coordinateTransformations"][0]["scale"]
        for level in open_stored_slide(product).ome["multiscales"][0]["datasets"]
    ]
    assert scales == [[1.0, 0.5, 0.5], [1.0, 1.5, 1.5], [1.0, 4.5, 4.5]]


# --- what the file lacks


def test_tiles_that_a_tiff_never_wrote_are_absent_and_read_as_white(
    thirds: Path, tmp_path: Path
) -> None:
    path = tmp_path / "sparse.tif"
    path.write_bytes(thirds.read_bytes())
    with tifffile.TiffFile(path, mode="r+b") as tif:
        sizes = list(tif.pages[0].databytecounts)
        sizes[3] = 0
        tif.pages[0].tags["TileByteCounts"].overwrite(sizes)
    product = archived(path, tmp_path)
    assert (0, 3) not in dict(kept_chunks(product, 0))
    with open_slide(path) as before, open_slide(product) as after:
        box = (0, 0, 400, 200, 300)
        np.testing.assert_array_equal(after.read(*box), before.read(*box))
        assert (after.read(0, 0, 480, 96, 160) == 255).all()


def test_frames_that_a_sparse_dicom_lacks_are_absent_and_read_as_white(
    shared_data: Path, tmp_path: Path
) -> None:
    data = pydicom.dcmread(shared_data / PYRAMID / "level2.dcm")
    frames = list(generate_frames(data.PixelData, number_of_frames=data.NumberOfFrames))
    places = [divmod(n, 3) for n in range(9)]
    kept = [n for n in range(9) if n not in (0, 5)]
    data.DimensionOrganizationType = "TILED_SPARSE"
    data.NumberOfFrames = len(kept)
    data.PerFrameFunctionalGroupsSequence = [_at(*places[n], data) for n in kept]
    data.PixelData = encapsulate([frames[n] for n in kept])
    for extra in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths"):
        if extra in data:
            delattr(data, extra)
    (tmp_path / "in").mkdir()
    data.save_as(tmp_path / "in" / "sparse.dcm")
    product = archived(tmp_path / "in" / "sparse.dcm", tmp_path)
    chunks = dict(kept_chunks(product, 0))
    assert set(chunks) == {places[n] for n in kept}
    assert [scan(chunks[places[n]]) for n in kept] == [scan(frames[n]) for n in kept]
    with open_slide(tmp_path / "in" / "sparse.dcm") as before, open_slide(product) as after:
        height, width = before.info.height_px, before.info.width_px
        whole = after.read(0, 0, 0, height, width)
        np.testing.assert_array_equal(whole, before.read(0, 0, 0, height, width))
    assert (whole[:256, :256] == 255).all()


def _at(row: int, column: int, data: pydicom.Dataset) -> pydicom.Dataset:
    place = pydicom.Dataset()
    place.RowPositionInTotalImagePixelMatrix = 1 + row * data.Rows
    place.ColumnPositionInTotalImagePixelMatrix = 1 + column * data.Columns
    place.XOffsetInSlideCoordinateSystem = 0
    place.YOffsetInSlideCoordinateSystem = 0
    place.ZOffsetInSlideCoordinateSystem = 0
    frame = pydicom.Dataset()
    frame.PlanePositionSlideSequence = [place]
    return frame


def of_tiles(path: Path, tiles: list[bytes]) -> Path:
    """100 × 150 px of four tiles, as they are."""
    tifffile.imwrite(
        path, iter(tiles), shape=(100, 150, 3), dtype=np.uint8, tile=(64, 96),
        photometric="ycbcr", compression="jpeg",
    )  # fmt: skip
    return path


def test_tiles_that_were_cut_to_the_image_are_kept_and_smaller_ones_refused(
    shared_data: Path, tmp_path: Path
) -> None:
    tissue = tifffile.imread(shared_data / SVS, key=0)[1000:1100, 1000:1150]
    parts = [tissue[y : y + 64, x : x + 96] for y in (0, 64) for x in (0, 96)]
    assert parts[3].shape == (36, 54, 3)
    tiles = [imagecodecs.jpeg8_encode(part, 80) for part in parts]
    path = of_tiles(tmp_path / "cut.tif", tiles)
    product = archived(path, tmp_path)
    assert [scan(chunk) for _, chunk in kept_chunks(product, 0)] == [scan(tile) for tile in tiles]
    decoded = [imagecodecs.jpeg8_decode(tile) for tile in tiles]
    rows = [np.concatenate(decoded[at : at + 2], 1) for at in (0, 2)]
    expected = np.concatenate(rows)
    with open_slide(product) as slide:
        np.testing.assert_array_equal(slide.read(0, 0, 0, 100, 150), expected)
    level_0 = zarr.open_group(product, mode="r")["0"]
    np.testing.assert_array_equal(level_0[...].transpose(1, 2, 0), expected)
    # In the middle of the slide what lacks would be white tissue.
    of_tiles(tmp_path / "small.tif", [imagecodecs.jpeg8_encode(parts[0][:60]), *tiles[1:]])
    with pytest.raises(UnreadableFile, match=r"tile \(0, 0\) of level 0.* 60 × 96 px"):
        archived(tmp_path / "small.tif", tmp_path)


# --- damage


def damaged(thirds: Path, path: Path, change: Callable[[bytes], bytes]) -> bytes:
    """Change tile (2, 1) of level 0; returns what it is now."""
    data = bytearray(thirds.read_bytes())
    with tifffile.TiffFile(thirds) as tif:
        page = tif.pages.first
        number = 2 * -(-page.imagewidth // page.tilewidth) + 1
        offset, size = page.dataoffsets[number], page.databytecounts[number]
    tile = change(bytes(data[offset : offset + size]))
    assert len(tile) == size
    data[offset : offset + size] = tile
    path.write_bytes(data)
    return tile


def without_pixels(tile: bytes) -> bytes:
    behind_header = tile.index(b"\xff\xda") + 14
    return tile[:behind_header] + bytes(len(tile) - behind_header - 2) + b"\xff\xd9"


def test_a_damaged_scan_stays_as_it_is_and_reading_it_is_the_same_error(
    thirds: Path, tmp_path: Path
) -> None:
    path = tmp_path / "damaged.tif"
    tile = damaged(thirds, path, without_pixels)
    product = archived(path, tmp_path)
    assert scan(dict(kept_chunks(product, 0))[2, 1]) == scan(tile)
    with open_slide(path) as before, open_slide(product) as after:
        for slide in (before, after):
            with pytest.raises(UnreadableFile, match="cannot be decoded"):
                slide.read(0, 2 * 96, 160, 96, 160)
        for corner in [(96, 160), (192, 0), (192, 320), (288, 160)]:
            box = (0, *corner, 96, 160)
            np.testing.assert_array_equal(after.read(*box), before.read(*box))


@pytest.mark.parametrize(
    "change",
    [
        lambda tile: bytes(40) + tile[40:],
        lambda tile: tile[:2] + bytes(40) + tile[42:],
        lambda tile: tile[:-40] + bytes(40),
    ],
    ids=["no start", "no headers", "no end"],
)
def test_a_tile_without_sound_headers_or_end_is_refused_by_name(
    thirds: Path, tmp_path: Path, change: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / "damaged.tif"
    damaged(thirds, path, change)
    with pytest.raises(UnreadableFile, match=r"damaged\.tif: tile \(2, 1\) of level 0") as caught:
        ingest_slide(path, tmp_path / "out")
    assert "scan anew" in str(caught.value)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_level_is_not_folded_over_a_damaged_tile(shared_data: Path, tmp_path: Path) -> None:
    data = bytearray((shared_data / SVS).read_bytes())
    with tifffile.TiffFile(shared_data / SVS) as tif:
        offset, size = (int(v[40]) for v in (tif.pages[0].dataoffsets, tif.pages[0].databytecounts))
    data[offset + size // 2 : offset + size - 2] = bytes(size - 2 - size // 2)
    (tmp_path / "a.svs").write_bytes(data)
    with pytest.raises(UnreadableFile, match=r"a\.svs: a coarser level cannot be made"):
        ingest_slide(tmp_path / "a.svs", tmp_path / "out")


# --- the choice


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("slides/synthetic/boxes.tiff", "level 0 is compressed as ADOBE_DEFLATE"),
        ("slides/plain/kidney-48-5.tif", "level 0 is compressed as NONE"),
    ],
)
def test_what_cannot_be_kept_is_refused_or_encoded_anew_and_says_why(
    shared_data: Path, tmp_path: Path, name: str, why: str
) -> None:
    with pytest.raises(NoJpegTiles, match=why) as caught:
        archived(shared_data / name, tmp_path)
    assert "--profile compatible" in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    made = done(ingest_slide(shared_data / name, tmp_path))
    record = read_commit(made.path)
    assert record.about["profile"] == "compatible"
    assert why in record.about["profile_because"]
    # The same product as when it is asked for.
    assert isinstance(ingest_slide(shared_data / name, tmp_path, profile="compatible"), Skipped)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"rowsperstrip": 64}, "in strips"),
        ({"tile": (64, 64), "planarconfig": "separate"}, "keeps its colours apart"),
    ],
)
def test_jpeg_that_is_not_tiles_of_rgb_is_not_kept(tmp_path: Path, options: dict, why: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (130, 150, 3), np.uint8)
    if "planarconfig" in options:
        pixels = pixels.transpose(2, 0, 1)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", compression="jpeg", **options)
    with pytest.raises(NoJpegTiles, match=why):
        archived(tmp_path / "a.tif", tmp_path)


def test_auto_keeps_tiles_and_profiles_are_not_mixed(shared_data: Path, tmp_path: Path) -> None:
    made = done(ingest_slide(shared_data / SVS, tmp_path))
    assert read_commit(made.path).about["profile"] == "archive"
    assert read_commit(made.path).about["profile_because"] == "the file holds JPEG tiles"
    assert isinstance(ingest_slide(shared_data / SVS, tmp_path, profile="archive"), Skipped)
    with pytest.raises(StaleProduct):
        ingest_slide(shared_data / SVS, tmp_path, profile="compatible")
    with pytest.raises(ValueError, match="no profile is called 'best'"):
        ingest_slide(shared_data / SVS, tmp_path, profile="best")


def test_two_processes_write_the_same_bytes(
    shared_data: Path, tmp_path: Path, truth_and_product: Callable
) -> None:
    _, alone = truth_and_product(SVS)
    told: list[int] = []
    with open_pool(2) as pool:
        together = archived(
            shared_data / SVS, tmp_path, name=alone.name.removesuffix(".ome.zarr"), pool=pool,
            on_progress=lambda count, _: told.append(count),
        )  # fmt: skip
    assert files_of(together) == files_of(alone)
    assert told == sorted(set(told))
    assert told[-1] == 2967 * 2220


def test_an_archive_is_a_slide_to_the_command_line(truth_and_product: Callable) -> None:
    _, product = truth_and_product(PYRAMID)
    ended = subprocess.run(
        [sys.executable, "-m", "microtome", "info", str(product)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": "200"},
    )
    assert ended.returncode == 0, ended.stderr
    assert "2967" in ended.stdout
