"""Full and read-only disks, changed sources, two writers: named, nothing lost, in every profile."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from products import files_of

from microtome.engine.extras import Extras
from microtome.engine.ingest import Ingested, ingest_slide
from microtome.engine.schedule import Skipped
from microtome.storage.codecs import codec_named
from microtome.storage.errors import OutputBusy, StaleProduct, UnwritableOutput

ASKED = {
    "archive": {"profile": "archive"},
    "compatible": {"profile": "compatible"},
    "blosc": {"profile": "compatible", "codec": codec_named("blosc")},
    "jpeg": {"profile": "compatible", "codec": codec_named("jpeg")},
    "ngff04": {"profile": "ngff04", "extras": Extras(properties=True)},
}


@pytest.fixture(autouse=True)
def _reproducible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")


def painted(path: Path, seed: int) -> Path:
    small = np.random.default_rng(seed).integers(0, 256, (300, 305, 3), np.uint8)
    pixels = np.kron(small, np.ones((8, 8, 1), np.uint8))
    tifffile.imwrite(
        path, pixels, tile=(256, 256), photometric="rgb", compression="jpeg", resolution=(2e4, 2e4),
        resolutionunit="CENTIMETER",
    )  # fmt: skip
    return path


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A slide of JPEG tiles, for any profile."""
    return painted(tmp_path_factory.mktemp("slide") / "case.tif", 0)


@pytest.fixture(scope="module", params=ASKED)
def asked(request: pytest.FixtureRequest) -> dict:
    return ASKED[request.param]


@pytest.fixture(scope="module")
def undisturbed(
    slide: Path, asked: dict, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, bytes]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOURCE_DATE_EPOCH", "1700000000")
        made = ingest_slide(slide, tmp_path_factory.mktemp("undisturbed"), **asked)
    assert isinstance(made, Ingested)
    return files_of(made.path)


def room_kib(files: dict[str, bytes]) -> int:
    """What they take on a file system of 4 KiB pages."""
    return sum(4 * -(-len(data) // 4096) for data in files.values())


def test_a_full_disk_is_named_and_the_rest_is_made_when_there_is_room(
    mounted: Callable[..., Path], slide: Path, asked: dict, undisturbed: dict[str, bytes]
) -> None:
    need_kib = room_kib(undisturbed)
    place = mounted(size_kib=need_kib // 2)
    for _ in range(2):
        with pytest.raises(UnwritableOutput, match=r"case\.ome\.zarr: cannot write here"):
            ingest_slide(slide, place, **asked)
        assert not (place / "case.ome.zarr").exists()
    room = f"remount,size={need_kib * 3}k"
    subprocess.run(["mount", "-o", room, str(place)], check=True)
    made = ingest_slide(slide, place, **asked)
    assert isinstance(made, Ingested)
    assert files_of(made.path) == undisturbed
    assert [p.name for p in place.iterdir()] == ["case.ome.zarr"]


def test_chunks_that_were_made_before_the_disk_was_full_are_not_made_again(
    mounted: Callable[..., Path], slide: Path
) -> None:
    place = mounted(size_kib=3000)
    with pytest.raises(UnwritableOutput):
        ingest_slide(slide, place, profile="ngff04")
    left = {p: p.stat().st_ino for p in place.rglob("*") if p.is_file() and p.name.isdigit()}
    subprocess.run(["mount", "-o", "remount,size=90000k", str(place)], check=True)
    made = ingest_slide(slide, place, profile="ngff04")
    assert isinstance(made, Ingested)
    assert made.kept == len(left) > 0
    kept = {p.stat().st_ino for p in made.path.rglob("*") if p.is_file() and p.name.isdigit()}
    assert set(left.values()) <= kept


def test_another_profile_or_codec_does_not_replace_what_is_there(
    slide: Path, tmp_path: Path
) -> None:
    ingest_slide(slide, tmp_path, **ASKED["archive"])
    for asked in list(ASKED.values())[1:]:
        with pytest.raises(StaleProduct, match="--overwrite"):
            ingest_slide(slide, tmp_path, **asked)


def test_a_read_only_output_is_named(read_only: Path, slide: Path, asked: dict) -> None:
    with pytest.raises(UnwritableOutput, match="Read-only"):
        ingest_slide(slide, read_only, **asked)


def test_a_source_that_changed_is_not_mixed_with_what_it_was(
    slide: Path, asked: dict, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    copy = tmp_path / "case.tif"
    copy.write_bytes(slide.read_bytes())
    made = ingest_slide(copy, tmp_path / "out", **asked)
    assert isinstance(made, Ingested)
    painted(copy, 1)
    with pytest.raises(StaleProduct, match="another input"):
        ingest_slide(copy, tmp_path / "out", **asked)
    assert files_of(made.path) == undisturbed
    anew = ingest_slide(copy, tmp_path / "out", overwrite=True, **asked)
    assert isinstance(anew, Ingested)
    assert anew.kept == 0
    assert files_of(anew.path) != undisturbed


def test_of_two_writers_at_once_one_is_refused_and_the_other_whole(
    slide: Path, asked: dict, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    """The second begins while the first is between two of its tasks, and so surely at work."""
    refused: list[BaseException] = []

    def second() -> None:
        try:
            ingest_slide(slide, tmp_path, **asked)
        except OutputBusy as error:
            refused.append(error)

    def meet(_: int, __: int) -> None:
        if not refused:
            other = threading.Thread(target=second)
            other.start()
            other.join()

    made = ingest_slide(slide, tmp_path, on_progress=meet, **asked)
    assert isinstance(made, Ingested)
    assert len(refused) == 1
    assert files_of(made.path) == undisturbed
    assert isinstance(ingest_slide(slide, tmp_path, **asked), Skipped)
