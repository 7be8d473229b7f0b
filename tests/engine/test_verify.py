"""Damage that was really done to stored images is found, named, and mended to the last byte."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from microtome.engine.ingest import ingest_slide, ingest_volume
from microtome.engine.verify import (
    repair_slide,
    repair_volume,
    verify_slide,
    verify_volume,
)
from microtome.storage.codecs import codec_named
from microtome.storage.errors import BadProduct, StaleProduct
from microtome.storage.shards import read_box, write_shard
from microtome.storage.stored_slides import open_stored_slide

SVS = Path("slides/aperio/CMU-1-Small-Region.svs")
NIFTI = Path("scans/nifti/nibabel_functional.nii")

Damage = Callable[[Path], None]


def digests(product: Path) -> dict[str, str]:
    """SHA-256 of every shard."""
    files = [path for path in product.rglob("*") if path.is_file() and path.name.isdigit()]
    return {
        str(path.relative_to(product)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def flip_in_the_middle(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 0x10
    path.write_bytes(data)


def cut(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


DAMAGES: dict[str, Damage] = {"flipped": flip_in_the_middle, "cut": cut, "missing": Path.unlink}


def shard(product: Path, level: int) -> Path:
    image = product / "0" if (product / ".zgroup").is_file() else product
    files = (image / str(level)).rglob("*")
    return sorted(path for path in files if path.is_file() and path.name.isdigit())[0]


@pytest.fixture(scope="module", params=["archive", "compatible", "ngff04", "jpeg"])
def kept(request, tmp_path_factory) -> tuple[Path, Path]:
    """A real slide, and an image of it."""
    data = Path(__file__).parents[2].parent / "shared" / "data"
    if not (data / SVS).exists():
        pytest.skip("the shared data are not there")
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "jpeg":
        made = ingest_slide(data / SVS, folder, profile="compatible", codec=codec_named("jpeg"))
    else:
        made = ingest_slide(data / SVS, folder, profile=request.param)
    return data / SVS, made.path


@pytest.fixture
def stored(kept, tmp_path) -> tuple[Path, Path]:
    """The same, to be damaged."""
    source, product = kept
    return source, Path(shutil.copytree(product, tmp_path / product.name))


def test_a_whole_image_is_found_whole(stored):
    source, product = stored
    seen: list[tuple[int, int]] = []
    found = verify_slide(product, source, on_progress=lambda *at: seen.append(at))
    assert not found.damaged
    assert found.shards == len(digests(product)) == len(seen) == seen[-1][1]
    assert found.compared > 64 * 200**2
    found.require_whole()


@pytest.mark.parametrize("level", [0, 1])
@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_named_and_mended_to_the_byte(stored, damage, level):
    source, product = stored
    before = digests(product)
    broken = shard(product, level)
    DAMAGES[damage](broken)
    found = verify_slide(product, source)
    assert broken in found.damaged
    with pytest.raises(BadProduct, match=str(broken.relative_to(product))):
        found.require_whole()
    repair_slide(found, source)
    assert digests(product) == before
    verify_slide(product, source).require_whole()


def test_sound_shards_of_other_pixels_are_found_beside_the_source(shared_data, tmp_path):
    made = ingest_slide(shared_data / SVS, tmp_path, profile="compatible")
    array = open_stored_slide(made.path).levels[0]
    index = (0, 1, 0)
    pixels = read_box(array, made.path / "0", array.box(index))
    before = digests(made.path)
    write_shard(array, made.path / "0", index, pixels ^ np.uint8(1))
    found = verify_slide(made.path, shared_data / SVS)
    assert array.file(made.path / "0", index) in found.damaged
    repair_slide(found, shared_data / SVS)
    assert digests(made.path) == before


def test_another_source_is_no_witness(stored, shared_data, tmp_path):
    source, product = stored
    changed = Path(shutil.copy(source, tmp_path / "changed.svs"))
    with changed.open("ab") as file:
        file.write(b"more")
    with pytest.raises(StaleProduct, match="not the file that this was made from"):
        verify_slide(product, changed)


@pytest.mark.parametrize("damage", DAMAGES)
def test_scans_are_compared_voxel_by_voxel(shared_data, tmp_path, damage):
    made = ingest_volume(shared_data / NIFTI, tmp_path)
    before = digests(made.path)
    whole = verify_volume(made.path, shared_data / NIFTI)
    assert (whole.compared, whole.damaged) == (17 * 21 * 3 * 20, ())
    broken = shard(made.path, 0)
    DAMAGES[damage](broken)
    found = verify_volume(made.path, shared_data / NIFTI)
    assert found.damaged == (broken,)
    repair_volume(found, shared_data / NIFTI)
    assert digests(made.path) == before
