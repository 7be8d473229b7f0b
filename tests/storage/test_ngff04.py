"""OME-Zarr 0.4: valid to other tools, the same pixels as the other profiles, whole or refused."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import numcodecs
import numpy as np
import ome_types
import pytest
import tifffile
import yaozarrs
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import etree
from ome_zarr_models.v04 import Image
from ome_zarr_models.v04.bioformats2raw import BioFormats2Raw

from microtome.engine.slides import open_slide
from microtome.engine.slides.resolution import from_ome, ome_objective_power
from microtome.engine.slides.zarr_reader import ZarrSlide
from microtome.engine.tissue.store import kept_tissue
from microtome.storage.codecs import Blosc
from microtome.storage.commit import new_product
from microtome.storage.errors import BadProduct
from microtome.storage.ngff04 import chunked
from microtome.storage.ome_xml import NAMESPACE, OmeImage, ome_xml
from microtome.storage.pyramid import Pyramid, write_cell, write_pyramid_metadata
from microtome.storage.stored_slides import KIND, StoredSlide, open_stored_slide

V2 = {"chunk_px": 32, "shard_px": 32, "block_px": 64, "profile": "ngff04", "codec": Blosc()}
V3 = {"chunk_px": 16, "shard_px": 32, "block_px": 64}
ABOUT = {
    "source": "a.tif", "vendor": "generic", "mpp_source": "told", "objective_power": 40.0,
    "bounds_px": None, "notes": [],
}  # fmt: skip


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)


def stored(
    path: Path,
    pixels: np.ndarray,
    plan: dict,
    mpp: tuple[float, float] | None = (0.1 + 0.2, 0.3),
) -> StoredSlide:
    pyramid = Pyramid(*pixels.shape[:2], **plan)
    with new_product(path, kind=KIND, key="k", about={"mpp": mpp}) as folder:
        for stage in range(pyramid.stages):
            cells = pyramid.cells(stage)
            random.Random(0).shuffle(cells)
            for cell in cells:
                write_cell(pyramid, cell, folder, lambda y, x, h, w: pixels[y : y + h, x : x + w])
        write_pyramid_metadata(pyramid, folder, name="A & B", mpp=mpp, about=ABOUT)
    return open_stored_slide(path)


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> StoredSlide:
    return stored(tmp_path_factory.mktemp("v2") / "a.ome.zarr", picture(301, 230), V2)


@settings(max_examples=6, deadline=None)
@given(st.integers(1, 180), st.integers(1, 180))
def test_every_level_has_the_pixels_of_the_other_profile(
    tmp_path_factory: pytest.TempPathFactory, height: int, width: int
) -> None:
    folder, pixels = tmp_path_factory.mktemp("both"), picture(height, width)
    old, new = stored(folder / "a.ome.zarr", pixels, V2), stored(folder / "b.ome.zarr", pixels, V3)
    theirs = zarr.open_group(old.path, mode="r")["0"]
    assert max(old.levels[-1].shape[1:]) <= 32
    for level, array in enumerate(old.levels):
        size = array.shape[1:]
        assert size == new.levels[level].shape[1:]
        expected = new.read(level, 0, 0, *size)
        np.testing.assert_array_equal(old.read(level, 0, 0, *size), expected)
        np.testing.assert_array_equal(theirs[str(level)][...].transpose(1, 2, 0), expected)


def test_a_fresh_process_reads_it_as_zarr_v2(product: StoredSlide, tmp_path: Path) -> None:
    script = (
        "import sys, numpy, zarr\n"
        "group = zarr.open_group(sys.argv[1], mode='r', zarr_format=2)\n"
        "assert 'microtome' not in sys.modules\n"
        "numpy.save(sys.argv[2], group['0/0'][...])\n"
    )
    command = [sys.executable, "-c", script, str(product.path), str(tmp_path / "a.npy")]
    subprocess.run(command, check=True)
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy").transpose(1, 2, 0), picture(301, 230))


def test_a_file_is_one_chunk_of_one_colour(product: StoredSlide) -> None:
    """As Java's reader takes it: no library for Zarr, only the compressor that is named."""
    level = product.path / "0" / "0"
    described = json.loads((level / ".zarray").read_text())
    assert described["dimension_separator"] == "/"
    compressor = numcodecs.get_codec(described["compressor"])
    pixels = picture(301, 230)
    files = [p for p in level.rglob("*") if p.is_file() and p.name != ".zarray"]
    assert len(files) == 3 * 10 * 8
    for path in files:
        channel, row, column = map(int, path.relative_to(level).parts)
        chunk = np.frombuffer(compressor.decode(path.read_bytes()), described["dtype"])
        whole = chunk.reshape(described["chunks"])[0]
        part = pixels[row * 32 : row * 32 + 32, column * 32 : column * 32 + 32, channel]
        np.testing.assert_array_equal(whole[: part.shape[0], : part.shape[1]], part)


