"""OME-Zarr of both versions, as zarr-python and as we write it, gives back what was stored."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import zarr

from microtome.engine.describe import describe
from microtome.engine.slides import open_slide
from microtome.engine.slides.base import ChannelSlide
from microtome.storage import ngff
from microtome.storage.errors import NotBrightfield, UnreadableFile
from microtome.storage.pyramid import Pyramid, write_cell, write_pyramid_metadata

SVS = "slides/aperio/CMU-1-Small-Region.svs"
COLOURS = ["FF0000", "00FF00", "0000FF"]


@pytest.fixture(scope="module")
def tissue(shared_data: Path) -> np.ndarray:
    with open_slide(shared_data / SVS) as slide:
        return slide.read(0, 400, 300, 700, 900)


def store(place, values, *, version, axes="cyx", colours=COLOURS, unit="micrometer", mpp=0.25,
          labels=("Red", "Green", "Blue"), sharded=False, **more):  # fmt: skip
    """Write two levels the plain way, through zarr-python."""
    group = zarr.open_group(place, mode="w", zarr_format=2 if version == "0.4" else 3)
    lead = tuple({"t": 1, "z": 1, "c": len(values)}[axis] for axis in axes[:-2])
    ones = (1,) * len(lead)
    datasets = []
    for level, n in enumerate((1, 2)):
        pixels = values[:, ::n, ::n]
        pixels = pixels.reshape(*lead, *pixels.shape[1:])
        chunks = (*ones, 128, 128)
        group.create_array(
            str(level), data=pixels, chunks=chunks,
            shards=(*ones, 256, 256) if sharded else None,
        )  # fmt: skip
        scale = [1.0] * (len(axes) - 2) + [mpp * n] * 2
        step = {
            "path": str(level),
            "coordinateTransformations": [{"type": "scale", "scale": scale}],
        }
        datasets.append(step)
    kind = {"t": "time", "c": "channel"}
    about = [
        {"name": a, "type": kind.get(a, "space")} | ({"unit": unit} if unit and a in "yx" else {})
        for a in axes
    ]
    ome = {
        "multiscales": [{"axes": about, "datasets": datasets, "name": "skin", "version": version}],
        "omero": {
            "channels": [
                {"label": label, "color": colour}
                for label, colour in zip(labels, colours, strict=True)
            ]
        },
        **more,
    }
    group.attrs.update(ome if version == "0.4" else {"ome": ome | {"version": version}})


class TestForeign:
    @pytest.mark.parametrize("version", ["0.4", "0.5"])
    @pytest.mark.parametrize("axes", ["cyx", "tczyx"])
    @pytest.mark.parametrize("sharded", [False, True])
    def test_rgb_comes_back_with_its_resolution(self, tissue, tmp_path, version, axes, sharded):
        if sharded and version == "0.4":
            pytest.skip("Zarr v2 has no shards")
        path = tmp_path / "slide.zarr"
        store(path, tissue.transpose(2, 0, 1), version=version, axes=axes, sharded=sharded)
        with open_slide(path) as slide:
            assert slide.info.backend == "zarr"
            assert slide.info.vendor == f"ome-zarr {version}"
            assert slide.info.mpp == (0.25, 0.25)
            assert slide.info.mpp_source == "OME-Zarr scale"
            levels = slide.info.levels
            assert [(level.height_px, level.width_px) for level in levels] == [
                (700, 900), (350, 450),
            ]  # fmt: skip
            assert [level.downsample_y for level in levels] == [1, 2]
            assert levels[0].tile_px == (128, 128)
            np.testing.assert_array_equal(slide.read(0, 0, 0, 700, 900), tissue)
            np.testing.assert_array_equal(slide.read(0, 130, 55, 200, 300), tissue[130:330, 55:355])
            np.testing.assert_array_equal(slide.read(1, 9, 8, 100, 90), tissue[18:218:2, 16:196:2])
            with pytest.raises(ValueError, match="leaves level 1"):
                slide.read(1, 0, 0, 351, 1)
        assert describe(path)["reader"] == "zarr"

    def test_by_url_is_the_same(self, tissue):
        url = "memory://slides/skin.zarr"
        store(url, tissue.transpose(2, 0, 1), version="0.5")
        with open_slide(url) as slide:
            np.testing.assert_array_equal(slide.read(0, 3, 4, 500, 600), tissue[3:503, 4:604])
        with pytest.raises(UnreadableFile, match="nowhere"):
            open_slide("memory://slides/nowhere.zarr")

    @pytest.mark.parametrize(
        ("unit", "mpp", "expected"),
        [("millimeter", 0.0005, 0.5), ("nanometer", 250, 0.25), (None, 1.0, None)],
    )
    def test_units_are_lengths_or_nothing(self, tissue, tmp_path, unit, mpp, expected):
        store(tmp_path / "s.zarr", tissue.transpose(2, 0, 1), version="0.5", unit=unit, mpp=mpp)
        with open_slide(tmp_path / "s.zarr") as slide:
            assert slide.info.mpp == (None if expected is None else pytest.approx((expected,) * 2))
        with open_slide(tmp_path / "s.zarr", mpp=0.3) as slide:
            assert slide.info.mpp == (0.3, 0.3)

    @pytest.mark.parametrize("version", ["0.4", "0.5"])
    def test_fluorescence_stays_channels(self, tmp_path, version):
        values = np.random.default_rng(0).integers(0, 60_000, (4, 300, 260), np.uint16)
        names = ("DAPI", "CD3", "CD8", "PanCK")
        store(
            tmp_path / "f.zarr", values, version=version, labels=names,
            colours=["0000FF", "00FF00", "FF0000", "FFFFFF"],
        )  # fmt: skip
        with open_slide(tmp_path / "f.zarr") as slide:
            assert isinstance(slide, ChannelSlide)
            assert slide.info.channels == names
            read = slide.read_channels(0, 20, 30, 200, 100)
            assert read.dtype == np.uint16
            np.testing.assert_array_equal(read, values[:, 20:220, 30:130])
            with pytest.raises(NotBrightfield, match="PanCK"):
                slide.read(0, 0, 0, 9, 9)

    def test_three_channels_of_other_colours_are_no_rgb(self, tissue, tmp_path):
        store(
            tmp_path / "f.zarr", tissue.transpose(2, 0, 1), version="0.5",
            labels=("DAPI", "FITC", "Cy3"), colours=["0000FF", "00FF00", "FFFF00"],
        )  # fmt: skip
        with open_slide(tmp_path / "f.zarr") as slide:
            assert slide.info.channels == ("DAPI", "FITC", "Cy3")

    def test_a_container_of_bioformats2raw_gives_its_first_image(self, tissue, tmp_path):
        root = zarr.open_group(tmp_path / "c.zarr", mode="w", zarr_format=2)
        root.attrs["bioformats2raw.layout"] = 3
        store(tmp_path / "c.zarr" / "0", tissue.transpose(2, 0, 1), version="0.4", axes="tczyx")
        with open_slide(tmp_path / "c.zarr") as slide:
            np.testing.assert_array_equal(slide.read(0, 0, 0, 99, 88), tissue[:99, :88])


class TestOurs:
    def test_what_we_write_is_read_by_the_same_reader(self, tissue, tmp_path):
        plan = Pyramid(700, 900, chunk_px=128, shard_px=256, block_px=1024)
        folder = tmp_path / "ours.ome.zarr"
        for cell in (cell for stage in range(plan.stages) for cell in plan.cells(stage)):
            write_cell(plan, cell, folder, lambda y, x, h, w: tissue[y : y + h, x : x + w])
        write_pyramid_metadata(plan, folder, name="ours", mpp=(0.5, 0.5), about={})
        with open_slide(folder) as slide:
            assert slide.info.vendor == "ome-zarr 0.5"
            assert slide.info.mpp == (0.5, 0.5)
            assert [level.downsample_y for level in slide.info.levels] == [1, 2, 4, 8]
            np.testing.assert_array_equal(slide.read(0, 0, 0, 700, 900), tissue)


class TestRefusals:
    def test_depths_and_foreign_axes(self, tmp_path):
        for axes, why in (("czyx", "2 depths"), ("tcyx", "2 times"), ("zyxc", "axes are zyxc")):
            group = zarr.open_group(tmp_path / axes, mode="w", zarr_format=3)
            group.create_array(
                "0", shape=(3, 2, 9, 9) if axes[1] == "z" else (2, 3, 9, 9), dtype="u1"
            )
            step = {"type": "scale", "scale": [1.0] * 4}
            dataset = {"path": "0", "coordinateTransformations": [step]}
            scales = {"axes": [{"name": name} for name in axes], "datasets": [dataset]}
            group.attrs["ome"] = {"version": "0.5", "multiscales": [scales]}
            with pytest.raises(UnreadableFile, match=why):
                open_slide(tmp_path / axes)

    def test_a_label_image_and_another_zarr_are_no_slides(self, tmp_path):
        group = zarr.open_group(tmp_path / "label.zarr", mode="w", zarr_format=3)
        group.attrs["ome"] = ngff.slide_label("tissue", (1.0, 1.0), [(1.0, 1.0)], {})
        zarr.open_group(tmp_path / "other.zarr", mode="w", zarr_format=3)
        for name in ("label.zarr", "other.zarr"):
            with pytest.raises(UnreadableFile, match="no reader"):
                open_slide(tmp_path / name)

    @pytest.mark.parametrize("version", ["0.4", "0.5"])
    def test_a_damaged_chunk(self, tissue, tmp_path, version):
        path = tmp_path / "d.zarr"
        store(path, tissue.transpose(2, 0, 1), version=version)
        chunk = path / ("0/0.0.0" if version == "0.4" else "0/c/0/0/0")
        data = chunk.read_bytes()
        chunk.write_bytes(data[: len(data) // 2])
        with open_slide(path) as slide:
            with pytest.raises(UnreadableFile, match="level 0"):
                slide.read(0, 0, 0, 50, 50)
            np.testing.assert_array_equal(slide.read(0, 300, 300, 9, 9), tissue[300:309, 300:309])

    @pytest.mark.parametrize("version", ["0.4", "0.5"])
    def test_damaged_metadata(self, tissue, tmp_path, version):
        path = tmp_path / "m.zarr"
        for file in ("0", "1"):
            store(path, tissue.transpose(2, 0, 1), version=version)
            shutil.rmtree(path / file)
            with pytest.raises(UnreadableFile):
                open_slide(path)
        meta = path / (".zattrs" if version == "0.4" else "zarr.json")
        meta.write_text(meta.read_text()[:-30])
        with pytest.raises(UnreadableFile):
            open_slide(path)