def test_it_is_valid_and_says_where_its_levels_lie(product: StoredSlide) -> None:
    yaozarrs.validate_zarr_store(product.path)
    container = zarr.open_group(product.path, mode="r", zarr_format=2)
    assert BioFormats2Raw.from_zarr(container).attributes.bioformats2raw_layout == 3
    image = Image.from_zarr(container["0"])
    (multiscale,) = image.attributes.multiscales
    assert [(axis.name, axis.unit) for axis in multiscale.axes] == [
        ("c", None), ("y", "micrometer"), ("x", "micrometer"),
    ]  # fmt: skip
    scale, centre = multiscale.datasets[2].coordinateTransformations
    assert scale.scale == [1.0, 4 * (0.1 + 0.2), 4 * 0.3]
    assert centre.translation == pytest.approx([0, 1.5 * 0.3, 1.5 * 0.3])
    assert container["OME"].attrs["series"] == ["0"]


def test_the_ome_xml_is_read_alike_by_others(product: StoredSlide) -> None:
    text = (product.path / "OME" / "METADATA.ome.xml").read_text(encoding="utf-8")
    image = tifffile.xml2dict(text)["OME"]["Image"]
    pixels = image["Pixels"]
    assert image["Name"] == "A & B"
    assert (pixels["SizeY"], pixels["SizeX"], pixels["SizeC"]) == (301, 230, 3)
    assert (pixels["SizeZ"], pixels["SizeT"], pixels["Type"]) == (1, 1, "uint8")
    # To the last bit: 0.30000000000000004 is not 0.3.
    assert (pixels["PhysicalSizeY"], pixels["PhysicalSizeX"]) == (0.1 + 0.2, 0.3)
    assert pixels["PhysicalSizeXUnit"] == pixels["PhysicalSizeYUnit"] == "µm"
    # QuPath shows RGB where channels have just these names and colours (signed RGBA).
    assert [(c["Name"], c["Color"], c["SamplesPerPixel"]) for c in pixels["Channel"]] == [
        ("Red", -16776961, 1), ("Green", 16711935, 1), ("Blue", 65535, 1),
    ]  # fmt: skip
    assert from_ome(text, 301, 230)[0].mpp == (0.1 + 0.2, 0.3)
    assert ome_objective_power(text) == 40.0


def test_the_ome_xml_is_valid_by_the_schema(product: StoredSlide) -> None:
    schema = etree.XMLSchema(etree.parse(files("ome_types") / "ome-2016-06.xsd"))
    text = (product.path / "OME" / "METADATA.ome.xml").read_text(encoding="utf-8")
    several = ome_xml([OmeImage("a", 2, 3, None, 20.0), OmeImage("b", 2, 3)])
    for document in (text, several):
        schema.assertValid(etree.fromstring(document.encode()))
    (image,) = ome_types.from_xml(text).images
    assert (image.pixels.physical_size_x, image.pixels.physical_size_x_unit.value) == (0.3, "µm")


def test_the_ome_xml_has_its_elements_in_the_schemas_order() -> None:
    images = [OmeImage("a", 2, 3, None, 20.0), OmeImage("b", 2, 3)]
    root = etree.fromstring(ome_xml(images).encode())
    names = [etree.QName(node).localname for node in root]
    assert names == ["Instrument", "Image", "Image"]
    order = [etree.QName(node).localname for node in root[1]]
    assert order == ["InstrumentRef", "ObjectiveSettings", "Pixels"]
    pixels = root[1][2]
    assert [etree.QName(node).localname for node in pixels] == ["Channel"] * 3 + ["MetadataOnly"]
    assert not any("PhysicalSize" in name for name in pixels.keys())  # noqa: SIM118
    identities = root.xpath(
        "//ome:*[not(contains(name(), 'Ref'))]/@ID", namespaces={"ome": NAMESPACE}
    )
    settings_of = root.xpath("//ome:ObjectiveSettings/@ID", namespaces={"ome": NAMESPACE})
    assert set(settings_of) <= set(identities)
    others = [i for i in identities if not i.startswith("Objective")]
    assert len(others) == len(set(others))


def test_both_of_our_readers_open_it(product: StoredSlide) -> None:
    box = (1, 7, 11, 100, 90)
    with open_slide(product.path) as ours, ZarrSlide(product.path) as general:
        assert ours.info.backend == "ome-zarr"
        assert general.info.vendor == "ome-zarr 0.4"
        assert general.info.channels == ()
        assert ours.info.mpp == general.info.mpp == (0.1 + 0.2, 0.3)
        assert [v.height_px for v in ours.info.levels] == [v.height_px for v in general.info.levels]
        np.testing.assert_array_equal(ours.read(*box), general.read(*box))


def test_without_a_pixel_size_none_is_stated(tmp_path: Path) -> None:
    slide = stored(tmp_path / "a.ome.zarr", picture(40, 50), V2, mpp=None)
    text = (slide.path / "OME" / "METADATA.ome.xml").read_text(encoding="utf-8")
    assert "PhysicalSize" not in text
    with ZarrSlide(slide.path) as general:
        assert general.info.mpp is None


def test_black_chunks_are_files_so_that_a_missing_one_is_noticed(tmp_path: Path) -> None:
    slide = stored(tmp_path / "a.ome.zarr", np.zeros((40, 50, 3), np.uint8), V2)
    assert not slide.read(0, 0, 0, 40, 50).any()
    (slide.folder(0) / "1" / "0" / "1").unlink()
    with pytest.raises(BadProduct, match="missing"):
        slide.read(0, 0, 0, 40, 50)


@pytest.mark.parametrize("left", [0, 10, 16, -1])
def test_a_chunk_that_was_cut_off_is_refused(tmp_path: Path, left: int) -> None:
    slide = stored(tmp_path / "a.ome.zarr", picture(40, 50), V2)
    path = slide.folder(0) / "2" / "1" / "0"
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(BadProduct, match="cut off"):
        slide.read(0, 32, 0, 8, 8)


def test_damaged_metadata_are_named(tmp_path: Path) -> None:
    slide = stored(tmp_path / "a.ome.zarr", picture(40, 50), V2)
    array = slide.folder(0) / ".zarray"
    described = json.loads(array.read_text())
    array.write_text(json.dumps(described | {"compressor": {"id": "zlib", "cname": "zstd"}}))
    with pytest.raises(BadProduct, match="compressed"):
        open_stored_slide(slide.path)
    array.write_text("{}")
    with pytest.raises(BadProduct, match="compressor"):
        open_stored_slide(slide.path)


def test_ten_gigapixels_are_so_many_files() -> None:
    plan = Pyramid(100_000, 100_000, chunk_px=1024, shard_px=1024, profile="ngff04", codec=Blosc())
    sides = (98, 49, 25, 13, 7, 4, 2, 1)
    assert sum(int(np.prod(array.grid)) for array in plan.arrays) == 3 * sum(n * n for n in sides)
    assert chunked((3, 10, 10)).file(Path("a"), (2, 1, 0)) == Path("a/2/1/0")


def test_tissue_labels_of_another_version_are_not_put_into_it(
    product: StoredSlide, tmp_path: Path
) -> None:
    before = sorted(product.path.rglob("*"))
    with pytest.raises(BadProduct, match=r"OME-Zarr 0\.5, and this image is of 0\.4"):
        kept_tissue(tmp_path / "a.tissue", key="k", into=product.path, overwrite=False)
    assert sorted(product.path.rglob("*")) == before
